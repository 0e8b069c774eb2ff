"""Where the records of CSV text end: a line's end within quotes ends none."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LINE_END = 10


@cache
def _cells(delimiter: bytes) -> re.Pattern[bytes]:
    """Match cells that begin with a quote, up to the quote that closes them or to the end."""
    before = re.escape(delimiter)
    return re.compile(rb"(?:\A|(?<=[\n\r" + before + rb']))"[^"]*(?:""[^"]*)*("|\Z)')


class Records:
    """The records of a block of CSV text that begins with one.

    Parameters
    ----------
    block : bytes
    delimiter : bytes
        What separates cells.

    Attributes
    ----------
    ends : ndarray of int64
        Positions of the line ends that end a record.
    lines : ndarray of int64, of the same length
        Line ends before the beginning of each record.
    spans_lines : bool
        Whether there is a line's end within quotes.
    open : bool
        Whether the last quote does not close.
    clean : bool
        Whether every quote that closes ends its cell.
    """

    def __init__(self, block: bytes, delimiter: bytes) -> None:
        cells = list(_cells(delimiter).finditer(block))
        self.open = bool(cells) and not cells[-1][1]
        after = {block[cell.end() : cell.end() + 1] for cell in cells}
        self.clean = after <= {b"", b"\n", b"\r", delimiter}
        line_ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == _LINE_END)
        inside = _inside(
            line_ends, np.array([cell.span() for cell in cells], dtype=np.int64).reshape(-1, 2)
        )
        self.spans_lines = bool(inside.any())
        ending = np.flatnonzero(~inside)
        self.ends: NDArray[np.int64] = line_ends[ending]
        self.lines: NDArray[np.int64] = np.concatenate(([0], ending[:-1] + 1))[: ending.size]

    @property
    def end(self) -> int:
        """Return where the last whole record ends, 0 if there is none."""
        return int(self.ends[-1]) + 1 if self.ends.size else 0


def _inside(places: NDArray[np.int64], spans: NDArray[np.int64]) -> NDArray[np.bool_]:
    before = np.searchsorted(spans[:, 0], places, side="right") - 1
    inside: NDArray[np.bool_] = before >= 0
    inside[inside] = places[inside] < spans[before[inside], 1]
    return inside
