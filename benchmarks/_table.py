"""Printing of measurements."""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print one table."""
    cells = [list(header), *([_text(cell) for cell in row] for row in rows)]
    widths = [max(len(str(row[i])) for row in cells) for i in range(len(header))]
    print(f"\n{title}")
    for row in cells:
        print(
            "  "
            + "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True))
        )


def times_us(call: Callable[[], object], repeat: int) -> np.ndarray:
    """Time `repeat` calls, in microseconds, after one that warms up."""
    call()
    out = np.empty(repeat)
    for i in range(repeat):
        began = perf_counter_ns()
        call()
        out[i] = (perf_counter_ns() - began) / 1000
    return out


def _text(cell: object) -> str:
    return (
        f"{cell:,.3g}"
        if isinstance(cell, float) and cell < 1000
        else f"{cell:,}"
        if isinstance(cell, (int, float))
        else str(cell)
    )
