"""The workers that decode: they come and go by settings, by a source, and by hand."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from brsolver.errors import OutputError
from integration.admin.fleet import CoreFleet
from integration.picker.events import WorkerChanged
from integration.serve.following import Following
from integration.serve.lookup import by_number
from integration.serve.wanted import Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from integration.doors.endpoints import Source
    from integration.doors.fleet import Fleet
    from integration.picker import Core, WorkerSpec
    from integration.picker.events import Event
    from integration.serve.by_hand import ByHand
    from integration.serve.sources import Found

AGAIN_S = 1.0
"""After which what could not be written is tried again."""


class Membership(CoreFleet):
    """Workers come and go: by settings, by a source, by hand.

    Parameters
    ----------
    core : Core
    fleet : Fleet
    changed : callable
        Told the addresses that Envoy must know, whenever these may have changed.
    hands : ByHand, optional
        What was added and drained by hand, by a picker before this one too.
    others : Fleet, optional
        Workers that compute prompts for these.
    """

    def __init__(
        self,
        core: Core,
        fleet: Fleet,
        *,
        changed: Callable[[Sequence[str]], object],
        hands: ByHand | None = None,
        others: Fleet | None = None,
    ) -> None:
        super().__init__(core)
        self._changed = changed
        self._told = True
        self._wanted = Wanted(fleet, hands, others=others)
        self._following = Following(self.set, fault=partial(core.fault, "source"))

    def follow(self, source: Source | None) -> None:
        """Take workers from a source from now on, besides those added by hand."""
        self._following.follow(source)

    def take(self, found: Found) -> None:
        """Have the workers that settings name by now, and follow what they name.

        Raises
        ------
        ParameterError
            One of them cannot be; then nothing is changed.
        """
        if found.specs is not None:
            self.set(found.specs)
        self.follow(found.source)

    async def stop(self) -> None:
        """Follow no source any more."""
        await self._following.stop()

    def set(self, named: Sequence[WorkerSpec]) -> None:
        """Have these workers, and those added by hand; all others drain.

        Raises
        ------
        ParameterError
            One of them cannot be; then nothing is changed.
        """
        found = [by_number(spec) for spec in named]
        for spec in found:
            self._core.workers.check(spec)
        self._wanted.set(found)
        self._tell()

    def event(self, event: Event) -> None:
        """Take in an event of the core: a worker that is gone is gone for Envoy too."""
        if isinstance(event, WorkerChanged):
            asyncio.get_running_loop().call_soon(self._tell)

    def restore(self) -> None:
        """Do again what was done by hand under a picker before this one."""
        if self._wanted.restore():
            self._tell()

    async def add(self, spec: WorkerSpec) -> str:
        """Add a worker, for Envoy too; return what it is called.

        Raises
        ------
        ParameterError
            There is one at its address already, or of its name elsewhere, or it has more slots
            than a step has tokens.
        """
        spec = await asyncio.to_thread(by_number, spec)
        # What is noted is done again by every picker after this one: it must be sound.
        self._core.workers.check(spec)
        name = self._wanted.add(spec)
        self._tell()
        return name

    async def drain(self, name: str) -> None:
        """Send a worker nothing more; when it is empty it is gone, for Envoy too.

        Raises
        ------
        UnknownNameError
            There is no worker of that name.
        """
        found = self.find(name)
        if not found.draining:
            self._wanted.drain(found.spec)
            self._tell()

    def _tell(self) -> None:
        """Tell who there is; again in a while where that cannot be written, which is said once."""
        there = [each.spec.address for each in self._core.workers if not each.gone]
        try:
            self._changed(list(dict.fromkeys(there)))
        except OutputError as error:
            # The core has them already, and a disk is not full for ever.
            if self._told:
                self._core.fault("endpoints", str(error))
            self._told = False
            asyncio.get_running_loop().call_later(AGAIN_S, self._tell)
        else:
            self._told = True
