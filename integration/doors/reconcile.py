"""What becomes of requests whose end the access log never tells: Envoy ended, or its log broke."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from integration.picker import End

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from integration.doors.fleet import Fleet
    from integration.doors.ledger import Ledger

LOOKS = 30
"""Looks in a row with nothing wrong, after a break, with which it is over."""


class Reconciler:
    """Holds the books against Envoy's figures after a log stream broke.

    Entries that were under way are lost then, those that follow until Envoy has a stream again,
    and with Envoy all that it had. If more requests that are not new have begun at a worker than
    Envoy has there, new ones included, in two looks in a row, the oldest have ended.

    Parameters
    ----------
    ledger : Ledger
    fleet : Fleet
    active : callable
        Awaited for Envoy's requests by worker's address; answers None if Envoy is gone.
    grace_s : float
        Seconds before the first look, and between two; younger requests are not suspected.

    Attributes
    ----------
    closed : int
        Requests that were ended so.
    """

    def __init__(
        self,
        ledger: Ledger,
        fleet: Fleet,
        active: Callable[[], Awaitable[Mapping[str, int] | None]],
        *,
        grace_s: float = 1.0,
    ) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._active = active
        self._grace_s = grace_s
        self._task: asyncio.Task[None] | None = None
        self._again = False
        self.closed = 0

    def broken(self) -> None:
        """Note that a log stream broke; looks follow by themselves."""
        self._again = True
        self.watch()

    def watch(self) -> None:
        """Look, until nothing is wrong and all has ended that was taken over from before."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        clean, before = 0, Counter[str]()
        suspects = set(self._ledger.places)
        while clean < LOOKS or self._ledger.before:
            self._again = False
            await asyncio.sleep(self._grace_s)
            active = await self._active()
            # Some may have ended while Envoy was asked.
            suspects &= self._ledger.places.keys()
            beyond = self._beyond(active, suspects)
            for address, count in (beyond & before).items():
                self._end(address, suspects, count)
            before, suspects = beyond, set(self._ledger.places)
            clean = 0 if beyond or self._again else clean + 1

    def _beyond(self, active: Mapping[str, int] | None, suspects: set[str]) -> Counter[str]:
        """Return by address how many of these requests have surely ended."""
        places = self._ledger.places
        old = Counter(self._where(n) for n in suspects if active is None or places[n].started)
        return old - Counter(active or {})

    def _where(self, name: str) -> str:
        return self._fleet.specs[self._ledger.places[name].worker].address

    def _end(self, address: str, suspects: set[str], count: int) -> None:
        # Places stand in the order in which they were given: the oldest are the first.
        found = [n for n in self._ledger.places if n in suspects and self._where(n) == address]
        for name in found[:count]:
            # Its worker is not to blame: after some resets it would be taken to be down.
            self._ledger.ended(name, End.DISCONNECTED)
            suspects.discard(name)
            self.closed += 1
