"""br-ramp: its kernels against the plain version, its limits, and how long anybody waits."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ramp_cases import STEP, as_plain, by_kernel, decisions, knobs

from brsolver import SimulationParams, load_trace, simulate
from brsolver.cluster.state import ClusterState
from brsolver.cluster.view import (
    CAPACITY,
    LOAD,
    NO_LIMIT,
    ROOM,
    RUNNING,
    SLOTS,
    TOKEN_ROOM,
    VIEW_ROWS,
    Waiting,
)
from brsolver.errors import ParameterError
from brsolver.routers import BRRamp, BRRampParams
from brsolver.routers import ramp_reference as plain
from brsolver.routers._queue_classes import size_class
from brsolver.simulator import WorkerEvent


@settings(max_examples=500, deadline=None)
@given(decisions(), knobs())
def test_the_kernel_decides_as_the_plain_version_does(decision, by):
    table, prompts, since = decision
    before = table.copy()
    pairs, cost = by_kernel(table, prompts, since, by)
    assert (table == before).all()
    workers, queue, live = as_plain(table, prompts, since)
    expected = plain.route(workers, queue, by)
    assert expected is not None
    assert [(i, g) for i, g in pairs.tolist()] == [(i, live[g]) for i, g in expected[0]]
    assert cost == pytest.approx(expected[1], rel=1e-12)


@settings(max_examples=300, deadline=None)
@given(decisions(), knobs())
def test_a_decision_can_be_carried_out_and_leaves_no_place_empty(decision, by):
    table, prompts, since = decision
    pairs, _ = by_kernel(table, prompts, since, by)
    assert len({i for i, _ in pairs.tolist()}) == len(pairs)
    for g in range(table.shape[1]):
        given_ = pairs[pairs[:, 1] == g, 0]
        assert given_.size <= table[ROOM, g]
        assert prompts[given_].sum() <= table[TOKEN_ROOM, g]
    if (table[TOKEN_ROOM, table[SLOTS] != 0] == NO_LIMIT).all():
        assert len(pairs) == table[ROOM].sum()


def overdue_among(pairs, since, patience):
    """Return who of the placed has waited for so long."""
    return {i for i, _ in pairs if STEP - since[i] >= patience}


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("version", ["kernel", "plain"])
def test_an_overdue_request_is_not_exchanged_into_a_row_that_the_queue_may_take(version, exact):
    """Exchanged for 2 and then for 3, request 0 would wait on, with a slot for each of three."""
    table = np.zeros((VIEW_ROWS, 2), np.int64)
    table[TOKEN_ROOM] = table[CAPACITY] = NO_LIMIT
    table[ROOM], table[RUNNING], table[SLOTS], table[LOAD] = [1, 2], [3, 2], 4, [4100, 1900]
    prompts = np.array([3100, 3000, 300, 3400])
    since = STEP - np.array([2520, 2499, 2494, 2480])
    by = plain.Knobs(rate=0.05, price=0.3, patience=2500, exact=exact, sweeps=2, reach=64)
    if version == "kernel":
        pairs = by_kernel(table, prompts, since, by)[0].tolist()
    else:
        workers, queue, _ = as_plain(table, prompts, since)
        pairs = plain.route(workers, queue, by)[0]
    assert overdue_among(pairs, since, by.patience) == {0}


@settings(max_examples=500, deadline=None)
@given(decisions(), knobs(), st.integers(5, 55))
def test_exchanges_leave_every_overdue_request_placed(decision, by, patience):
    table, prompts, since = decision
    by = replace(by, patience=patience, sweeps=3)
    before, after = (
        by_kernel(table, prompts, since, replace(by, sweeps=n))[0].tolist() for n in (0, by.sweeps)
    )
    assert overdue_among(before, since, patience) <= overdue_among(after, since, patience)


@settings(max_examples=200, deadline=None)
@given(decisions(), knobs(), st.integers(1, 400))
def test_what_a_request_weighs_besides_is_a_longer_prompt(decision, by, weight):
    """Without capacities; loads are given with the weight of what runs in them."""
    table, prompts, since = decision
    table[TOKEN_ROOM] = table[CAPACITY] = NO_LIMIT
    weighed, _ = by_kernel(table, prompts, since, replace(by, request_tokens=weight))
    longer, _ = by_kernel(table, prompts + weight, since, replace(by, request_tokens=0))
    assert weighed.tolist() == longer.tolist()


def test_psi_is_a_tangent_beyond_its_knee():
    knee = math.log(8)
    assert plain.psi(0.0, 8) == 0.0
    assert plain.psi(-5.0, 8) == pytest.approx(4.0 + math.exp(-5.0))
    assert plain.psi(knee, 8) == pytest.approx(7.0 - knee)
    assert plain.psi(knee + 1e-9, 8) == pytest.approx(plain.psi(knee, 8) + 7e-9)
    assert plain.psi(knee + 2.0, 8) == pytest.approx(plain.psi(knee, 8) + 14.0)


@given(st.integers(1, 2**40))
def test_classes_of_sizes_are_eighths_of_octaves(size):
    found = size_class(size)
    assert 2.0 ** (found / 8) <= size * (1 + 1e-12)
    assert size < 2.0 ** ((found + 1) / 8) * (1 + 1e-12)


def a_view(step=0, *, slots=(3, 3), running=(), request_tokens=0, immediate=False):
    state = ClusterState(list(slots), request_tokens=request_tokens)
    for serial, (worker, prompt) in enumerate(running):
        state.admit(serial, worker, prompt)
    return state.view(step=step, immediate=immediate)


def waiting_of(prompts, since=None):
    tokens = np.array(prompts, np.int64)
    return Waiting(tokens, np.arange(tokens.size), None if since is None else np.array(since))


def experienced(**params):
    """Return a router that has seen some departures, one per worker and two steps."""
    router = BRRamp(BRRampParams(**params))
    state = ClusterState([9, 9])
    handles = [state.admit(i, i % 2, 5) for i in range(18)]
    for step in range(9):
        router.route(state.view(step=step), waiting_of([1]))
        state.finish(handles.pop())
    return router


def test_until_departures_are_known_the_longest_go_to_the_least_load():
    running = [(0, 50), (1, 80), (1, 1)]
    fresh = BRRamp().route(a_view(running=running), waiting_of([5, 9, 7, 9, 3])).tolist()
    assert fresh == [[1, 0], [3, 0], [2, 1]]


def test_with_slots_in_plenty_the_longest_go_to_the_least_load():
    running = [(0, 50), (1, 80), (1, 1)]
    decided = experienced().route(a_view(20, running=running), waiting_of([5, 9])).tolist()
    assert decided == [[1, 0], [0, 0]]


def test_a_hole_is_filled_by_what_fits_it():
    """Worker 0 lacks 60: neither the first to have come nor the longest is what it takes."""
    running = [(0, 20), (0, 20), (1, 30), (1, 30), (1, 40)]
    decided = experienced().route(a_view(20, running=running), waiting_of([5, 900, 59]))
    assert decided.tolist() == [[2, 0]]


def test_where_nothing_fits_nothing_is_placed():
    full = a_view(20, running=[(0, 1)] * 3 + [(1, 1)] * 3)
    gone = a_view(20)
    gone.table[[SLOTS, ROOM]] = 0
    for view in (full, gone):
        assert experienced().route(view, waiting_of([5, 9])).shape == (0, 2)


def test_immediate_routing_takes_the_least_load():
    running = [(0, 50), (1, 8), (1, 9), (1, 9)]
    for request_tokens, expected in ((0, 1), (20, 0)):
        view = a_view(20, running=running, request_tokens=request_tokens, immediate=True)
        assert experienced().route(view, waiting_of([7])).tolist() == [[0, expected]]


def test_a_wait_costs_no_more_for_others_having_waited():
    """What a mean wait is worth follows costs before waits count: no feedback between the two."""
    table = np.zeros((VIEW_ROWS, 3), np.int64)
    table[TOKEN_ROOM] = table[CAPACITY] = NO_LIMIT
    table[SLOTS], table[RUNNING], table[LOAD] = 4, 4, 9000
    table[RUNNING, 0], table[ROOM, 0], table[LOAD, 0] = 3, 1, 6000
    prompts, since = np.array([90_000, 3001, 2500]), np.array([STEP - 900, STEP - 2, STEP - 1])

    def priced(price):
        return by_kernel(table, prompts, since, plain.Knobs(rate=0.1, price=price, exact=False))

    (calm, cost), (eager, same) = priced(0.0), priced(1e6)
    assert calm.tolist() == [[1, 0]]
    assert eager.tolist() == [[0, 0]]
    assert cost == same < 1.0


class Adversary:
    """A cluster to which whatever comes is added, and from which whoever is named leaves."""

    def __init__(self, slots, router):
        self.state, self.router = ClusterState(slots), router
        self.queue, self.running, self.serial = [], [], 0

    def go_on(self, step, prompts, leaving):
        """Return the names of the placed, or None if nothing was to be decided."""
        for prompt in prompts:
            self.queue.append((self.serial, prompt, step))
            self.serial += 1
        for at in leaving:
            if at < len(self.running):
                self.state.finish(self.running.pop(at))
        free = int(self.state.view_table()[ROOM].sum())
        if not self.queue or not free:
            return set()
        waiting = waiting_of([q[1] for q in self.queue], [q[2] for q in self.queue])
        pairs = self.router.route(self.state.view(step=step), waiting)
        assert len(pairs) == min(free, len(self.queue))
        for i, g in pairs.tolist():
            self.running.append(self.state.admit(self.queue[i][0], g, self.queue[i][1]))
        placed = {self.queue[i][0] for i in pairs[:, 0]}
        self.before = [(name, since) for name, _, since in self.queue]
        self.queue = [q for q in self.queue if q[0] not in placed]
        return placed


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 40), st.sampled_from([0.0, 0.3]))
def test_nobody_waits_longer_than_patience_and_the_queue_before_them(data, patience, theta):
    """An adversary says at every step which lengths come, and who leaves.

    The bound: of what is placed once a request is overdue, with k others before it in the queue,
    it is among the first k + 1.
    """
    slots = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    adversary = Adversary(slots, BRRamp(BRRampParams(patience=patience, theta=theta)))
    ahead = {}
    for step in range(data.draw(st.integers(20, 120))):
        prompts = data.draw(st.lists(st.sampled_from([1, 9, 10, 11, 100, 5000]), max_size=3))
        placed = adversary.go_on(step, prompts, data.draw(st.lists(st.integers(0, 8), max_size=2)))
        if not placed:
            continue
        for place, (name, since) in enumerate(adversary.before):
            if step - since >= patience:
                ahead.setdefault(name, place)
        ahead = {name: k - len(placed) for name, k in ahead.items() if name not in placed}
        assert all(k >= 0 for k in ahead.values())


def test_without_patience_the_adversary_wins():
    """Two lengths that fit, again and again: the one that does not would wait for ever."""
    waits = {}
    for patience in (0, 50):
        router = experienced(patience=patience, theta=0.0)
        state = ClusterState([1, 1])
        running = [state.admit(g, g, 100) for g in range(2)]
        for step in range(20, 320):
            state.finish(running.pop(0))
            waiting = waiting_of([90_000, 100, 100], [20, step, step])
            pairs = router.route(state.view(step=step), waiting)
            if 0 in pairs[:, 0]:
                waits[patience] = step - 20
                break
            running += [state.admit(step, g, 100) for _, g in pairs.tolist()]
    assert waits == {50: 50}


@pytest.mark.parametrize(("patience", "served"), [(0, False), (40, True)])
def test_memory_is_kept_for_who_has_waited_too_long(patience, served):
    """Short prompts that live ten steps take every token there is; 900 need an empty worker."""
    router = experienced(patience=patience, theta=0.0)
    state = ClusterState([12, 12], capacity=[1000, 1000])
    ends, placed_at = [], None
    for step in range(20, 200):
        for end, handle in [e for e in ends if e[0] <= step]:
            state.finish(handle)
            ends.remove((end, handle))
        prompts = [900, *[95] * 30]
        waiting = waiting_of(prompts, [20, *[step] * 30])
        pairs = router.route(state.view(step=step), waiting).tolist()
        if 0 in [i for i, _ in pairs]:
            placed_at = step
            break
        ends += [(step + 10, state.admit(step, g, 95)) for _, g in pairs]
    assert (placed_at is not None) == served
    if placed_at is not None:
        assert placed_at <= 20 + 40 + 10


SCENES = {
    "unequal slots": SimulationParams(workers=3, slots=(2, 9, 5)),
    "capacity": SimulationParams(workers=3, slots=12, capacity=(9000, 6000, 20_000)),
    "weight": SimulationParams(workers=3, slots=6, request_tokens=300),
    "immediate": SimulationParams(workers=3, slots=6, routing="immediate"),
}


@pytest.mark.parametrize("scene", SCENES)
def test_all_requests_are_served(scene):
    trace = load_trace("preset:uniform:n=400,s_high=3000,o_high=60")
    first = simulate(trace, "br-ramp", SCENES[scene])
    assert first.metrics.finished == 400
    again = simulate(trace, "br-ramp", SCENES[scene])
    assert (first.requests.start_step == again.requests.start_step).all()
    assert (first.requests.worker == again.requests.worker).all()


def test_workers_that_fail_and_join():
    params = SimulationParams(
        workers=3,
        slots=6,
        events=(
            WorkerEvent(kind="fail", worker=1, at_step=40),
            WorkerEvent(kind="join", worker=3, at_step=90, slots=2),
            WorkerEvent(kind="join", worker=1, at_step=150),
        ),
    )
    trace = load_trace("preset:uniform:n=400,s_high=3000,o_high=60")
    assert simulate(trace, "br-ramp", params).metrics.finished == 400


def test_loads_are_more_level_than_with_br0():
    trace = load_trace("preset:uniform:n=1500")
    params = SimulationParams(workers=6, slots=16)
    by = {p: simulate(trace, p, params).metrics.avg_imbalance_sum for p in ("br-ramp", "br-0")}
    assert by["br-ramp"] < 0.5 * by["br-0"]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: BRRampParams(theta=-0.1), "theta is -0.1, must be at least 0"),
        (lambda: BRRampParams(theta=math.nan), "theta is nan, must be a finite number"),
        (lambda: BRRampParams(patience=-1), "patience is -1"),
    ],
)
def test_parameters_are_checked(build, words):
    with pytest.raises(ParameterError, match=words.replace(".", r"\.")):
        build()
