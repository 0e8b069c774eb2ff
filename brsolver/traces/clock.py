"""Columns of dates with times of day."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brsolver.traces.fields import Flags, Parser, no_blanks, to_numpy, valid

if TYPE_CHECKING:
    from collections.abc import Sequence

_DATES = (
    (r"^(\d{4})/(\d\d)/(\d\d)", r"\1-\2-\3"),
    (r"(:\d\d),(\d+)", r"\1.\2"),
    (r"\s*(?i:utc|gmt)$", "Z"),
)
_ZONE = re.compile(r":\d.*(Z|[+-]\d\d:?(\d\d)?)\s*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock(Parser):
    """Dates with times of day, with or without a zone, as int64 nanoseconds since 1970."""

    must_be = "a time such as 2023-11-16 18:15:46.6805900 or 2024-05-10 00:00:00.009930+00:00"
    arrow_type = pa.string()

    def _at_once(self, values: pa.Array) -> tuple[Any, Flags]:
        if pa.types.is_timestamp(values.type):
            stamps = values.cast(pa.timestamp("ns", values.type.tz))
        else:
            stamps = self._from_text(values)
            values = stamps
        return to_numpy(stamps.cast(pa.int64()), 0), valid(values)

    @staticmethod
    def _from_text(values: pa.Array) -> pa.Array:
        try:
            return _stamps(values)
        except pa.ArrowInvalid:
            return _stamps(_plain_dates(values))

    def _one_by_one(self, values: Sequence[object]) -> tuple[Any, Flags]:
        with suppress(pa.ArrowException):
            return self._at_once(pa.array(values, type=pa.string()))
        parsed = [self._single(value) for value in values]
        stamps = np.array([stamp or 0 for stamp in parsed], dtype=np.int64)
        return stamps, np.array([stamp is not None for stamp in parsed], dtype=np.bool_)

    def _single(self, value: object) -> int | None:
        try:
            stamp = self._from_text(pa.array([value], type=pa.string()))[0]
        except pa.ArrowException:
            return None
        number: int | None = stamp.cast(pa.int64()).as_py()
        return number


def _stamps(values: pa.Array) -> pa.Array:
    # Arrow wants to know about zones beforehand; a file that mixes both is read one by one.
    present = values.drop_null()
    first = present[0].as_py() if len(present) else None
    zoned = isinstance(first, str) and _ZONE.search(first) is not None
    return values.cast(pa.timestamp("ns", "UTC" if zoned else None))


def _plain_dates(values: pa.Array) -> pa.Array:
    """Write dates as Arrow reads them: no slashes, no commas, Z for UTC, null for nothing."""
    texts = no_blanks(values)
    for pattern, plain in _DATES:
        texts = pc.replace_substring_regex(texts, pattern=pattern, replacement=plain)
    return texts
