"""Cells of workers: every request in one cell, every cell by itself, one cell as its router."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver import SimulationParams, Trace, simulate
from brsolver.cluster.state import ClusterState
from brsolver.cluster.view import ClusterView, Waiting
from brsolver.errors import BrsolverError, PolicyError
from brsolver.policy import BasePolicy
from brsolver.routers import Cells, CellsParams
from brsolver.routers._between import Standing, choose, draw
from brsolver.simulator import Arrivals, Prefill, Staleness, WorkerEvent
from brsolver.streams import stream

REGIMES = {
    "pool": {},
    "below saturation": {"arrivals": Arrivals(mode="utilization", utilization=0.8)},
    "immediate": {"routing": "immediate"},
    "limited": {"capacity": 2500},
    "old news": {"staleness": Staleness(steps=3, local_correction=True)},
    "own prompts": {"prefill": Prefill(mode="colocated", budget=256)},
    "weights": {"request_tokens": 300},
}


def random_trace(seed, count=150):
    rng = np.random.default_rng(seed)
    return Trace(
        prompt_tokens=rng.integers(20, 400, count), output_tokens=rng.integers(1, 60, count)
    )


def cells(seed=0, **params):
    return Cells(CellsParams(**params), rng=stream(seed, "policy"))


def logs_of(result):
    logs = (result.requests, result.steps)
    return {
        f"{type(log).__name__}.{field.name}": getattr(log, field.name)
        for log in logs
        for field in fields(log)
    }


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("inner", ["br-ramp", "br-0", "br-h:horizon=6", "p2c", "vllm", "br-t"])
def test_one_cell_of_all_workers_is_its_router(regime, inner):
    params = SimulationParams(workers=3, slots=4, seed=5, **REGIMES[regime])
    trace = random_trace(7)
    alone = logs_of(simulate(trace, inner, params))
    in_a_cell = logs_of(simulate(trace, cells(seed=5, size=3, inner=inner), params))
    for part, expected in alone.items():
        np.testing.assert_array_equal(in_a_cell[part], expected, err_msg=part)


class Witness(BasePolicy):
    """A cell's router that writes down what it is shown."""

    def __init__(self, inner, cell, seen):
        self.inner, self.cell, self.seen = inner, cell, seen
        self.horizon = inner.horizon

    def route(self, cluster, waiting):
        pairs = self.inner.route(cluster, waiting)
        placed = {int(waiting.request[row]) for row, _ in np.asarray(pairs).tolist()}
        self.seen.append((self.cell, cluster.workers, waiting.request.tolist(), placed))
        return pairs


def witnessed(policy, count):
    """Let every cell's router write down what it sees; returns where."""
    seen = []
    inner = [policy._router(cell) for cell in range(count)]
    policy._routers[:] = [Witness(router, cell, seen) for cell, router in enumerate(inner)]
    return seen


EVENTS = st.sampled_from(
    [
        (),
        (
            WorkerEvent(kind="fail", worker=0, at_step=9),
            WorkerEvent(kind="fail", worker=1, at_step=9),
        ),
        (
            WorkerEvent(kind="fail", worker=5, at_step=4),
            WorkerEvent(kind="join", worker=5, at_step=20),
            WorkerEvent(kind="join", worker=7, at_step=30),
            WorkerEvent(kind="join", worker=8, at_step=31),
        ),
    ]
)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(sorted(REGIMES)),
    st.sampled_from(["br-ramp", "br-0", "jsq-load"]),
    st.sampled_from(["both", "load", "requests"]),
    st.integers(1, 5),
    EVENTS,
)
def test_every_request_ends_once_and_waits_in_one_cell(seed, regime, inner, by, d, events):
    policy = cells(seed=seed, size=2, d=d, inner=inner, by=by)
    seen = witnessed(policy, 5)
    params = SimulationParams(workers=7, slots=3, events=events, **REGIMES[regime])
    result = simulate(random_trace(seed), policy, params)
    assert result.metrics.finished == 150
    where = {}
    for cell, workers, waiting, placed in seen:
        assert workers <= 2
        for request in waiting:
            assert where.setdefault(request, cell) == cell or events
        for request in placed:
            del where[request]
    assert not where
    assert events or policy.tally()["moved_between_cells"] == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["br-ramp", "p2c"]))
def test_the_same_seed_gives_the_same_run(seed, inner):
    params = SimulationParams(workers=6, slots=3)
    first, second = (
        logs_of(simulate(random_trace(1), cells(seed=seed, size=2, inner=inner), params))
        for _ in range(2)
    )
    for part, expected in first.items():
        np.testing.assert_array_equal(second[part], expected, err_msg=part)


def test_another_seed_draws_other_cells():
    params = SimulationParams(workers=6, slots=3)
    runs = [simulate(random_trace(1), cells(seed=s, size=2, d=1), params) for s in (1, 2)]
    assert (runs[0].requests.worker != runs[1].requests.worker).any()


def plain_cells(loads, live, size, waiting, arrivals):
    """Say in plain words which cell gets each arrival if all cells are looked at."""
    count = -(-len(loads) // size)
    held = [sum(loads[c * size : (c + 1) * size]) + waiting[c] for c in range(count)]
    alive = [sum(live[c * size : (c + 1) * size]) for c in range(count)]
    chosen = []
    for tokens in arrivals:
        best = min((held[c] / alive[c], c) for c in range(count) if alive[c])[1]
        held[best] += tokens
        chosen.append(best)
    return chosen


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_an_arrival_goes_to_the_least_loaded_cell_and_stays_there(data):
    count, size = data.draw(st.integers(2, 9)), data.draw(st.integers(1, 4))
    if count <= size:
        size = 1
    state = ClusterState([2] * count, horizon=0, refresh_steps=32)
    for worker in range(count):
        for _ in range(data.draw(st.integers(0, 2))):
            state.admit(worker, worker, data.draw(st.integers(1, 900)))
    loads = state.view().load.tolist()
    gone = data.draw(st.integers(0, count - 1))
    if count > 1:
        for handle in state.remove_worker(gone).tolist():
            del handle
    live = [int(slots > 0) for slots in state.view().slots]
    loads = [load * there for load, there in zip(loads, live, strict=True)]
    policy = cells(size=size, d=count, inner="jsq-load", by="load")
    # Nobody has room but one worker, with a request too few: pools are left as they are.
    tokens = data.draw(st.lists(st.integers(1, 900), min_size=1, max_size=12))
    view = state.view()
    if not view.room.any():
        return
    queue = Waiting(np.array(tokens), np.arange(len(tokens)))
    pairs = policy.route(view, queue)
    expected = plain_cells(loads, live, size, [0] * count, tokens)
    assert [expected[row] for row, _ in pairs.tolist()] == (pairs[:, 1] // size).tolist()
    left = [row for row in range(len(tokens)) if row not in set(pairs[:, 0].tolist())]
    assert policy._requests.tolist() == left
    assert policy._cell_of.tolist() == [expected[row] for row in left]


def state_of(workers, slots=1, capacity=None):
    return ClusterState([slots] * workers, capacity=capacity, horizon=0, refresh_steps=32)


def waiting_of(*tokens, request=None):
    rows = np.arange(len(tokens)) if request is None else np.array(request)
    return Waiting(np.array(tokens), rows)


def test_what_waits_in_a_dead_cell_moves_on():
    state, policy = state_of(4), cells(size=2, d=2, inner="jsq-load")
    tokens = (10, 10, 10, 10, 10, 10)
    first = policy.route(state.view(), waiting_of(*tokens))
    assert sorted(first[:, 1].tolist()) == [0, 1, 2, 3]
    left = policy._requests.tolist()
    stranded = [r for r, c in zip(left, policy._cell_of.tolist(), strict=True) if c == 0]
    assert stranded
    state.remove_worker(0)
    state.remove_worker(1)
    pairs = policy.route(state.view(), waiting_of(*[10] * len(left), request=left))
    assert set(pairs[:, 1].tolist()) <= {2, 3}
    assert policy.tally()["moved_between_cells"] == len(stranded)
    assert f"{len(stranded)} waiting requests went to another cell" in policy.notes()[0]


def test_a_request_goes_to_a_cell_that_can_hold_it():
    state = state_of(4, capacity=[100, 100, 900, 100])
    for seed in range(10):
        pairs = cells(seed=seed, size=2, d=1).route(state.view(), waiting_of(500, 50))
        assert dict(pairs.tolist())[0] == 2


def test_a_pool_is_left_only_when_its_cell_cannot_hold_it_any_more():
    state = state_of(4, capacity=[900, 100, 900, 100])
    policy = cells(size=2, d=2, inner="jsq-load")
    for worker in (0, 2):
        state.admit(worker, worker, 100 + worker)
    assert policy.route(state.view(), waiting_of(500)).size == 0
    assert policy._cell_of.tolist() == [0]
    state.remove_worker(0)
    state.finish(int(state.handles()[0]))
    assert policy.route(state.view(), waiting_of(500)).tolist() == [[0, 2]]


def test_workers_that_join_fill_the_last_cell_and_then_new_ones():
    state, policy = state_of(3), cells(size=2, d=4, inner="jsq-load")
    policy.route(state.view(), waiting_of(5, 5, 5))
    assert len(policy._routers) == 2
    state.add_worker(1)
    state.add_worker(1)
    pairs = policy.route(state.view(), waiting_of(5, 5, 5, 5, 5, request=range(10, 15)))
    assert sorted(pairs[:, 1].tolist()) == [0, 1, 2, 3, 4]
    assert len(policy._routers) == 3


class Asks(BasePolicy):
    """Asks all there is to ask."""

    horizon = 4

    def __init__(self):
        self.told = []

    def route(self, cluster, waiting):
        active = cluster.active()
        self.told.append(
            {
                "table": cluster.table.copy(),
                "projection": cluster.projection(4, growth=True),
                "worker": active.worker,
                "kv_tokens": active.kv_tokens,
                "age": active.age,
                "cached": cluster.cached_tokens(waiting),
            }
        )
        return np.zeros((0, 2), np.int64)


def test_a_cells_router_sees_its_own_workers_and_nothing_else():
    state = ClusterState([3] * 5, horizon=4, refresh_steps=32)
    rng = np.random.default_rng(3)
    for serial in range(9):
        state.admit(serial, serial % 5, int(rng.integers(1, 99)), remaining=3)
    whole = state.view()
    cached = rng.integers(0, 9, (6, 5))
    whole.cached = lambda waiting: cached[waiting.request]
    policy = cells(size=2, d=1)
    routers = [Asks() for _ in range(3)]
    policy._routers[:] = routers
    queue = waiting_of(1, 2, 3, 4, 5, 6)
    policy.route(whole, queue)
    at = dict(zip(policy._requests.tolist(), policy._cell_of.tolist(), strict=True))
    active = whole.active()
    for cell, router in enumerate(routers):
        own = slice(2 * cell, min(2 * cell + 2, 5))
        mine = (active.worker >= own.start) & (active.worker < own.stop)
        rows = [row for row in range(6) if at[row] == cell]
        for told in router.told:
            assert (told["table"] == whole.table[:, own]).all()
            assert (told["projection"] == whole.projection(4, growth=True)[own]).all()
            assert told["worker"].tolist() == (active.worker[mine] - own.start).tolist()
            assert told["kv_tokens"].tolist() == active.kv_tokens[mine].tolist()
            assert told["age"].tolist() == active.age[mine].tolist()
            assert told["cached"].tolist() == cached[rows, own].tolist()
    assert sum(len(router.told) for router in routers) == len(set(at.values()))


class Names(BasePolicy):
    """Names a request and a worker, whatever is there."""

    def __init__(self, row, worker):
        self.pair = row, worker

    def route(self, cluster, waiting):
        del cluster, waiting
        return np.array([self.pair], np.int64)


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        ((0, 2), "chose worker 2, which is not there"),
        ((0, -1), "chose worker -1, which is not there"),
        ((9, 0), "named waiting request 9, there are"),
        ((-1, 0), "named waiting request -1, there are"),
    ],
)
def test_a_router_that_names_what_is_not_its_cells_is_stopped(pair, told):
    policy = cells(size=2, d=1)
    policy._routers[:] = [Names(*pair), Names(*pair)]
    with pytest.raises(PolicyError, match=told):
        policy.route(state_of(4).view(), waiting_of(1, 2))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8), st.integers(1, 9), st.integers(0, 10**6))
def test_different_cells_are_drawn_of_those_that_fit(count, d, seed):
    rng = np.random.default_rng(seed)
    fits = rng.random((20, count)) < 0.6
    fits[:, 0] |= ~fits.any(axis=1)
    for cells_, row in zip(draw(fits, d, rng), fits, strict=True):
        assert len(set(cells_)) == len(cells_) == min(d, row.sum())
        assert row[cells_].all()


def test_draws_are_even():
    drawn = np.array(draw(np.ones((6000, 6), np.bool_), 2, np.random.default_rng(0)))
    assert np.bincount(drawn.ravel(), minlength=6) == pytest.approx(2000, rel=0.1)


def standing_of(load, requests, slots=4.0, mean=0.0):
    shape = np.ones(len(load))
    return Standing(
        np.array(load, float), np.array(requests, float), shape, slots * shape,
        np.full(len(load), 999), mean,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("by", "expected"), [("load", [0, 1, 1]), ("requests", [1, 1, 0]), ("both", [0, 1, 1])]
)
def test_an_arrival_counts_for_those_after_it(by, expected):
    cells_ = standing_of([0, 5], [3, 1], mean=2.0)
    assert choose([[0, 1]] * 3, cells_, np.array([6, 0, 1]), by).tolist() == expected


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_by_both_the_least_is_added_to_the_sum_of_squares(data):
    """Of counts, in mean requests, and loads, as far as they are not those of a mean request."""
    count = data.draw(st.integers(2, 6))
    some = st.lists(st.integers(0, 500), min_size=count, max_size=count)
    load, requests = data.draw(some), [x + 5 for x in data.draw(some)]
    mean, tokens = float(data.draw(st.integers(1, 300))), data.draw(st.integers(1, 900))
    cells_ = standing_of(load, requests, mean=mean)
    (found,) = choose([list(range(count))], cells_, np.array([tokens]), "both").tolist()

    def added(c, step=1e-3):
        """Differentiate along the request: counts by one, loads by what it is above the mean."""

        def potential(much):
            counts = [n + much * (g == c) for g, n in enumerate(requests)]
            loads = [x + much * (tokens - mean) * (g == c) for g, x in enumerate(load)]
            middle = [sum(each) / count for each in (counts, loads)]
            return sum((mean * (n - middle[0])) ** 2 for n in counts) + sum(
                (x - middle[1]) ** 2 for x in loads
            )

        return (potential(step) - potential(-step)) / (2 * step)

    costs = [added(c) for c in range(count)]
    assert costs[found] == pytest.approx(min(costs), rel=1e-6, abs=1e-3)


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"size": 0}, "size is 0, must be at least 1"),
        ({"size": 2.5}, "size is 2.5, must be a whole number"),
        ({"d": 0}, "d is 0, must be at least 1"),
        ({"by": "luck"}, "by is 'luck', must be both, load or requests"),
        ({"inner": "cells"}, "inner is 'cells', must be a policy other than cells"),
        ({"inner": "phi"}, "must be a policy that does not ask a predictor itself"),
        ({"inner": "br-hh"}, "br-hh"),
        ({"inner": "br-h:horizon=-1"}, "horizon is -1"),
        ({"inner": "br-h:reach=3"}, "reach"),
    ],
)
def test_bad_parameters_are_named(params, told):
    with pytest.raises(BrsolverError, match=told):
        CellsParams(**params)


def test_parameters_of_the_policy_within_come_after_a_colon():
    params = CellsParams(inner="br-h:horizon=7;gamma=0.9")
    assert params.spec.params.gamma == 0.9
    assert params.horizon == Cells(params).horizon == 7
    assert Cells(CellsParams(inner="br-t:hold_s=3")).holds_s == 3


def test_without_room_nobody_is_asked():
    state, policy = state_of(2), cells(size=1)
    for worker in range(2):
        state.admit(worker, worker, 5)
    view: ClusterView = state.view()
    assert policy.route(view, waiting_of(1)).tolist() == []
