"""Where the records of CSV text end: a line's end within quotes ends none."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LINE_END, _RETURN, _QUOTE = b'\n\r"'


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
        text = np.frombuffer(block, dtype=np.uint8)
        quotes, line_ends = np.flatnonzero(text == _QUOTE), np.flatnonzero(text == _LINE_END)
        if _alternate(text, quotes, ord(delimiter)):
            self.open, self.clean = quotes.size % 2 == 1, True
            inside = np.searchsorted(quotes, line_ends) % 2 == 1
        else:
            cells = list(_cells(delimiter).finditer(block))
            self.open = bool(cells) and not cells[-1][1]
            after = {block[cell.end() : cell.end() + 1] for cell in cells}
            self.clean = after <= {b"", b"\n", b"\r", delimiter}
            spans = np.array([cell.span() for cell in cells], dtype=np.int64).reshape(-1, 2)
            inside = _inside(line_ends, spans)
        self.spans_lines = bool(inside.any())
        ending = np.flatnonzero(~inside)
        self.ends: NDArray[np.int64] = line_ends[ending]
        self.lines: NDArray[np.int64] = np.concatenate(([0], ending[:-1] + 1))[: ending.size]

    @property
    def end(self) -> int:
        """Return where the last whole record ends, 0 if there is none."""
        return int(self.ends[-1]) + 1 if self.ends.size else 0


def _alternate(text: NDArray[np.uint8], quotes: NDArray[np.int64], delimiter: int) -> bool:
    """Tell whether quotes open and close in turn, which is so unless one stands within a cell.

    A doubled quote closes and opens again, with nothing between.
    """
    around = np.full(text.size + 2, _LINE_END, dtype=np.uint8)
    around[1:-1] = text
    beside = np.zeros(256, dtype=np.bool_)
    beside[[delimiter, _LINE_END, _RETURN, _QUOTE]] = True
    before, after = around[quotes[::2]], around[quotes[1::2] + 2]
    return bool(beside[before].all() and beside[after].all())


def _inside(places: NDArray[np.int64], spans: NDArray[np.int64]) -> NDArray[np.bool_]:
    before = np.searchsorted(spans[:, 0], places, side="right") - 1
    inside: NDArray[np.bool_] = before >= 0
    inside[inside] = places[inside] < spans[before[inside], 1]
    return inside
