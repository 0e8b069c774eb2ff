"""A child process that must show signs of life."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys

import pytest

from brsolver.errors import ParameterError
from integration.serve import watchdog
from integration.serve.starving import Spent
from integration.serve.watchdog import ChildError, Watched, WatchParams

DEADLINE_S = 120
LOOKS = 3
CHILD = """
import asyncio, signal
from integration.serve.watchdog import Heart

async def main():
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    heart = Heart(over.set)
    heart.start()
    await over.wait()
    await heart.stop()

asyncio.run(main())
"""


class Told:
    """Lines as they come; a test waits for the one it wants."""

    def __init__(self):
        self.lines = []
        self._came = asyncio.Event()

    def __call__(self, line):
        self.lines.append(line)
        self._came.set()

    async def until(self, word):
        async with asyncio.timeout(DEADLINE_S):
            while not any(word in line for line in self.lines):
                self._came.clear()
                await self._came.wait()


@contextlib.asynccontextmanager
async def watched(script=CHILD, **params):
    told = Told()
    child = Watched([sys.executable, "-c", script], WatchParams(**params), tell=told)
    try:
        yield child, told
    finally:
        await child.stop()


def test_killed_child_is_started_again():
    async def run():
        async with watched() as (child, told):
            await child.start()
            first = child.pid
            child.signal(signal.SIGKILL)
            await told.until("back")
            assert child.starts == 2
            assert child.pid not in {None, first}

    asyncio.run(run())


def test_child_that_starts_gets_no_signal_that_it_cannot_handle_yet():
    handles = CHILD.replace(
        "    heart = ",
        "    loop = asyncio.get_running_loop()\n"
        "    loop.add_signal_handler(signal.SIGHUP, print)\n    heart = ",
    )

    async def scenario():
        async with watched(handles) as (child, told):
            await child.start()
            child.signal(signal.SIGKILL)
            async with asyncio.timeout(DEADLINE_S):
                while not any("is back" in line for line in told.lines):
                    child.signal(signal.SIGHUP)
                    await asyncio.sleep(0)
            assert child.starts == 2

    asyncio.run(scenario())


def test_frozen_child_is_killed_and_started_again():
    async def run():
        async with watched(freeze_s=1.0) as (child, told):
            await child.start()
            child.signal(signal.SIGSTOP)
            await told.until("back")
            assert "no sign of life" in told.lines[0]
            assert child.starts == 2

    asyncio.run(run())


def test_child_without_a_processor_is_not_frozen(monkeypatch):
    """While it is silent it waits for a processor, as all looks but the last tell."""
    heard, looks = [], []
    whole = Watched._said

    async def said(self, seconds):
        heard.append(await whole(self, seconds))
        return heard[-1]

    def starved(pid):
        if heard and heard[-1] is None:
            looks.append(pid)
        return Spent(computing_s=0.0, waiting_s=0.0, ready=len(looks) < LOOKS)

    monkeypatch.setattr(Watched, "_said", said)
    monkeypatch.setattr(Spent, "of", starved)
    # However late this process itself comes to look.
    monkeypatch.setattr(watchdog, "_STARVED", 1e6)

    async def run():
        async with watched(freeze_s=0.5) as (child, told):
            await child.start()
            pid = child.pid
            child.signal(signal.SIGSTOP)
            await told.until("no sign of life")
            assert looks == [pid] * LOOKS

    asyncio.run(run())


def test_child_that_never_gets_a_processor_is_ended_at_last(monkeypatch):
    monkeypatch.setattr(Spent, "of", lambda pid: Spent(0.0, 0.0, ready=True))

    async def run():
        async with watched(freeze_s=0.5) as (child, told):
            await child.start()
            child.signal(signal.SIGSTOP)
            await told.until("no sign of life")

    asyncio.run(run())


def test_blocked_event_loop_is_frozen_too(tmp_path):
    # The process is alive and would even take a signal, but its loop never comes round.
    blocks_once = CHILD.replace(
        "    await over.wait()",
        f"""    mark = pathlib.Path({str(tmp_path / "mark")!r})
    if not mark.exists():
        mark.touch()
        signal.pause()
    await over.wait()""",
    )

    async def run():
        async with watched("import pathlib\n" + blocks_once, freeze_s=1.0) as (child, told):
            await child.start()
            await told.until("back")
            assert child.starts == 2

    asyncio.run(run())


def test_child_that_ends_while_starting_is_an_error():
    async def run():
        async with watched("raise SystemExit(2)") as (child, _):
            with pytest.raises(ChildError, match="exit status 2"):
                await child.start()

    asyncio.run(run())


def test_child_that_is_never_ready_is_an_error():
    async def run():
        async with watched("import sys; sys.stdin.read()", start_s=0.5) as (child, _):
            with pytest.raises(ChildError):
                await child.start()

    asyncio.run(run())


def test_child_ends_when_its_owner_has_gone():
    async def run():
        async with watched() as (child, told):
            await child.start()
            child._process.stdin.close()
            await told.until("ended")

    asyncio.run(run())


def test_stop_is_in_order_and_leaves_nothing():
    async def run():
        async with watched() as (child, told):
            await child.start()
            await child.stop()
            assert child.pid is None
            assert told.lines == []

    asyncio.run(run())


@pytest.mark.parametrize("bad", [{"freeze_s": 0.1}, {"start_s": 0}])
def test_parameters_are_checked(bad):
    with pytest.raises(ParameterError, match=next(iter(bad))):
        WatchParams(**bad)
