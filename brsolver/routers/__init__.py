"""The routers that brsolver exists for. Their parameters are light, and so is this."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver._lazy import lazy
from brsolver.routers.cell_params import CellsParams
from brsolver.routers.params import BR0Params, BRHParams, BRRampParams
from brsolver.routers.wave_params import BRTParams

if TYPE_CHECKING:
    from brsolver.routers.balance import BR0, BRH
    from brsolver.routers.cells import Cells
    from brsolver.routers.ramp import BRRamp
    from brsolver.routers.waves import BRT

__all__ = [
    "BR0",
    "BRH",
    "BRT",
    "BR0Params",
    "BRHParams",
    "BRRamp",
    "BRRampParams",
    "BRTParams",
    "Cells",
    "CellsParams",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "brsolver.routers.balance": ("BR0", "BRH"),
        "brsolver.routers.cells": ("Cells",),
        "brsolver.routers.ramp": ("BRRamp",),
        "brsolver.routers.waves": ("BRT",),
    },
)
