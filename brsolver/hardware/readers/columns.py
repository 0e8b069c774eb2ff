"""Columns of a file, by name, as numbers, with messages that name file, row and value."""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from brsolver.hardware.measurements import FloatArray

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
"""Units that a column of durations may end in."""
_PARQUET = b"PAR1"


def unreadable(path: Path, error: Exception) -> ParameterError:
    """Say that a file cannot be read, and why."""
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return ParameterError(f"{path}: cannot be read: {reason}")


def header_of_parquet(path: Path) -> tuple[str, ...] | None:
    """Return a Parquet file's column names, or None if it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as stream:
            if stream.read(len(_PARQUET)) != _PARQUET:
                return None
        return tuple(pq.read_schema(path).names)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from error


def csv_header(path: Path) -> tuple[str, ...]:
    """Return the names in the first row of a CSV file."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            first = next(csv.reader(stream), [])
    except (OSError, ValueError, csv.Error) as error:
        raise unreadable(path, error) from error
    if not first:
        raise ParameterError(f"{path}: is empty, must have a row of column names")
    return tuple(name.strip() for name in first)


def csv_first(path: Path) -> dict[str, str]:
    """Return the first row of a CSV file by column; empty without any."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.reader(stream)
            names, first = next(rows, []), next(rows, [])
    except (OSError, ValueError, csv.Error) as error:
        raise unreadable(path, error) from error
    # A row that is too short or too long is refused once it is read in full.
    return {name.strip(): text for name, text in zip(names, first, strict=False)}


def csv_columns(path: Path, *, whole_lines: bool = False) -> tuple[dict[str, list[str]], list[int]]:
    """Return the texts of a CSV file by column, and the row number of each.

    Parameters
    ----------
    path : Path
    whole_lines : bool
        Leave out a last line without its end: whoever wrote it was stopped.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if whole_lines and "\n" in text:
            text = text[: text.rindex("\n") + 1]
        rows = [(at, row) for at, row in enumerate(csv.reader(text.splitlines()), 1) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise unreadable(path, error) from error
    names = [name.strip() for name in rows[0][1]] if rows else []
    for at, row in rows[1:]:
        if len(row) != len(names):
            raise ParameterError(
                f"{path}: row {at} has {len(row)} fields, must have {len(names)}: {','.join(names)}"
            )
    columns = {name: [row[i] for _, row in rows[1:]] for i, name in enumerate(names)}
    return columns, [at for at, _ in rows[1:]]


def numbers(
    path: Path, name: str, values: Sequence[object], rows: Sequence[int], *, positive: bool = False
) -> FloatArray:
    """Return a column as numbers from 0, or above it.

    Raises
    ------
    ParameterError
        A value is none; names file, row, column and value.
    """
    found = np.array([_number(value) for value in values], dtype=np.float64)
    good = np.isfinite(found) & ((found > 0) if positive else (found >= 0))
    if not good.all():
        at = int(np.argmin(good))
        wanted = "a positive number" if positive else "a number, at least 0"
        shown = "nothing" if values[at] in (None, "") else f"{values[at]!s}"
        raise ParameterError(f"{path}: row {rows[at]}: {name} is {shown}, must be {wanted}")
    return found


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type] # what is no number is refused below
    except (TypeError, ValueError):
        return math.nan


def require_columns(path: Path, names: Iterable[str], needed: Iterable[str]) -> None:
    """Raise `ParameterError` unless all columns are there."""
    held = set(names)
    if missing := [name for name in needed if name not in held]:
        raise ParameterError(
            f"{path}: column {missing[0]} is missing, must have {', '.join(needed)}"
        )


def duration_column(path: Path, names: Iterable[str], stem: str) -> tuple[str, float]:
    """Return the column of durations, ``STEM_s``, ``STEM_ms`` or ``STEM_us``, and its unit in s."""
    accepted = [f"{stem}_{unit}" for unit in SECONDS]
    found = [name for name in names if name == stem or name.startswith(f"{stem}_")]
    known = [name for name in found if name in accepted]
    if len(known) != 1:
        raise ParameterError(
            f"{path}: durations are in {', '.join(found) or 'no column'}, must be in one of "
            f"{', '.join(accepted)}"
        )
    return known[0], SECONDS[known[0].rpartition("_")[2]]
