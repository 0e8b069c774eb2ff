"""Who is told of events; one that fails is left out, and serving goes on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from integration.picker.events import Fault
from integration.routing.failsafe import named

if TYPE_CHECKING:
    from integration.picker.events import Event, Listener

logger = logging.getLogger("brsolver.picker")


class Announcer:
    """Tells listeners of events.

    Attributes
    ----------
    listeners : list of Listener
        May be changed at any time.
    """

    def __init__(self) -> None:
        self.listeners: list[Listener] = []

    def emit(self, event: Event) -> None:
        """Tell all; who raises is told no more."""
        for listener in tuple(self.listeners):
            try:
                listener.event(event)
            except Exception as error:  # noqa: BLE001 # whatever it is, serving must go on
                self._leave_out(listener, error)

    def fault(self, kind: str, text: str) -> None:
        """Tell all that something went wrong."""
        self.emit(Fault(kind, text))

    def _leave_out(self, listener: Listener, error: Exception) -> None:
        if listener in self.listeners:
            self.listeners.remove(listener)
            who = type(listener).__name__
            logger.warning("brsolver: %s failed (%s) and is told no more", who, named(error))
            self.fault("listener", f"{who} failed ({named(error)}) and is told no more")
