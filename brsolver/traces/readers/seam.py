"""What every reader offers, and the reader that most formats are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from brsolver.errors import TraceError
from brsolver.traces.batches import batches
from brsolver.traces.clock import Clock
from brsolver.traces.collector import Collector, Columns
from brsolver.traces.layout import given_field
from brsolver.traces.outcomes import find_checks
from brsolver.traces.sample import Sample, sample_of
from brsolver.traces.times import (
    TICKS_PER_S,
    Times,
    find_times,
    has_times,
    times_at,
    unused_times,
    unused_warning,
    warnings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from brsolver.traces.fields import Field
    from brsolver.traces.read_options import ReadOptions
    from brsolver.traces.source import Source
    from brsolver.traces.trace import Trace

_NONE: Mapping[str, str] = MappingProxyType({})


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
    times_by_name : bool
        Whether arrival times are looked for under other names if the format's column is not there.
    """

    name: str
    summary: str
    fields: tuple[Field, ...]
    ticks_per_s: float = 1.0
    distinct_from: frozenset[str] = frozenset()
    derive: Callable[[Columns], Columns] | None = None
    times_by_name: bool = False
    random: bool = False

    def sniff(self, source: Source) -> bool:
        """Tell whether the file has the columns."""
        if self.missing(source) or self.distinct_from.intersection(source.names):
            return False
        if not self.times_by_name or any(f.target == "arrival" for f in self._present(source)):
            return True
        # A log that says how requests ended is read by a reader that heeds it.
        return not find_checks(sample_of(source))

    def read(self, source: Source, options: ReadOptions) -> Trace:
        """Read the rows."""
        source.require_file()
        sample = sample_of(source)
        fields = self._chosen(source, sample, options)
        times = self._times(fields, sample, options)
        if times is not None:
            fields = _with_times(fields, times.field)
        ticks = self.ticks_per_s if times is None else times.ticks_per_s
        collector = self._collector(source, fields, options, ticks)
        for batch in batches(source, fields):
            if collector.add(batch):
                break
        trace = collector.trace(source_format=self.name, derive=self.derive)
        notes = self._notes(trace, times, sample)
        return replace(trace, notes=(*notes, *trace.notes)) if notes else trace

    def missing(self, source: Source, renamed: Mapping[str, str] = _NONE) -> list[str]:
        """Return the columns that the format needs and the file lacks."""
        given = {field.source for field in self.fields if field.target in renamed}
        return [
            name
            for name in self._required(source)
            if name not in source.names and name not in given
        ]

    def _required(self, source: Source) -> list[str]:
        """Return the columns that the file has to have."""
        del source
        return [field.source for field in self.fields if field.required]

    def _present(self, source: Source) -> list[Field]:
        """Return the format's columns that are read."""
        return [field for field in self.fields if field.source in source.names]

    def _collector(
        self, source: Source, fields: Sequence[Field], options: ReadOptions, ticks_per_s: float
    ) -> Collector:
        return Collector(source, fields, options, ticks_per_s=ticks_per_s)

    def _chosen(self, source: Source, sample: Sample, options: ReadOptions) -> list[Field]:
        """Return the columns that are read, those that the user names among them."""
        missing = self.missing(source, options.columns)
        if missing:
            has = ", ".join(source.names) or "none"
            raise TraceError(
                f"{source.label}: format {self.name} needs column {missing[0]!r}, has: {has}"
            )
        own = {field.target: field for field in self.fields}
        given = [
            given_field(sample, what, name, own.get(what)) for what, name in options.columns.items()
        ]
        return given + [f for f in self._present(source) if f.target not in options.columns]

    def _times(self, fields: Sequence[Field], sample: Sample, options: ReadOptions) -> Times | None:
        """Return how the arrival column is read; None if there is none."""
        declared = next((field for field in fields if field.target == "arrival"), None)
        if declared is None:
            found = find_times(sample, time_unit=options.time_unit)
            return found if self.times_by_name else None
        default = None if isinstance(declared.parser, Clock) else self._unit
        times = times_at(sample, declared.path, time_unit=options.time_unit, default=default)
        as_dates = isinstance(declared.parser, Clock)
        if as_dates and not has_times(sample, declared.path):
            # Nothing at the start of the file says otherwise.
            return replace(times, unit=None, parser=declared.parser)
        same = as_dates == (times.unit is None)
        return replace(times, parser=declared.parser) if same else times

    @property
    def _unit(self) -> str:
        return next(unit for unit, ticks in TICKS_PER_S.items() if ticks == self.ticks_per_s)

    def _notes(self, trace: Trace, times: Times | None, sample: Sample) -> list[str]:
        if times is None:
            return unused_warning(trace.name, unused_times(sample, None))
        declared = next((field for field in self.fields if field.target == "arrival"), None)
        as_declared = declared is not None and (
            declared.source == times.field.source
            and isinstance(declared.parser, Clock) == (times.unit is None)
            and (times.unit is None or times.unit == self._unit == "s")
        )
        taken = [] if as_declared else [f"{trace.name}: {times.words}"]
        return [*taken, *warnings(trace, times)]


def _with_times(fields: Sequence[Field], times: Field) -> list[Field]:
    """Put the arrival column in the place of the format's own, or last: bad rows name the first."""
    if all(field.target != "arrival" for field in fields):
        return [*fields, times]
    return [times if field.target == "arrival" else field for field in fields]
