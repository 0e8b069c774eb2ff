"""`simulate`: wires trace, policy, forecasts and engine, and returns a result."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, is_dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import ParameterError
from brsolver.forecasting import Forecaster, RequestColumns
from brsolver.policy import Policy
from brsolver.registry import make_policy, policy_class, wants
from brsolver.simulator import _layout as lay
from brsolver.simulator.engine import Engine, Progress
from brsolver.simulator.held_out import horizon_of, predictor_for, rows_that_trained
from brsolver.simulator.metrics import compute_metrics
from brsolver.simulator.params import SimulationParams
from brsolver.simulator.result import (
    LoadSamples,
    Metrics,
    RequestLog,
    RequestStatus,
    SimulationResult,
    StepLog,
)
from brsolver.simulator.streams import stream
from brsolver.specs import parse_spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from brsolver.predictors import Predictor
    from brsolver.state import ClusterState
    from brsolver.traces.model import Trace

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    policy: Policy
    name: str
    predictor: Predictor | None
    predictor_name: str
    trained_on: int


def simulate(
    trace: Trace,
    policy: str | Policy,
    params: SimulationParams | None = None,
    *,
    predictor: str | Predictor | None = None,
    policy_name: str | None = None,
    predictor_name: str | None = None,
    progress: Progress | None = None,
) -> SimulationResult:
    """Replay `trace` through a cluster under `policy`.

    Parameters
    ----------
    trace : Trace
        Requests in order of arrival.
    policy : str or Policy
        A name with parameters (``"br-h:horizon=40,gamma=0.9"``) or an object with ``route``.
    params : SimulationParams, optional
        The cluster and the regime.
    predictor : str or Predictor, optional
        Where forecasts come from, for policies that use any. ``"survival"`` (the default)
        learns online from requests that have finished, ``"oracle"`` sees true lengths,
        ``"none"`` forecasts nothing. The requests that trained a predictor before the run
        (its `training_rows` of this trace) are left out of the run, so that no forecast is
        judged on what it has seen.
    policy_name, predictor_name : str, optional
        What to call the policy and the predictor in results.
    progress : callable, optional
        Called now and then with (finished, total) requests.

    Returns
    -------
    SimulationResult

    Raises
    ------
    BrsolverError
        Bad parameters, names, capacities or decisions; see `brsolver.errors`.

    Examples
    --------
    >>> from brsolver import SimulationParams, load_trace, simulate
    >>> trace = load_trace("preset:uniform:n=200,s_high=500,o_high=50")
    >>> result = simulate(trace, "br-0", SimulationParams(workers=4, slots=8))
    >>> result.metrics.finished
    200
    """
    params = params or SimulationParams()
    prepared = _prepare(trace, policy, params, predictor, policy_name, predictor_name)
    if isinstance(policy, str) and _is_ours(policy):
        _warm_up(policy, trace, params, prepared.predictor)
    whole, trace = trace, trace.after(prepared.trained_on)
    engine = Engine(trace, prepared.policy, params, _forecaster(prepared, trace, params))
    began = perf_counter()
    engine.run(progress)
    return _result(engine, prepared, trace, params, perf_counter() - began, len(whole))


def _is_ours(policy: str) -> bool:
    # A stranger's policy may count its calls or know how many workers it routes to.
    module = policy_class(parse_spec(policy)[0]).__module__
    return module.partition(".")[0] in {"brsolver", "baselines"}


def _warm_up(
    policy: str, trace: Trace, params: SimulationParams, predictor: Predictor | None
) -> None:
    """Run a miniature with copies of policy and predictor, so that no kernel compiles in the run.

    The miniature has the columns of the trace, which decide what a predictor computes.
    """
    few = trace.take(np.arange(min(4, len(trace))))
    lengths = np.array([1, 2, 3, 1], np.int64)[: len(few)]
    miniature = replace(few, prompt_tokens=lengths, output_tokens=lengths)
    small = SimulationParams(
        workers=2, slots=1, routing=params.routing, refresh_steps=params.refresh_steps
    )
    prepared = _prepare(miniature, policy, small, copy.deepcopy(predictor) or "none")
    Engine(miniature, prepared.policy, small, _forecaster(prepared, miniature, small)).run()


def _prepare(
    trace: Trace,
    policy: str | Policy,
    params: SimulationParams,
    predictor: str | Predictor | None,
    policy_name: str | None = None,
    predictor_name: str | None = None,
) -> _Prepared:
    if not isinstance(policy, str | Policy):
        raise ParameterError(
            f"policy is {type(policy).__name__}, must be a name or an object with route()"
        )
    horizons = (horizon_of(policy),)
    source, label = predictor_for(predictor, trace, params.seed, horizons=horizons)
    if isinstance(policy, str):
        name, values = parse_spec(policy)
        needed = wants(policy_class(name), "predictor")
        context = {"predictor": source} if needed else {}
        made = make_policy(name, values, rng=stream(params.seed, "policy"), **context)
    else:
        name, needed, made = type(policy).__name__, False, policy
    looks_ahead = needed or getattr(made, "horizon", 0) > 0
    return _Prepared(
        policy=made,
        name=policy_name or (policy if isinstance(policy, str) else name),
        predictor=source if looks_ahead else None,
        predictor_name=(predictor_name or label) if looks_ahead else "none",
        trained_on=rows_that_trained(source, trace),
    )


def _forecaster(prepared: _Prepared, trace: Trace, params: SimulationParams) -> Forecaster | None:
    horizon = int(getattr(prepared.policy, "horizon", 0))
    if prepared.predictor is None:
        return _NoForecast(horizon) if horizon > 0 else None
    return Forecaster(
        prepared.predictor,
        horizon=horizon,
        refresh_steps=params.refresh_steps,
        columns=_columns(trace),
    )


def _columns(trace: Trace) -> RequestColumns:
    limits = trace.columns.get("max_tokens")
    return RequestColumns(
        max_tokens=None if limits is None else limits.astype(np.int64),
        arrival_s=None if trace.arrival_s is None else trace.arrival_s + trace.origin_s,
        keys={name: column for name, column in trace.columns.items() if name != "max_tokens"},
    )


class _NoForecast(Forecaster):
    """Forecasts nothing: every request counts as running throughout the horizon."""

    learns = False
    trust = 1.0

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon

    def update(self, *_: object) -> None:
        """Leave the state's forecasts as they are: beyond the horizon."""

    def observe(self, *_: object, **__: object) -> None:
        """Learn nothing."""

    def project(self, state: ClusterState, horizon: int, growth: bool, survival: bool) -> IntArray:
        """Project without ends, whatever was asked."""
        del survival
        return state.projection(horizon, growth=growth)


def _result(
    engine: Engine,
    prepared: _Prepared,
    trace: Trace,
    params: SimulationParams,
    wall_s: float,
    whole: int,
) -> SimulationResult:
    requests, steps, samples = _requests(engine), _steps(engine), _samples(engine)
    metrics = compute_metrics(
        policy=prepared.name,
        params=params,
        output_tokens=trace.output_tokens,
        requests=requests,
        steps=steps,
        samples=samples,
        last_admission=int(engine.control[lay.C_LAST_ADMISSION]),
        dispatch_us=engine.dispatch_us,
        wall_s=wall_s,
    )
    return SimulationResult(
        policy=prepared.name,
        policy_params=_policy_params(prepared.policy),
        predictor=prepared.predictor_name,
        sees_future=bool(getattr(prepared.predictor, "sees_future", False)),
        trace_name=trace.name,
        trace_fingerprint=trace.fingerprint(),
        params=params,
        metrics=metrics,
        requests=requests,
        steps=steps,
        samples=samples,
        dispatch_us=engine.dispatch_us,
        training_rows=prepared.trained_on,
        notes=_notes(trace, prepared, requests, metrics, whole),
    )


def _policy_params(policy: Policy) -> Mapping[str, object]:
    params = getattr(policy, "params", None)
    if is_dataclass(params) and not isinstance(params, type):
        return asdict(params)
    return {}


def _requests(engine: Engine) -> RequestLog:
    book, times = engine.book, engine.times
    status = book[lay.B_STATUS].copy()
    return RequestLog(
        arrival_s=times[lay.T_ARRIVAL],
        ready_s=times[lay.T_READY],
        start_s=times[lay.T_START],
        first_token_s=times[lay.T_FIRST],
        finish_s=times[lay.T_FINISH],
        worker=book[lay.B_WORKER].copy(),
        start_step=book[lay.B_START_STEP].copy(),
        finish_step=book[lay.B_FINISH_STEP].copy(),
        preemptions=book[lay.B_PREEMPTIONS].copy(),
        status=status,
    )


def _steps(engine: Engine) -> StepLog:
    f: NDArray[np.float64] = engine.log_f[:, : engine.step].copy()
    i: NDArray[np.int64] = engine.log_i[:, : engine.step].copy()
    return StepLog(
        start_s=f[lay.F_START],
        duration_s=f[lay.F_DURATION],
        active=i[lay.I_ACTIVE],
        alive=i[lay.I_ALIVE],
        slots=i[lay.I_SLOTS],
        load_max=i[lay.I_MAX],
        load_min=i[lay.I_MIN],
        load_sum=i[lay.I_SUM],
        post_max=i[lay.I_POST_MAX],
        post_min=i[lay.I_POST_MIN],
        post_sum=i[lay.I_POST_SUM],
        energy_j=f[lay.F_ENERGY],
        post_energy_j=f[lay.F_POST_ENERGY],
    )


def _samples(engine: Engine) -> LoadSamples:
    count = int(engine.control[lay.C_SAMPLES])
    return LoadSamples(
        step=engine.sampled_at[0, :count].astype(np.int64),
        time_s=engine.sampled_at[1, :count].copy(),
        load=engine.samples[0, :count].copy(),
        running=engine.samples[1, :count].copy(),
    )


def _notes(
    trace: Trace, prepared: _Prepared, requests: RequestLog, metrics: Metrics, whole: int
) -> tuple[str, ...]:
    notes = []
    if prepared.trained_on:
        notes.append(
            f"the first {prepared.trained_on:,} of {whole:,} requests trained the predictor and "
            "are not part of the run"
        )
    notes.extend(_own_notes(prepared.policy))
    notes.extend(_own_notes(prepared.predictor))
    if trace.surrogate:
        notes.append(f"{trace.name} is a synthetic surrogate, not the published trace")
    if getattr(prepared.predictor, "sees_future", False):
        notes.append(f"{prepared.name} is given true output lengths (oracle)")
    if trace.skipped_rows:
        notes.append(f"{trace.skipped_rows} bad rows of {trace.name} were skipped")
    if metrics.window_first >= metrics.window_end:
        notes.append("the warm-up leaves no step to average before the last admission")
    unfinished = requests.unfinished()
    if unfinished:
        reasons = ", ".join(f"{count} {reason}" for reason, count in unfinished.items())
        notes.append(f"{sum(unfinished.values())} requests did not finish: {reasons}")
    return tuple(notes)


def _own_notes(source: object) -> Sequence[str]:
    say = getattr(source, "notes", None)
    return tuple(say()) if callable(say) else ()


__all__ = ["RequestStatus", "simulate"]
