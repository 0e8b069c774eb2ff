"""The survival baseline that a hazard model starts from, estimated on its own samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from brsolver.predictors import FloatArray, IntArray

SURE = 1e-4
"""Probabilities are kept this far from 0 and 1, where their logits end."""

AT_RISK = 5
"""Requests at risk below which the baseline keeps the forecast of younger requests."""


def logit(p: FloatArray) -> FloatArray:
    """Return log odds of probabilities, which are kept `SURE` away from 0 and 1."""
    clipped = np.clip(p, SURE, 1.0 - SURE)
    odds: FloatArray = np.log(clipped / (1.0 - clipped))
    return odds


class Baseline:
    """Kaplan-Meier estimate from person-periods, and its forecasts by age.

    A sample of age a and remaining length r is at risk from its next token on, is seen to end
    if ``r ≤ H`` and otherwise leaves after H tokens: ``d_t`` ends at length t among ``n_t``
    requests at risk give ``S(a) = Π_{t≤a} (1 - d_t/n_t)``. Where samples of one request
    overlap, it is at risk once: if they cover it from age 0 to its end, this is the estimate
    from whole output lengths.

    Parameters
    ----------
    age : ndarray of int64, shape (n,)
        Ages, at least 0.
    remaining : ndarray, shape (n,)
        Remaining lengths, at least 1; anything above the horizon means that the sample outlives
        it.
    horizon : int
        Steps H.
    group : ndarray of int64, shape (n,)
        Request of each sample.

    Attributes
    ----------
    horizon : int
    table : ndarray of float64, shape (ages + H,)
        ``S(a)`` for a = 0, 1, ….
    p_finish, mu_remaining : ndarray of float64, shape (ages,)
        Forecasts by age; the last ones hold for older requests too.
    """

    def __init__(
        self, age: IntArray, remaining: FloatArray | IntArray, horizon: int, group: IntArray
    ) -> None:
        self.horizon = int(horizon)
        order = np.lexsort((age, group))
        age, remaining, group = age[order], remaining[order], group[order]
        leaves_at = age + np.minimum(remaining, horizon).astype(np.int64)
        # Within a request both ages and ends ascend: what the sample before covers is known.
        covered = np.concatenate(([0], np.where(group[1:] == group[:-1], leaves_at[:-1], 0)))
        enters_at = np.maximum(age, covered)
        size = int(age.max()) + horizon + 2
        ended = np.bincount(
            leaves_at[(remaining <= horizon) & (leaves_at > enters_at)], minlength=size
        )
        enters = np.bincount(enters_at + 1, minlength=size + 1)
        leaves = np.bincount(leaves_at + 1, minlength=size + 1)
        at_risk = np.cumsum(enters - leaves)[:size]
        self.table: FloatArray = np.cumprod(1.0 - ended / np.maximum(at_risk, 1), dtype=np.float64)
        supported = np.flatnonzero((at_risk >= min(AT_RISK, at_risk.max())) & (self.table > 0))
        ages = np.arange(max(1, min(int(supported[-1]), size - horizon - 1)))
        self.p_finish, self.mu_remaining = self._forecasts(ages)

    def _forecasts(self, ages: IntArray) -> tuple[FloatArray, FloatArray]:
        horizon, table = self.horizon, self.table
        ending = table[ages] - table[ages + horizon]
        lengths = np.cumsum(np.arange(len(table)) * -np.diff(table, prepend=1.0))
        seen = ending > 0
        lengths_ending = lengths[ages + horizon] - lengths[ages]
        mean = np.divide(lengths_ending, ending, out=np.zeros(len(ages)), where=seen) - ages
        mu = np.where(seen, np.clip(mean, min(1, horizon), horizon), horizon)
        return ending / table[ages], mu

    def at(self, age: FloatArray) -> IntArray:
        """Return the index into the forecasts for each age."""
        return np.clip(age, 0, len(self.p_finish) - 1).astype(np.int64)

    def curve(self, age: FloatArray, steps: int | None = None) -> FloatArray:
        """Return ``S(a + h)/S(a)`` for h = 0..`steps`, shape (n, steps + 1); by default up to H.

        Beyond the last age known the curve is level.
        """
        steps = self.horizon if steps is None else steps
        now = self.at(age)[:, None]
        ahead = np.minimum(now + np.arange(steps + 1), len(self.table) - 1)
        curve: FloatArray = self.table[ahead] / self.table[now]
        return curve
