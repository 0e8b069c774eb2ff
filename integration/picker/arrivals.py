"""Whether what is sent to a rank comes to that rank: counted exactly, whatever the ranks' loads.

Of every rank an engine tells how many requests it has and how many it has finished. Both together
are how many *came* to that rank and were not cut short. The books know how many were *sent* there,
and how many of these were *lost*: ended in any way but finished, of which an engine counts none.
Where pins are kept,

    came - sent + lost = c - on their way + lost, but not yet out of the engine

with a ``c`` of the rank that never changes. A server is asked again only once it has answered, and
not before the interval is over: between the telling before the last and the moment at which the
engine counts for this one lies an interval at least. What is still on its way then, or lost and
not yet out, is of after that telling. So every telling leaves ``c`` between two whole numbers, and
there is a number that those of all tellings have between them.

An engine that ignores pins takes one from the ``c`` of the rank that a request was sent to, and
adds one to that of the rank where it ran. That is a walk at random, however equal it keeps the
ranks' loads: over N requests it goes as far as the root of N, beyond any two numbers.

No share of requests and no chance is in this, so that the rate of false alarms is not a matter of
how much is looked at. What else moves a ``c``, where pins are kept, moves all in one direction:

- requests of others, who send past the picker, and lost ones that an engine finished all the same,
  or counts, let it rise;
- requests that an engine does not count, or counts as one though they have several sequences, let
  it fall.

Pins are said to be ignored only where some ranks fell and others rose, by about as much, in two
blocks of tellings in a row. One kind of the above cannot look like that; both kinds together do if
they are as many and at different ranks. The price: where others send much of what a server runs,
ignored pins are not noticed.

Tellings go wrong one by one: an answer is old when it is read, requests wait before an engine
counts them, the proxy's log of clients that left comes late. All of that lets a rank seem to have
had too few, for as long as it lasts. So of a block's tellings that one counts by which the most
came. A block needs requests, too, not only tellings: else little would be remembered of a server
that has little to do. Blocks are forgotten in the end, with whatever was counted wrong in them.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

TELLINGS = 8
"""Of every rank, at least, in a block."""
REQUESTS = 16
"""Sent to a server, at least, in a block."""
BLOCKS = 64
"""That are remembered."""
ASTRAY = 4
"""Requests that must have come to other ranks, at least: fewer may have been counted wrong."""
IN_A_ROW = 2
"""Blocks that must say so."""


class Told(NamedTuple):
    """What is known of a rank at one telling; but for `present`, since it began.

    Attributes
    ----------
    present, finished : int
        By its engine: requests that it has, and that it has finished.
    sent, lost : int
        By the books: sequences sent there, and those of them that ended in any way but finished.
    """

    present: int
    finished: int
    sent: int
    lost: int


class _Bounds(NamedTuple):
    """Where the ``c`` of a rank is."""

    least: int
    most: int


class _Rank:
    """The tellings of one rank, since a block began."""

    __slots__ = ("_least", "_recent", "_sent", "_slack", "tellings")

    def __init__(self) -> None:
        self._recent: deque[Told] = deque(maxlen=2)
        self._sent = self._least = self._slack = self.tellings = 0

    @property
    def sent(self) -> int:
        """How many have been sent there since."""
        return self._recent[-1].sent - self._sent

    def began_anew(self, told: Told) -> bool:
        """Tell whether the engine has forgotten what it had counted."""
        return bool(self._recent) and told.finished < self._recent[-1].finished

    def add(self, told: Told) -> None:
        """Take a telling in."""
        if not self._recent:
            self._sent = told.sent
        if len(self._recent) == 2:
            self._narrow(told, self._recent[0])
        self._recent.append(told)

    def _narrow(self, told: Told, since: Told) -> None:
        least = told.present + told.finished - told.sent + since.lost
        slack = told.sent - since.sent + told.lost - since.lost
        if self.tellings:
            least, slack = max(self._least, least), min(self._slack, slack)
        self._least, self._slack = least, slack
        self.tellings += 1

    def closed(self) -> _Bounds:
        """Return the bounds of the block that ends, and begin the next one."""
        self._sent, self.tellings = self._recent[-1].sent, 0
        return _Bounds(self._least, self._least + self._slack)


class Arrivals:
    """Holds what came to the ranks of a server against what was sent to each."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._ranks: dict[int, _Rank] = {}
        self._blocks: deque[dict[int, _Bounds]] = deque(maxlen=BLOCKS)
        self._in_a_row = 0

    def told(self, rank: int, told: Told, group: Collection[int]) -> Mapping[int, int]:
        """Take a telling of a rank in.

        Parameters
        ----------
        rank : int
        told : Told
        group : collection of int
            All ranks of the server; the same each time.

        Returns
        -------
        mapping of int to int
            Where pins seem to be ignored, how many requests more than were sent there have come to
            each rank, at least; below 0 fewer. Else it is empty.
        """
        if rank in self._ranks and self._ranks[rank].began_anew(told):
            self._begin()
        self._ranks.setdefault(rank, _Rank()).add(told)
        if not self._is_block(group):
            return {}
        block = {each: self._ranks[each].closed() for each in group}
        found = _furthest(self._blocks, block)
        self._blocks.append(block)
        self._in_a_row = self._in_a_row + 1 if found else 0
        return found if self._in_a_row >= IN_A_ROW else {}

    def _is_block(self, group: Collection[int]) -> bool:
        known = [self._ranks[each] for each in group if each in self._ranks]
        told = len(known) == len(group) and all(each.tellings >= TELLINGS for each in known)
        return told and sum(each.sent for each in known) >= REQUESTS


def _furthest(
    blocks: Iterable[Mapping[int, _Bounds]], now: Mapping[int, _Bounds]
) -> dict[int, int]:
    """Return how far ranks are apart from where they were, by the block that shows it best."""
    moved = ({rank: _moved(block[rank], now[rank]) for rank in now} for block in blocks)
    return max(filter(_ignored, moved), key=_astray, default={})


def _moved(before: _Bounds, now: _Bounds) -> int:
    return max(now.least - before.most, 0) - max(before.least - now.most, 0)


def _ignored(moved: Mapping[int, int]) -> bool:
    astray = _astray(moved)
    return astray >= ASTRAY and sum(map(abs, moved.values())) <= 3 * astray


def _astray(moved: Mapping[int, int]) -> int:
    """Return how many requests are missed at some ranks and too many at others."""
    rose = sum(max(each, 0) for each in moved.values())
    fell = sum(max(-each, 0) for each in moved.values())
    return min(rose, fell)
