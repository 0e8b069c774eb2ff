"""Workers added and drained through the admin listener."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from brsolver.errors import UnknownNameError
from brsolver.specs import build_params
from integration.picker.params import WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from integration.picker.core import Core
    from integration.picker.workers import Worker


class Fleet(Protocol):
    """Who knows the workers and can change them while serving.

    What cannot be done is told by a `BrsolverError`.
    """

    def workers(self) -> Sequence[Mapping[str, object]]:
        """Return the workers, each with at least its ``name``."""
        ...

    async def add(self, spec: WorkerSpec) -> str:
        """Add a worker; return what it is called."""
        ...

    async def drain(self, name: str) -> None:
        """Send a worker nothing more, and let it go when it is empty.

        Raises
        ------
        UnknownNameError
            There is no worker of that name.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillFields:
    """What can be said of a worker that computes prompts; see `WorkerSpec`.

    Attributes
    ----------
    name, address : str
    capacity : int or None
    """

    name: str
    address: str
    capacity: int | None = None


class CoreFleet:
    """Changes the workers of a core, and nothing besides.

    Whoever has more to tell of a worker, as a proxy its endpoints, extends it.

    Parameters
    ----------
    core : Core
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    def workers(self) -> list[dict[str, object]]:
        """Return name, address, rank, state, slots, KV capacity and reservations of each."""
        return [
            {
                "name": each.spec.name,
                "address": each.spec.address,
                "rank": each.spec.rank,
                "state": each.state,
                "slots": each.slots,
                "capacity": each.capacity,
                "reserved": each.reserved,
            }
            for each in self._core.workers
        ]

    async def add(self, spec: WorkerSpec) -> str:
        """Add a worker; return what it is called.

        Raises
        ------
        ParameterError
            There is one of that name.
        """
        self._core.add_worker(spec)
        return spec.name

    async def drain(self, name: str) -> None:
        """Send a worker nothing more; it is gone once it is empty.

        Raises
        ------
        UnknownNameError
            There is no worker of that name.
        """
        self._core.retire(self.find(name).index, "asked for")

    def find(self, name: str) -> Worker:
        """Return a worker by name.

        Raises
        ------
        UnknownNameError
            There is no worker of that name.
        """
        there = {each.spec.name: each for each in self._core.workers if not each.gone}
        if name not in there:
            raise UnknownNameError.suggest("worker", name, there)
        return there[name]


def read_worker(fields: Mapping[str, object]) -> WorkerSpec:
    """Read a worker from JSON.

    Raises
    ------
    ParameterError
        A field is unknown, missing, or has a value it cannot have.
    """
    return build_params(WorkerSpec, fields, "worker", convert_texts=False)


def read_prefill_worker(fields: Mapping[str, object]) -> WorkerSpec:
    """Read a worker that computes prompts from JSON: it has neither ranks nor slots.

    Raises
    ------
    ParameterError
        A field is unknown, missing, or has a value it cannot have.
    """
    given = build_params(PrefillFields, fields, "prefill worker", convert_texts=False)
    return WorkerSpec(name=given.name, address=given.address, capacity=given.capacity)
