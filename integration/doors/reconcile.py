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

LOOKS = 5
"""Times that Envoy is asked at most after a break."""


class Reconciler:
    """Holds the books against Envoy's figures after a log stream broke.

    Entries that were under way are lost then, and with Envoy all its streams. What the books have
    at a worker beyond what Envoy has there, in two looks in a row, has ended: the oldest did.

    Parameters
    ----------
    ledger : Ledger
    fleet : Fleet
    active : callable
        Awaited for Envoy's requests by worker's address; answers None if Envoy is gone.
    grace_s : float
        Seconds before the first look, and between two.

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
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self._again:
            self._again = False
            await self._look_repeatedly(set(self._ledger.places))

    async def _look_repeatedly(self, suspects: set[str]) -> None:
        """End what is beyond Envoy's figures in two looks in a row."""
        before: Counter[str] = Counter()
        for _ in range(LOOKS):
            await asyncio.sleep(self._grace_s)
            suspects &= self._ledger.places.keys()
            if not suspects:
                return
            active = await self._active()
            # Some may have ended while Envoy was asked.
            suspects &= self._ledger.places.keys()
            beyond = self._beyond(active or {}, suspects)
            for address, count in (beyond & before).items():
                self._end(address, suspects, count)
            before = beyond
            if not beyond:
                return

    def _beyond(self, active: Mapping[str, int], suspects: set[str]) -> Counter[str]:
        """Return by address how many requests the books have there that Envoy has not."""
        there = Counter(self._where(name) for name in self._ledger.places)
        old = Counter(self._where(name) for name in suspects)
        excess = {a: min(there[a] - active.get(a, 0), old[a]) for a in old}
        return Counter({address: count for address, count in excess.items() if count > 0})

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
