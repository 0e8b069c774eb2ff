"""What every reader offers, and the reader that most formats are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from brsolver.errors import TraceError
from brsolver.traces.batches import batches
from brsolver.traces.collector import Collector, Columns, ReadOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from brsolver.traces.fields import Field
    from brsolver.traces.source import Source
    from brsolver.traces.trace import Trace


class TraceReader(Protocol):
    """Reader of one format."""

    @property
    def name(self) -> str:
        """What ``format=`` calls it."""

    @property
    def summary(self) -> str:
        """One line for lists of formats."""

    @property
    def random(self) -> bool:
        """Whether requests are drawn, so that the trace depends on the seed."""

    def sniff(self, source: Source) -> bool:
        """Tell from the content whether the file is of this format."""

    def read(self, source: Source, options: ReadOptions) -> Trace:
        """Read the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableReader:
    """Reader of a format whose files are rows with named columns.

    The columns are found by name, in any order, in CSV, JSON lines, a JSON array or Parquet.

    Attributes
    ----------
    name, summary, random
        See `TraceReader`.
    fields : tuple of Field
        The columns.
    ticks_per_s : float
        Units of the arrival column in one second.
    distinct_from : frozenset of str
        Columns that tell a file of another format from this one.
    derive : callable, optional
        Turns the optional columns as read into those of the trace.
    """

    name: str
    summary: str
    fields: tuple[Field, ...]
    ticks_per_s: float = 1.0
    distinct_from: frozenset[str] = frozenset()
    derive: Callable[[Columns], Columns] | None = None
    random: bool = False

    def sniff(self, source: Source) -> bool:
        """Tell whether the file has the columns."""
        return not self._missing(source) and not self.distinct_from.intersection(source.names)

    def read(self, source: Source, options: ReadOptions) -> Trace:
        """Read the rows."""
        source.require_file()
        missing = self._missing(source)
        if missing:
            has = ", ".join(source.names) or "none"
            raise TraceError(
                f"{source.label}: format {self.name} needs column {missing[0]!r}, has: {has}"
            )
        fields = self._present(source)
        collector = self._collector(source, fields, options)
        for batch in batches(source, fields):
            if collector.add(batch):
                break
        return collector.trace(source_format=self.name, derive=self.derive)

    def _missing(self, source: Source) -> list[str]:
        return [name for name in self._required(source) if name not in source.names]

    def _required(self, source: Source) -> list[str]:
        """Return the columns that the file has to have."""
        del source
        return [field.source for field in self.fields if field.required]

    def _present(self, source: Source) -> list[Field]:
        """Return the columns that are read."""
        return [field for field in self.fields if field.source in source.names]

    def _collector(
        self, source: Source, fields: Sequence[Field], options: ReadOptions
    ) -> Collector:
        return Collector(source, fields, options, ticks_per_s=self.ticks_per_s)
