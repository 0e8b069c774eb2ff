"""What a reproduction is: cells, tables, a picture; and how large a run is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from brsolver.campaign import Campaign, Cell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.figure import Figure

    from benchmarks.reproduce._cells import Row
    from brsolver import Trace

T = TypeVar("T")

BURSTGPT = "burstgpt"
"""Name of the BurstGPT lengths that the public code of [BFIO] ships, where they are given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """How large a run is.

    Attributes
    ----------
    name : str
    seeds : int
        Draws of the workload; intervals are over these.
    share : float
        Of the requests, and of a worker's slots, that a study has in full.
    values : int or None
        Values that are kept of each swept parameter, the first ones; None keeps all.
    given : mapping of str to Trace
        Traces that only their owners have, by name.
    """

    name: str = "full"
    seeds: int = 8
    share: float = 1.0
    values: int | None = None
    given: Mapping[str, Trace] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        """Whether what is published is rebuilt in its size."""
        return self.share == 1.0 and self.values is None

    def requests(self, full: int) -> int:
        """Return how many requests stand for `full`."""
        return max(40, round(full * self.share))

    def slots(self, full: int) -> int:
        """Return how many slots of a worker stand for `full`."""
        return max(4, round(full * self.share))

    def kept(self, values: Sequence[T]) -> tuple[T, ...]:
        """Return the swept values that are kept."""
        return tuple(values[: self.values])


QUICK = Scope(name="quick", seeds=2, share=1 / 40, values=2)
"""A run of seconds, which shows that all works and nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A published table or figure, rebuilt.

    Attributes
    ----------
    name : str
        As on the command line.
    title : str
    source : str
        Who published it, and where.
    cells : callable
        Returns the simulations, of a `Scope`.
    tables : callable
        Returns Markdown by the name of the place where it goes, of rows and a `Scope`.
    picture : callable
        Returns the figure, of rows.
    """

    name: str
    title: str
    source: str
    cells: Callable[[Scope], Sequence[Cell]]
    tables: Callable[[Sequence[Row], Scope], Mapping[str, str]]
    picture: Callable[[Sequence[Row]], Figure]

    def campaign(self, scope: Scope) -> Campaign:
        """Return the campaign that computes its rows."""
        from benchmarks.reproduce._cells import simulated

        return Campaign(
            name=f"reproduce {self.name}",
            function=simulated,
            cells=tuple(self.cells(scope)),
            shared=dict(scope.given),
            settings={"scope": scope.name},
        )
