"""What a worker did not take is decided anew: with its old place in the books, and elsewhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picking import Picking, spec

from brsolver.cluster.view import REQUEST, SINCE, TOKENS
from brsolver.errors import StateError
from integration.picker import End, Placed, Refused
from integration.picker.events import Decided, Ended, Requested, Returned, WorkerChanged
from integration.routing.pool import Held, Pool


def again(p, name):
    """Have a request come back; return where it goes now, if anywhere yet."""
    p.answers[name] = []
    p.core.again(name, p.answers[name].append)
    p.run()
    return p.answer(name)


def sequences(p):
    return [each.sequences for each in p.core.audit().workers]


@pytest.mark.parametrize("mode", ["pooled", "immediate"])
@pytest.mark.parametrize("policy", ["br-t", "jsq", "round-robin", "random", "prefix-affinity"])
def test_it_goes_elsewhere_and_reaches_the_books_once(policy, mode):
    p = Picking(policy=policy, mode=mode, workers=3)
    p.request("a", blocks=(1, 2))
    tried = [p.worker_of("a")]
    p.core.started("a", tried[0])
    tried += [again(p, "a").worker for _ in range(2)]
    assert sorted(tried) == [0, 1, 2]
    found = p.core.audit()
    assert found.balanced
    assert (found.begun, found.reserved, found.started) == (1, 1, 0)
    assert found.workers[tried[-1]].reserved == 1
    assert len(p.log.of(Requested)) == 1
    assert [each.worker for each in p.log.of(Returned)] == tried[:2]
    assert p.core.ended("a", End.FINISHED)
    assert p.core.audit().ended == {End.FINISHED: 1}
    assert [each.worker for each in p.log.of(Ended)] == [tried[-1]]


def test_where_there_is_no_other_worker_it_goes_back():
    p = Picking(workers=1)
    p.request("a")
    assert again(p, "a") == Placed(0)
    assert again(p, "a") == Placed(0)
    both = Picking(workers=2)
    both.request("a")
    first = both.worker_of("a")
    both.core.down(1 - first, "said so")
    assert again(both, "a").worker == first


def test_slots_of_others_are_waited_for_and_those_that_it_came_from_are_others():
    p = Picking(policy="jsq", workers=2, slots=1)
    p.request("a")
    p.request("b")
    p.run()
    came, other = p.worker_of("a"), p.worker_of("b")
    assert again(p, "a") is None
    assert sequences(p)[came] == 0
    # The slot that it left is free for whoever comes, though it is the first in the pool.
    p.request("c")
    p.run(0.1)
    assert p.worker_of("c") == came
    p.request("d")
    p.core.ended("b", End.FINISHED)
    p.run(0.1)
    assert p.worker_of("a") == other
    assert p.answer("d") is None
    assert max(sequences(p)) == 1


def test_it_is_the_next_and_is_held_anew():
    p = Picking(policy="jsq", workers=2, slots=1, wait_max_s=10.0)
    for name in "abcd":
        p.request(name)
    p.run(8.0)
    running = p.worker_of("a")
    assert p.answer("c") is None
    assert again(p, "a") is None
    p.run(1.0)
    assert p.worker_of("c") == running
    p.run(1.5)
    # Who waited since the beginning has waited for too long.
    assert isinstance(p.answer("d"), Refused)
    assert p.answer("a") is None
    p.core.ended("b", End.FINISHED)
    p.run(0.1)
    assert p.worker_of("a") == 1 - running
    decided = [each for each in p.log.of(Decided) if each.name == "a"]
    assert [round(each.held_s, 1) for each in decided] == [0.0, 2.5]


def test_all_its_sequences_come_back():
    p = Picking(policy="jsq", workers=2, slots=4)
    p.request("a", sequences=3)
    first = p.worker_of("a")
    p.request("b", sequences=2)
    p.run()
    assert sequences(p) == ([3, 2] if first == 0 else [2, 3])
    # Elsewhere there are two slots, not three.
    assert again(p, "a") is None
    assert sequences(p)[first] == 0
    p.core.ended("b", End.FINISHED)
    p.run(0.1)
    assert p.worker_of("a") == 1 - first
    assert p.core.audit().balanced
    p.core.ended("a", End.FINISHED)
    assert sequences(p) == [0, 0]


def test_a_worker_that_takes_none_is_taken_down():
    p = Picking(policy="jsq", workers=2, down_after=3)
    for turn in range(3):
        name = f"r{turn}"
        # The first that comes to an idle cluster.
        p.request(name)
        if p.worker_of(name) == 1:
            p.core.ended(name, End.FINISHED)
            continue
        again(p, name)
        p.core.ended(name, End.DISCONNECTED)
    down = [each for each in p.log.of(WorkerChanged) if each.what == "down"]
    assert [each.worker for each in down] == [0]
    p.request("next")
    assert p.worker_of("next") == 1


def test_without_any_worker_it_is_refused():
    p = Picking(workers=1)
    p.request("a")
    p.core.down(0, "said so")
    assert again(p, "a").status == 503
    found = p.core.audit()
    assert found.balanced
    assert found.ended == {End.REFUSED: 1}


def test_a_worker_that_was_to_go_may_go():
    p = Picking(workers=2)
    p.request("a")
    first = p.worker_of("a")
    p.core.retire(first)
    assert again(p, "a").worker == 1 - first
    assert p.core.workers[first].gone
    # Whoever has its place has done nothing.
    p.core.add_worker(spec(7))
    assert p.core.audit().balanced


def test_a_full_pool_takes_it_back():
    p = Picking(policy="jsq", workers=2, slots=1, pool_max=1)
    for name in "abc":
        p.request(name)
        p.run()
    assert p.answer("c") is None
    first = p.worker_of("a")
    assert again(p, "a") is None
    p.run(0.1)
    assert p.worker_of("c") == first


def test_only_what_has_a_worker_comes_back():
    p = Picking(workers=1, slots=1)
    p.request("a")
    p.request("b")
    for name in ("b", "nobody"):
        with pytest.raises(StateError, match=f"request '{name}' has no worker"):
            p.core.again(name, lambda answer: None)


class Row:
    def __init__(self, name, prompt_tokens):
        self.name, self.prompt_tokens, self.identity = name, prompt_tokens, prompt_tokens + 100


@given(st.lists(st.tuples(st.none() | st.integers(0, 9), st.booleans()), max_size=150))
def test_pool_is_in_order_wherever_they_come_in(steps):
    pool, expected = Pool(), []
    for number, (at, drops) in enumerate(steps):
        held = Held(None, Row(f"r{number}", number), number)
        behind = len(expected) if at is None else min(at, len(expected))
        pool.add(held, None if at is None else behind)
        expected.insert(behind, held)
        if drops and len(expected) > 2:
            assert pool.drop(expected.pop(len(expected) // 2).request.name) is not None
        found, queue = pool.offer()
        assert found == expected
        assert queue[TOKENS].tolist() == [each.request.prompt_tokens for each in expected]
        assert queue[REQUEST].tolist() == [each.request.identity for each in expected]
        assert queue[SINCE].tolist() == [each.since for each in expected]
