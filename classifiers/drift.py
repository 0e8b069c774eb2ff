"""Whether output lengths are still distributed as they were."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from brsolver.predictors import FloatArray, IntArray

_FLOOR = 1e-4


def stability_index(expected: FloatArray, actual: FloatArray) -> float:
    """Return the population stability index ``Σ_b (a_b - e_b)·ln(a_b / e_b)`` of two shares.

    Parameters
    ----------
    expected, actual : ndarray of float64, shape (bins,)
        Shares of the population per bin, each summing to 1. Shares below 1e-4 count as that.

    Notes
    -----
    Below 0.1 is customarily called stable, above 0.25 a shift.
    """
    e, a = np.maximum(expected, _FLOOR), np.maximum(actual, _FLOOR)
    return float(np.sum((a - e) * np.log(a / e)))


class AgeDrift:
    """Population stability of the ages at which requests finish.

    The first `warm_up` requests set the bins, ten of equal mass as far as ties allow, and the
    shares expected in them; later ones count with a half-life of `memory` requests.

    Parameters
    ----------
    warm_up : int
        Requests that set the bins.
    memory : float
        Requests after which one counts half.
    threshold : float
        Index above which the population counts as shifted.
    """

    def __init__(
        self, *, warm_up: int = 500, memory: float = 500.0, threshold: float = 0.25
    ) -> None:
        self.threshold = threshold
        self._warm_up = warm_up
        self._memory = memory
        self._first: list[IntArray] = []
        self._edges: FloatArray | None = None
        self._expected: FloatArray = np.zeros(1)
        self._recent: FloatArray = np.zeros(1)

    @property
    def index(self) -> float:
        """Stability index of the recent requests; NaN during the warm-up."""
        if self._edges is None or not self._recent.sum():
            return math.nan
        return stability_index(self._expected, self._recent / self._recent.sum())

    @property
    def drifted(self) -> bool:
        """Whether the index is above the threshold."""
        return self.index > self.threshold

    def observe(self, output_tokens: IntArray) -> None:
        """Take in the output lengths of requests that ended by themselves."""
        if not output_tokens.shape[0]:
            return
        if self._edges is None:
            self._first.append(output_tokens.copy())
            if sum(map(len, self._first)) >= self._warm_up:
                self._set_bins(np.concatenate(self._first))
            return
        age = np.arange(output_tokens.shape[0] - 1, -1, -1)
        weights = 0.5 ** (age / self._memory)
        self._recent *= 0.5 ** (output_tokens.shape[0] / self._memory)
        np.add.at(self._recent, self._bins(output_tokens), weights)

    def _set_bins(self, lengths: IntArray) -> None:
        self._first = []
        self._edges = np.unique(np.quantile(lengths, np.linspace(0.1, 0.9, 9)))
        counts = np.bincount(self._bins(lengths), minlength=self._edges.shape[0] + 1)
        self._expected = counts / counts.sum()
        # As if the warm-up had just been seen: a handful of requests is no population.
        self._recent = self._expected * min(self._memory, float(self._warm_up))

    def _bins(self, lengths: IntArray) -> IntArray:
        found: IntArray = np.searchsorted(
            self._edges if self._edges is not None else np.zeros(0), lengths, side="left"
        )
        return found
