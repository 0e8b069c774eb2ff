"""A front by itself: what becomes of requests when replicas go, and of settings."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from brsolver.errors import BrsolverError
from integration.fronts import FrontSettings, Room, open_front, prompt_body, request_body
from integration.picker import End, Gauges
from integration.picker.params import MAX_WAIT_S
from integration.routing.failsafe import Words

WORDS = Words(logging.getLogger("brsolver.test"))
SETTINGS = {"policy": "jsq", "predictor": "none", "slots": 2, "budget": 64, "budget_ms": 60_000.0}
BODY = prompt_body(range(8))


def front(replicas=("a", "b"), *, lasting=False, **settings: Any):
    read = FrontSettings.read({**SETTINGS, **settings}, "settings")
    return open_front(read, {name: Room() for name in replicas}, words=WORDS, lasting=lasting)


async def placing(made, count):
    """Ask `count` times; return the tasks once what can be placed is placed."""
    tasks = [asyncio.ensure_future(made.place(BODY)) for _ in range(count)]
    for _ in range(50):
        await asyncio.sleep(0)
    return tasks


def test_what_a_lost_replica_ran_is_over_and_what_is_held_goes_elsewhere():
    async def run():
        made = front()
        tasks = await placing(made, 5)
        seats = [task.result() for task in tasks if task.done()]
        assert made.audit().held == 1
        made.lost("a")
        made.lost("a")
        audit = made.audit()
        assert audit.ended == {End.WORKER_DIED: 2}
        [held] = [task for task in tasks if not task.done()]
        for seat in seats:
            # Those of the lost one end a second time, which changes nothing.
            made.ended(seat, End.FINISHED)
        seat = await held
        assert seat.replica == "b"
        made.ended(seat, End.FINISHED)
        audit = made.audit()
        assert (audit.reserved, audit.wrong) == (0, ())
        assert audit.ended == {End.WORKER_DIED: 2, End.FINISHED: 3}

    asyncio.run(run())


def test_who_is_cancelled_at_any_turn_leaves_nothing_behind():
    async def run():
        made = front()
        for turns in range(12):
            task = asyncio.ensure_future(made.place(BODY))
            for _ in range(turns):
                await asyncio.sleep(0)
            if not task.cancel():
                made.ended(await task, End.FINISHED)
            await asyncio.gather(task, return_exceptions=True)
            assert made.audit().reserved == 0
        assert made.audit().ended[End.FINISHED] > 0

    asyncio.run(run())


def test_a_replica_that_goes_at_any_turn_is_given_to_nobody():
    async def run():
        for turns in range(12):
            made = front()
            task = asyncio.ensure_future(made.place(BODY))
            for _ in range(turns):
                await asyncio.sleep(0)
            heard = task.done()
            made.follow({})
            assert heard or await task is None
            assert made.audit().reserved == heard

    asyncio.run(run())


def test_without_replicas_everybody_is_left_to_the_library():
    async def run():
        made = front()
        held = (await placing(made, 5))[-1]
        made.follow({})
        assert await held is None
        assert await made.place(BODY) is None
        assert made.replicas == []
        assert made.active

    asyncio.run(run())


def test_what_cannot_be_added_is_left_out_and_routing_goes_on():
    async def run():
        made = front()
        made.follow({"a": Room(), "b": Room(), "c": Room(slots=65)})
        assert made.replicas == ["a", "b"]
        assert await made.place(BODY) is not None
        made.told("c", Gauges(running=1))
        assert made.place_at("c", BODY) is None

    asyncio.run(run())


def test_a_replica_that_comes_back_has_what_it_ran():
    async def run():
        made = front(["a", "b"], lasting=True)
        first = [task.result() for task in await placing(made, 4)]
        made.follow({"b": Room()})
        made.follow({"a": Room(slots=3), "b": Room()})
        more = await placing(made, 3)
        assert [task.result().replica for task in more if task.done()] == ["a"]
        assert (made.audit().reserved, made.audit().held) == (5, 2)
        for seat in first:
            made.ended(seat, End.FINISHED)
        await asyncio.gather(*more)
        assert (made.audit().reserved, made.audit().held, made.audit().wrong) == (3, 0, ())
        # One that was empty, or died, is another.
        made.lost("b")
        made.follow({"a": Room(), "b": Room()})
        assert sorted(made.replicas) == ["a", "b"]

    asyncio.run(run())


def test_where_names_do_not_last_one_that_comes_back_is_another():
    async def run():
        made = front(["a"])
        first = [task.result() for task in await placing(made, 2)]
        made.follow({})
        made.follow({"a": Room()})
        again = [task.result() for task in await placing(made, 2)]
        assert made.audit().reserved == 4
        for seat in [*first, *again]:
            made.ended(seat, End.FINISHED)
        assert (made.audit().reserved, made.audit().wrong) == (0, ())

    asyncio.run(run())


def test_other_slots_of_a_replica_are_taken_in():
    async def run():
        made = front(["a"])
        tasks = await placing(made, 6)
        assert (made.audit().reserved, made.audit().held) == (2, 4)
        made.follow({"a": Room(slots=5)})
        tasks += await placing(made, 0)
        assert (made.audit().reserved, made.audit().held) == (5, 1)
        # What runs runs on, and nothing comes until there is room.
        made.follow({"a": Room(slots=1)})
        for done in [task for task in tasks if task.done()][:4]:
            made.ended(done.result(), End.FINISHED)
        await placing(made, 0)
        assert (made.audit().reserved, made.audit().held) == (1, 1)
        made.follow({"a": Room()})
        await placing(made, 0)
        assert (made.audit().reserved, made.audit().held) == (2, 0)
        assert made.audit().wrong == ()
        assert made.replicas == ["a"]

    asyncio.run(run())


@pytest.mark.parametrize(
    "body",
    [
        *(prompt_body(ids) for ids in ([1, "a"], [1, None] * 40, [-(2**70)] * 40, [1.5])),
        prompt_body(range(8), {"max_tokens": 2**80, "n": 2**80}),
        request_body((), {"input_ids": [1], "max_new_tokens": 2**80}),
        request_body(("\ud800" * 200,), {"max_tokens": -(2**80)}),
    ],
)
def test_no_request_can_stop_it(body):
    async def run():
        made = front(slots=16, max_failures=1)
        made.ended(await made.place(body), End.FINISHED)
        made.ended(await made.place(body), End.FINISHED)
        made.ended(made.place_at("a", body), End.FINISHED)
        assert made.active
        assert made.audit().ended == {End.FINISHED: 3}

    asyncio.run(run())


def test_after_too_many_failures_it_places_nobody():
    async def run():
        made = front(max_failures=2)
        held = (await placing(made, 5))[-1]
        for _ in range(2):
            made.follow({"a": Room(), "b": Room(), "c": Room(slots=65)})
        assert not made.active
        assert await held is None
        assert await made.place(BODY) is None

    asyncio.run(run())


def test_requests_are_held_without_end_where_nobody_says_otherwise():
    settings = FrontSettings.read({}, "settings", most_held=5)
    assert (settings.picker.wait_max_s, settings.picker.pool_max) == (MAX_WAIT_S, 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "none-such"}, "unknown policy 'none-such'"),
        ({"predictor": "none-such"}, "unknown predictor 'none-such'"),
        ({"hardware": "none-such"}, "none-such"),
        ({"policy": "br-t:kapa=1"}, "unknown parameter of br-t 'kapa'"),
    ],
)
def test_what_settings_name_is_looked_up(settings, message):
    with pytest.raises(BrsolverError, match=message):
        FrontSettings.read(settings, "settings").check()


def test_a_file_of_tune_is_taken_as_it_is(tmp_path):
    path = tmp_path / "tuned.toml"
    path.write_text(
        '[tuned]\nversion = "0.1.0"\ngoal = "latency"\n'
        '[router]\npolicy = "br-0"\nrefresh_steps = 16\n[engine]\nslots = 48\n'
    )
    settings = FrontSettings.read({"config": str(path), "refresh_steps": 8}, "settings")
    picker = settings.picker
    assert (picker.policy, picker.slots, picker.refresh_steps) == ("br-0", 48, 8)
    assert settings.folder == tmp_path


def test_a_config_that_is_no_path_is_refused():
    with pytest.raises(BrsolverError, match="config is 3, must be the path of a file"):
        FrontSettings.read({"config": 3}, "settings")
