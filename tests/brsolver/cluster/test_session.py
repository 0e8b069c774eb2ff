"""The session that simulator and deployments drive."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver import BRH, BRHParams
from brsolver.cluster import decision as found
from brsolver.cluster.decision import as_pairs, check, examine
from brsolver.cluster.session import FIGURES, ClusterSession, has_room
from brsolver.cluster.view import NO_LIMIT, QUEUE_ROWS, ROOM, SLOTS, TOKEN_ROOM, VIEW_ROWS
from brsolver.errors import PolicyError
from brsolver.policy import as_policy
from classifiers.survival import SurvivalPredictor


class Fixed:
    def __init__(self, pairs=()):
        self.pairs = list(pairs)
        self.seen = None

    def route(self, cluster, waiting):
        self.seen = cluster
        return self.pairs


def queue_of(tokens):
    queue = np.zeros((QUEUE_ROWS, len(tokens)), np.int64)
    queue[0], queue[1] = tokens, np.arange(len(tokens))
    return queue


def session_of(policy=None, predictor=None, slots=(2, 2), **options):
    return ClusterSession(policy or Fixed(), predictor, slots, refresh_steps=4, **options)


def plain_check(limits, tokens, pairs, immediate):  # noqa: PLR0911 # a code for each fault
    """What `check` finds, by the rules as one would say them."""
    if immediate and len(pairs) != 1:
        return found.NOT_ONE, -1
    for j, (at, g) in enumerate(pairs):
        before = pairs[:j]
        if not 0 <= at < len(tokens):
            return found.NO_REQUEST, j
        if at in [i for i, _ in before]:
            return found.TWICE, j
        if not 0 <= g < limits.shape[1] or limits[SLOTS, g] == 0:
            return found.NO_WORKER, j
        given_tokens = [tokens[i] for i, worker in before if worker == g]
        if not immediate and len(given_tokens) + 1 > limits[ROOM, g]:
            return found.NO_SLOT, j
        if not immediate and sum(given_tokens) + tokens[at] > limits[TOKEN_ROOM, g]:
            return found.NO_TOKENS, j
    return found.OK, -1


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 40)), min_size=1),
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(-1, 6), st.integers(-1, 4)), max_size=7),
    st.booleans(),
)
def test_the_check_is_what_one_would_say(workers, tokens, pairs, immediate):
    limits = np.zeros((VIEW_ROWS, len(workers)), np.int64)
    limits[[SLOTS, ROOM, TOKEN_ROOM]] = np.array(workers).T
    expected = plain_check(limits.copy(), tokens, pairs, immediate)
    given_pairs = np.array(pairs, np.int64).reshape(-1, 2)
    before = limits.copy()
    assert examine(limits, np.array(tokens), given_pairs, immediate) == expected
    assert (limits == before).all()
    assert check(limits, np.array(tokens), given_pairs, immediate) == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1), st.integers(1, 12))
def test_there_is_room_where_a_slot_and_tokens_are_free(workers, tokens):
    limits = np.zeros((VIEW_ROWS, len(workers)), np.int64)
    limits[[ROOM, TOKEN_ROOM]] = np.array(workers).T
    assert has_room(limits, tokens) == any(free > 0 and left >= tokens for free, left in workers)


@pytest.mark.parametrize(
    ("pairs", "immediate", "words"),
    [
        ([(2, 0)], False, "named waiting request 2, there are 2"),
        ([(0, 0), (0, 1)], False, "placed waiting request 0 twice"),
        ([(0, 2)], False, "chose worker 2, which is not there"),
        ([(0, 1), (1, 1)], False, "gave worker 1 more requests than it has free slots"),
        ([(1, 0)], False, "gave worker 0 more KV tokens than its capacity"),
        ([], True, "placed 0 requests; immediate routing places the one that arrives"),
    ],
)
def test_refusals_say_who_when_and_why(pairs, immediate, words):
    session = session_of(Fixed(pairs), slots=(2, 1), capacity=[100, None])
    session.look(immediate=immediate)
    with pytest.raises(PolicyError, match=f"policy Fixed at step 9 {words}"):
        session.decide(queue_of([50, 101]), step=9, clock_s=0.0, immediate=immediate)


@pytest.mark.parametrize("answer", [None, 7, [(0, 0), (1,)], [("a", "b")], np.zeros((1, 3), int)])
def test_what_is_no_list_of_pairs_is_refused(answer):
    with pytest.raises(PolicyError, match="policy Fixed returned"):
        as_pairs(answer, as_policy(Fixed()))


def test_the_view_is_of_the_books():
    session = session_of(capacity=[100, 100])
    session.state.admit(0, 0, 60)
    session.state.enqueue(1, 30)
    assert session.look() == 2
    assert session.fits(70)
    assert not session.fits(71)
    session.decide(queue_of([5]), step=3, clock_s=0.5, immediate=False)
    seen = session.policy.plain.seen
    assert (seen.load.tolist(), seen.room.tolist()) == ([60, 30], [1, 1])
    assert (seen.step, seen.clock_s, seen.immediate, seen.clients) == (3, 0.5, False, 1)
    assert session.look(immediate=True) == 2


class Neighbours:
    """A front end that has a request of 40 tokens at worker 1 and one of 9 queued there."""

    def others(self):
        figures = np.zeros((FIGURES, 2), np.int64)
        figures[:, 1] = 40, 1, 1, 9, 49, 8
        return figures

    def others_projected(self, steps):
        return np.full((2, steps + 1), 5)


def test_what_other_front_ends_have_counts():
    policy = BRH(BRHParams(horizon=3))
    session = session_of(policy, capacity=[100, 100], others=Neighbours())
    session.state.admit(0, 0, 60)
    session.hear()
    assert session.look() == 1
    view = session.view(0, 0.0, immediate=False)
    assert view.load.tolist() == [60, 49]
    assert view.room.tolist() == [1, 0]
    assert view.token_room.tolist() == [40, 51]
    assert view.backlog.tolist() == [0, 8]
    assert view.projection(3).tolist() == [[65] * 4, [5] * 4]
    assert session.projection_to_tell().tolist() == [[60] * 4, [0] * 4]


def test_requests_of_other_front_ends_weigh_as_well():
    session = session_of(capacity=[100, 100], others=Neighbours(), request_tokens=1000)
    session.state.admit(0, 0, 60)
    session.hear()
    session.look()
    view = session.view(0, 0.0, immediate=False)
    assert view.load.tolist() == [1060, 2049]
    assert view.kv_tokens.tolist() == [60, 49]
    assert view.token_room.tolist() == [40, 51]
    assert session.fits(40)
    assert not session.fits(41)


def test_what_a_request_weighs_may_change_between_decisions():
    session = session_of(BRH(BRHParams(horizon=4)), SurvivalPredictor())
    session.observe(np.full(3, 9), np.array([2, 2, 8]), request=np.arange(3))
    handle = session.state.admit(0, 1, 30)
    session.forecast(np.array([handle]), 0)
    session.look()
    before = session.view(0, 0.0, immediate=False).projection(4, survival=True)
    session.prepare()
    session.request_tokens = 30
    session.look()
    view = session.view(0, 0.0, immediate=False)
    assert view.load.tolist() == [0, 60]
    # As many tokens again, that stay as probably.
    after = view.projection(4, survival=True)
    assert np.abs(after - 2 * before).max() <= 1
    session.request_tokens = 0
    assert session.look() == 3
    assert session.view(0, 0.0, immediate=False).load.tolist() == [0, 30]


def test_without_forecasts_what_runs_stays_whatever_is_asked():
    session = session_of(BRH(BRHParams(horizon=4)))
    session.state.admit(0, 1, 30)
    view = session.view(0, 0.0, immediate=False)
    assert view.projection(4, survival=True).tolist() == [[0] * 5, [30] * 5]
    assert view.projection(4, growth=True).tolist() == [[0] * 5, [30, 31, 32, 33, 34]]
    assert (session.learns, session.due(100), view.trust) == (False, False, 1.0)


def test_forecasts_are_the_forecasters():
    predictor = SurvivalPredictor()
    session = session_of(BRH(BRHParams(horizon=4)), predictor)
    assert session.learns
    assert session.due(0)
    handle = session.state.admit(0, 1, 30)
    ended = np.array([2, 2, 8])
    session.observe(np.full(3, 9), ended, request=np.arange(3))
    session.forecast(np.array([handle]), 0)
    assert not session.due(3)
    assert session.due(4)
    seen = session.view(0, 0.0, immediate=False).projection(4, survival=True)
    kept = session.forecaster.project(session.state, 4, False, True)
    np.testing.assert_array_equal(seen, kept)
    assert seen[1, 4] < 30


def test_workers_that_join_are_seen():
    session = session_of()
    session.state.add_worker(5)
    session.resize()
    assert session.look() == 9
    assert session.view(0, 0.0, immediate=False).workers == 3


def test_a_cleared_state_keeps_its_workers_and_no_request():
    state = session_of(slots=(3, 2, 1), capacity=[50, None, 70]).state
    for serial in range(5):
        state.admit(serial, serial % 2, 7, remaining=2)
    state.enqueue(2, 20)
    state.remove_worker(1)
    state.clear()
    table = state.view_table()
    assert table[ROOM].tolist() == [3, 0, 1]
    assert table[TOKEN_ROOM].tolist() == [50, NO_LIMIT, 70]
    assert state.alive.tolist() == [True, False, True]
    assert (state.active_total, table[0].tolist()) == (0, [0, 0, 0])
    handles = [state.admit(serial, 0, 7) for serial in range(9)]
    assert len(set(handles)) == 9
