"""Survival projections are kept per worker: whatever happens, as if they were made anew."""

import numpy as np
import pytest

from brsolver.cluster._state_kernels import W_HEAD
from brsolver.cluster.forecasting import Forecaster, RequestColumns, _KeptLoads
from brsolver.cluster.state import ClusterState

H, REFRESH, WORKERS, SLOTS = 5, 6, 3, 4
EVENTS = (
    *("admit", "admit", "admit", "finish", "generate", "generate", "advance", "enqueue"),
    *(
        "dequeue",
        "update",
        "update",
        "learn",
        "fail",
        "return",
        "join",
        "snapshot",
        "prepare",
        "weigh",
    ),
)


class Table:
    """``P(O > a)`` of geometric lengths, whose mean changes as it learns."""

    def predict(self, query, horizon):
        pytest.fail("only curves are asked for")

    def __init__(self):
        self.stays = 0.8
        self.learn()

    def learn(self):
        self.stays = 1.7 - self.stays
        self.table = self.stays ** np.arange(12.0)


class Curves:
    """A curve for every age, with another mean as it learns."""

    def predict(self, query, horizon):
        pytest.fail("only curves are asked for")

    def __init__(self):
        self.stays = 0.8

    def learn(self):
        self.stays = 1.7 - self.stays

    def survival(self, query, horizon):
        ages = 1 + query.age[:, None] / 20
        return self.stays ** (ages * np.arange(horizon + 1))


class Cluster:
    """A state to which things happen, and two forecasters, of which one keeps nothing."""

    def __init__(self, predictor, rng):
        self.state = ClusterState([SLOTS] * WORKERS, horizon=H, refresh_steps=REFRESH)
        self.snapshot = self.state.copy()
        self.predictor = predictor
        self.limits = rng.integers(3, 40, 200)
        self.rng = rng
        self.keeping, self.forgetting = (
            Forecaster(
                predictor,
                horizon=H,
                refresh_steps=REFRESH,
                columns=RequestColumns(max_tokens=self.limits),
            )
            for _ in range(2)
        )
        self.predictor.predict = lambda *_: pytest.fail("only curves are asked for")
        self.admitted: list[int] = []
        self.serial = self.step = 0
        for each in (self.keeping, self.forgetting):
            each._curves_only = True
        self.queued = [0] * WORKERS

    def happen(self, event, number):
        getattr(self, f"do_{event}")(number)

    def running(self, number):
        handles = self.state.handles()
        return int(handles[number % len(handles)]) if len(handles) else None

    def alive(self, number):
        alive = np.flatnonzero(self.state.alive)
        return int(alive[number % len(alive)])

    def do_admit(self, number):
        worker = self.alive(number)
        if self.state.active[worker] < self.state.slots[worker]:
            self.serial += 1
            self.admitted.append(self.state.admit(self.serial, worker, 1 + number % 300))

    def do_finish(self, number):
        if (handle := self.running(number)) is not None:
            self.state.finish(handle)

    def do_generate(self, number):
        if (handle := self.running(number)) is not None:
            self.state.generate(handle, number % 3)

    def do_advance(self, number):
        self.state.advance()
        self.step += 1

    def do_enqueue(self, number):
        worker = self.alive(number)
        self.state.enqueue(worker, 7)
        self.queued[worker] += 1

    def do_dequeue(self, number):
        worker = self.alive(number)
        if self.queued[worker]:
            self.state.dequeue(worker, 7)
            self.queued[worker] -= 1

    def do_update(self, number):
        handles = np.array(self.admitted, np.int64)
        self.admitted.clear()
        for each in (self.keeping, self.forgetting):
            each.update(self.state, handles, self.step)

    def do_learn(self, number):
        self.predictor.learn()

    def do_fail(self, number):
        if self.state.alive.sum() > 1:
            worker = self.alive(number)
            self.state.remove_worker(worker)
            self.queued[worker] = 0

    def do_return(self, number):
        for worker in np.flatnonzero(~self.state.alive)[:1]:
            self.state.restore_worker(int(worker), SLOTS)

    def do_join(self, number):
        if self.state.workers.shape[1] < 2 * WORKERS:
            self.state.add_worker(SLOTS)
            self.queued.append(0)

    def do_weigh(self, number):
        self.state.request_tokens = 100 * (number % 3)

    def do_snapshot(self, number):
        self.snapshot = self.state.copy()

    def do_prepare(self, number):
        self.keeping.prepare(self.state, H, bool(number % 2), True)

    def do_ask(self, number):
        state = self.snapshot if number % 5 == 0 else self.state
        horizon, growth = H - number % 2, number == 7
        self.forgetting._kept = _KeptLoads()
        expected = self.forgetting.project(state, horizon, growth, True)
        assert self.keeping.project(state, horizon, growth, True).tolist() == expected.tolist()


@pytest.mark.parametrize("predictor", [Table, Curves])
@pytest.mark.parametrize("seed", range(12))
def test_what_is_kept_is_what_would_be_computed(predictor, seed):
    rng = np.random.default_rng(seed)
    cluster = Cluster(predictor(), rng)
    cluster.do_update(0)
    for event in rng.choice(EVENTS, 400).tolist():
        cluster.happen(event, int(rng.integers(1000)))
        cluster.do_ask(int(rng.choice([0, 1, 2, 4, 5, 7])))


def test_only_workers_with_changes_are_computed_anew():
    state = ClusterState([2, 2], horizon=H, refresh_steps=REFRESH)
    for worker in (0, 1):
        state.admit(worker, worker, 10)
    forecaster = Forecaster(Table(), horizon=H, refresh_steps=REFRESH)
    forecaster.project(state, H, False, True)
    forecaster._kept._loads[:] = 500
    state.enqueue(1, 3)
    assert forecaster.project(state, H, False, True).tolist() == [[500] * 6, [503] * 6]
    state.generate(int(state.workers[W_HEAD, 0]))
    found = forecaster.project(state, H, False, True)
    assert found[0, 0] == 11
    assert found[1].tolist() == [503] * 6
