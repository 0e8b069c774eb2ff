"""The empirical distribution of output lengths, conditioned on age."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from brsolver.errors import ParameterError
from brsolver.predictors import Forecast

if TYPE_CHECKING:
    from brsolver.predictors import FloatArray, ForecastQuery, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivalParams:
    """Parameters of `SurvivalPredictor`.

    Attributes
    ----------
    growth : float
        Share by which the number of observed requests must have grown before the distribution
        is estimated anew, at least 0.
    """

    growth: float = 0.05

    def __post_init__(self) -> None:
        if not (math.isfinite(self.growth) and self.growth >= 0):
            raise ParameterError(f"growth = {self.growth}: must be finite and at least 0")


class _ByAge(NamedTuple):
    """Forecasts at one horizon for every age up to the longest output length seen."""

    horizon: int
    p_finish: FloatArray
    mu_remaining: FloatArray


class SurvivalPredictor:
    """Kaplan-Meier estimate of the output length, given the tokens generated so far.

    With ``d_t`` requests that ended at length t and ``n_t`` whose length or, for those still
    running, age is at least t, ``S(a) = P(O > a) = Π_{t≤a} (1 - d_t/n_t)``. A request of age a
    ends within H steps with probability ``p = 1 - S(a + H)/S(a)``, after
    ``μ = Σ_{t=a+1..a+H} (t - a)·(S(t-1) - S(t)) / (S(a) - S(a + H))`` steps in the mean.
    Without the running requests short outputs would be over-represented online, since they are
    the first to be seen.

    Past the longest length seen S keeps its last value. Where there is no evidence of an end
    (nothing observed yet, or a request older than all that have ended), the forecast is that
    the request stays: ``p = 0``, ``μ = H``, contribution H.

    The estimate is made anew, in time linear in the longest length, when a forecast is asked
    for and the number of observed requests has grown by the share `growth` since the last
    time: n observations cost O(log n) estimates. Look-ups between cost O(1) per request.

    Parameters
    ----------
    params : SurvivalParams, optional
        How often to estimate.

    References
    ----------
    Kaplan and Meier, Nonparametric estimation from incomplete observations, JASA 53 (1958);
    Bu et al., arXiv:2605.06113, §3.
    """

    Params = SurvivalParams
    sees_future = False

    def __init__(self, params: SurvivalParams | None = None) -> None:
        self._growth = (params or SurvivalParams()).growth
        self._ended = np.zeros(1, np.int64)
        self._longest = 0
        self._running = np.zeros(0, np.int64)
        self._observed = 0
        self._due = 1
        self._table: FloatArray = np.ones(1)
        self._by_age: _ByAge | None = None

    @property
    def table(self) -> FloatArray:
        """``P(O > a)`` for a = 0, 1, …, the longest length seen; ``[1.0]`` before any.

        The same array until the distribution is estimated anew.
        """
        self._refresh()
        return self._table

    def observe(self, prompt_tokens: IntArray, output_tokens: IntArray) -> None:  # noqa: ARG002 # the seam names it
        """Take in requests that have finished.

        Parameters
        ----------
        prompt_tokens : ndarray of int64, shape (n,)
            Their prompt lengths, of which this predictor makes no use.
        output_tokens : ndarray of int64, shape (n,)
            Their output lengths, at least 1.
        """
        if not len(output_tokens):
            return
        if (shortest := int(output_tokens.min())) < 1:
            raise ParameterError(f"output length {shortest}: must be at least 1")
        self._reserve(int(output_tokens.max()))
        np.add.at(self._ended, output_tokens, 1)
        self._observed += len(output_tokens)

    def set_running(self, ages: IntArray) -> None:
        """State the ages of all requests that still run, for the next estimate.

        They replace those stated before.
        """
        self._running = np.array(ages, np.int64)

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        """Forecast which of the queried requests end within `horizon` steps, and when."""
        self._refresh()
        if self._by_age is None or self._by_age.horizon != horizon:
            self._by_age = _tabulate(self._table, horizon)
        _, p_finish, mu_remaining = self._by_age
        index = np.minimum(query.age, len(self._table) - 1)
        return Forecast(p_finish=p_finish[index], mu_remaining=mu_remaining[index], horizon=horizon)

    def contribution_by_age(self, horizon: int) -> FloatArray:
        """Return the expected contribution ``ĉ = (1 - p)·H + p·μ`` for every age.

        The last entry holds for all greater ages.
        """
        self._refresh()
        if self._by_age is None or self._by_age.horizon != horizon:
            self._by_age = _tabulate(self._table, horizon)
        _, p_finish, mu_remaining = self._by_age
        expected: FloatArray = (1.0 - p_finish) * horizon + p_finish * mu_remaining
        return expected

    def survival(self, query: ForecastQuery, horizon: int) -> FloatArray:
        """Return the probability that each request still runs h = 0..`horizon` steps from now."""
        table = self.table
        last = len(table) - 1
        ahead = table[np.minimum(query.age[:, None] + np.arange(horizon + 1), last)]
        now = ahead[:, :1]
        stays: FloatArray = np.divide(ahead, now, out=np.ones_like(ahead), where=now > 0)
        return stays

    def _reserve(self, length: int) -> None:
        self._longest = max(self._longest, length)
        if length >= len(self._ended):
            grown = np.zeros(2 * length + 1, np.int64)
            grown[: len(self._ended)] = self._ended
            self._ended = grown

    def _refresh(self) -> None:
        if self._observed < self._due:
            return
        self._table = _kaplan_meier(self._ended[: self._longest + 1], self._running)
        self._by_age = None
        self._due = max(self._observed + 1, math.ceil(self._observed * (1 + self._growth)))


def _kaplan_meier(ended: IntArray, running: IntArray) -> FloatArray:
    left = ended + np.bincount(np.minimum(running, len(ended) - 1), minlength=len(ended))
    at_risk = np.cumsum(left[::-1])[::-1]
    survival: FloatArray = np.cumprod(1 - ended / np.maximum(at_risk, 1), dtype=np.float64)
    return survival


def _tabulate(table: FloatArray, horizon: int) -> _ByAge:
    ages = np.arange(len(table))
    then = np.minimum(ages + horizon, len(table) - 1)
    ending = table - table[then]
    # Lengths, not remaining steps, are summed, so that one running sum serves all ages.
    lengths = np.cumsum(ages * -np.diff(table, prepend=1.0))
    certain = ending > 0
    p_finish = np.divide(ending, table, out=np.zeros_like(table), where=certain)
    mean = np.divide(lengths[then] - lengths, ending, out=np.zeros_like(table), where=certain)
    mu_remaining = np.where(certain, np.clip(mean - ages, 1, horizon), horizon)
    return _ByAge(horizon, p_finish, mu_remaining.astype(np.float64))
