"""When requests arrive and when their prefill is done."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import ParameterError
from brsolver.hardware.step_arrays import balanced_seconds
from brsolver.simulator.colocated import cached_tokens
from brsolver.streams import stream

if TYPE_CHECKING:
    from brsolver.simulator.params import SimulationParams
    from brsolver.simulator.prefill import Prefill
    from brsolver.traces.trace import Trace

FloatArray = NDArray[np.float64]


def arrival_times(trace: Trace, params: SimulationParams) -> FloatArray:
    """Return the arrival time of every request in seconds, shape (n,).

    NaN for turns that follow others: these come when the run lets them. A rate is that of all
    requests; those that follow nobody come at their share of it, and bring the others along.

    Raises
    ------
    ParameterError
        The trace has no timestamps to replay.
    """
    arrivals = params.arrivals
    if arrivals.mode == "timestamps":
        if trace.arrival_s is None:
            raise ParameterError(
                f"arrivals mode is timestamps, and {trace.name} has none, must be pool, closed, "
                "rate or utilization"
            )
        return trace.arrival_s
    if arrivals.mode == "rate":
        assert arrivals.rate is not None  # noqa: S101 # held by Arrivals
        return _at_rate(trace, arrivals.rate, params.seed)
    assert arrivals.utilization is not None  # noqa: S101 # held by Arrivals
    return _at_rate(trace, utilization_rate(trace, params, arrivals.utilization), params.seed)


def utilization_rate(trace: Trace, params: SimulationParams, utilization: float) -> float:
    """Return the request rate that keeps about `utilization` of all slots busy.

    By Little's law ``U·slots = rate·E[o]·Δ``, with the step time Δ of a perfectly balanced
    cluster at that occupancy; imbalance makes steps longer and the true occupancy higher. With
    prefill on the decode ranks a step computes what keeps up with the requests that end in it.
    """
    prompt = trace.prompt_tokens.astype(np.float64)
    output = trace.output_tokens.astype(np.float64)
    kv_per_request = float((output * (prompt + (output - 1) / 2)).sum() / output.sum())
    slots = float(sum(params.slots_each()))
    running = min(utilization, 1.0) * slots / params.workers
    prefill, context = _prefill_per_token(trace, params)
    lasts = balanced_seconds(
        params.step_time,
        running,
        running * kv_per_request,
        params.workers,
        prefill_tokens=running * prefill,
        prefill_context=running * context,
    )
    return utilization * slots / (float(output.mean()) * lasts)


def _prefill_per_token(trace: Trace, params: SimulationParams) -> tuple[float, float]:
    """Return the prefill tokens, and tokens before these, that go with a generated token."""
    if not params.prefill.colocated:
        return 0.0, 0.0
    prompt = trace.prompt_tokens.astype(np.float64)
    known = cached_tokens(trace).astype(np.float64)
    needed = prompt - known
    generated = float(trace.output_tokens.sum())
    context = float((needed * known + needed * (needed + 1) / 2).sum())
    return float(needed.sum()) / generated, context / generated


def ready_times(trace: Trace, arrival: FloatArray, prefill: Prefill) -> FloatArray:
    """Return when each request's prefill is done and it can be routed, in seconds, shape (n,)."""
    if prefill.mode in {"none", "colocated"}:
        return arrival
    work = trace.prompt_tokens / prefill.tokens_per_s
    if prefill.mode == "delay":
        return arrival + prefill.delay_s + work
    return _tier(arrival, prefill.delay_s + work, prefill.workers)


def prefill_times(trace: Trace, prefill: Prefill) -> FloatArray:
    """Return how long each request is prefilled before it can be routed, in seconds, shape (n,).

    Of prefill that makes nobody wait: not of a tier.
    """
    if prefill.mode == "delay":
        return prefill.delay_s + trace.prompt_tokens / prefill.tokens_per_s
    return np.zeros(len(trace))


def _at_rate(trace: Trace, rate: float, seed: int) -> FloatArray:
    if trace.delay_s is None:
        return _scaled(trace.arrival_s, len(trace), rate, seed)
    firsts = ~trace.follows
    given = None if trace.arrival_s is None else trace.arrival_s[firsts]
    arrival = np.full(len(trace), np.nan)
    arrival[firsts] = _scaled(given, int(firsts.sum()), rate * float(firsts.mean()), seed)
    return arrival


def _scaled(given: FloatArray | None, count: int, rate: float, seed: int) -> FloatArray:
    if given is None or given[-1] <= 0:
        gaps = stream(seed, "arrivals").exponential(1.0 / rate, count)
        gaps[0] = 0.0
        return _finite(np.cumsum(gaps), rate)
    return _finite(given * ((count - 1) / (rate * given[-1])), rate)


def _finite(arrival: FloatArray, rate: float) -> FloatArray:
    if not np.isfinite(arrival[-1]):
        raise ParameterError(f"at a rate of {rate:g} requests per second the trace never ends")
    return arrival


def _tier(arrival: FloatArray, work: FloatArray, workers: int) -> FloatArray:
    free = [0.0] * workers
    ready = np.empty_like(arrival)
    for i, (at, seconds) in enumerate(zip(arrival.tolist(), work.tolist(), strict=True)):
        done = max(at, free[0]) + seconds
        heapq.heapreplace(free, done)
        ready[i] = done
    return ready
