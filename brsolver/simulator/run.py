"""`simulate`: wires trace, policy, forecasts and engine, and returns a result."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.cluster.warmup import copies_of
from brsolver.registry import PolicySpec
from brsolver.results.logs import LoadSamples, RequestLog, RequestStatus, StepLog
from brsolver.results.metrics import Metrics, compute_metrics
from brsolver.results.result import SimulationResult
from brsolver.simulator import _layout as lay
from brsolver.simulator.cost_notes import cost_notes
from brsolver.simulator.engine import Engine, Progress
from brsolver.simulator.held_out import rows_that_trained, seen_in, told_of_training
from brsolver.simulator.params import SimulationParams
from brsolver.simulator.turn_notes import turn_notes
from brsolver.wiring import Parts, read_policy, read_predictor, require_unchanged, wire

if TYPE_CHECKING:
    from brsolver.policy import Policy
    from brsolver.predictors import Predictor
    from brsolver.registry import PredictorSpec
    from brsolver.traces.trace import Trace

IntArray = NDArray[np.int64]


def simulate(
    trace: Trace,
    policy: str | PolicySpec | Policy,
    params: SimulationParams | None = None,
    *,
    predictor: str | PredictorSpec | Predictor | None = None,
    policy_name: str | None = None,
    predictor_name: str | None = None,
    progress: Progress | None = None,
) -> SimulationResult:
    """Replay `trace` through a cluster under `policy`.

    Parameters
    ----------
    trace : Trace
        Requests in order of arrival.
    policy : str, PolicySpec or Policy
        A name with parameters (``"br-h:horizon=40,gamma=0.9"``) or an object with ``route``.
    params : SimulationParams, optional
        The cluster and the regime.
    predictor : str, PredictorSpec or Predictor, optional
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
    chosen, source = read_policy(policy), read_predictor(predictor)
    parts = wire(chosen, source, seed=params.seed, **seen_in(trace))
    require_unchanged(chosen, source)
    parts = _called(parts, policy_name, predictor_name)
    if isinstance(chosen, PolicySpec) and chosen.ours:
        _warm_up(parts, trace, params)
    trained_on = rows_that_trained(parts.made, trace)
    whole, trace = trace, trace.after(trained_on)
    engine = Engine(trace, parts.policy, params, parts.predictor)
    began = perf_counter()
    engine.run(progress)
    return _result(engine, parts, trace, perf_counter() - began, whole=len(whole))


def _called(parts: Parts, policy_name: str | None, predictor_name: str | None) -> Parts:
    uses = parts.predictor is not None
    return replace(
        parts,
        policy_name=policy_name or parts.policy_name,
        predictor_name=(uses and predictor_name) or parts.predictor_name,
    )


def _warm_up(parts: Parts, trace: Trace, params: SimulationParams) -> None:
    """Run a miniature with copies of policy and predictor, so that no kernel compiles in the run.

    The miniature has the columns of the trace, which decide what a predictor computes.
    """
    few = trace.take(np.arange(min(4, len(trace))))
    lengths = np.array([1, 2, 3, 1], np.int64)[: len(few)]
    miniature = replace(few, prompt_tokens=lengths, output_tokens=lengths)
    small = SimulationParams(
        workers=2, slots=1, routing=params.routing, refresh_steps=params.refresh_steps
    )
    copies = copies_of(parts.policy, parts.predictor)
    if copies is not None:
        policy, predictor = copies
        Engine(miniature, policy, small, predictor).run()


def _result(
    engine: Engine, parts: Parts, trace: Trace, wall_s: float, *, whole: int
) -> SimulationResult:
    predictor = parts.predictor
    requests, steps, samples = _requests(engine), _steps(engine), _samples(engine)
    metrics = compute_metrics(
        policy=parts.policy_name,
        params=engine.params,
        prompt_tokens=trace.prompt_tokens,
        output_tokens=trace.output_tokens,
        requests=requests,
        steps=steps,
        samples=samples,
        last_admission=int(engine.cursor["last_admission"].item()),
        migrated_tokens=int(engine.cursor["moved_tokens"].item()),
        dispatch_us=engine.dispatch_us,
        wall_s=wall_s,
    )
    return SimulationResult(
        policy=parts.policy_name,
        policy_params=parts.policy.settings(),
        predictor=parts.predictor_name,
        sees_future=predictor is not None and predictor.sees_future,
        trace_name=trace.name,
        trace_fingerprint=trace.fingerprint(),
        params=engine.params,
        metrics=metrics,
        requests=requests,
        steps=steps,
        samples=samples,
        dispatch_us=engine.dispatch_us,
        training_rows=whole - len(trace),
        notes=_notes(trace, parts, requests, metrics, steps, whole, engine),
    )


def _requests(engine: Engine) -> RequestLog:
    book, times = engine.book, engine.times
    status = book[lay.B_STATUS].copy()
    found = lay.B_FOUND if engine.prefixes.caches is not None else lay.B_CACHED
    return RequestLog(
        arrival_s=times[lay.T_ARRIVAL],
        ready_s=times[lay.T_READY],
        start_s=times[lay.T_START],
        first_token_s=times[lay.T_FIRST],
        first_token_step=book[lay.B_FIRST_STEP].copy(),
        finish_s=times[lay.T_FINISH],
        worker=book[lay.B_WORKER].copy(),
        start_step=book[lay.B_START_STEP].copy(),
        finish_step=book[lay.B_FINISH_STEP].copy(),
        preemptions=book[lay.B_PREEMPTIONS].copy(),
        migrations=book[lay.B_MOVES].copy(),
        status=status,
        cached_tokens=np.where(book[lay.B_START_STEP] < 0, 0, book[found]),
        prefill_in_steps=engine.params.prefill.colocated,
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
        lost_sequences_s=f[lay.F_LOST_SEQUENCES],
        lost_kv_s=f[lay.F_LOST_KV],
        lost_prefill_s=f[lay.F_LOST_PREFILL],
        lost_padding_s=f[lay.F_LOST_PADDING],
        prefill_tokens=i[lay.I_PREFILL],
        prefill_max=i[lay.I_PREFILL_MAX],
        held=i[lay.I_HELD],
    )


def _samples(engine: Engine) -> LoadSamples:
    count = int(engine.cursor["samples"].item())
    return LoadSamples(
        step=engine.sampled_at[0, :count].astype(np.int64),
        time_s=engine.sampled_at[1, :count].copy(),
        load=engine.samples[0, :count].copy(),
        running=engine.samples[1, :count].copy(),
        backlog=engine.samples[2, :count].copy(),
    )


def _notes(
    trace: Trace,
    parts: Parts,
    requests: RequestLog,
    metrics: Metrics,
    steps: StepLog,
    whole: int,
    engine: Engine,
) -> tuple[str, ...]:
    notes = []
    if whole > len(trace):
        notes.append(told_of_training(whole - len(trace), whole))
    notes.extend(parts.policy.notes())
    if parts.predictor is not None:
        notes.extend(parts.predictor.notes())
    if trace.surrogate:
        notes.append(f"{trace.name} is a synthetic surrogate, not the published trace")
    if parts.predictor is not None and parts.predictor.sees_future:
        notes.append(f"{parts.policy_name} is given true output lengths (oracle)")
    if trace.skipped_rows:
        notes.append(f"{trace.skipped_rows} bad rows of {trace.name} were skipped")
    notes.extend(turn_notes(trace, engine.params))
    if metrics.window_first >= metrics.window_end:
        notes.append("the warm-up leaves no step to average before the last admission")
    notes.extend(cost_notes(engine.params, steps, int(engine.cursor["outside"].item())))
    unfinished = requests.unfinished()
    if unfinished:
        reasons = ", ".join(f"{count} {reason}" for reason, count in unfinished.items())
        notes.append(f"{sum(unfinished.values())} requests did not finish: {reasons}")
    return tuple(notes)


__all__ = ["RequestStatus", "simulate"]
