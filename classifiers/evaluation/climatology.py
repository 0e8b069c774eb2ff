"""The forecast that knows nothing of the request: the base rate of the past."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import ParameterError
from brsolver.predictors import BasePredictor, Forecast, limited
from classifiers.person_period import sample

if TYPE_CHECKING:
    from brsolver.predictors import FloatArray, ForecastQuery
    from brsolver.traces.trace import Trace

_MAX_SAMPLES = 1_000_000


class ClimatologyPredictor(BasePredictor):
    """Tells every request the same: how often, and when, requests of the past ended.

    The reference that every score is read against. The training part is sampled as a router
    would ask about it (`classifiers.person_period.sample`): the base rate is the share of
    samples that ended within H steps, μ the mean remaining length of those, and the survival
    curve that of their remaining lengths.

    Parameters
    ----------
    trace : Trace
        The training part.
    horizon : int
        Steps H.
    refresh_steps : int
        Decode steps ΔT between refreshes.
    seed : int
        Of the sampling.

    Raises
    ------
    ParameterError
        No outcome is known.
    """

    def __init__(self, trace: Trace, *, horizon: int, refresh_steps: int, seed: int = 0) -> None:
        asked = sample(
            trace,
            horizon,
            refresh_steps=refresh_steps,
            max_samples=_MAX_SAMPLES,
            random_state=seed,
        )
        remaining = np.minimum(asked.remaining[asked.known], horizon + 1)
        if remaining.size == 0:
            raise ParameterError(
                f"{trace.name}: nothing can be learnt for H = {horizon} steps: max_tokens cuts "
                "every request sooner"
            )
        share = np.bincount(remaining, minlength=horizon + 2) / remaining.size
        self._horizon = horizon
        self._curve: FloatArray = 1.0 - np.cumsum(share[:-1])
        self.p_finish = float(1.0 - self._curve[-1])
        ending = float(share[:-1] @ np.arange(horizon + 1))
        self.mu_remaining = ending / self.p_finish if self.p_finish > 0 else float(horizon)

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        """Return the base rate for every request."""
        self._check(horizon)
        everyone = np.ones(len(query))
        forecast = Forecast(
            p_finish=everyone * self.p_finish,
            mu_remaining=everyone * self.mu_remaining,
            horizon=horizon,
        )
        return limited(forecast, query)

    def survival(self, query: ForecastQuery, horizon: int) -> FloatArray:
        """Return the same curve for every request, cut at its limit, shape (n, H + 1)."""
        self._check(horizon)
        runs = np.arange(horizon + 1) < query.steps_left(horizon + 1)[:, None]
        curves: FloatArray = np.where(runs, self._curve, 0.0)
        return curves

    def _check(self, horizon: int) -> None:
        if horizon != self._horizon:
            raise ParameterError(
                f"horizon is {horizon}, must be {self._horizon}, which this climatology holds for"
            )
