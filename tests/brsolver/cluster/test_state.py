"""The cluster state against a naive model that re-sums everything."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from brsolver.cluster.state import ClusterState
from brsolver.cluster.view import LOAD, NO_LIMIT, QUEUED, ROOM, TOKEN_ROOM
from brsolver.errors import ParameterError, StateError

HORIZON = 6
FAR = 10**6


class Naive:
    """One running request, by its own figures."""

    def __init__(self, worker, prompt, generated, left):
        self.worker, self.prompt, self.generated, self.left = worker, prompt, generated, left

    @property
    def kv(self):
        return self.prompt + self.generated

    def at(self, h, growth, each):
        if h == 0:
            return self.kv + each
        return self.kv + each + growth * h if self.left > h else 0


class StateMachine(RuleBasedStateMachine):
    """Random events on both; every figure compared after each."""

    @initialize(slots=st.lists(st.integers(1, 3), min_size=1, max_size=4))
    def start(self, slots):
        self.state = ClusterState(slots, horizon=HORIZON, refresh_steps=3)
        self.alive = dict.fromkeys(range(len(slots)), 0)
        self.running = {}
        self.serial = 0

    def workers(self):
        return sorted(self.alive)

    @precondition(lambda self: self.alive)
    @rule(
        data=st.data(),
        prompt=st.integers(1, 500),
        generated=st.integers(0, 50),
        left=st.one_of(st.none(), st.integers(-1, 12)),
    )
    def admit(self, data, prompt, generated, left):
        worker = data.draw(st.sampled_from(self.workers()))
        self.serial += 1
        handle = self.state.admit(self.serial, worker, prompt, generated=generated, remaining=left)
        assert handle not in self.running
        self.running[handle] = Naive(worker, prompt, generated, self.kept(left))

    def kept(self, left):
        window = self.state.ring.shape[2] - 1
        return FAR if left is None or left > window else max(left, 1)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), tokens=st.integers(0, 5))
    def generate(self, data, tokens):
        handle = data.draw(st.sampled_from(sorted(self.running)))
        self.state.generate(handle, tokens)
        request = self.running[handle]
        request.generated += tokens
        if request.left < FAR // 2:
            request.left = max(request.left - tokens, 0)

    @rule(tokens=st.sampled_from([0, 3, 1500]))
    def weigh(self, tokens):
        self.state.request_tokens = tokens

    @rule(steps=st.integers(1, 9))
    def advance(self, steps):
        self.state.advance(steps)
        for request in self.running.values():
            request.generated += steps
            request.left -= steps

    @precondition(lambda self: self.running)
    @rule(data=st.data(), abort=st.booleans())
    def end(self, data, abort):
        handle = data.draw(st.sampled_from(sorted(self.running)))
        (self.state.abort if abort else self.state.finish)(handle)
        del self.running[handle]

    @precondition(lambda self: self.running)
    @rule(data=st.data(), left=st.integers(-1, 12))
    def predict(self, data, left):
        handle = data.draw(st.sampled_from(sorted(self.running)))
        self.state.predict([handle], [left])
        self.running[handle].left = self.kept(left)

    @rule(slots=st.integers(1, 4), capacity=st.one_of(st.none(), st.integers(1, 9000)))
    def join(self, slots, capacity):
        gone = [g for g in range(self.state.workers.shape[1]) if g not in self.alive]
        if gone:
            self.state.restore_worker(gone[0], slots, capacity)
            self.alive[gone[0]] = 0
        else:
            self.alive[self.state.add_worker(slots, capacity)] = 0

    @precondition(lambda self: len(self.alive) > 1)
    @rule(data=st.data())
    def leave(self, data):
        worker = data.draw(st.sampled_from(self.workers()))
        here = [h for h, r in self.running.items() if r.worker == worker]
        lost = self.state.remove_worker(worker)
        assert len(lost) == len(here)
        for handle in here:
            del self.running[handle]
        del self.alive[worker]

    @invariant()
    def loads_are_sums(self):
        count = self.state.workers.shape[1]
        load, active = np.zeros(count, int), np.zeros(count, int)
        for request in self.running.values():
            load[request.worker] += request.kv
            active[request.worker] += 1
        assert self.state.load.tolist() == load.tolist()
        assert self.state.active.tolist() == active.tolist()
        assert self.state.active_total == len(self.running)

    @invariant()
    def projection_is_the_sum_of_projections(self):
        for growth in (False, True):
            expected = np.zeros((self.state.workers.shape[1], HORIZON + 1), int)
            for request in self.running.values():
                for h in range(HORIZON + 1):
                    each = self.state.request_tokens
                    expected[request.worker, h] += request.at(h, int(growth), each)
            assert self.state.projection(HORIZON, growth=growth).tolist() == expected.tolist()

    @invariant()
    def requests_describe_themselves(self):
        handles = self.state.handles()
        rows = self.state.describe(handles)
        for handle, worker, _, prompt, kv, age in zip(
            handles.tolist(), *rows.tolist(), strict=True
        ):
            request = self.running[handle]
            assert (worker, prompt, kv, age) == (
                request.worker,
                request.prompt,
                request.kv,
                request.generated,
            )
        assert len(handles) == len(self.running)


StateMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_state_machine = StateMachine.TestCase


def test_copy_is_independent():
    state = ClusterState([2], horizon=3)
    handle = state.admit(1, 0, 10, remaining=2)
    twin = state.copy()
    state.advance(2)
    state.finish(handle)
    assert twin.load.tolist() == [10]
    assert twin.projection(3).tolist() == [[10, 10, 0, 0]]


def test_queued_requests_count_in_the_view_but_not_in_the_load():
    state = ClusterState([3, 3], capacity=[100, None])
    state.admit(1, 0, 10)
    state.enqueue(0, 25)
    table = state.view_table()
    assert table[LOAD].tolist() == [35, 0]
    assert table[QUEUED].tolist() == [1, 0]
    assert table[ROOM].tolist() == [1, 3]
    assert table[TOKEN_ROOM].tolist() == [65, NO_LIMIT]
    assert state.load.tolist() == [10, 0]
    state.dequeue(0, 25)
    assert state.view_table()[LOAD].tolist() == [10, 0]


def test_requests_weigh_in_loads_and_not_in_rooms():
    state = ClusterState([3, 3], capacity=[100, None], horizon=2, request_tokens=40)
    state.admit(1, 0, 10, remaining=1)
    state.enqueue(0, 25)
    view = state.view()
    assert view.load.tolist() == [115, 0]
    assert view.kv_tokens.tolist() == [35, 0]
    assert view.token_room.tolist() == [65, NO_LIMIT]
    assert view.projection(2).tolist() == [[115, 65, 65], [0, 0, 0]]
    assert view.active().load.tolist() == [50]
    assert view.active().kv_tokens.tolist() == [10]
    assert view.load_of(np.array([7])).tolist() == [47]
    assert state.load.tolist() == [10, 0]


def test_weight_outlives_whatever_happens_to_workers():
    state = ClusterState([1], horizon=2, request_tokens=40)
    state.add_worker(2)
    state.admit(1, 1, 10)
    twin = state.copy()
    twin.request_tokens = 0
    assert state.view().load.tolist() == [0, 50]
    assert twin.view().load.tolist() == [0, 10]
    state.remove_worker(0)
    state.clear()
    state.restore_worker(0, 1)
    state.admit(1, 0, 10)
    assert state.view().load.tolist() == [50, 0]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda s: s.admit(1, 5, 10), StateError, "no worker 5: live workers are [0, 1]"),
        (lambda s: s.admit(1, 0, 0), ParameterError, "prompt_tokens is 0"),
        (lambda s: s.admit(1, 0, 5, generated=-1), ParameterError, "generated is -1"),
        (lambda s: s.finish(3), StateError, "no running request with handle 3"),
        (lambda s: s.generate(0, 1), StateError, "no running request with handle 0"),
        (lambda s: s.dequeue(0, 5), StateError, "no queued request"),
        (lambda s: s.add_worker(0), ParameterError, "slots of worker 2 is 0"),
        (lambda s: s.add_worker(1, 0), ParameterError, "capacity of worker 2 is 0"),
        (lambda s: s.restore_worker(0, 1), StateError, "worker 0 is not one that was removed"),
        (lambda s: s.projection(9), StateError, "horizon is 9, must be at most"),
        (lambda s: setattr(s, "request_tokens", -1), ParameterError, "request_tokens is -1"),
        (lambda s: ClusterState([]), ParameterError, "at least 1 worker"),
        (lambda s: ClusterState([1], horizon=-1), ParameterError, "horizon is -1"),
    ],
)
def test_bad_events_are_refused(call, error, words):
    state = ClusterState([2, 2], horizon=2)
    with pytest.raises(error) as caught:
        call(state)
    assert words in str(caught.value)
