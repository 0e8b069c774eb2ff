"""Logs of gateways, spans, and exports of other tools, read by the names of their fields.

The fields may be nested (``usage.prompt_tokens``), and stand in CSV, JSON lines, a JSON array, a
JSON object with such an array, Parquet, or OTLP's JSON. `brsolver.traces.vocabulary` has the names.
Rows of requests that were not answered are left out and counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from brsolver.errors import TraceError
from brsolver.traces.batches import batches, json_batch
from brsolver.traces.collector import Collector
from brsolver.traces.fields import Whole, whole_number
from brsolver.traces.layout import Layout, find_layout
from brsolver.traces.otlp import is_otlp, spans
from brsolver.traces.outcomes import Tally, find_checks
from brsolver.traces.paths import dotted
from brsolver.traces.read_options import ReadOptions
from brsolver.traces.sample import Sample, sample_of, sample_records
from brsolver.traces.times import unused_times, unused_warning, warnings
from brsolver.traces.vocabulary import COUNT_NAMES, ends_with

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from brsolver.traces.batches import Batch
    from brsolver.traces.fields import Field
    from brsolver.traces.source import Source
    from brsolver.traces.trace import Trace

_FEW = 200
_BASE = Whole(minimum=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Where the fields of requests stand.

    Attributes
    ----------
    layout : Layout
    records : list or None
        The records, if they are not the rows of the file.
    """

    layout: Layout
    records: list[Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayReader:
    """Reader of files whose fields have known names, or names given by the user."""

    name: str = "gateway"
    summary: str = "logs of gateways, spans and other exports, by the names of their fields"
    random: bool = False

    def sniff(self, source: Source) -> bool:
        """Tell whether there are lengths and times under known names."""
        found = find(source, ReadOptions())
        return found is not None and found.layout.times is not None

    def read(self, source: Source, options: ReadOptions) -> Trace:
        """Read the rows of requests that were answered."""
        source.require_file()
        found = find(source, options)
        if found is None:
            raise TraceError(f"{source.label}: {lacks_lengths(source)}")
        layout, fields = found.layout, found.layout.fields
        tally = Tally(find_checks(layout.sample), fields[1])
        ticks = layout.times.ticks_per_s if layout.times else 1.0
        collector = Collector(source, fields, options, ticks_per_s=ticks)
        full = False
        for batch in _batches(source, found, [*fields, *layout.rest_of_prompt, *tally.fields]):
            full = collector.add(_whole_prompts(tally.answered(batch), layout))
            if full:
                break
        if tally.all_left_out:
            raise TraceError(f"{source.label}: {tally.words(None)}, and no others are there")
        trace = collector.trace(source_format=self.name)
        last = int(trace.rows[-1]) if full and trace.rows is not None else None
        return replace(trace, notes=(*_notes(trace, layout, tally.words(last)), *trace.notes))


def find(source: Source, options: ReadOptions) -> Found | None:
    """Find the fields of requests; None if the lengths of prompt and output are not there.

    Raises
    ------
    TraceError
        If `options` name a column that is not there, or a unit for dates.
    """
    if source.container == "folder":
        return None
    problem: TraceError | None = None
    for sample, records in _places(source):
        try:
            layout = find_layout(sample, options)
        except TraceError as error:
            problem = problem or error
            continue
        if layout is not None:
            return Found(layout=layout, records=records)
    if problem is not None:
        raise problem
    return None


def lacks_lengths(source: Source) -> str:
    """Say that a file has no lengths, and what it has."""
    has = ", ".join(dotted(path) for path in sample_of(source).columns) or "none"
    return (
        "format gateway needs the lengths of prompt and output under known names, or given by "
        f"--columns prompt_tokens=NAME,output_tokens=NAME; has: {has}"
    )


def _places(source: Source) -> Iterator[tuple[Sample, list[Any] | None]]:
    """Yield where requests may stand: the rows of the file, then lists within its records."""
    yield sample_of(source), None
    for records in _inner_records(source):
        yield sample_records(source.label, records), records


def _inner_records(source: Source) -> Iterator[list[Any]]:
    """Yield the lists of records that stand in the file's one JSON object."""
    first = source.first_value
    if is_otlp(first[0] if isinstance(first, list) and first else first):
        yield list(spans(source))
        return
    if any(_tables(first)) and (document := _one_document(source)) is not None:
        yield from _tables(document)


def _tables(value: object, depth: int = 3) -> Iterator[list[Any]]:
    """Yield the lists of objects in an object, also in objects in it."""
    for item in value.values() if isinstance(value, dict) else ():
        if isinstance(item, list) and item and all(isinstance(row, dict) for row in item[:_FEW]):
            yield item
        elif depth:
            yield from _tables(item, depth - 1)


def _one_document(source: Source) -> Any:
    """Return the file as one JSON value; None if it holds several."""
    try:
        return source.document
    except TraceError:
        return None


def _batches(source: Source, found: Found, fields: Sequence[Field]) -> Iterator[Batch]:
    if found.records is not None:
        return iter([json_batch(found.records, fields)])
    return batches(source, fields)


def _whole_prompts(batch: Batch, layout: Layout) -> Batch:
    """Add the parts of prompts that stand in fields of their own."""
    if not layout.prompt_rest:
        return batch
    base, rest = layout.fields[0].source, layout.rest_of_prompt
    total, good = _BASE.parse(batch.columns[base])
    for field in rest:
        more, fine = field.parser.parse(batch.columns[field.source])
        total, good = total + more, good & fine
    values = pa.array(np.where(good, total, 0), mask=~good)
    return replace(batch, columns={**batch.columns, base: values})


def _notes(trace: Trace, layout: Layout, left_out: str | None) -> list[str]:
    times = layout.times
    taken = [layout.words] if times is None else [layout.words, times.words]
    unused = unused_times(layout.sample, times.path if times else None)
    if unused and times is not None:
        taken.append(f"not used: {', '.join(unused)}")
    notes = [f"{trace.name}: {', '.join(taken)}"]
    if left_out is not None:
        notes.append(f"{trace.name}: {left_out}")
    notes += _sums(trace.name, layout.sample)
    if times is not None:
        return [*notes, *warnings(trace, times)]
    return [*notes, *unused_warning(trace.name, unused)]


def _sums(name: str, sample: Sample) -> list[str]:
    """Say if rows seem to sum up several requests, as reports by day do."""
    for path, values in sample.columns.items():
        if any(ends_with(path, count) for count in COUNT_NAMES):
            counts = [whole_number(value) or 0 for value in values]
            if max(counts, default=0) > 1:
                return [
                    f"{name}: warning: a row seems to sum up several requests, {dotted(path)} is "
                    f"up to {max(counts):,}; a trace has a row for each request"
                ]
    return []


READER = GatewayReader()
