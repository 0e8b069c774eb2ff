"""Requests on their way: each at its time, after the turn before it, or as clients are free.

Latency counts from when a request was to be sent. A load that only measures from when it got to
sending leaves out the waiting of just those requests that a slow server held up ("coordinated
omission").
"""

from __future__ import annotations

import asyncio
import heapq
import time
from typing import TYPE_CHECKING, Protocol

import numpy as np

from integration.load.replies import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from integration.load.bodies import Bodies
    from integration.load.schedule import Schedule


class Asks(Protocol):
    """What requests are sent by."""

    async def ask(self, body: bytes, reply: Reply) -> None:
        """Send a request and note what came of it."""
        ...


class Drive:
    """Requests of a trace, sent by a schedule.

    Parameters
    ----------
    schedule : Schedule
    bodies : Bodies
    asker : Asks

    Attributes
    ----------
    replies : list of Reply
        Of all requests that were begun, in the order in which they ended.
    under_way : dict of int to Reply
        Those that were begun and did not end, by row.
    began_s : float
        When the schedule began, by the monotonic clock.
    """

    def __init__(self, schedule: Schedule, bodies: Bodies, asker: Asks) -> None:
        self._schedule, self._bodies, self._asker = schedule, bodies, asker
        self._followers = schedule.followers
        self.replies: list[Reply] = []
        self.under_way: dict[int, Reply] = {}
        self.began_s = 0.0

    @property
    def total(self) -> int:
        """Requests of the schedule."""
        return len(self._schedule)

    async def run(self) -> None:
        """Send all of it and wait for the last answer.

        Cancelled, it cancels what is under way; that stands in `replies` as interrupted.
        """
        self.began_s = time.monotonic()
        if self._schedule.concurrency is None:
            await self._open()
        else:
            await self._closed(self._schedule.concurrency)

    async def _open(self) -> None:
        due = self._schedule.due_s.tolist()
        first = (row for row in range(self.total) if self._schedule.previous[row] < 0)
        async with asyncio.TaskGroup() as group:
            for row in first:
                # Written before it is waited for, so that this takes nobody's time.
                body, at = self._bodies.of(row), self.began_s + due[row]
                await asyncio.sleep(max(0.0, at - time.monotonic()))
                group.create_task(self._turns(group, row, at, body))

    async def _turns(self, group: asyncio.TaskGroup, row: int, due_s: float, body: bytes) -> None:
        """Send a request, and have those that follow it sent."""
        reply = await self._one(row, due_s, body)
        for each in self._followers.get(row, ()):
            group.create_task(self._follow(group, each, reply.end_s))

    async def _follow(self, group: asyncio.TaskGroup, row: int, after_s: float) -> None:
        body, at = self._bodies.of(row), after_s + float(self._schedule.delay_s[row])
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        await self._turns(group, row, at, body)

    async def _closed(self, clients: int) -> None:
        """Let clients take the first request of the trace that can be taken, again and again."""
        first = np.flatnonzero(self._schedule.previous < 0).tolist()
        queue, ahead = _Queue(self.total, first), _Ahead(self._bodies, first, clients)
        ahead.fill()
        self.began_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(ahead.run())
            for _ in range(min(clients, self.total)):
                group.create_task(self._client(queue, ahead))

    async def _client(self, queue: _Queue, ahead: _Ahead) -> None:
        while (row := await queue.take()) is not None:
            free_s = time.monotonic()
            await self._one(row, free_s, ahead.of(row))
            await queue.give(self._followers.get(row, ()))

    async def _one(self, row: int, due_s: float, body: bytes) -> Reply:
        trace = self._bodies.trace
        reply = Reply(
            row=row,
            wanted=int(trace.output_tokens[row]),
            prompt_tokens=int(trace.prompt_tokens[row]),
            due_s=due_s,
        )
        self.under_way[row] = reply
        try:
            await self._asker.ask(body, reply)
        finally:
            del self.under_way[row]
            self.replies.append(reply)
        return reply


class _Queue:
    """Requests that can be taken, the first of the trace first; others come as turns end."""

    def __init__(self, total: int, ready: list[int]) -> None:
        self._left, self._ready = total, ready
        self._changed = asyncio.Condition()

    async def take(self) -> int | None:
        """Return a request, once there is one; None when all are taken."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._ready or not self._left)
            if not self._left:
                return None
            self._left -= 1
            return heapq.heappop(self._ready)

    async def give(self, rows: Iterable[int]) -> None:
        """Let requests be taken, and those who wait look again."""
        async with self._changed:
            for row in rows:
                heapq.heappush(self._ready, row)
            self._changed.notify_all()


class _Ahead:
    """Bodies of requests that come next, written before a client is free to send them.

    Where many begin at once, each would else wait for the writing of all the others.
    """

    def __init__(self, bodies: Bodies, rows: Iterable[int], most: int) -> None:
        self._bodies, self._rows, self._most = bodies, iter(rows), most
        self._kept: dict[int, bytes] = {}
        self._sooner: set[int] = set()
        self._taken = asyncio.Event()
        self._all = False

    def of(self, row: int) -> bytes:
        self._taken.set()
        if row in self._kept:
            return self._kept.pop(row)
        self._sooner.add(row)
        return self._bodies.of(row)

    def fill(self) -> None:
        while self._one():
            pass

    async def run(self) -> None:
        """Write on as bodies are taken, one at a time; others come in between."""
        while not self._all:
            await self._taken.wait()
            self._taken.clear()
            while self._one():
                await asyncio.sleep(0)

    def _one(self) -> bool:
        if len(self._kept) >= self._most or self._all:
            return False
        row = next((each for each in self._rows if each not in self._sooner), None)
        self._all = row is None
        if row is not None:
            self._kept[row] = self._bodies.of(row)
        return not self._all


class Watch:
    """Looks at the event loop while a load runs: how late it wakes, and how busy it is.

    Parameters
    ----------
    often : callable
        Called about twice a second.

    Attributes
    ----------
    lags_s : list of float
        By how much each look came late, in seconds.
    busy : float
        Processor time over time, of this process.
    """

    LOOK_S = 0.02
    PER_CALL = 25

    def __init__(self, often: Callable[[], None]) -> None:
        self._often = often
        self.lags_s: list[float] = []
        self.busy = 0.0

    async def run(self) -> None:
        """Look until cancelled."""
        began, used = time.monotonic(), time.process_time()
        while True:
            due = time.monotonic() + self.LOOK_S
            await asyncio.sleep(self.LOOK_S)
            now = time.monotonic()
            self.lags_s.append(now - due)
            self.busy = (time.process_time() - used) / max(now - began, 1e-9)
            if len(self.lags_s) % self.PER_CALL == 0:
                self._often()
