"""Streams out of which nobody need read what they took: it was not asked for, and does not come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from integration.picker.asks import End
from integration.picker.bodies import usage_on_demand
from integration.picker.events import Ended, Refusal

if TYPE_CHECKING:
    from integration.picker.bodies import Body
    from integration.picker.events import Event

EVERY = 16
"""Of so many streams that do not ask, one is read all the same."""
_MOST_KEPT = 1024


class Unread:
    """Chooses streams that the proxy need not read, each event of which costs it time.

    Engines may say what a stream took though it does not ask, if they were started so. So all are
    read until one has ended without a word of it, and then one of `EVERY`; once one did say it,
    all are read for good. A listener of the core.

    Parameters
    ----------
    mark : str
        What the names of those end with that need not be read, and of no others.

    Attributes
    ----------
    unasked : bool or None
        Whether engines say it unasked; None while nobody knows.
    """

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._tries: dict[str, None] = {}
        self._passed = 0
        self.unasked: bool | None = None

    def named(self, name: str, path: str, body: Body) -> str:
        """Return the name of a request, marked if its answer need not be read."""
        if self.unasked or not body.stream or body.include_usage or not usage_on_demand(path):
            return name
        if self.unasked is False:
            self._passed = (self._passed + 1) % EVERY
            if self._passed:
                return name + self._mark
        self._try(name)
        return name

    def event(self, event: Event) -> None:
        """Take in whether one that was read had anything to say."""
        if isinstance(event, Refusal):
            self._tries.pop(event.name, None)
        elif isinstance(event, Ended) and event.name in self._tries:
            del self._tries[event.name]
            self._learn(event)

    def _learn(self, ended: Ended) -> None:
        usage = ended.usage
        if usage is not None and usage.completion_tokens is not None:
            self.unasked = True
        elif ended.end is End.FINISHED and self.unasked is None:
            self.unasked = False

    def _try(self, name: str) -> None:
        self._tries[name] = None
        if len(self._tries) > _MOST_KEPT:
            # Read, and then asked for of nobody.
            del self._tries[next(iter(self._tries))]
