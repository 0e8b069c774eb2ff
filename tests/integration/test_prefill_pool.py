"""Who is given a prompt, who waits for a worker with room, what is said of workers that fail."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from door_support import until

from brsolver.errors import ParameterError
from integration.doors.prefill_pool import (
    COMPUTED,
    FAILED,
    MISSES,
    NAMED,
    REST_S,
    SAY_AGAIN_S,
    UNTOLD,
    WITHDRAWN,
    PrefillPool,
)
from integration.picker import Ask, Gauges, WorkerSpec

LIMIT = 0.5


def specs(count=1):
    return [WorkerSpec(name=f"p{n}", address=f"10.0.0.{n + 1}:8000") for n in range(count)]


def made(count=1, **more):
    return PrefillPool(specs(count), kv_limit=LIMIT, **more)


def prompt(name, tokens=100):
    return Ask(name=name, prompt_tokens=tokens)


def told(kv_usage, capacity=1000):
    return Gauges(kv_usage=kv_usage, capacity=capacity)


class Crowd:
    """Requests that wait, each as a task."""

    def __init__(self, pool, count, without=()):
        self.tasks = [
            asyncio.create_task(pool.wait(prompt(f"r{n}"), without)) for n in range(count)
        ]

    def served(self):
        return [n for n, task in enumerate(self.tasks) if task.done() and not task.cancelled()]

    async def end(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def crowd(pool, count, **more):
    """Have as many requests wait; nobody waits afterwards."""
    before, found = pool.waiting, Crowd(pool, count, **more)
    await until(lambda: pool.waiting == before + count)
    try:
        yield found
    finally:
        await found.end()
        assert pool.waiting == 0


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


def run(scenario):
    asyncio.run(scenario())


def test_a_worker_with_room_again_gets_what_it_has_room_for_and_not_all_that_wait():
    async def scenario():
        pool = made()
        pool.told(0, told(0.6))
        async with crowd(pool, 10) as waiting:
            pool.told(0, told(0.25))
            await turns()
            # 0.25, 0.35 and 0.45 of its cache are below half of it, 0.55 is not.
            assert waiting.served() == [0, 1, 2]
            assert pool.workers[0].load == 300
            # What it has computed is still there until it says otherwise.
            pool.take_back(pool.workers[0], "r0", COMPUTED)
            await turns()
            assert waiting.served() == [0, 1, 2]
            pool.told(0, told(0.25))
            await turns()
            assert waiting.served() == [0, 1, 2, 3]

    run(scenario)


@pytest.mark.parametrize("result", [FAILED, WITHDRAWN, NAMED])
def test_what_leaves_nothing_in_a_cache_makes_room(result):
    async def scenario():
        pool = made()
        pool.told(0, told(0.45))
        assert pool.give(prompt("a")) is pool.workers[0]
        assert pool.give(prompt("b")) is None
        async with crowd(pool, 2) as waiting:
            pool.take_back(pool.workers[0], "a", result)
            await turns()
            assert waiting.served() == [0]
            assert pool.calls == {("p0", result): 1}

    run(scenario)


def test_a_prompt_larger_than_a_cache_is_given_to_a_worker_below_its_limit():
    pool = made()
    pool.told(0, told(0.0))
    assert pool.give(prompt("large", 5000)) is not None
    assert pool.give(prompt("small", 1)) is None


def test_prompts_count_where_nobody_says_how_much_a_cache_holds():
    pool = made()
    pool.told(0, Gauges(kv_usage=0.0))
    given = [pool.give(prompt(f"r{n}", 1_000_000)) for n in range(UNTOLD)]
    assert sum(each is not None for each in given) == UNTOLD * LIMIT


@pytest.mark.parametrize("ours", [True, False])
def test_the_settings_say_how_much_a_cache_holds_that_does_not_say_itself(ours):
    pool = made(capacity=200)
    pool.told(0, Gauges(kv_usage=0.0, capacity=None if ours else 400))
    given = [pool.give(prompt(f"r{n}", 50)) for n in range(9)]
    assert sum(each is not None for each in given) == (2 if ours else 4)


def test_a_worker_that_does_not_say_how_full_it_is_has_no_bound():
    pool = made(capacity=100)
    assert all(pool.give(prompt(f"r{n}")) for n in range(50))


def test_a_worker_that_says_no_more_how_full_it_is_holds_nobody_back():
    async def scenario():
        pool = made()
        pool.told(0, told(0.6))
        async with crowd(pool, 3) as waiting:
            for _ in range(MISSES):
                pool.reported(0, ok=True)
            await turns()
            assert not waiting.served()
            pool.reported(0, ok=True)
            await turns()
            assert waiting.served() == [0, 1, 2]

    run(scenario)


def test_who_came_first_is_served_first_and_who_leaves_passes_the_place_on():
    async def scenario():
        pool = made()
        pool.told(0, told(0.6))
        async with crowd(pool, 4) as waiting:
            waiting.tasks[0].cancel()
            await turns()
            assert pool.waiting == 3
            pool.told(0, told(0.45))
            # Given a place, and gone before it could be taken.
            waiting.tasks[1].cancel()
            await turns()
            assert waiting.served() == [2]
            assert pool.calls == {("p0", WITHDRAWN): 1}

    run(scenario)


def test_who_may_not_ask_the_worker_with_room_keeps_nobody_from_it():
    async def scenario():
        pool = made(2)
        for worker in range(2):
            pool.told(worker, told(0.6))
        first = asyncio.create_task(pool.wait(prompt("again"), {"10.0.0.1:8000"}))
        await turns()
        async with crowd(pool, 2) as waiting:
            pool.told(0, told(0.45))
            await turns()
            assert waiting.served() == [0]
            assert not first.done()
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

    run(scenario)


def test_nobody_waits_where_no_worker_is_left():
    async def scenario():
        pool = made(2)
        for worker in range(2):
            pool.told(worker, told(0.6))
        async with crowd(pool, 2) as waiting:
            pool.retire(0)
            for _ in range(MISSES):
                pool.reported(1, ok=False, why="silent")
            await turns()
            assert [task.result() for task in waiting.tasks] == [None, None]

    run(scenario)


def test_a_worker_that_joins_is_given_what_waits():
    async def scenario():
        pool = made()
        pool.told(0, told(0.6))
        async with crowd(pool, 2) as waiting:
            assert pool.add_worker(specs(2)[1]) == 1
            await turns()
            assert waiting.served() == [0, 1]

    run(scenario)


def test_a_worker_that_goes_down_and_comes_back_is_told_of_once_each():
    said = []
    pool = made(2, fault=said.append)
    for _ in range(2 * MISSES):
        pool.reported(0, ok=False, why="/health does not answer: X")
    for _ in range(MISSES):
        pool.reported(1, ok=False, why="/health answers 503")
    for _ in range(3):
        pool.reported(0, ok=True)
    assert said == [
        "p0 is down: /health does not answer: X",
        "p1 is down: /health answers 503; no prefill worker is up: decode workers compute prompts",
        "p0 is up again",
    ]


def test_calls_that_fail_on_and_on_are_told_of_now_and_then():
    said, now = [], [0.0]
    pool = made(2, fault=said.append, clock=lambda: now[0])
    for _ in range(5):
        pool.failed(pool.workers[0], "it answers 500")
    pool.failed(pool.workers[1], "it answers 404")
    now[0] = SAY_AGAIN_S
    pool.failed(pool.workers[0], "it answers 503")
    assert said == [
        "p0: a prefill call failed, the last: it answers 500",
        "p1: a prefill call failed, the last: it answers 404",
        "p0: 5 prefill calls failed, the last: it answers 503",
    ]


def test_a_worker_whose_calls_fail_is_asked_last_for_a_while():
    now = [0.0]
    pool = made(2, clock=lambda: now[0])

    def asked(name):
        return pool.give(prompt(name)).spec.name

    assert asked("a") == "p0"
    pool.take_back(pool.workers[0], "a", FAILED)
    pool.failed(pool.workers[0], "it answers 500")
    # With nothing to do, it would be the next.
    assert [asked("b"), asked("c")] == ["p1", "p1"]
    now[0] = REST_S
    assert asked("d") == "p0"


def test_workers_are_listed_until_they_are_gone():
    pool = made(3)
    pool.told(0, told(0.25))
    for worker, each in zip(pool.workers, ("a", "b", "c"), strict=True):
        assert pool.give(prompt(each)) is worker
    pool.take_back(pool.workers[2], "c", COMPUTED)
    pool.retire(1)
    pool.retire(2)
    first, second, _ = pool.figures()
    assert (first.name, first.state, first.prompts, first.tokens) == ("p0", "up", 1, 100)
    assert (first.kv_usage, first.capacity) == (0.25, 1000)
    assert (second.name, second.state) == ("p1", "draining")
    pool.take_back(pool.workers[1], "b", COMPUTED)
    # Somebody is to fetch from it what it has computed, until it is known that nobody is.
    assert [(each.name, each.prompts, each.kept) for each in pool.figures()][1:] == [
        ("p1", 0, 1),
        ("p2", 0, 1),
    ]
    for worker in pool.workers[1:]:
        worker.kept.clear()
    assert [each.name for each in pool.figures()] == ["p0"]


def test_no_two_workers_that_are_listed_have_one_name():
    pool = made(2)
    with pytest.raises(ParameterError, match="prefill worker 'p0' is there already"):
        pool.add_worker(specs()[0])
    worker = pool.give(prompt("a"))
    pool.retire(0)
    with pytest.raises(ParameterError, match="prefill worker 'p0' is there already"):
        pool.add_worker(specs()[0])
    pool.take_back(worker, "a", FAILED)
    # In the place of the one that has gone.
    assert pool.add_worker(specs()[0]) == 0
    assert len(pool.workers) == 2


def test_figures_of_workers_that_have_gone_end_when_others_come():
    """Each rollout brings pods of new names."""
    pool = made(1)
    for generation in range(5):
        worker = pool.give(prompt("a"))
        pool.take_back(worker, "a", FAILED)
        assert pool.calls == {(worker.spec.name, FAILED): 1}
        pool.retire(0)
        name = f"pod-{generation}"
        assert pool.add_worker(WorkerSpec(name=name, address=f"10.0.1.{generation}:1")) == 0
    assert pool.calls == {}
    assert len(pool.workers) == 1
    # One that comes back goes on with its own.
    worker = pool.give(prompt("a"))
    pool.take_back(worker, "a", FAILED)
    pool.retire(0)
    pool.add_worker(worker.spec)
    assert pool.calls == {(worker.spec.name, FAILED): 1}


def test_workers_that_come_and_go_are_told_of():
    said, faults = [], []
    pool = made(2, say=said.append, fault=faults.append)
    pool.retire(0)
    assert not faults
    pool.retire(1)
    pool.add_worker(specs()[0])
    assert said == [
        "prefill worker p0 drains",
        "prefill worker p1 drains",
        "prefill worker p0 is added",
    ]
    assert faults == ["p1 drains; no prefill worker is up: decode workers compute prompts"]
