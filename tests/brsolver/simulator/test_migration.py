"""Running requests that move: the kernels against the plain reference, and what must hold."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.cluster.view import NO_LIMIT
from brsolver.errors import ParameterError
from brsolver.registry import make_policy
from brsolver.simulator import (
    Arrivals,
    Migration,
    Prefill,
    RequestStatus,
    SimulationParams,
    Staleness,
    StepTime,
    WorkerEvent,
    simulate,
)
from brsolver.simulator.reference import ReferenceSimulator, Request, Worker
from brsolver.simulator.reference_colocated import ColocatedReference, Rank
from brsolver.traces.trace import Trace

if TYPE_CHECKING:
    from brsolver.simulator import SimulationResult

PLAIN = StepTime(base=0.005, per_token=1e-7)
POLICIES = ("jsq-load", "br-0", "br-ramp", "round-robin", "vllm", "lpt")


def moves() -> st.SearchStrategy[Migration]:
    """Draw how often requests move, for nothing, within a step, and over several steps."""
    return st.builds(
        Migration,
        every=st.integers(1, 4),
        kv_bytes=st.sampled_from([0.0, 1e5, 1e7, 3e8]),
        setup_ms=st.sampled_from([0.0, 0.0, 4.0, 30.0]),
    )


@st.composite
def scenarios(draw: Any, *, colocated: bool = False) -> tuple[Trace, SimulationParams, str]:
    """Draw a trace and a cluster that is out of balance often, small enough to check each step."""
    size = draw(st.integers(2, 25))
    whole = lambda high: draw(st.lists(st.integers(1, high), min_size=size, max_size=size))  # noqa: E731 # read twice below
    gaps = draw(st.lists(st.sampled_from([0.0, 0.001, 0.02, 0.5]), min_size=size, max_size=size))
    trace = Trace(
        prompt_tokens=np.array(whole(60)),
        output_tokens=np.array(whole(25)),
        arrival_s=np.cumsum(gaps) - gaps[0],
    )
    workers = draw(st.integers(2, 4))
    slots = tuple(draw(st.lists(st.integers(1, 5), min_size=workers, max_size=workers)))
    capacity = None
    if draw(st.booleans()):
        largest = int((trace.prompt_tokens + trace.output_tokens).max())
        spare = draw(st.lists(st.sampled_from([0, 20, 90]), min_size=workers, max_size=workers))
        capacity = tuple(largest + extra for extra in spare)
    params = SimulationParams(
        workers=workers,
        slots=slots,
        capacity=capacity,
        routing=draw(st.sampled_from(["pooled", "immediate"])),
        arrivals=draw(
            st.sampled_from([Arrivals(pool=3), Arrivals(mode="timestamps"), Arrivals(pool=9)])
        ),
        events=draw(events(workers, slots, capacity)),
        transit_steps=0 if colocated else draw(st.sampled_from([0, 0, 1, 3])),
        request_tokens=0 if colocated else draw(st.sampled_from([0, 0, 30])),
        step_time=PLAIN,
        prefill=draw(prefills()) if colocated else Prefill(),
        migration=draw(moves()),
    )
    return trace, params, draw(st.sampled_from(POLICIES))


@st.composite
def events(
    draw: Any, workers: int, slots: tuple[int, ...], capacity: tuple[int, ...] | None
) -> tuple[WorkerEvent, ...]:
    """Let some workers fail, at a step or a time, and some of them come back."""
    drawn = []
    for victim in draw(st.sets(st.integers(0, workers - 1), max_size=workers)):
        at, timed = draw(st.integers(1, 20)), draw(st.booleans())
        spare = capacity[victim] if capacity else None
        drawn.append(WorkerEvent(kind="fail", worker=victim, **when(at, timed)))
        if draw(st.booleans()):
            back = when(at + draw(st.integers(1, 10)), timed)
            drawn.append(
                WorkerEvent(kind="join", worker=victim, slots=slots[victim], capacity=spare, **back)
            )
    return tuple(drawn)


def when(at: int, timed: bool) -> dict[str, Any]:
    return {"at_s": at * 0.011} if timed else {"at_step": at}


def prefills() -> st.SearchStrategy[Prefill]:
    by_v1 = st.builds(
        Prefill,
        mode=st.just("colocated"),
        budget=st.sampled_from([6, 16, 64]),
        threshold=st.sampled_from([0, 5]),
        interval=st.sampled_from([1, 3]),
    )
    return by_v1 | st.just(Prefill(mode="colocated", budget=16, scheduler="sglang"))


def reference_run(trace: Trace, params: SimulationParams, policy: str) -> Any:
    timed = params.arrivals.mode != "pool"
    requests = [
        Request(i, int(s), int(o), float(trace.arrival_s[i]) if timed else None)
        for i, (s, o) in enumerate(zip(trace.prompt_tokens, trace.output_tokens, strict=True))
    ]
    colocated = params.prefill.colocated
    made = Rank if colocated else Worker
    workers = [
        made(slots, NO_LIMIT if capacity is None else capacity)
        for slots, capacity in zip(params.slots_each(), params.capacity_each(), strict=True)
    ]
    more = {"prefill": params.prefill, "step_time": params.step_time} if colocated else {}
    kind: Any = ColocatedReference if colocated else ReferenceSimulator
    simulator = kind(
        list(requests),
        workers,
        make_policy(policy),
        pool=0 if timed else params.arrivals.pool,
        immediate=params.routing == "immediate",
        transit_steps=params.transit_steps,
        events=params.events,
        request_tokens=params.request_weight,
        migration=params.migration,
        **more,
    )
    simulator.run()
    return simulator, requests


def assert_equal(trace: Trace, params: SimulationParams, policy: str) -> None:
    result = simulate(trace, policy, params)
    expected, requests = reference_run(trace, params, policy)
    log, steps = result.requests, result.steps
    assert len(steps) == len(expected.steps)
    for j, record in enumerate(expected.steps):
        assert steps.start_s[j] == record.start_s
        assert steps.duration_s[j] == record.duration_s
        assert steps.active[j] == record.active
        assert steps.load_max[j] == max(record.loads)
        assert steps.load_sum[j] == sum(record.loads)
        assert steps.post_sum[j] == sum(record.post)
    for request in requests:
        i = request.index
        assert log.start_step[i] == request.start_step
        assert log.finish_step[i] == request.finish_step
        assert log.preemptions[i] == request.preemptions
        assert log.migrations[i] == request.migrations
        assert log.worker[i] == request.worker
        assert (log.status[i] == RequestStatus.REJECTED) == request.rejected
        if request.finish_s is not None:
            assert log.finish_s[i] == request.finish_s


@settings(max_examples=250, deadline=None)
@given(scenarios())
def test_the_kernels_equal_the_reference(scenario: tuple[Trace, SimulationParams, str]) -> None:
    assert_equal(*scenario)


@settings(max_examples=250, deadline=None)
@given(scenarios(colocated=True))
def test_the_kernels_equal_the_reference_with_prefill_on_the_decode_ranks(
    scenario: tuple[Trace, SimulationParams, str],
) -> None:
    assert_equal(*scenario)


@settings(max_examples=120, deadline=None)
@given(
    scenarios() | scenarios(colocated=True),
    st.sampled_from([*POLICIES, "br-h", "br-t", "bf-io", "fast-phi"]),
    st.integers(0, 3),
    st.booleans(),
)
def test_no_token_is_lost_or_made_twice_and_nothing_exceeds_slots_or_capacity(
    scenario: tuple[Trace, SimulationParams, str], policy: str, stale: int, corrected: bool
) -> None:
    trace, params, _ = scenario
    params = replace(params, staleness=Staleness(steps=stale, local_correction=corrected))
    result = simulate(trace, policy, params)
    log, steps, m = result.requests, result.steps, result.metrics
    done = log.status == RequestStatus.FINISHED
    assert m.finished + sum(log.unfinished().values()) == len(trace)
    if not params.events and params.capacity is None:
        assert m.finished == len(trace)
        assert steps.active.sum() == trace.output_tokens.sum()
        if not params.prefill.colocated:
            work = (trace.prompt_tokens + params.request_weight) * trace.output_tokens
            work += trace.output_tokens * (trace.output_tokens - 1) // 2
            assert steps.load_sum.sum() == work.sum()
    assert steps.active.sum() >= trace.output_tokens[done].sum()
    assert np.all(np.diff(steps.start_s) > 0)
    assert np.all(steps.active + steps.prefill_tokens > 0)
    assert np.all(log.finish_s[done] > log.start_s[done])
    for row in result.samples.running:
        assert np.all(row <= params.slots_each())
    if params.capacity is not None:
        assert np.all(result.samples.load <= params.capacity_each())
    assert m.migrations == log.migrations.sum() <= len(steps) // params.migration.every + 1
    assert m.migrated_tokens >= m.migrations


class Everything:
    """Wraps a policy and holds what is seen of every worker against its limits."""

    def __init__(self, policy: str, params: SimulationParams) -> None:
        self.inner, self.params = make_policy(policy), params
        self.horizon = getattr(self.inner, "horizon", 0)

    def route(self, cluster: Any, waiting: Any) -> Any:
        slots, there = cluster.slots, cluster.slots > 0
        # Preempted requests queue at their worker beyond its slots.
        if not cluster.immediate and self.params.capacity is None:
            assert np.all((cluster.running + cluster.queued <= slots)[there])
        active = cluster.active()
        for g in range(cluster.workers):
            mine = active.worker == g
            assert mine.sum() == cluster.running[g] <= max(slots[g], 0)
            assert active.kv_tokens[mine].sum() <= cluster.capacity[g]
        return self.inner.route(cluster, waiting)


@settings(max_examples=120, deadline=None)
@given(scenarios())
def test_a_request_under_way_holds_a_slot_and_its_tokens(
    scenario: tuple[Trace, SimulationParams, str],
) -> None:
    trace, params, policy = scenario
    simulate(trace, Everything(policy, params), params)


@settings(max_examples=60, deadline=None)
@given(scenarios(), st.sampled_from(["br-h", "br-ramp", "random"]))
def test_never_is_as_before(scenario: tuple[Trace, SimulationParams, str], policy: str) -> None:
    trace, params, _ = scenario
    costly = replace(params, migration=replace(params.migration, every=0))
    plain = replace(params, migration=Migration())
    first, second = (simulate(trace, policy, each) for each in (costly, plain))
    assert first.requests.worker.tobytes() == second.requests.worker.tobytes()
    assert first.requests.finish_s.tobytes() == second.requests.finish_s.tobytes()
    assert not first.requests.migrations.any()


def run(
    prompts: list[int], outputs: list[int], migration: Migration, **regime: Any
) -> SimulationResult:
    trace = Trace(prompt_tokens=np.array(prompts), output_tokens=np.array(outputs))
    given = {"workers": 2, "slots": 4, "step_time": StepTime(base=1.0, per_token=0.0)} | regime
    return simulate(trace, "round-robin", SimulationParams(migration=migration, **given))


def test_the_request_moves_that_lowers_the_larger_load_most() -> None:
    # Worker 0 has 100, 40 and 30, worker 1 the other two: 10 tokens, then nothing.
    result = run([100, 1, 40, 1, 30], [9, 1, 9, 1, 9], Migration(every=1, kv_bytes=0))
    # At step 1 all of worker 0's have a token: 173 against 0. Moving 101 leaves 101.
    assert result.requests.migrations.tolist() == [1, 0, 0, 0, 0]
    assert result.steps.load_max[:2].tolist() == [170, 101]
    assert result.metrics.migrated_tokens == 101
    assert result.requests.finish_step.tolist() == [8, 0, 8, 0, 8]


def test_a_request_generates_nothing_while_its_tokens_are_under_way() -> None:
    slow = Migration(every=30, kv_bytes=1e7, gb_s=1.0)
    result = run([100, 1, 40, 1, 30], [60, 1, 60, 1, 60], slow)
    # At step 30 it has 130 tokens, which take 1.3 s: it is left out of two steps of 1 s.
    assert result.requests.migrations.tolist() == [1, 0, 0, 0, 0]
    assert result.requests.finish_step.tolist() == [61, 0, 59, 0, 59]
    assert result.steps.active[29:33].tolist() == [3, 2, 2, 3]
    assert result.steps.load_max[29:33].tolist() == [100 + 40 + 30 + 87, 130, 132, 134]


def test_time_jumps_to_the_end_of_a_transfer_if_nothing_else_runs() -> None:
    slow = Migration(every=59, kv_bytes=1e8, gb_s=1.0)
    result = run([100, 1, 40, 1, 30], [60, 1, 60, 1, 60], slow)
    assert result.requests.finish_s.tolist() == pytest.approx(
        [75.9 + 1.0 - 1.0 + 0.0, 1, 60, 1, 60]
    )


def test_a_request_under_way_to_a_worker_that_fails_waits_again() -> None:
    slow = Migration(every=30, kv_bytes=1e8, gb_s=1.0)
    fails = (WorkerEvent(kind="fail", worker=1, at_step=31),)
    result = run([100, 1, 40, 1, 30], [60, 1, 60, 1, 60], slow, events=fails)
    assert result.requests.migrations.tolist() == [1, 0, 0, 0, 0]
    assert result.requests.preemptions.tolist() == [1, 0, 0, 0, 0]
    assert result.requests.finish_step.tolist() == [60, 0, 59, 0, 59]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"every": -1}, "every is -1, must be at least 0 steps"),
        ({"every": 1.5}, "every is 1.5, must be a whole number"),
        ({"kv_bytes": -1.0}, "kv_bytes is -1, must be at least 0 bytes"),
        ({"gb_s": 0.0}, "gb_s is 0, must be at least 1e-06 GB/s"),
        ({"gb_s": float("inf")}, "gb_s is inf, must be a finite number"),
        ({"setup_ms": float("nan")}, "setup_ms is nan, must be a finite number"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Migration(**given)


def test_the_dearest_move_is_a_time_like_any_other() -> None:
    dear = Migration(every=1, kv_bytes=1e9, gb_s=1e-6, setup_ms=1e9)
    result = run([100, 1, 40, 1, 30], [9, 1, 9, 1, 9], dear, step_time=PLAIN)
    assert result.metrics.finished == 5


def test_what_is_not_modelled_is_refused() -> None:
    for more, reason in (({"cache": 1000}, "prefix caches"), ({"delayer": "atom"}, "atom")):
        prefill = Prefill(mode="colocated", budget=64, **more)
        with pytest.raises(ParameterError, match=f"migration: every is 4, must be 0: .*{reason}"):
            SimulationParams(prefill=prefill, migration=Migration(every=4))
        SimulationParams(prefill=prefill)


@pytest.mark.parametrize("kv_bytes", [0.0, 1e7])
def test_averages_end_where_admissions_do_whoever_moves_after(kv_bytes: float) -> None:
    result = run(
        [100, 1, 40, 1, 30], [60, 1, 60, 1, 60], Migration(every=30, kv_bytes=kv_bytes), slots=2
    )
    assert result.metrics.migrations > 0
    assert result.metrics.window_end == result.requests.start_step.max()
