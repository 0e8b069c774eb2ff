"""A shift of forecasts' log odds that follows outcomes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit, logit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from brsolver.predictors import FloatArray

_NEWTON_STEPS = 8
_ENOUGH = 1e-6
_NEARLY_SURE = 1.0 - 1e-12


class Recalibration:
    """Logistic recalibration in the large, over a window that forgets.

    Forecasts p become ``σ(logit p + b)`` with the b that minimises the log-loss of the last
    `window` outcomes, exponentially weighted with the half-life `memory`, plus ``b²/(2·v)`` of a
    normal prior with variance v that keeps b small while little is known. Ranking is unchanged;
    certain forecasts stay certain.

    Parameters
    ----------
    window : int
        Outcomes held.
    memory : float
        Outcomes after which one counts half.
    variance : float
        Of the prior on b.

    References
    ----------
    Cox, Two further applications of a model for binary regression, Biometrika 45 (1958);
    Steyerberg, Clinical Prediction Models (2009), ch. 20.
    """

    def __init__(
        self, *, window: int = 4096, memory: float = 1000.0, variance: float = 0.1
    ) -> None:
        self.shift = 0.0
        self._memory = memory
        self._precision = 1.0 / variance
        self._odds: FloatArray = np.zeros(window)
        self._happened: FloatArray = np.zeros(window)
        self._count = 0

    def learn(self, p: FloatArray, happened: NDArray[np.bool_]) -> None:
        """Take in forecasts as they were before any shift, and what came of them, in order."""
        open_to_doubt = (p > 0) & (p < 1)
        odds, outcome = logit(p[open_to_doubt]), happened[open_to_doubt]
        window = self._odds.shape[0]
        odds, outcome = odds[-window:], outcome[-window:]
        at = (self._count + np.arange(odds.shape[0])) % window
        self._odds[at], self._happened[at] = odds, outcome
        self._count += odds.shape[0]
        self._solve()

    def apply(self, p: FloatArray) -> FloatArray:
        """Return forecasts shifted."""
        if self.shift == 0:
            return p
        shifted: FloatArray = expit(logit(p) + self.shift)
        return shifted

    def exponents(self, p: FloatArray) -> FloatArray:
        """Return θ such that ``1 - p' = (1 - p)^θ``: the factor on hazards that the shift is."""
        if self.shift == 0:
            return np.ones_like(p)
        inside = (p > 0) & (p < 1)
        safe = np.where(inside, p, 0.5)
        theta: FloatArray = np.where(
            inside, np.log1p(-np.minimum(self.apply(safe), _NEARLY_SURE)) / np.log1p(-safe), 1.0
        )
        return theta

    def _solve(self) -> None:
        held = min(self._count, self._odds.shape[0])
        newest = (self._count - 1 - np.arange(held)) % self._odds.shape[0]
        weights = 0.5 ** (np.arange(held) / self._memory)
        odds, happened = self._odds[newest], self._happened[newest]
        shift = self.shift
        for _ in range(_NEWTON_STEPS):
            expected = expit(odds + shift)
            slope = weights @ (happened - expected) - self._precision * shift
            curvature = weights @ (expected * (1 - expected)) + self._precision
            step = slope / curvature
            shift += step
            if abs(step) < _ENOUGH:
                break
        self.shift = shift if math.isfinite(shift) else 0.0
