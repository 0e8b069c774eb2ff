"""Who is told of events; what fails there keeps nobody from being served."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from integration.picker.events import Fault
from integration.routing.failsafe import named

if TYPE_CHECKING:
    from integration.picker.events import Event, Listener

logger = logging.getLogger("brsolver.picker")
FORGIVEN = 100
"""Errors in a row of a listener, after which it is told no more."""


class Announcer:
    """Tells listeners of events.

    A listener that raises is told of the next event all the same: an event may be at fault. One
    that does nothing else is left out.

    Attributes
    ----------
    listeners : list of Listener
        May be changed at any time.
    """

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self._failures: dict[int, int] = {}

    def emit(self, event: Event) -> None:
        """Tell all."""
        failures = self._failures
        for listener in tuple(self.listeners):
            try:
                listener.event(event)
            except Exception as error:  # noqa: BLE001 # whatever it is, serving must go on
                self._failed(listener, error)
            else:
                if failures:
                    failures.pop(id(listener), None)

    def fault(self, kind: str, text: str) -> None:
        """Tell all that something went wrong."""
        self.emit(Fault(kind, text))

    def _failed(self, listener: Listener, error: Exception) -> None:
        count = self._failures[id(listener)] = self._failures.get(id(listener), 0) + 1
        who = type(listener).__name__
        if count == 1:
            logger.warning("brsolver: %s failed (%s)", who, named(error))
        elif count >= FORGIVEN and listener in self.listeners:
            self.listeners.remove(listener)
            del self._failures[id(listener)]
            logger.warning("brsolver: %s failed %d times in a row: told no more", who, count)
            text = f"{who} failed {count} times in a row ({named(error)}) and is told no more"
            self.fault("listener", text)
