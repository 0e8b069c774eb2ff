"""Rows of a trace file, a block at a time, whatever the file's kind."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.json as arrow_json

from brsolver.errors import TraceError
from brsolver.traces import paths
from brsolver.traces.fields import Field, Values, show
from brsolver.traces.kinds import is_utf8, not_utf8
from brsolver.traces.quoting import Records
from brsolver.traces.source import json_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from brsolver.traces.source import Source

_PARQUET_ROWS = 1 << 17
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_REPEATED = "the header comes again between rows, as in files that were joined; left out there"
_BLANKS = b" \r\n"
"""Around a record that separate nothing; tabs do."""
_CSV_FIELD = csv.field_size_limit()
_DECIMAL_COMMA = r"^\s*([+-]?\d+),(\d+)\s*$"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A row that cannot be taken apart into columns.

    Attributes
    ----------
    row : int
    problem : str
    fatal : bool
        Whether nothing is known of what follows it either, so that it cannot be left out.
    """

    row: int
    problem: str
    fatal: bool = False


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
    notes : tuple of str
        What the user is to be told of how they were read.
    """

    rows: NDArray[np.int64]
    counted: str
    columns: Mapping[str, Values]
    broken: Sequence[Broken] = ()
    notes: tuple[str, ...] = ()


def batches(source: Source, fields: Sequence[Field]) -> Iterator[Batch]:
    """Read the columns of `fields` from a CSV, JSON lines, JSON or Parquet file."""
    if source.container == "csv":
        return _csv_batches(source, fields)
    if source.container == "jsonl":
        return _jsonl_batches(source, fields)
    if source.container == "parquet":
        return _parquet_batches(source, fields)
    return iter([json_batch(source.records, fields)])


def json_batch(records: object, fields: Sequence[Field]) -> Batch:
    """Make a batch of a JSON array of objects, of an object of columns, or of one record.

    Rows are counted by index.
    """
    columns = _json_columns(records, fields) if isinstance(records, dict) else None
    if columns is not None:
        size = len(next(iter(columns.values())))
        return Batch(rows=np.arange(size, dtype=np.int64), counted="index", columns=columns)
    items = records if isinstance(records, list) else [records]
    return _from_records(list(enumerate(items)), fields, "index", ())


def _json_columns(
    table: Mapping[str, object], fields: Sequence[Field]
) -> dict[str, list[object]] | None:
    """Return columns that are lists, or objects by row as pandas writes them."""
    columns: dict[str, list[object]] = {}
    for name in (field.source for field in fields):
        column = table.get(name)
        if isinstance(column, dict):
            column = list(column.values())
        if not isinstance(column, list):
            return None
        columns[name] = column
    return columns if len({len(column) for column in columns.values()}) == 1 else None


def _csv_batches(source: Source, fields: Sequence[Field]) -> Iterator[Batch]:
    wanted = list(dict.fromkeys(field.source for field in fields))
    for name in wanted:
        if source.names.count(name) > 1:
            raise TraceError(f"{source.label}: column {name!r} appears more than once")
    times = [field.source for field in fields if field.target == "arrival"]
    skip = source.header_lines
    for line, block in source.blocks():
        body, start = block, line
        while skip and body:
            body = body.split(b"\n", 1)[1]
            skip, start = skip - 1, start + 1
        if body:
            batch = _csv_batch(source, wanted, start, body)
            yield _with_points(batch, times) if source.delimiter == ";" else batch


def _csv_batch(source: Source, wanted: list[str], start: int, block: bytes) -> Batch:
    records = Records(block, source.delimiter.encode()) if b'"' in block else None
    return _csv_at_once(source, wanted, start, block, records) or _csv_one_by_one(
        source, wanted, start, block, records
    )


def _with_points(batch: Batch, names: Sequence[str]) -> Batch:
    """Read ``0,5`` as 0.5 in times: where semicolons separate, a comma is the decimal point."""
    columns = dict(batch.columns)
    for name in names:
        column = pa.array(columns[name], type=pa.string())
        columns[name] = pc.replace_substring_regex(column, _DECIMAL_COMMA, r"\1.\2")
    changed = any(not pa.array(batch.columns[n], pa.string()).equals(columns[n]) for n in names)
    notes = ("times read with decimal commas: 0,5 is 0.5",) if changed else ()
    return replace(batch, columns=columns, notes=notes)


def _csv_at_once(
    source: Source, wanted: list[str], start: int, block: bytes, records: Records | None
) -> Batch | None:
    """Let Arrow split the block, unless a line is blank or has too few or too many fields."""
    if records is not None and (records.open or not records.clean):
        # Arrow closes a quote that is open at the end, and takes what follows one that closed.
        return None
    if source.header in block:
        return None
    try:
        table = arrow_csv.read_csv(
            io.BytesIO(block),
            read_options=arrow_csv.ReadOptions(
                column_names=list(source.names), block_size=len(block) + 1, use_threads=False
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=source.delimiter,
                newlines_in_values=records is not None and records.spans_lines,
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
    if records is None or not records.spans_lines:
        return _aligned(table, wanted, start, block)
    if table.num_rows != records.ends.size:
        return None
    return Batch(rows=start + records.lines, counted="line", columns=_columns(table, wanted))


def _aligned(table: pa.Table, names: Sequence[str], start: int, block: bytes) -> Batch | None:
    """Count the rows of a table by line, if every line of the block is a row."""
    if table.num_rows != block.count(b"\n"):
        return None
    rows = np.arange(start, start + table.num_rows, dtype=np.int64)
    return Batch(rows=rows, counted="line", columns=_columns(table, names))


def _columns(table: pa.Table, names: Sequence[str]) -> dict[str, pa.Array]:
    return {name: _single(table.column(name)) for name in names}


def _single(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _csv_one_by_one(
    source: Source, wanted: list[str], start: int, block: bytes, records: Records | None
) -> Batch:
    width = len(source.names)
    places = [source.names.index(name) for name in wanted]
    broken: list[Broken] = []
    kept: list[tuple[int, list[str]]] = []
    texts = _lines(start, block) if records is None else _records(start, block, records)
    notes: dict[str, None] = {}
    for row, text in texts:
        if text == source.header:
            notes[_REPEATED] = None
            continue
        cells = _csv_cells(text, source.delimiter, width)
        if cells is None or len(cells) != width:
            broken.append(_broken(row, text, source))
            if lines := text.count(b"\n"):
                notes[f"row {row} is bad, and its quotes enclose {lines:,} more lines"] = None
        else:
            kept.append((row, cells))
    if records is not None and records.open:
        row, text = start + block[: records.end].count(b"\n"), block[records.end :]
        problem = f"record is {_shown(text)}, must close the quote that it opens"
        broken.append(Broken(row=row, problem=problem, fatal=True))
    columns = {
        name: [cells[place] for _, cells in kept]
        for name, place in zip(wanted, places, strict=True)
    }
    rows = np.array([row for row, _ in kept], dtype=np.int64)
    return Batch(rows=rows, counted="line", columns=columns, broken=broken, notes=tuple(notes))


def _broken(row: int, text: bytes, source: Source) -> Broken:
    if not is_utf8(text):
        return Broken(row=row, problem=f"record is {_shown(text)}, {not_utf8(source.path.name)}")
    wanted = f"{len(source.names)} fields separated by {_SEPARATORS[source.delimiter]}"
    return Broken(row=row, problem=f"record is {_shown(text)}, must be {wanted}")


def _shown(text: bytes) -> str:
    return show(text.decode("utf-8", errors="replace"))


def _csv_cells(record: bytes, delimiter: str, width: int) -> list[str] | None:
    if len(record) > _CSV_FIELD:
        return _long_cells(record, delimiter, width)
    try:
        text = io.StringIO(record.decode("utf-8"), newline="")
        return next(csv.reader(text, delimiter=delimiter, strict=True))
    except (UnicodeDecodeError, csv.Error):
        return None


def _long_cells(record: bytes, delimiter: str, width: int) -> list[str] | None:
    """Take a record apart that has cells too long for the csv module."""
    if not Records(record, delimiter.encode()).clean:
        return None
    names = [str(place) for place in range(width)]
    try:
        table = arrow_csv.read_csv(
            io.BytesIO(record + b"\n"),
            read_options=arrow_csv.ReadOptions(
                column_names=names, block_size=len(record) + 2, use_threads=False
            ),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid:
        return None
    return list(table.to_pylist()[0].values()) if table.num_rows == 1 else None


def _records(start: int, block: bytes, records: Records) -> Iterator[tuple[int, bytes]]:
    """Yield the records that are not blank, with the numbers of their first lines."""
    begin = 0
    for line, end in zip(records.lines.tolist(), records.ends.tolist(), strict=True):
        if (text := block[begin:end]).strip():
            yield start + line, text.strip(_BLANKS)
        begin = end + 1


def _lines(start: int, block: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, with their numbers."""
    for row, line in enumerate(block.split(b"\n"), start):
        if line.strip():
            yield row, line.strip(_BLANKS)


def _jsonl_batches(source: Source, fields: Sequence[Field]) -> Iterator[Batch]:
    for line, block in source.blocks():
        yield _jsonl_at_once(fields, line, block) or _jsonl_line_by_line(
            source, fields, line, block
        )


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


def _jsonl_line_by_line(source: Source, fields: Sequence[Field], start: int, block: bytes) -> Batch:
    broken: list[Broken] = []
    records: list[tuple[int, object]] = []
    for row, line in _lines(start, block):
        try:
            records += [(row, value) for value in _json_line(line)]
        except (ValueError, RecursionError):
            wanted = "must be a JSON object" if is_utf8(line) else not_utf8(source.path.name)
            broken.append(Broken(row=row, problem=f"record is {_shown(line)}, {wanted}"))
    return _from_records(records, fields, "line", broken)


def _json_line(line: bytes) -> list[object]:
    """Read a line, after which a comma may stand, or another record that was appended to it."""
    try:
        return [json.loads(line)]
    except ValueError:
        return json_values(line.decode("utf-8"))


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
