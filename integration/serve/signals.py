"""Signals as events of an event loop."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class Signals:
    """Takes over SIGTERM, SIGINT and SIGHUP while its context is entered.

    Attributes
    ----------
    stop : asyncio.Event
        Set by the first SIGTERM or SIGINT: end in order.
    now : asyncio.Event
        Set by the second: end at once.
    reload : asyncio.Event
        Set by SIGHUP; whoever acts on it clears it.
    """

    def __init__(self) -> None:
        self.stop, self.now, self.reload = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._taken: list[int] = []

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
            self._taken.append(number)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)
        self._taken.append(signal.SIGHUP)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        for number in self._taken:
            loop.remove_signal_handler(number)
        self._taken.clear()

    def _asked_to_stop(self) -> None:
        if self.stop.is_set():
            self.now.set()
        self.stop.set()
