"""The reader of formats in which turns can follow others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from brsolver.traces.readers.seam import TableReader
from brsolver.traces.turn_collector import NumberOrNothing, TurnCollector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.traces.collector import Collector
    from brsolver.traces.fields import Field
    from brsolver.traces.read_options import ReadOptions
    from brsolver.traces.sample import Sample
    from brsolver.traces.source import Source

DELAY = "delay_s"
TURNS = frozenset({"session", DELAY, "arrival"})
"""Targets of the columns that not every row of a file with turns has."""


@dataclass(frozen=True, kw_only=True)
class TurnReader(TableReader):
    """A `TableReader` of files some rows of which may have a delay in place of an arrival time.

    Among its fields is one with the target ``delay_s``. A file without it is read as by a
    `TableReader`.

    Attributes
    ----------
    delay_in_ticks : bool
        Whether delays have the unit of the arrival times; otherwise they are in seconds.
    """

    delay_in_ticks: bool = False

    def has_turns(self, source: Source) -> bool:
        """Tell whether the file has the column of delays."""
        return any(f.target == DELAY and self._may_have(source, f) for f in self.fields)

    def _required(self, source: Source) -> list[str]:
        required = super()._required(source)
        if not self.has_turns(source):
            return required
        return [
            field.source for field in self.fields if field.required and field.target not in TURNS
        ]

    def _present(self, source: Source) -> list[Field]:
        present = super()._present(source)
        if not self.has_turns(source):
            return [field for field in present if field.target != DELAY]
        return [
            field
            for field in self.fields
            if field in present or (field.target in TURNS and self._may_have(source, field))
        ]

    def _chosen(self, source: Source, sample: Sample, options: ReadOptions) -> list[Field]:
        chosen = super()._chosen(source, sample, options)
        return list(map(_or_nothing, chosen)) if self.has_turns(source) else chosen

    def _collector(
        self, source: Source, fields: Sequence[Field], options: ReadOptions, ticks_per_s: float
    ) -> Collector:
        if not self.has_turns(source):
            return super()._collector(source, fields, options, ticks_per_s)
        delay_ticks_per_s = ticks_per_s if self.delay_in_ticks else 1.0
        return TurnCollector(
            source,
            fields,
            options,
            ticks_per_s=ticks_per_s,
            delay_ticks_per_s=delay_ticks_per_s,
        )

    @staticmethod
    def _may_have(source: Source, field: Field) -> bool:
        """Tell whether a file has a column; of JSON, whose first record may lack it, look on."""
        if field.source in source.names:
            return True
        if source.container == "json" and isinstance(source.records, list):
            records = (record for record in source.records if isinstance(record, dict))
            return any(field.source in record for record in records)
        return source.container == "jsonl" and f'"{field.source}"'.encode() in source.head


def _or_nothing(field: Field) -> Field:
    if field.target == "arrival":
        return replace(field, parser=NumberOrNothing())
    return field
