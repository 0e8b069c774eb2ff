"""Watches a predictor at work, and withdraws it while it forecasts worse than Survival."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from brsolver.cluster.forecasting import RequestColumns
from brsolver.errors import ParameterError
from brsolver.predictors import ForecastQuery
from brsolver.stand_ins import PredictorWrapper, as_predictor
from classifiers._pending import Pending
from classifiers._running_score import RunningScore
from classifiers.drift import AgeDrift
from classifiers.survival import SurvivalParams, SurvivalPredictor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.predictors import FinishedRequests, IntArray, Predictor

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

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in zip(self.levels, self.levels[1:], strict=False))
        if not (len(self.levels) >= 2 and self.levels[0] == 1 and self.levels[-1] == 0 and falling):
            raise ParameterError(f"levels is {self.levels}, must fall from 1 to 0")
        for name in ("margin", "certainty"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ParameterError(f"{name} is {value}, must be finite and at least 0")
        for name in ("memory", "survival_memory", "least", "rest", "sample", "horizon"):
            if not getattr(self, name) >= 1:
                raise ParameterError(f"{name} is {getattr(self, name)}, must be at least 1")


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


class GuardedPredictor(PredictorWrapper):
    """Passes a predictor's forecasts on and says how far to trust them.

    At every refresh the forecasts "ends within H steps" of some running requests are kept until
    they are decided, and scored in the order in which they were made: the Brier score
    ``mean (p - y)²`` of the predictor beside that of an online Survival estimate that forgets.
    Waiting for all forecasts of a refresh matters, since those that come true are known first.
    Both scores are exponentially weighted over refreshes.

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
    guard : GuardParams
    switches : list of Switch
        Every change of trust.
    drift : AgeDrift
        Whether output lengths are still distributed as they were.

    References
    ----------
    Brier, Verification of forecasts expressed in terms of probability, Monthly Weather Review
    78 (1950).
    """

    def __init__(self, base: Predictor, params: GuardParams | None = None) -> None:
        super().__init__(as_predictor(base))
        self.guard = params or GuardParams()
        self._trust = 1.0
        self.switches: list[Switch] = []
        self.drift = AgeDrift()
        self._reference = SurvivalPredictor(SurvivalParams(memory=self.guard.survival_memory))
        self._pending = Pending()
        self._score = RunningScore(self.guard.memory)
        self._horizon = self.guard.horizon
        self._refreshes = 0
        self._finished = 0
        self._distrusted = 0
        self._drifting = 0
        self._changed_at = -self.guard.rest

    @property
    def trust(self) -> float:
        """How far routers should believe the forecasts, 1 to 0: one of the guard's levels."""
        return self._trust

    @property
    def brier(self) -> float:
        """Running Brier score of the predictor; NaN before any forecast was decided."""
        return self._score.mean

    @property
    def brier_survival(self) -> float:
        """Running Brier score of Survival on the same forecasts."""
        return self._score.reference

    def look_ahead(self, horizon: int) -> None:
        """Score forecasts over `horizon` steps from now on, the router's own."""
        super().look_ahead(horizon)
        if horizon != self._horizon:
            self._horizon = horizon
            self._pending = Pending()

    def observe(self, finished: FinishedRequests) -> None:
        """Take in requests that have ended: they decide forecasts, and teach the predictor."""
        # Decided before it learns: a forecast is not to know its own outcome.
        self._pending.ended(finished, self._horizon)
        super().observe(finished)
        self._reference.observe(finished)
        self.drift.observe(finished.output_tokens[~finished.censored])
        self._finished += len(finished)

    def set_running(self, query: ForecastQuery) -> None:
        """Take in what runs: it decides forecasts, and new ones are kept to be scored."""
        super().set_running(query)
        self._reference.set_running(query)
        self._refreshes += 1
        self._distrusted += self.trust < 1
        self._drifting += self.drift.drifted
        self._pending.running(query, self._horizon)
        for batch in self._pending.decided():
            self._score.add(batch)
            self._judge()
        self._keep(query)

    def notes(self) -> Sequence[str]:
        """Say how often and how long the forecasts were not trusted in full."""
        found = list(super().notes())
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
        self._trust = trust
        self._changed_at = self._refreshes


def _systematic(query: ForecastQuery, most: int, turn: int) -> ForecastQuery:
    """Return every k-th request, starting elsewhere each time, so that none is left out."""
    stride = max(1, math.ceil(len(query) / most))
    if stride == 1:
        return query
    return subset(query, np.arange(turn % stride, len(query), stride))


def subset(query: ForecastQuery, rows: IntArray) -> ForecastQuery:
    """Return the query about some of its requests."""
    columns = RequestColumns(
        max_tokens=query.max_tokens, arrival_s=query.arrival_s, keys=query.keys
    )
    return ForecastQuery(
        request=query.request[rows],
        age=query.age[rows],
        prompt_tokens=query.prompt_tokens[rows],
        **columns.of(rows),
    )
