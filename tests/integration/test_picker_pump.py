"""The pump, in a real event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from picking import HARDWARE, Log, spec

from brsolver.errors import StateError
from integration.picker import Ask, Core, End, Gauges, PickerParams, Placed, Pump, Refused, Usage
from integration.picker.events import Fault

DEADLINE_S = 60.0


def run(scenario):
    async def bounded():
        async with asyncio.timeout(DEADLINE_S):
            return await scenario()

    return asyncio.run(bounded())


def pump(**params) -> tuple[Pump, Log]:
    given = {"slots": 2, "budget": 64, "hardware": HARDWARE, "policy": "fcfs", **params}
    workers = given.pop("workers", 1)
    made = PickerParams(budget_ms=60_000.0, **given)
    core = Core(made, [spec(index) for index in range(workers)], clock=time.monotonic)
    log = Log()
    core.listeners.append(log)
    return Pump(core), log


def ask(name: str, tokens: int = 10) -> Ask:
    return Ask(name, tokens)


def test_answers_come_when_there_is_room():
    async def scenario():
        p, _ = pump()
        assert [await p.pick(ask(name)) for name in "ab"] == [Placed(0), Placed(0)]
        third = asyncio.ensure_future(p.pick(ask("c")))
        await asyncio.sleep(0)
        assert not third.done()
        assert p.ended("a", End.FINISHED, Usage(10, 3))
        assert await third == Placed(0)
        p.started("c", 0)
        p.first_token("c")
        assert p.ended("b", End.RESET)
        assert p.ended("c", End.FINISHED)
        assert p.core.audit().balanced
        assert p.core.audit().reserved == 0
        p.stop()

    run(scenario)


def test_loops_of_whole_milliseconds_do_not_come_round_before_it_is_time():
    waits = []

    class Loop(asyncio.SelectorEventLoop):
        def call_later(self, delay, *more, **context):
            waits.append(delay)
            return super().call_later(delay, *more, **context)

    async def scenario():
        delays = [0.0002, 0.0101, 0.003, 0.0, None]
        done = asyncio.Event()

        class Due:
            def advance(self):
                delay_s = delays.pop(0)
                if not delays:
                    done.set()
                return delay_s

            def started(self, name, worker): ...

        Pump(Due()).started("a", 0)
        await done.wait()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(scenario())
    assert waits == [0.001, 0.011, 0.003]


def test_many_at_once_are_all_answered():
    async def scenario():
        p, log = pump(workers=3, policy="br-t")

        async def one(name):
            answer = await p.pick(ask(name))
            p.started(name, answer.worker)
            await asyncio.sleep(0)
            p.ended(name, End.FINISHED, Usage(10, 2))

        await asyncio.gather(*(one(f"r{index}") for index in range(60)))
        found = p.core.audit()
        assert (found.ended, found.held, found.reserved) == ({End.FINISHED: 60}, 0, 0)
        assert not log.of(Fault)
        p.stop()

    run(scenario)


def test_who_is_cancelled_is_withdrawn():
    async def scenario():
        p, _ = pump(slots=1)
        await p.pick(ask("a"))
        second = asyncio.ensure_future(p.pick(ask("b")))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        found = p.core.audit()
        assert (found.held, found.reserved, found.ended) == (0, 1, {End.DISCONNECTED: 1})
        p.stop()

    run(scenario)


def test_who_is_cancelled_in_the_moment_of_the_answer_leaves_nothing():
    async def scenario():
        p, _ = pump(slots=1)
        await p.pick(ask("a"))
        second = asyncio.ensure_future(p.pick(ask("b")))
        await asyncio.sleep(0)
        p.ended("a", End.FINISHED)
        while p.core.audit().held:
            await asyncio.sleep(0)
        # It has been answered, and has not run since.
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert p.core.audit().reserved == 0
        p.stop()

    run(scenario)


def test_waiting_ends_by_time():
    async def scenario():
        p, _ = pump(slots=1, wait_max_s=0.05)
        await p.pick(ask("a"))
        answer = await p.pick(ask("b"))
        assert isinstance(answer, Refused)
        assert answer.status == 429
        p.stop()

    run(scenario)


def test_workers_change_while_requests_wait():
    async def scenario():
        p, _ = pump(slots=1)
        await p.pick(ask("a"))
        second = asyncio.ensure_future(p.pick(ask("b")))
        await asyncio.sleep(0)
        worker = p.add_worker(spec(1))
        assert await second == Placed(worker, (0,))
        p.told(0, Gauges(running=1))
        p.retire(worker)
        p.reported(0, ok=True)
        p.down(0)
        assert (await p.pick(ask("c"))).status == 503
        p.up(0)
        p.stop()

    run(scenario)


def test_names_are_used_once():
    async def scenario():
        p, _ = pump()
        await p.pick(ask("a"))
        with pytest.raises(StateError):
            await p.pick(ask("a"))
        with pytest.raises(StateError):
            await p.pick_again("b")
        assert p.core.audit().reserved == 1
        p.stop()

    run(scenario)


def test_an_error_in_the_core_keeps_nobody_waiting():
    async def scenario():
        p, log = pump(slots=1)
        await p.pick(ask("a"))
        whole, failures = p.core.advance, iter([RuntimeError("once")])

        def advance():
            for error in failures:
                raise error
            return whole()

        p.core.advance = advance
        second = asyncio.ensure_future(p.pick(ask("b")))
        await asyncio.sleep(0)
        p.ended("a", End.FINISHED)
        assert await second == Placed(0)
        assert [each.kind for each in log.of(Fault)] == ["advance"]
        p.stop()

    run(scenario)


@contextlib.contextmanager
def failing(core):
    """Have whatever is taken in fail, once all is done for it."""
    whole = core._driver.take_in

    def take_in(*given, **more):
        whole(*given, **more)
        raise RuntimeError("once")

    core._driver.take_in = take_in
    try:
        yield
    finally:
        core._driver.take_in = whole


@pytest.mark.parametrize(
    ("mode", "slots"), [("pooled", 1), ("immediate", 2)], ids=["held", "placed"]
)
def test_who_cannot_be_taken_in_leaves_nothing(mode, slots):
    async def scenario():
        p, _ = pump(slots=slots, mode=mode)
        await p.pick(ask("a"))
        with failing(p.core), pytest.raises(RuntimeError, match="once"):
            await p.pick(ask("b"))
        found = p.core.audit()
        assert (found.held, found.reserved, found.ended) == (0, 1, {End.DISCONNECTED: 1})
        p.ended("a", End.FINISHED)
        assert await p.pick(ask("b")) == Placed(0)
        assert p.core.audit().balanced
        p.stop()

    run(scenario)


def test_who_comes_back_and_cannot_be_taken_in_leaves_nothing():
    async def scenario():
        p, _ = pump(workers=2)
        await p.pick(ask("a"))
        with failing(p.core), pytest.raises(RuntimeError, match="once"):
            await p.pick_again("a")
        found = p.core.audit()
        assert (found.held, found.reserved, found.balanced) == (0, 0, True)
        p.stop()

    run(scenario)
