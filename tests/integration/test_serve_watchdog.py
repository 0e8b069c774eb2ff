"""A child process that must show signs of life."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys

import pytest

from brsolver.errors import OutputError, ParameterError
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

TAKES = (
    "asyncio.get_running_loop().add_signal_handler("
    "signal.SIGHUP, lambda: (Path({!r}).open('a').write('.'), heart.taken()))"
)


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
async def watched(script=CHILD, prepare=lambda: None, **params):
    told = Told()
    command = [sys.executable, "-c", script]
    child = Watched(command, WatchParams(**params), tell=told, prepare=prepare)
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


def test_child_whose_files_cannot_be_written_is_started_once_they_can():
    full = [False, True, True, False]

    def prepare():
        if full.pop(0):
            raise OutputError("no space left on device")

    async def run():
        async with watched(prepare=prepare) as (child, told):
            await child.start()
            child.signal(signal.SIGKILL)
            await told.until("back")
            assert sum("no space left" in line for line in told.lines) == 2
            assert child.starts == 2

    asyncio.run(run())


def test_what_a_child_was_asked_and_did_not_see_to_is_asked_once_more(tmp_path):
    mark = tmp_path / "asked"
    # Each of the first two ends when it is asked; a third asked would, too.
    ends = CHILD.replace(
        "    heart = ",
        "    def ends():\n"
        f"        open({str(mark)!r}, 'a').write('.')\n"
        "        os._exit(3)\n"
        "    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, ends)\n"
        "    heart = ",
    )

    async def run():
        async with watched("import os\n" + ends) as (child, _):
            await child.start()
            child.ask(signal.SIGHUP)
            async with asyncio.timeout(DEADLINE_S):
                while child.starts < 3 or not child._is_ready:
                    await asyncio.sleep(0)
            assert mark.read_text() == ".."

    asyncio.run(run())


def test_what_a_child_has_seen_to_is_not_asked_again(tmp_path):
    mark = tmp_path / "asked"
    sees = CHILD.replace("    heart.start()", f"    {TAKES.format(str(mark))}\n    heart.start()")

    async def run():
        async with watched("from pathlib import Path\n" + sees) as (child, told):
            await child.start()
            child.ask(signal.SIGHUP)
            async with asyncio.timeout(DEADLINE_S):
                while child._owed is not None:
                    await asyncio.sleep(0)
            child.signal(signal.SIGKILL)
            await told.until("back")
            assert child._owed is None
            child.signal(signal.SIGHUP)
            async with asyncio.timeout(DEADLINE_S):
                while mark.stat().st_size < 2:
                    await asyncio.sleep(0)

    asyncio.run(run())


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
