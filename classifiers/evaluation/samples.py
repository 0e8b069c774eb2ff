"""Forecasts as a router would be given them, next to what came to pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import ParameterError
from brsolver.policy import BasePolicy, as_policy
from brsolver.predictors import BasePredictor, Forecast, ForecastQuery
from brsolver.registry import make_policy
from brsolver.simulator import SimulationParams, simulate
from brsolver.stand_ins import as_predictor
from brsolver.streams import stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from brsolver.cluster.view import ClusterView, Decision, Waiting
    from brsolver.predictors import FinishedRequests, Predictor
    from brsolver.traces.trace import Trace

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

NEUTRAL_POLICY = "jsq-load"
MAX_SAMPLES = 20_000


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Told:
    """What one predictor said of every sample.

    Attributes
    ----------
    p_finish, mu_remaining : ndarray of float64, shape (n,)
        As in `brsolver.predictors.Forecast`.
    survival : ndarray of float32, shape (n, H + 1), or None
        Probability of running 0..H steps from now; None from predictors without a curve.
    """

    p_finish: FloatArray
    mu_remaining: FloatArray
    survival: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Samples:
    """Running requests at moments when a router would have had them forecast.

    Attributes
    ----------
    horizon : int
        Steps H.
    request : ndarray of int64, shape (n,)
        Row of each in the trace that was run.
    age : ndarray of int64, shape (n,)
        Tokens it had generated.
    remaining : ndarray of int64, shape (n,)
        Steps it went on to run, at least 1.
    told : mapping of str to Told
        The forecasts, by predictor.
    unknown : int
        Samples left out: the request's own limit lay within the horizon. Where it struck nobody
        knows when the request would have ended; the others are left out with these, since they
        alone would over-represent requests that end early.
    requests : int
        Length of the trace that was run.
    """

    horizon: int
    request: IntArray
    age: IntArray
    remaining: IntArray
    told: Mapping[str, Told]
    unknown: int
    requests: int

    def __len__(self) -> int:
        return int(self.request.size)

    @property
    def ends(self) -> BoolArray:
        """Whether each ended within the horizon, shape (n,)."""
        within: BoolArray = self.remaining <= self.horizon
        return within


def collect(
    trace: Trace,
    predictors: Mapping[str, Predictor],
    *,
    horizon: int,
    params: SimulationParams | None = None,
    max_samples: int = MAX_SAMPLES,
    progress: Callable[[int, int], None] | None = None,
) -> Samples:
    """Run `trace` under a neutral policy and record what every predictor forecasts on the way.

    All predictors see the same requests at the same ages, and learn from the same stream of
    finished and running requests, in the order in which a router would. A request is asked
    about at the first decision after its admission, and again with all others at the first
    decision after each ``refresh_steps``: where no slot becomes free nothing is decided, and
    nothing asked. Samples are thinned at random, each kept with the same probability.

    Parameters
    ----------
    trace : Trace
        Requests that none of the predictors has seen.
    predictors : mapping of str to Predictor
        They learn from the run.
    horizon : int
        Steps H of the forecasts, at least 1.
    params : SimulationParams, optional
        The cluster; its seed thins the samples.
    max_samples : int
        About how many to keep at most.
    progress : callable, optional
        Called with (finished, all) requests.

    Raises
    ------
    ParameterError
        The horizon or the bound is no positive number, or no outcome is known.
    """
    if horizon < 1:
        raise ParameterError(f"horizon is {horizon}, must be at least 1 step to judge forecasts")
    if max_samples < 1:
        raise ParameterError(f"samples is {max_samples}, must be at least 1")
    params = params or SimulationParams()
    recorder = _Recorder(
        {name: as_predictor(predictor) for name, predictor in predictors.items()},
        keep=min(1.0, max_samples / _askings(trace, params.refresh_steps)),
        rng=stream(params.seed, "thinning"),
    )
    policy = _LooksAhead(as_policy(make_policy(NEUTRAL_POLICY)), horizon)
    simulate(trace, policy, params, predictor=recorder, progress=progress)
    return _known(recorder, trace, horizon)


def _askings(trace: Trace, refresh_steps: int) -> float:
    """Return about how often forecasts are asked for at most: once, and at every refresh."""
    return float(len(trace) + trace.output_tokens.sum() / refresh_steps)


class _LooksAhead(BasePolicy):
    """A policy that ignores forecasts but has them made."""

    def __init__(self, policy: BasePolicy, horizon: int) -> None:
        self._policy = policy
        self.horizon = horizon

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Decide as the policy within does."""
        return self._policy.route(cluster, waiting)


class _Recorder(BasePredictor):
    """Asks all predictors whatever it is asked, and writes down a part of the answers."""

    def __init__(
        self, predictors: Mapping[str, BasePredictor], *, keep: float, rng: np.random.Generator
    ) -> None:
        self._predictors = predictors
        self._keep = keep
        self._rng = rng
        self.asked: list[tuple[IntArray, IntArray]] = []
        self.told: dict[str, list[Told]] = {name: [] for name in predictors}

    def look_ahead(self, horizon: int) -> None:
        """Hand the horizon on."""
        for predictor in self._predictors.values():
            predictor.look_ahead(horizon)

    def observe(self, finished: FinishedRequests) -> None:
        """Hand finished requests on."""
        for predictor in self._predictors.values():
            predictor.observe(finished)

    def set_running(self, query: ForecastQuery) -> None:
        """Hand running requests on."""
        for predictor in self._predictors.values():
            predictor.set_running(query)

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        """Forecast nothing, having recorded what the predictors do."""
        # Everybody is asked about everything: who learns from being asked must not miss any.
        forecasts = {name: p.predict(query, horizon) for name, p in self._predictors.items()}
        kept = np.flatnonzero(self._rng.random(len(query)) < self._keep)
        if kept.size:
            self.asked.append((query.request[kept], query.age[kept]))
            for name, forecast in forecasts.items():
                predictor = self._predictors[name]
                curve = predictor.survival(query, horizon) if predictor.has_survival else None
                self.told[name].append(
                    Told(
                        p_finish=forecast.p_finish[kept],
                        mu_remaining=forecast.mu_remaining[kept],
                        survival=None if curve is None else curve[kept].astype(np.float32),
                    )
                )
        stay = np.zeros(len(query))
        return Forecast(p_finish=stay, mu_remaining=stay + horizon, horizon=horizon)


def _known(recorder: _Recorder, trace: Trace, horizon: int) -> Samples:
    """Join what was recorded with the true lengths, where they are known."""
    if not recorder.asked:
        raise ParameterError(f"{trace.name}: too few requests to judge forecasts on: {len(trace)}")
    request, age = (np.concatenate(column) for column in zip(*recorder.asked, strict=True))
    remaining = trace.output_tokens[request] - age
    known = _beyond_limits(trace, request, age, horizon)
    if not known.any():
        raise ParameterError(
            f"{trace.name}: no forecast of H = {horizon} steps can be judged: max_tokens cuts "
            "every request sooner"
        )
    return Samples(
        horizon=horizon,
        request=request[known],
        age=age[known],
        remaining=remaining[known],
        told={name: _joined(parts, known) for name, parts in recorder.told.items()},
        unknown=int((~known).sum()),
        requests=len(trace),
    )


def _beyond_limits(trace: Trace, request: IntArray, age: IntArray, horizon: int) -> BoolArray:
    if "max_tokens" not in trace.columns:
        return np.ones(request.size, np.bool_)
    limits = trace.columns["max_tokens"].astype(np.int64)
    beyond: BoolArray = limits[request] - age > horizon
    return beyond


def _joined(parts: list[Told], known: BoolArray) -> Told:
    joined = Told(
        p_finish=np.concatenate([part.p_finish for part in parts])[known],
        mu_remaining=np.concatenate([part.mu_remaining for part in parts])[known],
        survival=None,
    )
    curves = [part.survival for part in parts if part.survival is not None]
    return replace(joined, survival=np.concatenate(curves)[known]) if curves else joined
