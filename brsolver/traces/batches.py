"""Rows of a trace file, a block at a time, whatever the file's kind."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.json as arrow_json

from brsolver.errors import TraceError
from brsolver.traces import paths
from brsolver.traces.fields import Field, Values, show

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from brsolver.traces.source import Source

_PARQUET_ROWS = 1 << 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A row that cannot be taken apart into columns."""

    row: int
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some consecutive rows.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        Number of each row as a reader of the file would count it, see `counted`.
    counted : str
        How rows are counted: ``"line"`` (from 1) or ``"index"`` (from 0).
    columns : mapping of str to array or list, each of length n
        The wanted columns by their names in the file.
    broken : sequence of Broken
        Rows that are in no column.
    """

    rows: NDArray[np.int64]
    counted: str
    columns: Mapping[str, Values]
    broken: Sequence[Broken] = ()


def batches(source: Source, fields: Sequence[Field]) -> Iterator[Batch]:
    """Read the columns of `fields` from a CSV, JSON lines, JSON or Parquet file."""
    if source.container == "csv":
        return _csv_batches(source, fields)
    if source.container == "jsonl":
        return _jsonl_batches(source, fields)
    if source.container == "parquet":
        return _parquet_batches(source, fields)
    return iter([json_batch(source.document, fields)])


def json_batch(records: object, fields: Sequence[Field]) -> Batch:
    """Make a batch of a JSON array of objects; rows are counted by index."""
    items = records if isinstance(records, list) else []
    return _from_records(list(enumerate(items)), fields, "index", ())


def _csv_batches(source: Source, fields: Sequence[Field]) -> Iterator[Batch]:
    wanted = [field.source for field in fields]
    for name in wanted:
        if source.names.count(name) > 1:
            raise TraceError(f"{source.label}: column {name!r} appears more than once")
    skip = source.header_lines
    for line, block in source.blocks():
        body, start = block, line
        while skip and body:
            body = body.split(b"\n", 1)[1]
            skip, start = skip - 1, start + 1
        if body:
            yield _csv_at_once(source, wanted, start, body) or _csv_line_by_line(
                source, wanted, start, body
            )


def _csv_at_once(source: Source, wanted: list[str], start: int, block: bytes) -> Batch | None:
    """Let Arrow split the block, unless a line is blank or has too few or too many fields."""
    if block.count(b'"') % 2:
        # Arrow closes a quote that is open at the end of the block.
        return None
    try:
        table = arrow_csv.read_csv(
            io.BytesIO(block),
            read_options=arrow_csv.ReadOptions(
                column_names=list(source.names), block_size=len(block) + 1, use_threads=False
            ),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=wanted,
                column_types=dict.fromkeys(wanted, pa.string()),
                null_values=[],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        return None
    return _aligned(table, wanted, start, block)


def _aligned(table: pa.Table, names: Sequence[str], start: int, block: bytes) -> Batch | None:
    """Count the rows of a table by line, if every line of the block is a row."""
    if table.num_rows != block.count(b"\n"):
        return None
    columns = {name: _single(table.column(name)) for name in names}
    rows = np.arange(start, start + table.num_rows, dtype=np.int64)
    return Batch(rows=rows, counted="line", columns=columns)


def _single(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _csv_line_by_line(source: Source, wanted: list[str], start: int, block: bytes) -> Batch:
    width = len(source.names)
    places = [source.names.index(name) for name in wanted]
    broken: list[Broken] = []
    kept: list[tuple[int, list[str]]] = []
    for row, line in _lines(start, block):
        cells = _csv_cells(line)
        if cells is None or len(cells) != width:
            shown = show(line.decode("utf-8", errors="replace"))
            problem = f"record is {shown}, must be {width} fields separated by commas"
            broken.append(Broken(row=row, problem=problem))
        else:
            kept.append((row, cells))
    columns = {
        name: [cells[place] for _, cells in kept]
        for name, place in zip(wanted, places, strict=True)
    }
    rows = np.array([row for row, _ in kept], dtype=np.int64)
    return Batch(rows=rows, counted="line", columns=columns, broken=broken)


def _csv_cells(line: bytes) -> list[str] | None:
    try:
        return next(csv.reader([line.decode("utf-8")], strict=True))
    except (UnicodeDecodeError, csv.Error):
        return None


def _lines(start: int, block: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, with their numbers."""
    for row, line in enumerate(block.split(b"\n"), start):
        if stripped := line.strip():
            yield row, stripped


def _jsonl_batches(source: Source, fields: Sequence[Field]) -> Iterator[Batch]:
    for line, block in source.blocks():
        yield _jsonl_at_once(fields, line, block) or _jsonl_line_by_line(fields, line, block)


def _jsonl_at_once(fields: Sequence[Field], start: int, block: bytes) -> Batch | None:
    schema = [(f.path, f.parser.arrow_type) for f in fields if f.parser.arrow_type is not None]
    if len(schema) < len(fields):
        # A column whose type the file decides; Arrow would guess it anew in each block.
        return None
    try:
        table = arrow_json.read_json(
            io.BytesIO(block),
            read_options=arrow_json.ReadOptions(block_size=len(block) + 1, use_threads=False),
            parse_options=arrow_json.ParseOptions(
                explicit_schema=paths.nested_schema(schema), unexpected_field_behavior="ignore"
            ),
        )
    except pa.ArrowInvalid:
        return None
    flat = pa.table({field.source: paths.pick(table, field.path) for field in fields})
    return _aligned(flat, flat.column_names, start, block)


def _jsonl_line_by_line(fields: Sequence[Field], start: int, block: bytes) -> Batch:
    broken: list[Broken] = []
    records: list[tuple[int, object]] = []
    for row, line in _lines(start, block):
        try:
            records.append((row, json.loads(line)))
        except (ValueError, RecursionError):
            shown = show(line.decode("utf-8", errors="replace"))
            broken.append(Broken(row=row, problem=f"record is {shown}, must be a JSON object"))
    return _from_records(records, fields, "line", broken)


def _from_records(
    records: Sequence[tuple[int, object]],
    fields: Sequence[Field],
    counted: str,
    broken: Sequence[Broken],
) -> Batch:
    kept = [(row, record) for row, record in records if isinstance(record, dict)]
    others = [
        Broken(row=row, problem=f"record is {show(record)}, must be a JSON object")
        for row, record in records
        if not isinstance(record, dict)
    ]
    return Batch(
        rows=np.array([row for row, _ in kept], dtype=np.int64),
        counted=counted,
        columns={f.source: [paths.lookup(record, f.path) for _, record in kept] for f in fields},
        broken=[*broken, *others],
    )


def _parquet_batches(source: Source, fields: Sequence[Field]) -> Iterator[Batch]:
    # What Arrow calls a field within a struct, whether or not its keys hold dots themselves.
    names = [paths.dotted(field.path) for field in fields]
    start = 0
    with source.parquet() as file:
        try:
            for part in file.iter_batches(_PARQUET_ROWS, columns=names):
                rows = np.arange(start, start + part.num_rows, dtype=np.int64)
                columns = {field.source: paths.pick(part, field.path) for field in fields}
                yield Batch(rows=rows, counted="index", columns=columns)
                start += part.num_rows
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise TraceError(f"{source.label}: damaged Parquet file: {reason}") from error
