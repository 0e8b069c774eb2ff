"""Which workers a fleet shall have: those that are named, and what hands did besides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver.errors import ParameterError
from integration.serve.by_hand import ByHand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from integration.doors.fleet import Fleet
    from integration.picker import WorkerSpec


def place_of(spec: WorkerSpec) -> tuple[str, int | None]:
    """Return what no two workers have in common."""
    return spec.address, spec.rank


class Wanted:
    """Keeps a fleet equal to what settings or a source name, and to what hands did.

    Parameters
    ----------
    fleet : Fleet
        Of the workers to begin with.
    hands : ByHand, optional
        What was added and drained by hand, by a picker before this one too.
    others : Fleet, optional
        Of the other tier: no worker is in both.
    """

    def __init__(
        self, fleet: Fleet, hands: ByHand | None = None, *, others: Fleet | None = None
    ) -> None:
        self._fleet, self._others = fleet, others
        self._hands = ByHand() if hands is None else hands
        self._named: tuple[WorkerSpec, ...] = tuple(fleet.specs)

    def set(self, named: Sequence[WorkerSpec]) -> None:
        """Have these workers, and those added by hand; all others drain."""
        self._named = tuple(named)
        self._hands.forget_left(self._named)
        self._apply()

    def restore(self) -> bool:
        """Do again what was done by hand under a picker before this one; tell if there was any."""
        if self._hands:
            self._apply()
        return bool(self._hands)

    def add(self, spec: WorkerSpec) -> str:
        """Add a worker by hand; return what it is called.

        Raises
        ------
        ParameterError
            There is one at its address already, or of its name elsewhere.
        """
        if self._fleet.worker(spec.address, spec.rank) is not None:
            raise ParameterError(f"address is {spec.address!r}, where there is a worker already")
        if self._others is not None and self._others.at(spec.address):
            raise ParameterError(
                f"address is {spec.address!r}, where there is a worker of the other tier; must be "
                "in one of them"
            )
        self._check_name(spec)
        self._hands.add(spec)
        self._apply()
        worker = self._fleet.worker(spec.address, spec.rank)
        return spec.name if worker is None else self._fleet.specs[worker].name

    def drain(self, spec: WorkerSpec) -> None:
        """Send a worker of the fleet nothing more, by hand."""
        # It may have been renamed; whoever named it is to know that it drains.
        self._hands.drain(self._given(spec) or spec.name, spec.uid)
        self._apply()

    def _apply(self) -> None:
        hands = self._hands
        wanted = [*self._named, *hands.added.values()]
        self._fleet.set(spec for spec in wanted if not hands.has_drained(spec))

    def _check_name(self, spec: WorkerSpec) -> None:
        """Raise `ParameterError` if settings or hands call a worker so that is elsewhere."""
        for each in (*self._named, *self._hands.added.values()):
            if each.name == spec.name and place_of(each) != place_of(spec):
                raise ParameterError(
                    f"name is {spec.name!r}, as the worker at {each.address} is called; must differ"
                )

    def _given(self, there: WorkerSpec) -> str | None:
        """Return what settings, or whoever added it, call the worker at a place.

        One that was drained there before is not meant.
        """
        wanted = (*self._named, *self._hands.added.values())
        left = (each for each in wanted if not self._hands.has_drained(each))
        return next((each.name for each in left if place_of(each) == place_of(there)), None)
