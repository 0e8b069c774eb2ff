"""Exponents of growth: how a figure goes with the number of workers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from brsolver.results.comparison import mean_and_half_width

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponent:
    """A figure's growth as ``G^value``.

    Attributes
    ----------
    value : float
        Mean over seeds of the slopes of least squares, logarithm over logarithm.
    half_width : float
        Of its interval at 95 %, by Student's t over seeds; NaN with one seed.
    seeds : int
    """

    value: float
    half_width: float
    seeds: int

    def __str__(self) -> str:
        if math.isnan(self.half_width):
            return f"{self.value:.2f}"
        return f"{self.value:.2f} ± {self.half_width:.2f}"


def slope(workers: Sequence[float], figures: Sequence[float]) -> float:
    """Return the exponent of least squares; NaN where a figure is not positive.

    Parameters
    ----------
    workers, figures : sequence of float
        At least two sizes of cluster, and the figure at each.
    """
    if len(set(workers)) < 2 or min(figures) <= 0:
        return math.nan
    return float(np.polyfit(np.log(workers), np.log(figures), 1)[0])


def exponent(by_seed: Mapping[int, Mapping[int, float]]) -> Exponent:
    """Fit an exponent.

    Parameters
    ----------
    by_seed : mapping of seed to (mapping of workers to figure)
        Seeds that have not all sizes of cluster are left out. NaN where a figure of another is
        not positive: without it the mean would be that of seeds that suit a power.
    """
    sizes = set().union(*by_seed.values()) if by_seed else set()
    slopes = [
        slope([*sorted(found)], [found[g] for g in sorted(found)])
        for found in by_seed.values()
        if set(found) == sizes
    ]
    if any(math.isnan(each) for each in slopes):
        return Exponent(value=math.nan, half_width=math.nan, seeds=len(slopes))
    value, half, _ = mean_and_half_width(slopes)
    return Exponent(value=value, half_width=half, seeds=len(slopes))
