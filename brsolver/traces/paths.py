"""Names of fields in records, nested ones too.

A path is the tuple of keys that lead to a value, ``("usage", "prompt_tokens")``; messages and
options write it with dots. A key may hold dots of its own, as in OpenTelemetry's
``gen_ai.usage.input_tokens``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Path: TypeAlias = "tuple[str, ...]"

OPAQUE = frozenset({"error", "exception"})
"""Keys whose values are not looked into: what counts is whether there is one."""
_DEEPEST = 16


def simple(name: str) -> str:
    """Return a name without case and punctuation: ``startTime`` and ``start_time`` are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def dotted(path: Path) -> str:
    """Write a path as messages do."""
    return ".".join(path)


def parts(path: Path) -> Path:
    """Return the simple names along a path, with the dots within keys taken as steps."""
    return tuple(simple(step) for key in path for step in key.split("."))


def leaves(record: Mapping[str, Any], above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield the values of a record and of the objects in it, with their paths."""
    for key, value in record.items():
        path = (*above, str(key))
        if isinstance(value, dict) and simple(str(key)) not in OPAQUE and len(path) < _DEEPEST:
            yield from leaves(value, path)
        else:
            yield path, value


def type_leaves(fields: Iterable[pa.Field], above: Path = ()) -> Iterator[tuple[Path, pa.DataType]]:
    """Yield the types of columns and of the fields in structs, with their paths."""
    for field in fields:
        path = (*above, field.name)
        if pa.types.is_struct(field.type) and simple(field.name) not in OPAQUE:
            yield from type_leaves(field.type, path)
        else:
            yield path, field.type


def lookup(record: Mapping[str, Any], path: Path) -> Any:
    """Return the value at a path; None where there is none."""
    value: Any = record
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def pick(table: pa.Table | pa.RecordBatch, path: Path) -> pa.Array:
    """Return the column at a path of a table, one level of structs after the other."""
    column = table.column(path[0])
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    for key in path[1:]:
        column = pc.struct_field(column, key)
    return column


def nested_schema(columns: Sequence[tuple[Path, pa.DataType]]) -> pa.Schema:
    """Make a schema that has these types at these paths."""
    return pa.schema(_fields([(path, kind) for path, kind in columns if path]))


def _fields(columns: Sequence[tuple[Path, pa.DataType]]) -> list[pa.Field]:
    keys = dict.fromkeys(path[0] for path, _ in columns)
    return [pa.field(key, _type(columns, key)) for key in keys]


def _type(columns: Sequence[tuple[Path, pa.DataType]], key: str) -> pa.DataType:
    below = [(path[1:], kind) for path, kind in columns if path[0] == key]
    if not below[0][0]:
        return below[0][1]
    return pa.struct(_fields(below))
