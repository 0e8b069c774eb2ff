"""OpenTelemetry spans in OTLP's JSON, as plain records.

OTLP nests spans in ``resourceSpans`` and ``scopeSpans``, and writes attributes as lists of keys
and typed values; 64-bit numbers are texts there.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from brsolver.errors import TraceError
from brsolver.traces.sample import json_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from brsolver.traces.source import Source

_RESOURCES = ("resourceSpans", "resource_spans")
_SCOPES = ("scopeSpans", "scope_spans", "instrumentationLibrarySpans")
_VALUES = (
    *("intValue", "doubleValue", "boolValue", "stringValue"),
    *("int_value", "double_value", "bool_value", "string_value"),
)
_WHOLE = re.compile(r"-?\d{1,20}")


def is_otlp(value: object) -> bool:
    """Tell whether a JSON value is an export of spans, or a span with a list of attributes."""
    if not isinstance(value, dict):
        return False
    nested = any(key in value for key in (*_RESOURCES, *_SCOPES))
    return nested or _has_listed_attributes(value)


def spans(source: Source) -> Iterator[dict[str, Any]]:
    """Yield the spans of a file, their attributes as an object.

    Raises
    ------
    TraceError
        For a line that is no JSON.
    """
    if source.container != "jsonl":
        yield from _spans(json_value(source))
        return
    for start, block in source.blocks():
        for row, line in enumerate(block.split(b"\n"), start):
            if line.strip():
                yield from _spans(_load(source, row, line))


def _load(source: Source, row: int, line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        problem = f"row {row} (line of the file): must be a JSON object"
        raise TraceError(f"{source.label}: {problem}") from error


def _spans(value: Any) -> Iterator[dict[str, Any]]:
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            continue
        if not any(key in item for key in (*_RESOURCES, *_SCOPES)):
            yield _plain(item)
        for resource in _lists(item, _RESOURCES) or [item]:
            for scope in _lists(resource, _SCOPES):
                yield from map(_plain, _lists(scope, ("spans",)))


def _lists(value: Mapping[str, Any], keys: tuple[str, ...]) -> list[dict[str, Any]]:
    found: list[Any] = next((value[key] for key in keys if isinstance(value.get(key), list)), [])
    return [item for item in found if isinstance(item, dict)]


def _plain(span: dict[str, Any]) -> dict[str, Any]:
    if not _has_listed_attributes(span):
        return span
    pairs = [pair for pair in span["attributes"] if isinstance(pair, dict)]
    attributes = {str(pair.get("key")): _value(pair.get("value")) for pair in pairs}
    return {**span, "attributes": attributes}


def _has_listed_attributes(span: Mapping[str, Any]) -> bool:
    listed = span.get("attributes")
    return isinstance(listed, list) and all(isinstance(item, dict) for item in listed)


def _value(typed: object) -> object:
    if not isinstance(typed, dict):
        return typed
    found = next((typed[key] for key in _VALUES if key in typed), None)
    whole = "intValue" in typed or "int_value" in typed
    return int(found) if whole and isinstance(found, str) and _WHOLE.fullmatch(found) else found
