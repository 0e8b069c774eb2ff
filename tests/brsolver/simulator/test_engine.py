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

from brsolver.errors import CapacityError, ParameterError, PolicyError
from brsolver.policy import NO_LIMIT
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
from brsolver.traces.model import Trace


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
    if workers > 1 and draw(st.booleans()):
        victim = draw(st.integers(0, workers - 1))
        at = draw(st.integers(0, 15))
        events.append(WorkerEvent(kind="fail", worker=victim, at_step=at))
        if draw(st.booleans()):
            events.append(
                WorkerEvent(
                    kind="join",
                    worker=victim,
                    at_step=at + draw(st.integers(1, 10)),
                    slots=slots[victim],
                    capacity=capacity[victim] if capacity else None,
                )
            )
    params = SimulationParams(
        workers=workers,
        slots=slots,
        capacity=capacity,
        routing=draw(st.sampled_from(["pooled", "immediate"])),
        arrivals=Arrivals(mode=mode, pool=pool),
        events=tuple(events),
    )
    policy = draw(st.sampled_from(["jsq-load", "br-0", "round-robin", "jsq", "vllm", "lpt"]))
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
        make_policy(policy),
        pool=0 if timed else params.arrivals.pool,
        immediate=params.routing == "immediate",
        events=params.events,
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
        work = trace.prompt_tokens * trace.output_tokens
        work += trace.output_tokens * (trace.output_tokens - 1) // 2
        assert steps.load_sum.sum() == work.sum()
    assert np.all(np.diff(steps.start_s) > 0)
    assert np.all(steps.active <= sum(params.slots_each()))
    if params.capacity is not None:
        assert np.all(steps.load_max <= max(params.capacity_each()))
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
@given(scenarios(), st.sampled_from(["jsq-load", "br-0", "br-h", "bf-io"]), st.data())
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


def test_stale_information_is_as_old_as_asked(uniform_trace):
    trace = uniform_trace(2, 60, 300, 40)
    seen = {}

    class Watcher:
        def route(self, cluster, waiting):
            seen.setdefault(cluster.step, cluster.load.copy())
            free = np.repeat(np.arange(cluster.workers), cluster.room)
            return [(i, int(g)) for i, g in enumerate(free[: len(waiting)])]

    base = SimulationParams(workers=2, slots=4)
    simulate(trace, Watcher(), base)
    fresh = dict(seen)
    seen.clear()
    simulate(trace, Watcher(), replace(base, staleness=Staleness(steps=3)))
    common = [step for step in seen if step >= 3 and step - 3 in fresh]
    assert len(common) > 3
    for step in common:
        assert seen[step].tolist() == fresh[step - 3].tolist()


def test_local_correction_adds_what_was_placed_since():
    trace = Trace(prompt_tokens=np.full(4, 10), output_tokens=np.full(4, 50))
    loads = []

    class Watcher:
        def route(self, cluster, waiting):
            loads.append(cluster.load.tolist())
            return [(0, int(np.argmin(cluster.load)))] if cluster.room.sum() else []

    params = SimulationParams(workers=2, slots=4, arrivals=Arrivals(pool=1), max_steps=4)
    corrected = replace(params, staleness=Staleness(steps=100, local_correction=True))
    simulate(trace, Watcher(), corrected)
    assert loads[:4] == [[0, 0], [10, 0], [10, 10], [20, 10]]
    loads.clear()
    simulate(trace, Watcher(), replace(params, staleness=Staleness(steps=100)))
    assert loads[:4] == [[0, 0]] * 4


def test_periodic_snapshots_are_taken_every_interval(uniform_trace):
    trace = uniform_trace(2, 80, 300, 20)
    seen = {}

    class Watcher:
        def route(self, cluster, waiting):
            seen.setdefault(cluster.step // 10, set()).add(cluster.load.tobytes())
            return [(0, int(np.argmax(cluster.room)))]

    stale = Staleness(steps=10, mode="periodic")
    simulate(trace, Watcher(), SimulationParams(workers=2, slots=4, staleness=stale))
    assert len(seen) > 3
    assert all(len(loads) == 1 for loads in seen.values())
    assert len(set.union(*seen.values())) > 3


def test_stale_milliseconds_count_by_the_clock(uniform_trace):
    trace = uniform_trace(2, 60, 300, 40)
    params = SimulationParams(
        workers=3, slots=4, step_time=StepTime(base=0.01, per_token=0.0), routing="immediate"
    )
    by_steps = simulate(trace, "jsq-load", replace(params, staleness=Staleness(steps=5)))
    by_ms = simulate(trace, "jsq-load", replace(params, staleness=Staleness(ms=49.9)))
    fresh = simulate(trace, "jsq-load", params)
    assert by_ms.requests.worker.tolist() == by_steps.requests.worker.tolist()
    assert by_ms.requests.worker.tolist() != fresh.requests.worker.tolist()


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
    with pytest.raises(CapacityError, match="request 1 grows to 109 KV tokens"):
        simulate(trace, "jsq", SimulationParams(workers=2, slots=2, capacity=108))


def test_a_request_its_worker_cannot_hold_is_rejected_not_lost():
    trace = Trace(prompt_tokens=np.array([40, 40]), output_tokens=np.array([20, 20]))
    params = SimulationParams(workers=2, slots=2, capacity=(100, 50))
    result = simulate(trace, "round-robin", params)
    assert result.requests.status.tolist() == [RequestStatus.FINISHED, RequestStatus.REJECTED]
    assert any("1 rejected" in note for note in result.notes)


class Fixed:
    def __init__(self, decision):
        self.decision = decision

    def route(self, cluster, waiting):
        return self.decision


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        ([(9, 0)], "named waiting request 9, there are 3"),
        ([(0, 0), (0, 1)], "placed waiting request 0 twice"),
        ([(0, 7)], "chose worker 7, which is not there"),
        ([(0, 0), (1, 0)], "gave worker 0 more requests than it has free slots"),
        ([(0.5, 0)], "returned float64 of shape (1, 2)"),
        ([0, 1], "returned int64 of shape (2,)"),
        ([], "leaves 3 requests waiting on an idle cluster at step 0"),
    ],
)
def test_impossible_decisions_are_explained(decision, words):
    trace = Trace(prompt_tokens=np.full(3, 5), output_tokens=np.full(3, 5))
    with pytest.raises(PolicyError) as caught:
        simulate(trace, Fixed(decision), SimulationParams(workers=2, slots=1))
    assert words in str(caught.value)
    assert "Fixed" in str(caught.value)


def test_kv_overflow_is_explained():
    trace = Trace(prompt_tokens=np.array([30, 30]), output_tokens=np.array([5, 5]))
    params = SimulationParams(workers=2, slots=2, capacity=40)
    with pytest.raises(PolicyError, match="more KV tokens than its capacity"):
        simulate(trace, Fixed([(0, 0), (1, 0)]), params)


def test_immediate_routing_must_place():
    trace = Trace(prompt_tokens=np.array([30]), output_tokens=np.array([5]))
    with pytest.raises(PolicyError, match="immediate routing asks for a worker"):
        simulate(trace, Fixed([]), SimulationParams(routing="immediate"))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t: simulate(t, 3), "policy is int, must be a name"),
        (
            lambda t: simulate(t, "jsq", SimulationParams(arrivals=Arrivals(mode="timestamps"))),
            "no timestamps to replay",
        ),
        (
            lambda t: simulate(
                t, "jsq", SimulationParams(events=(WorkerEvent(kind="fail", worker=9, at_step=0),))
            ),
            "worker 9 cannot fail",
        ),
        (
            lambda t: simulate(
                t, "jsq", SimulationParams(events=(WorkerEvent(kind="join", worker=12, at_step=0),))
            ),
            "the next new worker is number 8",
        ),
    ],
)
def test_bad_runs_are_refused(call, words):
    trace = Trace(prompt_tokens=np.array([30]), output_tokens=np.array([5]))
    with pytest.raises(ParameterError) as caught:
        call(trace)
    assert words in str(caught.value)
