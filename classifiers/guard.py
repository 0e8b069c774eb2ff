"""Watches a predictor at work, and withdraws it while it forecasts worse than Survival."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import ParameterError
from classifiers._pending import Pending
from classifiers._recalibration import Recalibration
from classifiers._running_score import RunningScore
from classifiers.drift import AgeDrift
from classifiers.survival import SurvivalParams, SurvivalPredictor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.predictors import (
        FinishedRequests,
        FloatArray,
        Forecast,
        ForecastQuery,
        IntArray,
        Predictor,
    )
    from brsolver.traces.model import Trace
    from classifiers._pending import Batch

_LOG = logging.getLogger(__name__)
_LASTING = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardParams:
    """Parameters of `GuardedPredictor`.

    Attributes
    ----------
    withdraw : bool
        Whether to withdraw forecasts; False only watches.
    levels : tuple of float
        Trust from the full one down to none, strictly falling.
    margin : float
        Share of Survival's Brier score by which the forecast's must be worse before trust falls.
    certainty : float
        Standard errors that the difference must be worth besides.
    memory : float
        Half-life of a score, in batches of forecasts (one per refresh).
    least : int
        Batches that must have been scored before anything is decided.
    rest : int
        Batches between two changes of trust.
    sample : int
        Running requests scored per refresh, at most.
    survival_memory : float
        Half-life of Survival's observations, in finished requests, so that it follows drift.
    horizon : int
        Steps H of the forecasts that are scored until a router asks for its own.
    recalibrate : bool
        Whether to shift the forecasts' log odds by what their outcomes say, where each request
        has a forecast of its own. Off, since it gained nothing on two of three measured traces.
    """

    withdraw: bool = True
    levels: tuple[float, ...] = (1.0, 0.5, 0.0)
    margin: float = 0.02
    certainty: float = 1.0
    memory: float = 8.0
    least: int = 4
    rest: int = 2
    sample: int = 256
    survival_memory: float = 1000.0
    horizon: int = 80
    recalibrate: bool = False

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in zip(self.levels, self.levels[1:], strict=False))
        if not (len(self.levels) >= 2 and self.levels[0] == 1 and self.levels[-1] == 0 and falling):
            raise ParameterError(f"levels = {self.levels}: must fall from 1 to 0")
        for name in ("margin", "certainty"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ParameterError(f"{name} = {value}: must be finite and at least 0")
        for name in ("memory", "survival_memory", "least", "rest", "sample", "horizon"):
            if not getattr(self, name) >= 1:
                raise ParameterError(f"{name} = {getattr(self, name)}: must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """One change of trust.

    Attributes
    ----------
    refresh : int
        Number of the refresh at which it happened.
    finished : int
        Requests that had ended by then.
    before, after : float
        Trust.
    brier, brier_survival : float
        Running scores that it rests on.
    """

    refresh: int
    finished: int
    before: float
    after: float
    brier: float
    brier_survival: float


class GuardedPredictor:
    """Passes a predictor's forecasts on and says how far to trust them.

    At every refresh the forecasts "ends within H steps" of some running requests are kept until
    they are decided, and scored in the order in which they were made: the Brier score
    ``mean (p - y)²`` of the predictor beside that of an online Survival estimate that forgets.
    Waiting for all forecasts of a refresh matters, since those that come true are known first.
    Both scores are exponentially weighted over refreshes.

    Outcomes can also teach (`recalibrate`): forecasts p of a predictor with a forecast per
    request become ``σ(logit p + b)``, b following the latest outcomes with a forgetting window
    (`classifiers._recalibration`), and survival curves are raised to the power that makes their
    end agree. A model trained in the morning so keeps its ranking in the evening, and loses its
    bias. Trust goes by the forecasts before that: a shift that makes up for a broken stage 1
    leaves stage 2 as broken as it was.

    When the predictor's score is worse by more than `margin` of Survival's and by `certainty`
    standard errors of the difference, `trust` falls by one level, which shortens a router's
    effective horizon, and in the end leaves it to current loads alone. When the score is no
    longer worse than Survival's, trust rises by one level. Between the two bounds, and for
    `rest` refreshes after a change, it stays.

    Parameters
    ----------
    base : Predictor
        Whose forecasts are passed on.
    params : GuardParams, optional

    Attributes
    ----------
    trust : float
        1 to 0; see `brsolver.predictors.Predictor`.
    switches : list of Switch
        Every change of trust.

    References
    ----------
    Brier, Verification of forecasts expressed in terms of probability, Monthly Weather Review
    78 (1950).
    """

    def __init__(self, base: Predictor, params: GuardParams | None = None) -> None:
        self.base = base
        self.guard = params or GuardParams()
        self.trust = 1.0
        self.switches: list[Switch] = []
        self.drift = AgeDrift()
        self._reference = SurvivalPredictor(SurvivalParams(memory=self.guard.survival_memory))
        self._pending = Pending()
        self._calibration = Recalibration()
        self._score = RunningScore(self.guard.memory)
        self._horizon = self.guard.horizon
        self._refreshes = 0
        self._finished = 0
        self._distrusted = 0
        self._drifting = 0
        self._changed_at = -self.guard.rest
        self._observe_base = getattr(base, "observe", None)
        self._set_running_base = getattr(base, "set_running", None)

    @property
    def sees_future(self) -> bool:
        """Whether the predictor is an oracle."""
        return bool(getattr(self.base, "sees_future", False))

    @property
    def table(self) -> FloatArray | None:
        """``P(O > a)``, if the predictor depends on age alone."""
        return getattr(self.base, "table", None)

    @property
    def lengths(self) -> IntArray | None:
        """Output lengths by identity, if the predictor is an oracle."""
        return getattr(self.base, "lengths", None)

    @property
    def brier(self) -> float:
        """Running Brier score of the predictor; NaN before any forecast was decided."""
        return self._score.mean

    @property
    def brier_survival(self) -> float:
        """Running Brier score of Survival on the same forecasts."""
        return self._score.reference

    def training_rows(self, trace: Trace) -> int:
        """Return how many leading requests of `trace` trained the predictor."""
        rows = getattr(self.base, "training_rows", None)
        return 0 if rows is None else int(rows(trace))

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        """Forecast which of the queried requests end within `horizon` steps, and when."""
        forecast = self.base.predict(query, horizon)
        if not self._recalibrates(horizon):
            return forecast
        return replace(forecast, p_finish=self._calibration.apply(forecast.p_finish))

    def survival(self, query: ForecastQuery, horizon: int) -> FloatArray:
        """Return the probability that each request still runs h = 0..`horizon` steps from now."""
        curves = getattr(self.base, "survival", None)
        if curves is None:
            raise ParameterError(
                f"{type(self.base).__name__} has no survival curve to project with; "
                "use projection=expected"
            )
        found: FloatArray = curves(query, horizon)
        if horizon < self._horizon or not self._recalibrates(self._horizon):
            return found
        theta = self._calibration.exponents(1.0 - found[:, self._horizon])
        return np.asarray(found ** theta[:, None])

    def _recalibrates(self, horizon: int) -> bool:
        return self.guard.recalibrate and horizon == self._horizon and self.table is None

    def look_ahead(self, horizon: int) -> None:
        """Score forecasts over `horizon` steps from now on, the router's own."""
        own = getattr(self.base, "look_ahead", None)
        if own is not None:
            own(horizon)
        if horizon != self._horizon:
            self._horizon = horizon
            self._pending = Pending()

    def observe(self, finished: FinishedRequests) -> None:
        """Take in requests that have ended: they decide forecasts, and teach."""
        # Decided before it learns: a forecast is not to know its own outcome.
        self._pending.ended(finished, self._horizon)
        if self._observe_base is not None:
            self._observe_base(finished)
        self._reference.observe(finished)
        self.drift.observe(finished.output_tokens[~finished.censored])
        self._finished += len(finished)

    def set_running(self, query: ForecastQuery) -> None:
        """Take in what runs: it decides forecasts, and new ones are kept to be scored."""
        if self._set_running_base is not None:
            self._set_running_base(query)
        self._reference.set_running(query)
        self._refreshes += 1
        self._distrusted += self.trust < 1
        self._drifting += self.drift.drifted
        self._pending.running(query, self._horizon)
        for batch in self._pending.decided():
            self._score.add(batch)
            self._learn(batch)
            self._judge()
        self._keep(query)

    def notes(self) -> Sequence[str]:
        """Say how often and how long the forecasts were not trusted in full."""
        own = getattr(self.base, "notes", None)
        found = [] if own is None else list(own())
        if self.switches:
            share = self._distrusted / self._refreshes
            found.append(
                f"changes of trust in the forecasts: {len(self.switches)}; it was below 1 at "
                f"{share:.0%} of the refreshes (running Brier score {self.brier:.4f}, Survival "
                f"{self.brier_survival:.4f} at the end)"
            )
        # When a run ends long outputs finish last: alarms at that time alone are no drift.
        if self._drifting > _LASTING * self._refreshes:
            found.append(
                "recent output lengths differed from the first ones at "
                f"{self._drifting / self._refreshes:.0%} of the refreshes (population stability "
                f"index {self.drift.index:.2f} at the end)"
            )
        return found

    def _keep(self, query: ForecastQuery) -> None:
        sampled = _systematic(query, self.guard.sample, self._refreshes)
        if len(sampled) == 0:
            return
        told = self.base.predict(sampled, self._horizon).p_finish
        usual = self._reference.predict(sampled, self._horizon).p_finish
        self._pending.keep(sampled, told, usual)

    def _learn(self, batch: Batch) -> None:
        if self._recalibrates(self._horizon):
            known, happened = batch.outcomes()
            self._calibration.learn(batch.told[known], happened)

    def _judge(self) -> None:
        g, score = self.guard, self._score
        rested = self._refreshes - self._changed_at >= g.rest
        if not g.withdraw or score.batches < g.least or not rested:
            return
        at = g.levels.index(self.trust)
        worse = score.mean - score.reference
        needed = max(g.margin * score.reference, g.certainty * score.error)
        if worse > needed and at + 1 < len(g.levels):
            self._change(g.levels[at + 1])
        elif worse <= 0 and at > 0:
            self._change(g.levels[at - 1])

    def _change(self, trust: float) -> None:
        switch = Switch(
            refresh=self._refreshes,
            finished=self._finished,
            before=self.trust,
            after=trust,
            brier=self.brier,
            brier_survival=self.brier_survival,
        )
        _LOG.info(
            "trust in forecasts %s -> %s after %d finished requests: Brier score %.4f, Survival "
            "%.4f",
            switch.before,
            switch.after,
            switch.finished,
            switch.brier,
            switch.brier_survival,
        )
        self.switches.append(switch)
        self.trust = trust
        self._changed_at = self._refreshes


def _systematic(query: ForecastQuery, most: int, turn: int) -> ForecastQuery:
    """Return every k-th request, starting elsewhere each time, so that none is left out."""
    stride = max(1, math.ceil(len(query) / most))
    if stride == 1:
        return query
    return subset(query, np.arange(turn % stride, len(query), stride))


def subset(query: ForecastQuery, rows: IntArray) -> ForecastQuery:
    """Return the query about some of its requests."""
    from brsolver.forecasting import RequestColumns
    from brsolver.predictors import ForecastQuery as Query

    columns = RequestColumns(
        max_tokens=query.max_tokens, arrival_s=query.arrival_s, keys=query.keys
    )
    return Query(
        request=query.request[rows],
        age=query.age[rows],
        prompt_tokens=query.prompt_tokens[rows],
        **columns.of(rows),
    )
