"""Calibration: bins of equal mass, the decomposition of the Brier score, and the ECE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

BINS = 10


class Decomposition(NamedTuple):
    """``Brier = reliability - resolution + uncertainty + within_bin``.

    The first three are Murphy's (1973), with the mean forecast of each bin in place of the
    forecasts in it; `within_bin` is what this replacement leaves: the variance of the forecasts
    within bins minus twice their covariance with the outcomes there (Stephenson et al. 2008).
    It vanishes where all forecasts of a bin are equal.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_bin: float


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """Forecast probabilities sorted into bins of equal mass.

    Equal forecasts share a bin, so there are fewer bins where they repeat.

    Attributes
    ----------
    index : ndarray of int64, shape (n,)
        Bin of each sample.
    count : int
        Number of bins.
    """

    index: IntArray
    count: int

    @classmethod
    def of(cls, p: FloatArray, bins: int = BINS) -> Bins:
        """Sort forecasts into at most `bins` bins, between their quantiles."""
        edges = np.unique(np.quantile(p, np.arange(1, bins) / bins, method="higher"))
        found = np.searchsorted(edges, p, side="right")
        _, index = np.unique(found, return_inverse=True)
        return cls(index=index.astype(np.int64), count=int(index.max()) + 1)

    def sums(self, values: FloatArray) -> FloatArray:
        """Add up `values` by bin, shape (count,)."""
        total = np.bincount(self.index, weights=values, minlength=self.count)
        return total.astype(np.float64)


class Curve(NamedTuple):
    """A calibration curve, one entry per bin that has any weight.

    Attributes
    ----------
    forecast, observed : ndarray of float64
        Mean forecast, and share of samples that ended within the horizon.
    mass : ndarray of float64
        Share of all samples.
    """

    forecast: FloatArray
    observed: FloatArray
    mass: FloatArray


def calibration_curve(
    p: FloatArray, ends: BoolArray, bins: Bins, weights: FloatArray | None = None
) -> Curve:
    """Return mean forecast and observed share of every bin.

    Parameters
    ----------
    p : ndarray of float64, shape (n,)
        Forecast probabilities.
    ends : ndarray of bool, shape (n,)
        Outcomes.
    bins : Bins
    weights : ndarray of float64, shape (n,), optional
        How often each sample counts.
    """
    weights = np.ones_like(p) if weights is None else weights
    mass = bins.sums(weights)
    held = mass > 0
    forecast = bins.sums(weights * p)[held] / mass[held]
    observed = bins.sums(weights * ends)[held] / mass[held]
    return Curve(forecast, observed, mass[held] / weights.sum())


def calibration_error(curve: Curve) -> float:
    """Return the expected calibration error, ``Σ_b mass_b·|forecast_b - observed_b|``."""
    return float(curve.mass @ np.abs(curve.forecast - curve.observed))


def decompose(curve: Curve, brier: float, base_rate: float) -> Decomposition:
    """Decompose a Brier score over the bins of `curve`."""
    reliability = float(curve.mass @ (curve.forecast - curve.observed) ** 2)
    resolution = float(curve.mass @ (curve.observed - base_rate) ** 2)
    uncertainty = base_rate * (1.0 - base_rate)
    rest = brier - (reliability - resolution + uncertainty)
    return Decomposition(reliability, resolution, uncertainty, rest)
