"""The books held against what Envoy has under way, for the audit: while nothing in them changes."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from integration.picker.events import Decided, Ended, Returned, Started

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from integration.picker import Audit, Core
    from integration.picker.events import Event

LOOK_S = 2.0
"""Seconds between two looks."""
LOOKS = 3
"""In a row with a difference that has not become smaller: what is on its way has come by then."""


class _Look(NamedTuple):
    """How a server was found.

    Attributes
    ----------
    changes : int
        Of the books there, so far.
    passed : int
        Requests let pass to it without a reservation, so far.
    beyond : int
        How many requests Envoy has there beyond the books; below 0 if it has fewer.
    times : int
        Looks in a row in which that was so.
    text : str
        The same, in a line.
    """

    changes: int
    passed: int
    beyond: int = 0
    times: int = 0
    text: str = ""


class _Books(NamedTuple):
    """What is at a server by the books: given to it, taken by it; and by its own word, if any."""

    reserved: int
    started: int
    told: int | None

    def plus(self, other: _Books) -> _Books:
        """Return both together."""
        told = None if self.told is None or other.told is None else self.told + other.told
        return _Books(self.reserved + other.reserved, self.started + other.started, told)

    def lack(self, active: int, pardoned: int) -> int:
        """Return how many of Envoy's requests they lack; below 0 if they have too many.

        What is reserved may be on its way; what an engine does not run, as a list of models,
        takes no slot, nor does what was let pass.
        """
        if active < self.started:
            return active - self.started
        there = active if self.told is None else min(active, self.told)
        return max(there - self.reserved - pardoned, 0)


class Comparing:
    """Looks now and then how many requests Envoy has at each server.

    Envoy and the books hear of a request at different moments, and some that Envoy has are of no
    concern to the books: what differs is wrong only if it does so in several looks in a row, some
    seconds apart, and does not become less, while nothing has changed in the books of that server.
    A listener of the core.

    Parameters
    ----------
    core : Core
    active : callable
        Awaited for Envoy's requests by server's address; answers None if Envoy is gone.
    passed : mapping of str to int
        By address, requests that were let pass without a reservation, so far. Nobody tells of
        their ends: so many are not held against the books, since both last agreed.
    look_s : float
        Seconds between two looks.

    Attributes
    ----------
    active : mapping of str to int
        What Envoy had at the last look, by address; empty if it was gone.
    """

    def __init__(
        self,
        core: Core,
        active: Callable[[], Awaitable[Mapping[str, int] | None]],
        passed: Mapping[str, int],
        *,
        look_s: float = LOOK_S,
    ) -> None:
        self._core = core
        self._asked = active
        self._passed = passed
        self._look_s = look_s
        self._changes: Counter[str] = Counter()
        self._agreed: dict[str, int] = {}
        self._looks: dict[str, _Look] = {}
        self.active: Mapping[str, int] = {}

    def event(self, event: Event) -> None:
        """Note where something changes in the books."""
        if isinstance(event, Decided | Started | Returned | Ended) and event.worker >= 0:
            self._changes[self._core.workers[event.worker].spec.address] += 1

    async def run(self) -> None:
        """Look, until cancelled."""
        while True:
            await asyncio.sleep(self._look_s)
            try:
                await self.look()
            except Exception:  # noqa: BLE001 # whatever Envoy answers, the next look may be better
                self.active = {}
                self._looks.clear()

    async def look(self) -> None:
        """Look once, and tell the core's listeners of what has come to be wrong."""
        self.active = await self._asked() or {}
        before, self._looks = self._looks, {}
        quiet = {where for where, seen in before.items() if seen.changes == self._changes[where]}
        # Counting who is where takes time, and where all changes it would tell nothing.
        books = self._by_address() if quiet else {}
        for address, active in self.active.items():
            self._looks[address] = (
                self._compared(address, active, books[address], before[address])
                if address in quiet and address in books
                else self._noted(address)
            )
        for found in self._looks.values():
            if found.times == LOOKS:
                self._core.fault("unbalanced", found.text)

    def audit(self) -> Audit:
        """Return the core's audit with what Envoy has, and what is wrong by that."""
        audit = self._core.audit()
        rows = [
            each if each.state == "gone" else replace(each, at_envoy=self.active.get(each.address))
            for each in audit.workers
        ]
        return replace(audit, workers=tuple(rows), wrong=(*audit.wrong, *self._wrong()))

    def _wrong(self) -> Iterable[str]:
        for address, found in self._looks.items():
            if found.times >= LOOKS and found.changes == self._changes[address]:
                yield found.text

    def _by_address(self) -> dict[str, _Books]:
        """Return what the books and engines have at each server, all its ranks together."""
        found: dict[str, _Books] = {}
        for worker, row in zip(self._core.workers, self._core.audit().workers, strict=True):
            if not worker.gone:
                told = None if worker.gauges is None else worker.gauges.requests
                rank = _Books(row.reserved, row.started, told)
                before = found.get(row.address)
                found[row.address] = rank if before is None else before.plus(rank)
        return found

    def _noted(self, address: str) -> _Look:
        """Return how things stand at a server, without a word on whether that is right."""
        return _Look(self._changes[address], self._passed.get(address, 0))

    def _compared(self, address: str, active: int, books: _Books, last: _Look) -> _Look:
        found = self._noted(address)
        if active <= books.reserved:
            # What was let pass since the last look may have yet to come there.
            self._agreed[address] = last.passed
        beyond = books.lack(active, found.passed - self._agreed.get(address, 0))
        if not beyond:
            return found
        goes_on = beyond >= last.beyond > 0 or beyond <= last.beyond < 0
        return found._replace(
            beyond=beyond,
            times=last.times + 1 if goes_on else 1,
            text=f"{address}: {active} requests are there by Envoy, {books.reserved} by the books",
        )
