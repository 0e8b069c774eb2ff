"""The empirical distribution of output lengths, conditioned on age."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import ParameterError
from brsolver.predictors import BasePredictor, Forecast
from brsolver.traces.trace import MAX_LENGTH
from classifiers._curve_kernels import curves_by_age, forecast_by_age, tail_of
from classifiers.history import Training, check_share, earliest, finished_rows

if TYPE_CHECKING:
    from brsolver.predictors import FinishedRequests, FloatArray, ForecastQuery, IntArray
    from brsolver.traces.trace import Trace

# Weights double every half-life; before they could overflow all are scaled down.
_HEAVIEST = 2.0**200
_LONGEST_LEAP = 200.0
# After thirty half-lives an observation is as good as forgotten, and no evidence of an end.
_FORGOTTEN = 2.0**-30


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivalParams:
    """Parameters of `SurvivalPredictor`.

    Attributes
    ----------
    growth : float
        Share by which the weight of observed requests must have been added to before the
        distribution is estimated anew, at least 0.
    memory : float
        Half-life of an observation, in finished requests; ``inf`` forgets nothing.
    train : float
        Share of the trace's earliest requests to learn from before the run, from 0 (learn from
        the run itself only) to below 1.
    """

    growth: float = 0.05
    memory: float = math.inf
    train: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.growth) and self.growth >= 0):
            raise ParameterError(f"growth is {self.growth}, must be finite and at least 0")
        if not self.memory >= 1:
            raise ParameterError(
                f"memory is {self.memory}, must be at least 1 finished request, or inf"
            )
        check_share(self.train)


class SurvivalPredictor(BasePredictor):
    """Kaplan-Meier estimate of the output length, given the tokens generated so far.

    With ``d_t`` requests that ended by themselves at length t and ``n_t`` whose length or, for
    those still running, age is at least t, ``S(a) = P(O > a) = Π_{t≤a} (1 - d_t/n_t)``. Requests
    cut by ``max_tokens`` or cancelled, and those still running, are censored: they count in
    ``n_t`` alone. A request of age a ends within H steps with probability
    ``p = 1 - S(a + H)/S(a)``, and its expected contribution is ``ĉ = Σ_{h<H} S(a + h)/S(a)``,
    hence ``μ = (ĉ - (1 - p)·H)/p``. Where its own limit leaves it ``L ≤ H`` tokens it ends
    within H for certain: ``p = 1`` and ``μ = Σ_{h<L} S(a + h)/S(a)``.
    Without the running requests short outputs would be over-represented online, since they are
    the first to be seen.

    Past the longest length seen to end S keeps its last value. Where there is no evidence of an
    end (nothing observed yet, only censored requests, or a request older than all that have
    ended), the forecast is that the request stays: ``p = 0``, ``μ = H``, contribution H.

    The estimate is made anew, in time linear in the longest length, when a forecast is asked
    for and the weight of observed requests has grown by the share `growth` since the last time.
    Look-ups between cost O(1) per request, through running sums over ages.

    With `memory` the weight of an observation halves with every so many later ones; running
    requests have the weight of the latest. What has been halved thirty times is dropped. Memory
    is bounded by the longest length, whatever the number of observations.

    Parameters
    ----------
    params : SurvivalParams, optional
        How often to estimate, what to forget, what to learn from first.
    trace : Trace, optional
        Whose earliest requests to learn from, if ``params.train`` is above 0.

    Raises
    ------
    ParameterError
        `train` is asked for without a trace.

    References
    ----------
    Kaplan and Meier, Nonparametric estimation from incomplete observations, JASA 53 (1958);
    Bu et al., arXiv:2605.06113, §3.
    """

    Params = SurvivalParams

    def __init__(self, params: SurvivalParams | None = None, *, trace: Trace | None = None) -> None:
        self.params = params or SurvivalParams()
        # Rows: weight that ended at each length, weight that was censored there.
        self._weights = np.zeros((2, 1))
        self._latest = 1.0
        self._known = 0.0
        self._estimated_from = 0.0
        self._fresh = 0
        self._running: IntArray = np.zeros(0, np.int64)
        self._table: FloatArray = np.ones(1)
        self._tail: FloatArray = np.zeros(1)
        self._training = Training()
        if self.params.train > 0:
            self.fit(*earliest(trace, self.params.train))

    @property
    def table(self) -> FloatArray:
        """``P(O > a)`` for a = 0, 1, …, the longest length seen to end; ``[1.0]`` before any.

        The same array until the distribution is estimated anew.
        """
        self._refresh()
        return self._table

    @property
    def tail(self) -> FloatArray:
        """Sums of `table` from each age to its end, the last value left out, shape as `table`."""
        self._refresh()
        return self._tail

    def fit(self, trace: Trace, rows: int | None = None) -> SurvivalPredictor:
        """Learn from the first `rows` requests of a trace (all of them if None).

        Returns
        -------
        SurvivalPredictor
            Itself.
        """
        self.observe(finished_rows(trace, rows))
        self._training.note(trace, rows)
        return self

    def training_rows(self, trace: Trace) -> int:
        """Return how many leading requests of `trace` it was fitted to."""
        return self._training.rows(trace)

    def observe(self, finished: FinishedRequests) -> None:
        """Take in requests that have ended.

        Raises
        ------
        ParameterError
            A length below 1 token or beyond what traces may hold.
        """
        lengths = finished.output_tokens
        if not len(lengths):
            return
        check_lengths(lengths)
        self._reserve(int(lengths.max()))
        weights = self._next(len(lengths))
        np.add.at(self._weights, (finished.censored.astype(np.int64), lengths), weights)
        self._known += float(weights.sum()) / self._latest
        self._fresh += len(lengths)

    def set_running(self, query: ForecastQuery) -> None:
        """State the ages of all requests that still run, for the next estimate.

        They replace those stated before.
        """
        check_ages(query.age)
        self._running = np.array(query.age, np.int64)

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        """Forecast which of the queried requests end within `horizon` steps, and when."""
        check_ages(query.age)
        p_finish, mu_remaining = np.empty(len(query)), np.empty(len(query))
        left = query.steps_left(horizon + 1)
        table, tail = self.table, self._tail
        forecast_by_age(table, tail, query.age, left, horizon, p_finish, mu_remaining)
        return Forecast(p_finish=p_finish, mu_remaining=mu_remaining, horizon=horizon)

    def survival(self, query: ForecastQuery, horizon: int) -> FloatArray:
        """Return the probability that each request still runs h = 0..`horizon` steps from now."""
        check_ages(query.age)
        out = np.empty((len(query), horizon + 1))
        curves_by_age(self.table, query.age, query.steps_left(horizon + 1), horizon, out)
        return out

    def _next(self, count: int) -> FloatArray:
        """Return the weights of the next observations, shape (count,)."""
        if math.isinf(self.params.memory):
            return np.ones(count)
        self._advance(count / self.params.memory)
        weights: FloatArray = self._latest * np.exp2(np.arange(1 - count, 1) / self.params.memory)
        return weights

    def _advance(self, half_lives: float) -> None:
        ratio = 2.0 ** min(half_lives, _LONGEST_LEAP)
        self._known /= ratio
        self._latest *= ratio
        if self._latest > _HEAVIEST:
            self._weights /= self._latest
            self._latest = 1.0

    def _reserve(self, length: int) -> None:
        if length >= self._weights.shape[1]:
            grown = np.zeros((2, min(2 * length, MAX_LENGTH) + 1))
            grown[:, : self._weights.shape[1]] = self._weights
            self._weights = grown

    def _refresh(self) -> None:
        if not self._fresh or self._fresh < self.params.growth * self._estimated_from:
            return
        self._table = self._estimate()
        self._tail = tail_of(self._table)
        self._estimated_from, self._fresh = self._known, 0

    def _estimate(self) -> FloatArray:
        ended, cut = np.where(self._weights < self._latest * _FORGOTTEN, 0.0, self._weights)
        seen = np.flatnonzero(ended)
        longest = int(seen[-1]) if len(seen) else 0
        still = np.bincount(np.minimum(self._running, longest), minlength=longest + 1)
        left = ended[: longest + 1] + cut[: longest + 1] + self._latest * still
        left[longest] += cut[longest + 1 :].sum()
        at_risk = np.cumsum(left[::-1])[::-1]
        share = ended[: longest + 1] / np.where(at_risk > 0, at_risk, 1.0)
        table: FloatArray = np.cumprod(np.clip(1.0 - share, 0.0, 1.0))
        return table


def check_lengths(lengths: IntArray) -> None:
    """Refuse output lengths that no request can have."""
    for length in (int(lengths.min()), int(lengths.max())):
        if not 1 <= length <= MAX_LENGTH:
            raise ParameterError(
                f"output length is {length}, must be from 1 to {MAX_LENGTH:,} tokens"
            )


def check_ages(ages: IntArray) -> None:
    """Refuse ages below 0."""
    if len(ages) and ages.min() < 0:
        raise ParameterError(f"age is {int(ages.min())}, must be at least 0")
