"""The workers that decode: they come and go by settings, by a source, and by hand."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from brsolver.errors import BrsolverError, ParameterError
from integration.admin.fleet import CoreFleet
from integration.picker.events import WorkerChanged
from integration.serve.by_hand import ByHand
from integration.serve.following import Following
from integration.serve.lookup import by_number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from integration.doors.endpoints import Source
    from integration.doors.fleet import Fleet
    from integration.picker import Core, WorkerSpec
    from integration.picker.events import Event
    from integration.serve.sources import Found


def _place(spec: WorkerSpec) -> tuple[str, int | None]:
    return spec.address, spec.rank


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
    """

    def __init__(
        self,
        core: Core,
        fleet: Fleet,
        *,
        changed: Callable[[Sequence[str]], object],
        hands: ByHand | None = None,
    ) -> None:
        super().__init__(core)
        self._fleet, self._changed = fleet, changed
        self._hands = ByHand() if hands is None else hands
        self._named: tuple[WorkerSpec, ...] = tuple(fleet.specs)
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
        found = tuple(by_number(spec) for spec in named)
        for spec in found:
            self._core.workers.check(spec)
        self._named = found
        self._hands.forget_left(found)
        self._apply()

    def event(self, event: Event) -> None:
        """Take in an event of the core: a worker that is gone is gone for Envoy too."""
        if isinstance(event, WorkerChanged):
            asyncio.get_running_loop().call_soon(self._tell_or_say)

    def restore(self) -> None:
        """Do again what was done by hand under a picker before this one."""
        if self._hands:
            self._apply()

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
        if self._fleet.worker(spec.address, spec.rank) is not None:
            raise ParameterError(f"address is {spec.address!r}, where there is a worker already")
        self._check_name(spec)
        self._hands.add(spec)
        self._apply()
        worker = self._fleet.worker(spec.address, spec.rank)
        return spec.name if worker is None else self._fleet.specs[worker].name

    async def drain(self, name: str) -> None:
        """Send a worker nothing more; when it is empty it is gone, for Envoy too.

        Raises
        ------
        UnknownNameError
            There is no worker of that name.
        """
        found = self.find(name)
        if found.draining:
            return
        # It may have been renamed; whoever named it is to know that it drains.
        self._hands.drain(self._given(found.spec) or name, found.spec.uid)
        self._apply()

    def _apply(self) -> None:
        hands = self._hands
        wanted = [*self._named, *hands.added.values()]
        self._fleet.set(spec for spec in wanted if not hands.has_drained(spec))
        self._tell()

    def _check_name(self, spec: WorkerSpec) -> None:
        """Raise `ParameterError` if settings or hands call a worker so that is elsewhere."""
        for each in (*self._named, *self._hands.added.values()):
            if each.name == spec.name and _place(each) != _place(spec):
                raise ParameterError(
                    f"name is {spec.name!r}, as the worker at {each.address} is called; must differ"
                )

    def _given(self, there: WorkerSpec) -> str | None:
        """Return what settings, or whoever added it, call the worker at a place.

        One that was drained there before is not meant.
        """
        wanted = (*self._named, *self._hands.added.values())
        left = (each for each in wanted if not self._hands.has_drained(each))
        return next((each.name for each in left if _place(each) == _place(there)), None)

    def _tell_or_say(self) -> None:
        """Tell, where nobody waits for it."""
        try:
            self._tell()
        except BrsolverError as error:
            self._core.fault("endpoints", str(error))

    def _tell(self) -> None:
        there = [each.spec.address for each in self._core.workers if not each.gone]
        self._changed(list(dict.fromkeys(there)))
