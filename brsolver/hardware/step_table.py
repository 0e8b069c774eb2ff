"""Measured durations of steps, from a file."""

from __future__ import annotations

import csv
import math
from itertools import product
from typing import TYPE_CHECKING

from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Row = tuple[int, dict[str, float]]

AXES: Mapping[str, tuple[str, ...]] = {
    "sequences": ("sequences", "batch_size"),
    "loads": ("kv_tokens", "load"),
    "prefill_tokens": ("prefill_tokens",),
}
"""Names of columns by the axis they are, in the order in which a table's durations lie."""
DURATIONS: Mapping[str, float] = {
    "seconds": 1.0,
    "s": 1.0,
    "duration_s": 1.0,
    "latency_s": 1.0,
    "ms": 1e3,
    "duration_ms": 1e3,
    "latency_ms": 1e3,
    "us": 1e6,
    "duration_us": 1e6,
    "latency_us": 1e6,
}
"""Names of columns of durations, and how many of their unit a second has."""
_AXIS_OF = {name: axis for axis, names in AXES.items() for name in names}


def read_step_table(path: Path) -> dict[str, tuple[float, ...]]:
    """Read a CSV file with named columns: one of durations, and one for each load varied.

    Loads are KV tokens (``kv_tokens``, ``load``), sequences (``sequences``, ``batch_size``) and
    ``prefill_tokens`` of a rank; durations are in seconds, ``ms`` or ``us`` by the column's name
    (`DURATIONS`). With more than one load the rows are a grid: each combination stands once.

    Returns
    -------
    dict of str to tuple of float
        Fields of `brsolver.hardware.step_time.StepTime`: the axes, and ``seconds``.

    Raises
    ------
    ParameterError
        The file cannot be read, has no header or an unknown column, a row is not as many numbers,
        or a combination is missing or there twice; names file and row.
    """
    rows = _cells(path)
    if not rows:
        raise ParameterError(f"{path}: is empty, must name its columns, e.g. kv_tokens,seconds")
    header = [cell.strip().lower() for cell in rows[0][1]]
    axes, unit = _columns(path, header)
    values = [(number, _numbers(path, number, row, header)) for number, row in rows[1:]]
    seconds = [(number, row[unit] / DURATIONS[unit]) for number, row in values]
    if len(axes) == 1:
        ((axis, name),) = axes.items()
        return {
            axis: tuple(row[name] for _, row in values),
            "seconds": tuple(each for _, each in seconds),
        }
    return _grid(path, axes, values, dict(seconds))


def _cells(path: Path) -> list[tuple[int, list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return [(number, row) for number, row in enumerate(csv.reader(stream), 1) if row]
    except (OSError, ValueError, csv.Error) as error:
        # What is not UTF-8, or a path that cannot be, is a ValueError.
        reason = getattr(error, "strerror", None) or str(error)
        raise ParameterError(f"{path}: cannot be read: {reason}") from error


def _columns(path: Path, header: Sequence[str]) -> tuple[dict[str, str], str]:
    """Return the column of each axis, and the one of durations."""
    accepted = f"loads {', '.join(_AXIS_OF)} and a duration {', '.join(DURATIONS)}"
    axes: dict[str, str] = {}
    units = [name for name in header if name in DURATIONS]
    for name in header:
        axis = _AXIS_OF.get(name)
        if axis is None and name not in DURATIONS:
            raise ParameterError(f"{path}: row 1: column is {name!r}, must be one of: {accepted}")
        if axis in axes:
            raise ParameterError(f"{path}: row 1: {axes[axis]} and {name} are given, must be one")
        if axis is not None:
            axes[axis] = name
    if len(units) != 1 or not axes:
        raise ParameterError(
            f"{path}: row 1: columns are {','.join(header)}, must be one or more {accepted}"
        )
    return {axis: axes[axis] for axis in AXES if axis in axes}, units[0]


def _numbers(
    path: Path, number: int, row: Sequence[str], header: Sequence[str]
) -> dict[str, float]:
    try:
        return dict(zip(header, map(float, row), strict=True))
    except ValueError:
        count = {2: "two numbers"}.get(len(header), f"{len(header)} numbers")
        raise ParameterError(
            f"{path}: row {number} is {','.join(row)!r}, must be {count}: {','.join(header)}"
        ) from None


def _grid(
    path: Path, axes: Mapping[str, str], values: Sequence[Row], seconds: Mapping[int, float]
) -> dict[str, tuple[float, ...]]:
    """Return the axes, and the durations at all of their combinations in order."""
    found: dict[tuple[float, ...], int] = {}
    for number, row in values:
        at = tuple(row[name] for name in axes.values())
        if not all(map(math.isfinite, at)):
            raise ParameterError(f"{path}: row {number} is {at}, must be finite numbers")
        if at in found:
            raise ParameterError(
                f"{path}: row {number} has the loads of row {found[at]}, must have others"
            )
        found[at] = number
    points = [sorted({at[j] for at in found}) for j in range(len(axes))]
    for at in product(*points):
        if at not in found:
            where = ", ".join(f"{n} {x:g}" for n, x in zip(axes.values(), at, strict=True))
            raise ParameterError(
                f"{path}: there is no row with {where}, must be one for each combination of loads"
            )
    each = tuple(seconds[found[at]] for at in product(*points))
    return {**{axis: tuple(p) for axis, p in zip(axes, points, strict=True)}, "seconds": each}
