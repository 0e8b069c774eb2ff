"""All reproductions, by name."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from benchmarks.reproduce import (
    bfio_horizon,
    bfio_peer,
    bfio_slots,
    bfio_workers,
    br_causes,
    br_scaling,
    br_sensitivity,
    br_table,
    dpr_overhead,
    dpr_points,
    dpr_scaling,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.reproduce._study import Study

STUDIES: Mapping[str, Study] = MappingProxyType(
    {
        module.STUDY.name: module.STUDY
        for module in (
            br_table,
            br_causes,
            br_scaling,
            br_sensitivity,
            dpr_overhead,
            dpr_scaling,
            dpr_points,
            bfio_peer,
            bfio_slots,
            bfio_workers,
            bfio_horizon,
        )
    }
)
"""In the order in which `make reproduce` runs them."""
