"""The first records of a trace file, by which its fields are recognised."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from brsolver.errors import TraceError
from brsolver.traces.paths import Path, dotted, leaves, pick, type_leaves

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from brsolver.traces.source import Source

_ROWS = 200
_LARGEST_COLUMN = 1 << 26
"""Bytes of a column chunk of a Parquet file, all of which would be read."""
_DECIMAL_COMMA = re.compile(r"^\s*(-?\d+),(\d+)\s*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Some values of each field at the start of a file.

    Attributes
    ----------
    label : str
        What messages call the file.
    columns : dict of path to list
        The fields in the order in which they appear, each with its values that are not missing.
    """

    label: str
    columns: dict[Path, list[Any]]

    def find(self, name: str) -> Path | None:
        """Return the path that messages write as `name`."""
        return next((path for path in self.columns if dotted(path) == name), None)


def sample_of(source: Source) -> Sample:
    """Look at the first rows of a CSV, JSON lines or Parquet file, or at a JSON array."""
    if source.container == "parquet":
        return _parquet(source)
    if source.container == "csv":
        return sample_records(source.label, _csv_records(source))
    if source.container == "jsonl":
        return sample_records(source.label, _json_lines(source))
    value = json_value(source) if source.container == "json" else None
    if isinstance(value, dict):
        return Sample(label=source.label, columns=_listed_columns(value))
    return sample_records(source.label, value if isinstance(value, list) else [])


def json_value(source: Source) -> Any:
    """Return the records of a JSON file: a list of them, or an object of columns."""
    return source.records


def sample_records(label: str, records: Iterable[Any]) -> Sample:
    """Look at the first of these records; what is no object is passed over."""
    columns: dict[Path, list[Any]] = {}
    for _, record in zip(range(_ROWS), records, strict=False):
        for path, value in leaves(record) if isinstance(record, dict) else ():
            seen = columns.setdefault(path, [])
            if value is not None and value != "":
                seen.append(value)
    # What is an object in some records and missing or a text in others is looked into.
    objects = {path[:depth] for path in columns for depth in range(1, len(path))}
    return Sample(
        label=label, columns={path: seen for path, seen in columns.items() if path not in objects}
    )


def _lines(source: Source) -> list[bytes]:
    """Return the lines of the head; the last may be cut off, and is left out unless it is alone."""
    lines = source.head.split(b"\n")
    return lines[:-1] if len(lines) > 2 and lines[-1] else lines


def _json_lines(source: Source) -> Iterator[Any]:
    for line in _lines(source):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            continue


def _csv_records(source: Source) -> Iterator[dict[str, Any]]:
    lines = _lines(source)[source.header_lines :]
    text = b"\n".join(lines).decode("utf-8", errors="replace")
    delimiter = source.delimiter
    yield dict.fromkeys(source.names)
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            if len(cells) == len(source.names):
                values = cells if delimiter == "," else map(_with_point, cells)
                yield dict(zip(source.names, values, strict=True))
    except csv.Error:
        return


def _with_point(cell: str) -> str:
    """Write a number with a decimal point where a comma may stand for it."""
    return _DECIMAL_COMMA.sub(r"\1.\2", cell)


def _listed_columns(document: dict[str, Any]) -> dict[Path, list[Any]]:
    """Return the columns of an object that holds a list, or an object by row, for each."""
    columns: dict[Path, list[Any]] = {}
    for key, values in document.items():
        items = list(values.values()) if isinstance(values, dict) else values
        if isinstance(items, list):
            columns[str(key),] = [item for item in items[:_ROWS] if item not in (None, "")]
    return columns


def _parquet(source: Source) -> Sample:
    with source.parquet() as file:
        paths = dict(type_leaves(file.schema_arrow))
        looked = [path for path, kind in paths.items() if _is_small(file.metadata, path, kind)]
        try:
            batch = next(file.iter_batches(_ROWS, columns=list(map(dotted, looked))), None)
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise TraceError(f"{source.label}: damaged Parquet file: {reason}") from error
    found = {
        path: _values(batch, path, kind) if path in looked else [] for path, kind in paths.items()
    }
    return Sample(label=source.label, columns=found)


def _is_small(metadata: Any, path: Path, kind: pa.DataType) -> bool:
    """Tell whether a column can be looked at without reading much: prompts may stand beside it."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return False
    if not metadata.num_row_groups:
        return True
    group, name = metadata.row_group(0), dotted(path)
    columns = (group.column(place) for place in range(group.num_columns))
    size = sum(
        column.total_compressed_size
        for column in columns
        if column.path_in_schema == name or column.path_in_schema.startswith(f"{name}.")
    )
    return bool(size <= _LARGEST_COLUMN)


def _values(batch: pa.RecordBatch | None, path: Path, kind: pa.DataType) -> list[Any]:
    if batch is None:
        return []
    values = pick(batch, path)
    if pa.types.is_temporal(kind):
        # As text: Python has no moments of a nanosecond.
        values = values.cast(pa.string())
    return [value for value in values.to_pylist() if value is not None]
