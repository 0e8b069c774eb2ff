"""Drives a core from an event loop."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from functools import partial
from math import ceil
from typing import TYPE_CHECKING

from integration.picker.asks import End
from integration.picker.requests import NotEnteredError
from integration.routing.failsafe import named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from integration.picker.asks import Answer, Ask, Gauges, Seen, Usage
    from integration.picker.core import Core
    from integration.picker.params import WorkerSpec
    from integration.picker.resuming import Live

logger = logging.getLogger("brsolver.picker")
AGAIN_S = 0.05
"""After an error, for which nobody who waits may be left waiting."""


class Pump:
    """Calls a core's `advance` when it is time, and lets requests await its answers.

    To be used from within a running event loop, all from the same.

    Parameters
    ----------
    core : Core

    Attributes
    ----------
    core : Core
    """

    def __init__(self, core: Core) -> None:
        self.core = core
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._due = float("inf")
        self._stopped = False
        self._failures = 0

    async def pick(self, ask: Ask) -> Answer:
        """Return where a request goes, or why nowhere, once that is decided.

        Cancelled, or where that fails, whatever was held or reserved for it is let go.

        Raises
        ------
        NotEnteredError
            There is a request of that name.
        """
        return await self._awaited(ask.name, partial(self.ask, ask))

    async def pick_again(self, name: str) -> Answer:
        """Return where a request goes that its worker did not take; see `again`."""
        return await self._awaited(name, partial(self.again, name))

    async def _awaited(
        self, name: str, enter: Callable[[Callable[[Answer], None]], None]
    ) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def answer(given: Answer) -> None:
            if not future.done():
                future.set_result(given)

        enter(answer)
        try:
            return await future
        except asyncio.CancelledError:
            # Decided or not, nobody will hear of it.
            self.ended(name, End.DISCONNECTED)
            raise

    @contextmanager
    def _whole(self, name: str) -> Iterator[None]:
        """Let go of what a request has if it cannot be taken in: whoever asked will not end it."""
        try:
            yield
        except NotEnteredError:
            # The one that is here is somebody else's.
            raise
        except Exception:
            self.ended(name, End.DISCONNECTED)
            raise

    def ask(self, ask: Ask, answer: Callable[[Answer], None]) -> None:
        """Have a request decided about; `answer` is called once, now or later.

        Who waits no longer calls `ended`; where this fails, nothing is left to end.

        Raises
        ------
        NotEnteredError
            There is a request of that name.
        """
        with self._whole(ask.name):
            self.core.request(ask, answer)
        self._run_in(0.0)

    def again(self, name: str, answer: Callable[[Answer], None]) -> None:
        """Have one decided about that its worker did not take; see `Core.again`.

        Raises
        ------
        NotEnteredError
            There is none of that name that has a worker.
        """
        with self._whole(name):
            self.core.again(name, answer)
        self._run_in(0.0)

    def started(self, name: str, worker: int) -> None:
        """See `Core.started`."""
        self.core.started(name, worker)
        self._run_in(0.0)

    def first_token(self, name: str) -> None:
        """See `Core.first_token`."""
        self.core.first_token(name)

    def sampled(self, name: str, seen: Seen) -> None:
        """See `Core.sampled`."""
        self.core.sampled(name, seen)

    def ended(
        self, name: str, end: End, usage: Usage | None = None, *, seen: Seen | None = None
    ) -> bool:
        """See `Core.ended`; `seen` is what the proxy saw of the answer."""
        if seen is not None:
            self.core.sampled(name, seen, last=True)
        known = self.core.ended(name, end, usage)
        self._run_in(0.0)
        return known

    def rebuild(self, live: Iterable[Live]) -> int:
        """See `Core.rebuild`."""
        count = self.core.rebuild(live)
        self._run_in(0.0)
        return count

    def told(self, worker: int, gauges: Gauges) -> None:
        """See `Core.told`."""
        self.core.told(worker, gauges)
        self._run_in(0.0)

    def reported(self, worker: int, *, ok: bool, why: str = "") -> None:
        """See `Core.reported`."""
        self.core.reported(worker, ok=ok, why=why)
        self._run_in(0.0)

    def add_worker(self, spec: WorkerSpec) -> int:
        """See `Core.add_worker`."""
        worker = self.core.add_worker(spec)
        self._run_in(0.0)
        return worker

    def keep(self, worker: int, spec: WorkerSpec) -> bool:
        """See `Core.keep`."""
        kept = self.core.keep(worker, spec)
        self._run_in(0.0)
        return kept

    def retire(self, worker: int, why: str = "") -> None:
        """See `Core.retire`."""
        self.core.retire(worker, why)
        self._run_in(0.0)

    def down(self, worker: int, why: str = "") -> None:
        """See `Core.down`."""
        self.core.down(worker, why)
        self._run_in(0.0)

    def up(self, worker: int, why: str = "") -> None:
        """See `Core.up`."""
        self.core.up(worker, why)
        self._run_in(0.0)

    def stop(self) -> None:
        """Call the core no more by time; who waits is not answered any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _run_in(self, delay_s: float) -> None:
        """Have the core move on after a while, if not sooner."""
        loop = asyncio.get_running_loop()
        due = loop.time() + delay_s
        if self._stopped or due >= self._due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        # All that comes in the same turn is decided about together. Loops that count whole
        # milliseconds round down, and would come round without end just before it is time.
        after_s = ceil(delay_s * 1000) / 1000
        later = loop.call_later(after_s, self._run) if delay_s else loop.call_soon(self._run)
        self._timer = later

    def _run(self) -> None:
        self._timer, self._due = None, float("inf")
        try:
            delay_s = self.core.advance()
        except Exception as error:
            delay_s = AGAIN_S
            self._failures += 1
            if self._failures == 1:
                logger.exception("brsolver: the picker failed; further errors are only counted")
            self.core.fault("advance", named(error))
        if delay_s is not None:
            self._run_in(delay_s)
