"""The engine against the plain reference, and the invariants every run keeps.

Invariants: every request finishes exactly once or is reported with a reason; loads are the sums
over active requests; slots and KV capacity are never exceeded; the clock is monotone; same seed,
same trajectory; no policy sees the future.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.cluster.view import NO_LIMIT
from brsolver.errors import CapacityError
from brsolver.hardware.model import step_time_of
from brsolver.registry import make_policy
from brsolver.simulator import (
    Arrivals,
    RequestStatus,
    SimulationParams,
    Staleness,
    StepTime,
    WorkerEvent,
    simulate,
)
from brsolver.simulator.reference import ReferenceSimulator, Request, Worker
from brsolver.specs import parse_spec
from brsolver.traces.trace import Trace


def _event(kind, worker, at, timed, slots=None, capacity=None):
    when = {"at_s": at * 0.011} if timed else {"at_step": at}
    return WorkerEvent(kind=kind, worker=worker, slots=slots, capacity=capacity, **when)


@st.composite
def scenarios(draw):
    """Draw a trace and a cluster, small enough to check every step."""
    size = draw(st.integers(1, 25))
    prompt = draw(st.lists(st.integers(1, 40), min_size=size, max_size=size))
    output = draw(st.lists(st.integers(1, 12), min_size=size, max_size=size))
    gaps = draw(st.lists(st.sampled_from([0.0, 0.001, 0.02, 0.5]), min_size=size, max_size=size))
    trace = Trace(
        prompt_tokens=np.array(prompt),
        output_tokens=np.array(output),
        arrival_s=np.cumsum(gaps) - gaps[0],
    )
    workers = draw(st.integers(1, 4))
    slots = tuple(draw(st.lists(st.integers(1, 4), min_size=workers, max_size=workers)))
    largest = int((trace.prompt_tokens + trace.output_tokens).max())
    capacity = None
    if draw(st.booleans()):
        spare = draw(st.lists(st.integers(0, 60), min_size=workers, max_size=workers))
        capacity = tuple(largest + extra for extra in spare)
    pool = draw(st.integers(1, 9))
    mode = draw(st.sampled_from(["pool", "timestamps"]))
    events = []
    for victim in draw(st.sets(st.integers(0, workers - 1), max_size=workers)):
        at = draw(st.integers(0, 15))
        back = at + draw(st.integers(1, 10))
        timed = draw(st.booleans())
        events.append(_event("fail", victim, at, timed))
        if draw(st.booleans()):
            spare = capacity[victim] if capacity else None
            events.append(_event("join", victim, back, timed, slots[victim], spare))
    params = SimulationParams(
        workers=workers,
        slots=slots,
        capacity=capacity,
        routing=draw(st.sampled_from(["pooled", "immediate"])),
        arrivals=Arrivals(mode=mode, pool=pool),
        events=tuple(events),
        transit_steps=draw(st.sampled_from([0, 0, 1, 2, 5])),
        request_tokens=draw(st.sampled_from([0, 0, 30])),
        step_time=step_time_of("bfio"),
    )
    policy = draw(
        st.sampled_from(["jsq-load", "br-0", "bf-io:horizon=0", "round-robin", "vllm", "lpt"])
    )
    return trace, params, policy


def reference_run(trace, params, policy):
    timed = params.arrivals.mode != "pool"
    requests = [
        Request(i, int(s), int(o), float(trace.arrival_s[i]) if timed else None)
        for i, (s, o) in enumerate(zip(trace.prompt_tokens, trace.output_tokens, strict=True))
    ]
    workers = [
        Worker(slots, NO_LIMIT if capacity is None else capacity)
        for slots, capacity in zip(params.slots_each(), params.capacity_each(), strict=True)
    ]
    simulator = ReferenceSimulator(
        list(requests),
        workers,
        make_policy(*parse_spec(policy)),
        pool=0 if timed else params.arrivals.pool,
        immediate=params.routing == "immediate",
        transit_steps=params.transit_steps,
        events=params.events,
        request_tokens=params.request_weight,
    )
    simulator.run()
    return simulator, requests


@settings(max_examples=400, deadline=None)
@given(scenarios())
def test_engine_equals_the_reference(scenario):
    trace, params, policy = scenario
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
        assert steps.post_max[j] == max(record.post)
        assert steps.post_sum[j] == sum(record.post)
    for request in requests:
        i = request.index
        assert log.start_step[i] == request.start_step
        assert log.finish_step[i] == request.finish_step
        assert log.preemptions[i] == request.preemptions
        assert log.worker[i] == request.worker
        assert (log.status[i] == RequestStatus.REJECTED) == request.rejected
        if request.finish_s is not None:
            assert log.finish_s[i] == request.finish_s


@settings(max_examples=200, deadline=None)
@given(scenarios(), st.integers(0, 3), st.booleans())
def test_invariants_hold(scenario, stale_steps, corrected):
    trace, params, policy = scenario
    params = replace(params, staleness=Staleness(steps=stale_steps, local_correction=corrected))
    result = simulate(trace, policy, params)
    log, steps, m = result.requests, result.steps, result.metrics
    finished = log.status == RequestStatus.FINISHED
    assert m.finished + sum(log.unfinished().values()) == len(trace)
    assert steps.active.sum() >= trace.output_tokens[finished].sum()
    if not params.events and params.capacity is None:
        assert m.finished == len(trace)
        assert steps.active.sum() == trace.output_tokens.sum()
        work = (trace.prompt_tokens + params.request_weight) * trace.output_tokens
        work += trace.output_tokens * (trace.output_tokens - 1) // 2
        assert steps.load_sum.sum() == work.sum()
    assert np.all(np.diff(steps.start_s) > 0)
    assert np.all(steps.active <= sum(params.slots_each()))
    if params.capacity is not None:
        assert np.all(result.samples.load <= params.capacity_each())
    assert np.all(log.start_s[finished] >= log.ready_s[finished])
    assert np.all(log.finish_s[finished] > log.start_s[finished])
    for row in result.samples.running:
        assert np.all(row <= params.slots_each())


@settings(max_examples=50, deadline=None)
@given(scenarios(), st.sampled_from(["random", "p2c", "br-h", "fast-phi"]))
def test_same_seed_same_trajectory(scenario, policy):
    trace, params, _ = scenario
    first, second = (simulate(trace, policy, params) for _ in range(2))
    for name in ("worker", "finish_s", "start_step"):
        a, b = getattr(first.requests, name), getattr(second.requests, name)
        assert a.tobytes() == b.tobytes()
    assert first.steps.load_max.tobytes() == second.steps.load_max.tobytes()


class Recorder:
    """Wraps a policy and keeps every decision with the step it was made at."""

    def __init__(self, inner):
        self.inner = inner
        self.horizon = getattr(inner, "horizon", 0)
        self.decisions = []

    def route(self, cluster, waiting):
        decision = self.inner.route(cluster, waiting)
        placed = [(int(waiting.request[at]), int(g)) for at, g in decision]
        self.decisions.append((cluster.step, placed))
        return decision


@settings(max_examples=60, deadline=None)
@given(scenarios(), st.sampled_from(["jsq-load", "br-0", "br-h", "br-ramp", "bf-io"]), st.data())
def test_no_policy_sees_the_future(scenario, policy, data):
    """Longer outputs of requests that run on past step k change no decision up to k."""
    trace, params, _ = scenario
    params = replace(params, capacity=None, events=())
    first = Recorder(make_policy(policy))
    result = simulate(trace, first, params)
    k = data.draw(st.integers(0, max(len(result.steps) - 1, 0)))
    later = result.requests.finish_step >= k
    extra = np.array(
        data.draw(st.lists(st.integers(0, 9), min_size=len(trace), max_size=len(trace)))
    )
    changed = replace(trace, output_tokens=trace.output_tokens + extra * later)
    second = Recorder(make_policy(policy))
    simulate(changed, second, params)
    upto = lambda r: [d for d in r.decisions if d[0] <= k]  # noqa: E731 # read twice below
    assert upto(first) == upto(second)


def test_only_a_declared_oracle_sees_the_future(uniform_trace):
    trace = uniform_trace(1, 200, 500, 60)
    oracle = simulate(trace, "br-h", SimulationParams(workers=4, slots=8), predictor="oracle")
    learner = simulate(trace, "br-h", SimulationParams(workers=4, slots=8))
    assert oracle.sees_future
    assert any("oracle" in note for note in oracle.notes)
    assert not learner.sees_future
    assert learner.predictor == "survival"


@pytest.mark.parametrize(
    ("step_time", "expected"),
    [
        (StepTime(base=1.0, per_token=0.1), 1.0 + 0.1 * 30),
        (StepTime(model="max-mean", base=1.0, per_token=0.1, per_mean_token=0.05), 5.0),
        (StepTime(model="table", loads=(0, 20, 40), seconds=(1.0, 2.0, 5.0)), 3.5),
        (StepTime(model="table", loads=(0, 10), seconds=(1.0, 2.0)), 4.0),
    ],
)
def test_step_time_models(step_time, expected):
    trace = Trace(prompt_tokens=np.array([30, 10]), output_tokens=np.array([1, 1]))
    params = SimulationParams(workers=2, slots=1, step_time=step_time)
    result = simulate(trace, "round-robin", params)
    assert result.steps.duration_s[0] == pytest.approx(expected)


def test_failed_workers_requests_go_on_elsewhere():
    trace = Trace(prompt_tokens=np.array([5, 7]), output_tokens=np.array([10, 10]))
    params = SimulationParams(
        workers=2, slots=2, events=(WorkerEvent(kind="fail", worker=0, at_step=4),)
    )
    result = simulate(trace, "round-robin", params)
    assert result.requests.finish_step.tolist() == [9, 9]
    assert result.requests.worker.tolist() == [1, 1]
    assert result.requests.preemptions.tolist() == [1, 0]
    assert result.steps.alive.tolist() == [2] * 4 + [1] * 6
    assert result.steps.load_max[4] == 5 + 4 + 7 + 4


def test_events_by_step_and_by_time_mix():
    trace = Trace(prompt_tokens=np.array([5, 7]), output_tokens=np.array([10, 10]))
    params = SimulationParams(
        workers=2,
        slots=2,
        step_time=StepTime(base=1.0, per_token=0.0),
        events=(
            WorkerEvent(kind="join", worker=0, at_s=6.5),
            WorkerEvent(kind="fail", worker=0, at_step=4),
        ),
    )
    result = simulate(trace, "round-robin", params)
    assert result.steps.alive.tolist() == [2] * 4 + [1] * 3 + [2] * 3


def test_time_passes_while_no_worker_is_there():
    trace = Trace(prompt_tokens=np.array([5]), output_tokens=np.array([4]))
    params = SimulationParams(
        workers=1,
        slots=1,
        step_time=StepTime(base=1.0, per_token=0.0),
        events=(
            WorkerEvent(kind="fail", worker=0, at_s=2.0),
            WorkerEvent(kind="join", worker=0, at_s=20.0),
        ),
    )
    for routing in ("pooled", "immediate"):
        result = simulate(trace, "jsq", replace(params, routing=routing))
        assert result.steps.start_s.tolist() == [0.0, 1.0, 20.0, 21.0]


@pytest.mark.parametrize("policy", ["br-0", "br-h", "bf-io", "br-0:s_greedy=0"])
def test_capacity_holds_under_preemption_with_many_free_slots(policy):
    rng = np.random.default_rng(4)
    trace = Trace(prompt_tokens=rng.integers(1, 60, 400), output_tokens=rng.integers(1, 90, 400))
    params = SimulationParams(workers=3, slots=30, capacity=400, arrivals=Arrivals(pool=60))
    result = simulate(trace, policy, params)
    assert result.metrics.finished == 400
    assert result.metrics.preemptions > 0
    assert result.steps.load_max.max() <= 400


def test_patience_holds_a_worker_back_for_what_fits_nowhere_yet():
    rng = np.random.default_rng(0)
    prompt = rng.integers(60, 105, 1500)
    prompt[20] = 900
    trace = Trace(prompt_tokens=prompt, output_tokens=rng.integers(5, 40, 1500))
    params = SimulationParams(workers=2, slots=11, capacity=1100)
    for patience, bound in ((100, 200), (0, np.inf)):
        result = simulate(trace, f"br-0:patience={patience}", params)
        waited = result.requests.start_step[20]
        assert waited <= bound
    assert waited > 1000


def test_slots_in_use_count_those_that_joined():
    trace = Trace(prompt_tokens=np.full(60, 5), output_tokens=np.full(60, 9))
    joins = tuple(WorkerEvent(kind="join", worker=g, at_step=3) for g in (1, 2))
    params = SimulationParams(workers=1, slots=2, events=joins)
    assert 0.9 < simulate(trace, "jsq", params).metrics.slot_utilization <= 1.0


def test_a_warm_up_beyond_the_run_is_noted_and_averages_nothing():
    trace = Trace(prompt_tokens=np.full(9, 5), output_tokens=np.full(9, 6))
    params = SimulationParams(workers=1, slots=2, warmup_steps=1000)
    result = simulate(trace, "jsq", params)
    assert any("warm-up leaves no step" in note for note in result.notes)
    assert np.isnan(result.metrics.energy_j)


def test_utilization_follows_a_step_table_beyond_its_ends():
    rng = np.random.default_rng(0)
    trace = Trace(
        prompt_tokens=rng.integers(500, 2000, 800), output_tokens=rng.integers(50, 150, 800)
    )
    table = StepTime(model="table", loads=(0, 1000), seconds=(0.005, 0.006))
    params = SimulationParams(
        workers=4, slots=16, step_time=table, arrivals=Arrivals(mode="utilization", utilization=0.5)
    )
    assert simulate(trace, "jsq-load", params).metrics.slot_utilization == pytest.approx(
        0.5, abs=0.1
    )


def test_new_workers_join():
    trace = Trace(prompt_tokens=np.full(4, 5), output_tokens=np.full(4, 6))
    join = WorkerEvent(kind="join", worker=1, at_step=2)
    result = simulate(trace, "jsq", SimulationParams(workers=1, slots=2, events=(join,)))
    assert result.requests.worker.tolist() == [0, 0, 1, 1]
    assert result.requests.start_step.tolist() == [0, 0, 2, 2]


def test_without_workers_requests_are_reported_waiting():
    trace = Trace(prompt_tokens=np.full(3, 5), output_tokens=np.full(3, 6))
    fail = WorkerEvent(kind="fail", worker=0, at_step=2)
    result = simulate(trace, "jsq", SimulationParams(workers=1, slots=2, events=(fail,)))
    assert result.requests.unfinished() == {"waiting": 3}
    assert any("3 requests did not finish: 3 waiting" in note for note in result.notes)


def test_max_steps_reports_what_is_left():
    trace = Trace(prompt_tokens=np.full(3, 5), output_tokens=np.array([2, 9, 9]))
    params = SimulationParams(workers=1, slots=2, max_steps=4, arrivals=Arrivals(pool=1))
    result = simulate(trace, "jsq", params)
    assert len(result.steps) == 4
    assert result.requests.unfinished() == {"running": 2}
    assert result.metrics.finished == 1


def test_requests_beyond_every_capacity_are_refused():
    trace = Trace(prompt_tokens=np.array([10, 90]), output_tokens=np.array([5, 20]))
    with pytest.raises(CapacityError, match="request 1: the request grows to 109 KV tokens"):
        simulate(trace, "jsq", SimulationParams(workers=2, slots=2, capacity=108))


def test_a_request_its_worker_cannot_hold_is_rejected_not_lost():
    trace = Trace(prompt_tokens=np.array([40, 40]), output_tokens=np.array([20, 20]))
    params = SimulationParams(workers=2, slots=2, capacity=(100, 50))
    result = simulate(trace, "round-robin", params)
    assert result.requests.status.tolist() == [RequestStatus.FINISHED, RequestStatus.REJECTED]
    assert any("1 rejected" in note for note in result.notes)


@pytest.mark.parametrize("transit", [0, 1, 3])
def test_a_slot_stays_empty_while_its_next_request_is_in_transit(transit):
    trace = Trace(prompt_tokens=np.full(6, 5), output_tokens=np.array([4, 30, 4, 4, 4, 4]))
    params = SimulationParams(workers=1, slots=2, transit_steps=transit)
    log = simulate(trace, "fcfs", params).requests
    # Into a cluster where nothing runs they come at once.
    assert log.start_step[:2].tolist() == [0, 0]
    assert log.start_step[2] == log.finish_step[0] + 1 + transit
    assert log.start_step[3] == log.finish_step[2] + 1 + transit


def test_a_pool_is_kept_besides_what_is_in_transit():
    trace = Trace(prompt_tokens=np.full(600, 5), output_tokens=np.arange(600) % 7 + 4)
    params = SimulationParams(
        workers=2, slots=8, routing="immediate", arrivals=Arrivals(pool=1), transit_steps=1
    )
    busy = simulate(trace, "jsq", params).metrics.slot_utilization
    # Each request leaves its slot empty for one step, and its 7 tokens fill it for seven.
    assert 7 / 8 - 0.05 < busy < 1


def test_a_queue_at_the_worker_hides_the_transit():
    trace = Trace(prompt_tokens=np.full(8, 5), output_tokens=np.full(8, 3))
    steps = [
        len(
            simulate(
                trace,
                "round-robin",
                SimulationParams(
                    workers=2,
                    slots=1,
                    routing="immediate",
                    arrivals=Arrivals(pool=4),
                    transit_steps=transit,
                ),
            ).steps
        )
        for transit in (0, 1)
    ]
    assert steps[0] == steps[1] == 12
