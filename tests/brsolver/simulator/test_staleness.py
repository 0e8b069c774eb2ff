"""Old information: what policies see, and when."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.cluster.view import PROMPT_TOKENS, QUEUED
from brsolver.registry import make_policy
from brsolver.simulator import (
    Arrivals,
    Migration,
    Prefill,
    SimulationParams,
    Staleness,
    StepTime,
    WorkerEvent,
    simulate,
)
from brsolver.simulator.engine import Engine
from brsolver.traces.trace import Trace


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


class Comparer:
    """Wraps a policy; holds what is seen of the workers against their own books."""

    def __init__(self, policy):
        self.inner = make_policy(policy)
        self.state = None
        self.seen = 0

    def route(self, cluster, waiting):
        held = self.state.active + self.state.view_table()[2]
        assert (cluster.running + cluster.queued).tolist() == held.tolist()
        assert np.all(cluster.load <= self.state.view_table()[0])
        assert np.all(cluster.load >= cluster.prompt_tokens)
        assert cluster.prompt_tokens.tolist() == self.state.view_table()[7].tolist()
        self.seen += 1
        return self.inner.route(cluster, waiting)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["pooled", "immediate"]),
    st.sampled_from(["delay", "periodic"]),
    st.integers(1, 40),
    st.integers(0, 2),
    st.sampled_from(["jsq-load", "br-0", "random"]),
)
def test_with_placements_and_ends_counted_only_growth_is_missing(
    seed, routing, mode, age, transit, policy
):
    rng = np.random.default_rng(seed)
    trace = Trace(
        prompt_tokens=rng.integers(1, 50, 40),
        output_tokens=rng.integers(1, 1 + rng.integers(1, 30), 40),
    )
    stale = Staleness(steps=age, mode=mode, local_correction=True, local_departures=True)
    params = SimulationParams(
        workers=3, slots=3, routing=routing, transit_steps=transit, staleness=stale
    )
    comparer = Comparer(policy)
    engine = Engine(trace, comparer, params)
    comparer.state = engine.state
    engine.run()
    assert engine.finished == 40
    assert comparer.seen > 1


def test_ends_alone_leave_what_the_report_had_and_still_runs():
    trace = Trace(prompt_tokens=np.full(4, 10), output_tokens=np.array([3, 50, 50, 50]))
    loads = []

    class Watcher:
        def route(self, cluster, waiting):
            loads.append(cluster.load.tolist())
            return [(0, len(loads) % 2)]

    # The report of step 2 has two requests, of which the first ends in that step.
    stale = Staleness(steps=2, mode="periodic", local_departures=True)
    params = SimulationParams(
        workers=2, slots=4, arrivals=Arrivals(pool=1), max_steps=4, staleness=stale
    )
    simulate(trace, Watcher(), params)
    assert loads == [[0, 0], [0, 0], [11, 12], [11, 0]]


def test_ends_are_seen_by_whoever_asks_for_them():
    trace = Trace(prompt_tokens=np.full(4, 10), output_tokens=np.array([2, 50, 50, 50]))
    loads = []

    class Watcher:
        def route(self, cluster, waiting):
            loads.append(cluster.load.tolist())
            return [(0, int(np.argmin(cluster.load)))]

    base = SimulationParams(workers=2, slots=4, arrivals=Arrivals(pool=1), max_steps=4)
    for departures, last in ((False, [20, 10]), (True, [10, 10])):
        loads.clear()
        stale = Staleness(steps=100, local_correction=True, local_departures=departures)
        simulate(trace, Watcher(), replace(base, staleness=stale))
        # The request of two tokens has ended before the third decision.
        assert loads == [[0, 0], [10, 0], [10 - 10 * departures, 10], last]


class Totals:
    """Wraps a policy; holds the requests that are seen in all against the books."""

    def __init__(self, policy):
        self.inner, self.state, self.seen = make_policy(policy), None, 0

    def route(self, cluster, waiting):
        held = self.state.active + self.state.view_table()[QUEUED]
        assert (cluster.running + cluster.queued).sum() == held.sum()
        assert np.all(cluster.load >= cluster.prompt_tokens)
        assert cluster.prompt_tokens.sum() == self.state.view_table()[PROMPT_TOKENS].sum()
        self.seen += 1
        return self.inner.route(cluster, waiting)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["pooled", "immediate"]),
    st.sampled_from(["delay", "periodic"]),
    st.integers(1, 40),
    st.sampled_from([None, 120]),
    st.sampled_from([0.0, 30.0, 200.0]),
)
def test_ends_of_requests_that_were_moved_are_taken_off_where_they_were(
    seed, routing, mode, age, capacity, setup_ms
):
    rng = np.random.default_rng(seed)
    trace = Trace(prompt_tokens=rng.integers(1, 50, 40), output_tokens=rng.integers(1, 1 + 30, 40))
    params = SimulationParams(
        workers=3,
        slots=3,
        capacity=capacity,
        routing=routing,
        migration=Migration(every=1, setup_ms=setup_ms),
        staleness=Staleness(steps=age, mode=mode, local_correction=True, local_departures=True),
    )
    totals = Totals("random")
    engine = Engine(trace, totals, params)
    totals.state = engine.state
    engine.run()
    assert engine.finished == 40
    assert totals.seen > 1


@pytest.mark.parametrize("routing", ["pooled", "immediate"])
@pytest.mark.parametrize("policy", ["br-t", "br-ramp", "br-0"])
def test_a_worker_that_has_come_back_unknown_to_old_information_is_routed_to(routing, policy):
    trace = Trace(prompt_tokens=np.full(60, 10), output_tokens=np.full(60, 5))
    params = SimulationParams(
        workers=1,
        slots=2,
        routing=routing,
        arrivals=Arrivals(mode="rate", rate=200.0),
        prefill=Prefill(mode="colocated", budget=64),
        staleness=Staleness(steps=8, mode="periodic"),
        events=(
            WorkerEvent(worker=0, at_step=40, kind="fail"),
            WorkerEvent(worker=0, at_step=41, kind="join"),
        ),
    )

    class Watcher:
        inner = make_policy(policy)
        gone = 0

        def route(self, cluster, waiting):
            self.gone += int(cluster.slots[0] == 0 < cluster.room[0])
            return self.inner.route(cluster, waiting)

    watcher = Watcher()
    assert simulate(trace, watcher, params).metrics.finished == 60
    assert watcher.gone
