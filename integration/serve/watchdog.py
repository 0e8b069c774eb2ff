"""A child process that must show signs of life, or is ended and started anew.

The child writes a byte to its standard output whenever its event loop comes round (`Heart`). A loop
that is blocked cannot, so the owner sees silence and kills the process: whoever waits for an answer
sees its connection break, which is far better than silence. The child's standard input is held open
by its owner: its end tells the child that nobody watches any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brsolver.errors import BrsolverError, ParameterError
from integration.serve.starving import Spent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

READY = b"R"
BEAT = b"."
TAKEN = b"T"
"""What a signal asked for has been seen to."""
BEAT_S = 0.2
"""Seconds between signs of life."""
_GRACE_S = 0.2
"""A process that was itself stopped for a while finds the time over and the beats unread."""
_STARVED = 10
"""How many times as long a child may be silent that gets no processor."""
_SHORT_S = 10.0
"""A child that lived for less is started again only after a while."""
_LONGEST_WAIT_S = 5.0


class ChildError(BrsolverError, RuntimeError):
    """A watched process ended before it was ready.

    Attributes
    ----------
    status : int or None
        Its exit status.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchParams:
    """How a child is watched.

    Attributes
    ----------
    freeze_s : float
        Seconds without a sign of life after which it is killed, not counting those for which it
        got no processor (`integration.serve.starving`, on Linux), up to ten times as many.
    start_s : float
        Seconds until it must be ready; it may compile kernels before that.
    """

    freeze_s: float = 2.0
    start_s: float = 300.0

    def __post_init__(self) -> None:
        if not self.freeze_s > 2 * BEAT_S:
            raise ParameterError(
                f"freeze_s is {self.freeze_s:g}, must be more than {2 * BEAT_S:g} s, which two "
                "signs of life take"
            )
        if not self.start_s > 0:
            raise ParameterError(f"start_s is {self.start_s:g}, must be positive")


class Watched:
    """A command that is kept running.

    Parameters
    ----------
    command : sequence of str
    params : WatchParams
    tell : callable
        Takes one line whenever the child is killed or has ended.
    prepare : callable, optional
        Called before each start, for what the child must find; may raise `OutputError`.

    Attributes
    ----------
    pid : int or None
        Of the child that runs now.
    starts : int
        How often it was started.
    """

    def __init__(
        self,
        command: Sequence[str],
        params: WatchParams,
        *,
        tell: Callable[[str], None],
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        self._command, self._params, self._tell = list(command), params, tell
        self._prepare = prepare
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = self._is_ready = False
        self._owed: int | None = None
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start it and wait until it is ready; from then on it is watched.

        Raises
        ------
        ChildError
            If it ends before that, or takes too long. It has said why by itself.
        OutputError
            What it must find cannot be written.
        """
        await self._spawn()
        if not await self._ready():
            code = await self._end()
            raise ChildError(f"the picker ended while starting, exit status {code}", code)
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self, *, grace_s: float = 10.0) -> None:
        """End it in order, or after `grace_s` for good. Does nothing the second time."""
        self._stopping = True
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        process = self._process
        if process is not None and process.returncode is None:
            self._send(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._drained()
        await self._end()

    def signal(self, number: int) -> None:
        """Send the child a signal, unless it has ended or is not ready.

        One that is being started sees all as it is by then, and might not outlive a signal that it
        does not handle yet.
        """
        if self._is_ready:
            self._send(number)

    def ask(self, number: int) -> None:
        """Send the child a signal whose like it answers by `TAKEN`, or the next one, once more.

        No more often: what it asks for may be what ended the first.
        """
        self._owed = number
        self.signal(number)

    def _send(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            # The process's own method would look whether it has ended, and so take its exit
            # status away from whoever waits for it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    async def _spawn(self) -> None:
        self._is_ready = False
        self._prepare()
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # What a terminal sends to all is for its owner, who ends it in order.
            start_new_session=True,
        )
        self.starts += 1

    async def _ready(self) -> bool:
        """Wait for the sign that it is ready; signs of life before that are none."""
        try:
            async with asyncio.timeout(self._params.start_s):
                while said := await self._output.read(1024):
                    if READY in said:
                        self._is_ready = True
                        self._ask_again()
                        return True
        except TimeoutError:
            self._tell(f"the picker was not ready within {self._params.start_s:g} s")
        return False

    def _ask_again(self) -> None:
        owed, self._owed = self._owed, None
        if owed is not None:
            self._send(owed)

    async def _keep(self) -> None:
        wait_s = 0.0
        while not self._stopping:
            began = time.monotonic()
            why = await self._life()
            code = await self._end()
            self._tell(f"the picker {why} (exit status {code}); starting another")
            wait_s = (
                0.0
                if time.monotonic() - began > _SHORT_S
                else min(_LONGEST_WAIT_S, 2 * wait_s + 0.1)
            )
            await self._again(wait_s)

    async def _again(self, wait_s: float) -> None:
        """Start another, however often that takes."""
        while True:
            await asyncio.sleep(wait_s)
            try:
                await self._spawn()
            except OSError as error:
                # The disk may be full for a while, or there be too many processes.
                self._tell(f"the picker cannot be started: {error}")
            else:
                if await self._ready():
                    self._tell("the picker is back")
                    return
                await self._end()
            wait_s = min(_LONGEST_WAIT_S, 2 * wait_s + 0.1)

    async def _life(self) -> str:
        """Return, once it is over, how it ended."""
        while True:
            said = await self._sign()
            if said is None:
                self._send(signal.SIGKILL)
                return f"showed no sign of life for {self._params.freeze_s:g} s and was killed"
            if not said:
                return "ended"

    async def _sign(self) -> bytes | None:
        """Return its next sign of life; nothing if it has ended, None if it is frozen."""
        pid, began = self.pid or 0, time.monotonic()
        before, limit_s = Spent.of(pid), self._params.freeze_s
        while True:
            said = await self._said(max(_GRACE_S, began + limit_s - time.monotonic()))
            if said is None:
                # Its beats may be there, unread, if this process could not run either.
                said = await self._said(_GRACE_S)
            now, elapsed_s = Spent.of(pid), time.monotonic() - began
            if said is not None or before is None or now is None:
                return said
            limit_s = self._params.freeze_s + now.waited_since(before, elapsed_s)
            if elapsed_s >= min(limit_s, _STARVED * self._params.freeze_s):
                return None

    async def _said(self, seconds: float) -> bytes | None:
        """Return what it wrote; nothing if it has ended, None if it said nothing in time."""
        try:
            async with asyncio.timeout(seconds):
                said = await self._output.read(1024)
        except TimeoutError:
            return None
        if TAKEN in said:
            self._owed = None
        return said

    async def _drained(self) -> None:
        while await self._output.read(1024):
            pass
        if self._process is not None:
            await self._process.wait()

    async def _end(self) -> int | None:
        """End it for good if it has not ended; return its exit status."""
        process = self._process
        if process is None:
            return None
        with contextlib.suppress(TimeoutError):
            # It may be about to end by itself, with a status of its own.
            async with asyncio.timeout(_GRACE_S):
                await process.wait()
        self._send(signal.SIGKILL)
        self._process = None
        if process.stdin is not None:
            process.stdin.close()
        if process.stdout is not None:
            # A pipe that nobody reads to its end keeps its transport open.
            while await process.stdout.read(65536):
                pass
        return await process.wait()

    @property
    def _output(self) -> asyncio.StreamReader:
        if self._process is None or self._process.stdout is None:
            raise ChildError("no process runs")
        return self._process.stdout


class Heart:
    """The child's side: signs of life, and notice of the owner's death.

    Parameters
    ----------
    orphaned : callable
        Called once if the owner has gone.
    """

    def __init__(self, orphaned: Callable[[], None]) -> None:
        self._orphaned = orphaned
        # Whatever else this process prints must not pass for a sign of life.
        self._signs = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._tasks: list[asyncio.Task[None]] = []

    def hand_back(self) -> None:
        """Give the standard output back that signs go to: another takes this process's place."""
        os.dup2(self._signs, sys.stdout.fileno())

    def start(self) -> None:
        """Say that all is ready, and go on showing signs of life."""
        self._show(READY)
        self._tasks = [asyncio.create_task(self._beat()), asyncio.create_task(self._owner())]

    def taken(self) -> None:
        """Say that what a signal asked for has been seen to."""
        self._show(TAKEN)

    async def stop(self) -> None:
        """Show none any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            self._show(BEAT)

    async def _owner(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        try:
            while await reader.read(1024):
                pass
            self._orphaned()
        finally:
            transport.close()

    def _show(self, sign: bytes) -> None:
        # The owner may have gone; its end of the other pipe says so in order.
        with contextlib.suppress(OSError):
            os.write(self._signs, sign)


async def first_of(*waits: Awaitable[object]) -> int:
    """Wait for whichever ends first, cancel the others, return its place."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(place for place, task in enumerate(tasks) if task.done())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
