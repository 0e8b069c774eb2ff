"""Where `stop` ends an output; token k of any is the text of its number, with a space before it."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Stop(NamedTuple):
    """Where an output ends.

    Attributes
    ----------
    tokens : int
        It has; the last one completes the text that it ends at.
    shown : int
        Characters of it that are told: all before that text.
    """

    tokens: int
    shown: int


def characters(tokens: int) -> int:
    """Return how many characters so many tokens from the first one have."""
    total, power = 2 * tokens, 10
    while power < tokens:
        total += tokens - power
        power *= 10
    return total


def stop_of(texts: Sequence[str], least: int, most: int) -> Stop | None:
    """Return where the first of some texts ends an output; None if none does.

    Parameters
    ----------
    texts : sequence of str
    least : int
        Tokens that it has at least, 1 or more.
    most : int
        Tokens that it has otherwise.
    """
    if not texts:
        return None
    output = "".join(f" {k}" for k in range(most))
    begin = characters(least - 1)
    found = [(output.find(text, max(begin - len(text) + 1, 0)), len(text)) for text in texts]
    ends = [(at + length, at) for at, length in found if at >= 0]
    if not ends:
        return None
    end, shown = min(ends)
    return Stop(bisect_left(range(most + 1), end, key=characters), shown)
