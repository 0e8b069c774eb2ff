"""Turns that follow others: kernels against the plain references, and what every run keeps."""

from dataclasses import replace

import numpy as np
import pytest
import test_colocated as colocated
import test_engine as elsewhere
from hypothesis import given, settings
from hypothesis import strategies as st
from test_prefix import Checked, cached_scenarios, made, ragged

from brsolver.cluster.view import NO_LIMIT
from brsolver.errors import ParameterError
from brsolver.simulator import (
    Arrivals,
    Prefill,
    RequestStatus,
    SimulationParams,
    Staleness,
    StepTime,
    WorkerEvent,
    simulate,
)
from brsolver.simulator.arrivals import arrival_times
from brsolver.simulator.reference import ReferenceSimulator, Request, Worker
from brsolver.simulator.reference_colocated import ColocatedReference, Rank
from brsolver.traces.trace import Trace

UNIT = StepTime(model="loads", base=1.0, per_token=0.0)
TIMED = Arrivals(mode="timestamps")


@st.composite
def with_turns(draw, trace):
    """Draw sessions for the requests of a trace, some of which then follow others."""
    size = len(trace)
    session = draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
    delays = st.sampled_from([None, 0.0, 0.0, 0.003, 0.02, 0.5])
    delay = np.array(draw(st.lists(delays, min_size=size, max_size=size)), np.float64)
    first = np.array([label not in session[:row] for row, label in enumerate(session)])
    delay[first] = np.nan
    columns = {**trace.columns, "session": np.array(session), "delay_s": delay}
    arrival = np.where(np.isnan(delay), trace.arrival_s, np.nan)
    return replace(trace, columns=columns, arrival_s=arrival)


@st.composite
def with_small_workers(draw, params):
    """Let some workers but the first be too small for some requests, which these then reject."""
    small = st.lists(st.integers(1, 60), min_size=params.workers, max_size=params.workers)
    capacity = (params.capacity[0], *draw(small)[1:])
    events = [
        replace(event, capacity=capacity[event.worker]) if event.kind == "join" else event
        for event in params.events
    ]
    return replace(params, capacity=capacity, events=tuple(events))


@st.composite
def prefilled_elsewhere(draw):
    trace, params, policy = draw(elsewhere.scenarios())
    mode = draw(st.sampled_from(["timestamps", "timestamps", "pool", "closed"]))
    count = draw(st.integers(1, 9))
    arrivals = {"pool": {"pool": count}, "closed": {"concurrency": count}}.get(mode, {})
    prefill = Prefill()
    if mode == "timestamps" and draw(st.booleans()):
        prefill = Prefill(mode="delay", delay_s=0.01, tokens_per_s=1000.0)
    params = replace(params, arrivals=Arrivals(mode=mode, **arrivals), prefill=prefill)
    if params.capacity is not None and draw(st.booleans()):
        params = draw(with_small_workers(params))
    return draw(with_turns(trace)), params, policy


@st.composite
def prefilled_there(draw):
    trace, params, policy = draw(colocated.scenarios())
    return draw(with_turns(trace)), params, policy


def requests_of(trace, params):
    """Return the requests as the plain references take them."""
    timed = not params.arrivals.by_events
    cached = trace.columns.get("cached_tokens", np.zeros(len(trace), np.int64))
    if params.prefill.cache:
        cached = np.zeros(len(trace), np.int64)
    previous = trace.previous
    requests = []
    for i, (s, o) in enumerate(zip(trace.prompt_tokens, trace.output_tokens, strict=True)):
        known = min(int(cached[i]), int(s) - 1)
        request = Request(i, int(s), int(o), None, cached=known, computed=known)
        if params.prefill.mode == "delay":
            request.prefill_s = 0.01 + int(s) / 1000.0
        if previous[i] >= 0:
            request.follows, request.delay_s = requests[previous[i]], float(trace.delay_s[i])
        elif timed:
            request.arrival_s = float(trace.arrival_s[i])
            request.ready_s = request.arrival_s
            if params.prefill.mode == "delay":
                request.ready_s = request.arrival_s + 0.01 + int(s) / 1000.0
        requests.append(request)
    return requests


def reference_run(trace, params, policy, chains=None):
    requests = requests_of(trace, params)
    here = params.prefill.colocated
    workers = [
        (Rank if here else Worker)(slots, NO_LIMIT if capacity is None else capacity)
        for slots, capacity in zip(params.slots_each(), params.capacity_each(), strict=True)
    ]
    kind, regime = ReferenceSimulator, {"request_tokens": params.request_weight}
    if here:
        kind = ColocatedReference
        regime = {"prefill": params.prefill, "step_time": params.step_time}
    if chains is not None:
        kind = Checked
        regime["chains"] = chains
    simulator = kind(
        sorted(requests, key=lambda r: (r.ready_s or 0.0, r.index)),
        workers,
        made(policy),
        pool=params.arrivals.pool if params.arrivals.mode == "pool" else 0,
        concurrency=params.arrivals.concurrency or 0,
        immediate=params.routing == "immediate",
        transit_steps=params.transit_steps,
        events=params.events,
        **regime,
    )
    simulator.run()
    return simulator, requests


def assert_equal_runs(result, expected, requests):
    assert result.steps.start_s.tolist() == [record.start_s for record in expected.steps]
    assert result.steps.duration_s.tolist() == [record.duration_s for record in expected.steps]
    assert result.steps.load_sum.tolist() == [sum(record.loads) for record in expected.steps]
    log = result.requests
    colocated.assert_same_requests(log, requests)
    for request in requests:
        arrived = log.arrival_s[request.index]
        assert np.isnan(arrived) if request.arrival_s is None else arrived == request.arrival_s


@settings(max_examples=400, deadline=None)
@given(prefilled_elsewhere())
def test_the_kernels_equal_the_reference(scenario):
    trace, params, policy = scenario
    assert_equal_runs(simulate(trace, policy, params), *reference_run(trace, params, policy))


@settings(max_examples=400, deadline=None)
@given(prefilled_there())
def test_the_kernels_equal_the_reference_with_prefill_on_the_ranks(scenario):
    trace, params, policy = scenario
    assert_equal_runs(simulate(trace, policy, params), *reference_run(trace, params, policy))


@settings(max_examples=300, deadline=None)
@given(cached_scenarios(), st.data())
def test_the_kernels_equal_the_reference_with_prefix_caches(scenario, data):
    trace, params, policy, chains = scenario
    trace = data.draw(with_turns(trace))
    result = simulate(trace, made(policy), params)
    expected, requests = reference_run(trace, params, policy, chains)
    assert_equal_runs(result, expected, requests)
    begun = result.requests.start_step >= 0
    found = [expected.found.get(i, 0) for i in range(len(trace))]
    assert result.requests.cached_tokens[begun].tolist() == np.array(found)[begun].tolist()


@settings(max_examples=200, deadline=None)
@given(st.one_of(prefilled_elsewhere(), prefilled_there()), st.integers(0, 3), st.booleans())
def test_invariants_hold(scenario, stale_steps, corrected):
    trace, params, policy = scenario
    params = replace(params, staleness=Staleness(steps=stale_steps, local_correction=corrected))
    if params.events and policy.startswith("br-t"):
        # By old news no worker is there, and it places nobody: a matter of its own.
        policy = "br-0"
    result = simulate(trace, policy, params)
    log, steps = result.requests, result.steps
    finished = log.status == RequestStatus.FINISHED
    assert result.metrics.finished + sum(log.unfinished().values()) == len(trace)
    assert np.all(np.diff(steps.start_s) > 0)
    if not params.events and params.capacity is None:
        assert result.metrics.finished == len(trace)
        assert steps.active.sum() == trace.output_tokens.sum()
    assert np.all(log.start_s[finished] >= log.ready_s[finished])
    previous = trace.previous
    turns = np.flatnonzero((previous >= 0) & (log.status > RequestStatus.PENDING))
    delay = np.zeros(len(trace)) if params.arrivals.by_events else trace.delay_s
    for turn in turns.tolist():
        before = previous[turn]
        if log.status[before] == RequestStatus.FINISHED:
            assert log.arrival_s[turn] >= log.finish_s[before] + delay[turn]
            if not params.arrivals.by_events:
                assert log.arrival_s[turn] == log.finish_s[before] + delay[turn]
        else:
            # Whatever has come was told that the turn before it had ended.
            assert log.status[before] == RequestStatus.REJECTED


@settings(max_examples=50, deadline=None)
@given(
    st.one_of(prefilled_elsewhere(), prefilled_there()),
    st.sampled_from(["random", "p2c", "br-h", "br-t"]),
)
def test_same_seed_same_trajectory(scenario, policy):
    trace, params, _ = scenario
    first, second = (simulate(trace, policy, params) for _ in range(2))
    for name in ("worker", "arrival_s", "finish_s", "start_step"):
        a, b = getattr(first.requests, name), getattr(second.requests, name)
        assert a.tobytes() == b.tobytes()


@settings(max_examples=50, deadline=None)
@given(elsewhere.scenarios())
def test_sessions_without_delays_change_nothing(scenario):
    trace, params, policy = scenario
    columns = {"session": np.arange(len(trace)) % 3, "delay_s": np.full(len(trace), np.nan)}
    first = simulate(trace, policy, params)
    second = simulate(replace(trace, columns=columns), policy, params)
    assert first.requests.finish_s.tobytes() == second.requests.finish_s.tobytes()
    assert first.trace_fingerprint == second.trace_fingerprint


def conversation(outputs, delays, arrivals=None, **columns):
    """Return one session, the turns of which follow each other; None delays come by themselves."""
    delay = np.array(delays, np.float64)
    return Trace(
        prompt_tokens=np.full(len(outputs), 4),
        output_tokens=np.array(outputs),
        arrival_s=None if arrivals is None else np.array(arrivals, np.float64),
        columns={"session": np.zeros(len(outputs), np.int64), "delay_s": delay, **columns},
    )


def run(trace, policy="jsq", **regime):
    return simulate(
        trace, policy, SimulationParams(**({"workers": 1, "slots": 4, "step_time": UNIT} | regime))
    )


def test_a_turn_comes_its_delay_after_the_turn_before_has_ended():
    trace = conversation([3, 2, 2], [None, 0.5, 0.0], [0.0, None, None])
    log = run(trace, arrivals=TIMED).requests
    assert log.finish_s.tolist() == [3.0, 5.5, 7.5]
    assert log.arrival_s.tolist() == [0.0, 3.5, 5.5]
    assert log.ttft_s().tolist() == [1.0, 1.0, 1.0]


def test_a_late_end_makes_the_next_turn_late_and_nobody_else():
    trace = Trace(
        prompt_tokens=np.array([4, 4, 4]),
        output_tokens=np.array([3, 2, 2]),
        arrival_s=np.array([0.0, 1.0, np.nan]),
        columns={"session": np.array([0, 1, 0]), "delay_s": np.array([np.nan, np.nan, 1.0])},
    )
    log = run(trace, arrivals=TIMED, slots=1).requests
    # The second waits for the slot until 3, and has it until 5; the turn came at 4.
    assert log.arrival_s.tolist() == [0.0, 1.0, 4.0]
    assert log.start_s.tolist() == [0.0, 3.0, 5.0]


def test_prefill_elsewhere_begins_when_a_turn_arrives():
    trace = conversation([3, 2], [None, 0.5], [0.0, None])
    prefill = Prefill(mode="delay", delay_s=2.0, tokens_per_s=4.0)
    log = run(trace, arrivals=TIMED, prefill=prefill).requests
    assert log.ready_s.tolist() == [3.0, 6.0 + 0.5 + 3.0]


def test_a_tier_cannot_be_planned():
    trace = conversation([3, 2], [None, 0.5], [0.0, None])
    with pytest.raises(ParameterError, match=r"prefill is 'tier'.*must be none, delay or col"):
        run(trace, arrivals=TIMED, prefill=Prefill(mode="tier", workers=2, tokens_per_s=10.0))


@pytest.mark.parametrize("routing", ["pooled", "immediate"])
def test_the_pool_takes_a_turn_once_the_one_before_has_ended(routing):
    # Rows 1 and 2 follow row 0; the pool of two goes on with row 3 meanwhile.
    trace = Trace(
        prompt_tokens=np.full(5, 4),
        output_tokens=np.array([3, 2, 2, 9, 9]),
        columns={
            "session": np.array([0, 0, 0, 1, 2]),
            "delay_s": np.array([np.nan, 7.0, 7.0, np.nan, np.nan]),
        },
    )
    log = run(trace, arrivals=Arrivals(pool=2), routing=routing).requests
    assert log.start_s.tolist() == [0.0, 3.0, 5.0, 0.0, 1.0]


def test_clients_send_turns_one_after_the_other():
    trace = Trace(
        prompt_tokens=np.full(4, 4),
        output_tokens=np.array([3, 2, 5, 5]),
        columns={
            "session": np.array([0, 0, 1, 2]),
            "delay_s": np.array([np.nan, 7.0, np.nan, np.nan]),
        },
    )
    log = run(trace, arrivals=Arrivals(mode="closed", concurrency=2)).requests
    assert log.start_s.tolist() == [0.0, 3.0, 0.0, 5.0]


def test_the_turn_after_a_rejected_one_comes_all_the_same():
    trace = conversation([3, 2, 1], [None, 0.5, 0.5], [0.0, None, None])
    trace = replace(trace, prompt_tokens=np.array([4, 40, 4]))
    params = {"workers": 2, "capacity": (10, 50), "routing": "immediate", "arrivals": TIMED}
    result = run(trace, policy=OnTheFirst(), **params)
    assert result.requests.status.tolist() == [
        RequestStatus.FINISHED,
        RequestStatus.REJECTED,
        RequestStatus.FINISHED,
    ]
    assert result.requests.arrival_s.tolist() == [0.0, 3.5, 4.0]


class OnTheFirst:
    """Place everybody on the first worker."""

    def route(self, cluster, waiting):
        return [(at, 0) for at in range(len(waiting))]


def test_turns_go_on_after_a_failure():
    trace = conversation([6, 2], [None, 1.0], [0.0, None])
    events = (WorkerEvent(kind="fail", worker=0, at_step=2),)
    log = run(trace, "round-robin", workers=2, events=events, arrivals=TIMED).requests
    assert log.preemptions.tolist() == [1, 0]
    assert log.arrival_s[1] == log.finish_s[0] + 1.0


def test_turns_that_never_come_are_not_yet_arrived():
    trace = conversation([6, 2, 2], [None, 1.0, 1.0], [0.0, None, None])
    result = run(trace, arrivals=TIMED, max_steps=3)
    assert result.requests.status.tolist()[1:] == [RequestStatus.PENDING] * 2
    assert result.metrics.unfinished == 3


def test_rates_are_of_all_requests_and_delays_stay():
    trace = Trace(
        prompt_tokens=np.full(6, 4),
        output_tokens=np.full(6, 2),
        arrival_s=np.array([0, np.nan, np.nan, 10, np.nan, 30]),
        columns={
            "session": np.array([0, 0, 0, 1, 1, 2]),
            "delay_s": np.array([np.nan, 3, 3, np.nan, 3, np.nan]),
        },
    )
    params = SimulationParams(arrivals=Arrivals(mode="rate", rate=2.0))
    # Half of the requests follow others: the other half comes at a rate of 1.
    expected = [0, np.nan, np.nan, 2 / 3, np.nan, 2]
    assert arrival_times(trace, params) == pytest.approx(expected, nan_ok=True)
    log = run(trace, arrivals=Arrivals(mode="rate", rate=2.0)).requests
    assert log.arrival_s[1] == log.finish_s[0] + 3
    poisson = arrival_times(replace(trace, arrival_s=None), params)
    assert np.isnan(poisson).tolist() == [False, True, True, False, True, False]


def test_a_turn_finds_its_prompt_where_the_last_one_ran():
    chains = [[1, 2], [1, 2, 3], [1, 2, 3, 4]]
    trace = conversation([3, 2, 2], [None, 0.5, 0.5], [0.0, None, None], **ragged(chains))
    trace = replace(trace, prompt_tokens=np.array([8, 12, 16]))
    prefill = Prefill(mode="colocated", budget=64, cache=100, block=4)
    regime = {"workers": 2, "arrivals": TIMED, "prefill": prefill, "routing": "immediate"}
    assert run(trace, "prefix-affinity", **regime).requests.cached_tokens.tolist() == [0, 8, 12]
    assert run(trace, "round-robin", **regime).requests.cached_tokens.tolist() == [0, 0, 8]
