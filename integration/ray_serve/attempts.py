"""Requests that were given replicas, each to be ended once, whatever Ray Serve tells of them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from integration.fronts import Seat

P = TypeVar("P")


class Attempt(Generic[P]):
    """A request at a replica, until it has ended or the replica has turned it away.

    Attributes
    ----------
    pending : object
        The library's request; held here, so that no other has its identity meanwhile.
    request : str
        By which its completion is told. Calls made within one request share it.
    seat : Seat
    rejections : int
        Replicas that have turned it away before.
    accepted : bool
        Whether the replica has taken it.
    """

    __slots__ = ("accepted", "pending", "rejections", "request", "seat")

    def __init__(self, pending: P, request: str, seat: Seat, rejections: int) -> None:
        self.pending = pending
        self.request = request
        self.seat = seat
        self.rejections = rejections
        self.accepted = False


class Attempts(Generic[P]):
    """All that have not ended.

    A completion names a replica and a request, and nothing else: not which of several calls of
    that request, nor whether the replica ran it or turned it away. Of what was turned away the
    completion comes late, when the same request may be somewhere else, or there again.
    """

    def __init__(self) -> None:
        self._of: dict[int, Attempt[P]] = {}
        self._at: dict[tuple[str, str], list[Attempt[P]]] = {}
        self._owed: Counter[tuple[str, str]] = Counter()

    def __len__(self) -> int:
        return len(self._of)

    def begin(self, pending: P, request: str, seat: Seat, *, rejections: int = 0) -> None:
        """Enter a request that is given a replica."""
        attempt = Attempt(pending, request, seat, rejections)
        self._of[id(pending)] = attempt
        self._at.setdefault((seat.replica, request), []).append(attempt)

    def turned_away(self, pending: P) -> Attempt[P] | None:
        """Take a request out that is to go elsewhere; its completion is still to come."""
        attempt = self._of.get(id(pending))
        if attempt is None or attempt.accepted:
            return None
        self.over(attempt)
        self._owed[attempt.seat.replica, attempt.request] += 1
        return attempt

    def accepted(self, pending: P) -> Attempt[P] | None:
        """Note that a replica has taken a request; None of what was placed by others."""
        attempt = self._of.get(id(pending))
        if attempt is not None:
            attempt.accepted = True
        return attempt

    def completed(self, replica: str, request: str) -> Attempt[P] | None:
        """Take out what a completion is of, unless it was turned away, or accepted.

        What was accepted is told of by its result, which says how it ended, too.
        """
        key = replica, request
        if self._owed[key]:
            self._owed[key] -= 1
        else:
            for attempt in self._at.get(key, ()):
                if not attempt.accepted:
                    self.over(attempt)
                    return attempt
        self._tidy(key)
        return None

    def over(self, attempt: Attempt[P]) -> bool:
        """Take a request out; tell whether it was in."""
        if self._of.get(id(attempt.pending)) is not attempt:
            return False
        del self._of[id(attempt.pending)]
        key = attempt.seat.replica, attempt.request
        there = self._at[key]
        there.remove(attempt)
        if not there:
            del self._at[key]
        return True

    def _tidy(self, key: tuple[str, str]) -> None:
        if not self._owed[key]:
            del self._owed[key]
