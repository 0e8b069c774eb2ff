"""Requests held back until slots are free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from brsolver.cluster.view import QUEUE_ROWS, REQUEST, SINCE, TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brsolver.cluster.view import IntArray

OFFERED = 4096
"""Requests, first come first, among which a decision chooses."""
FIRST_ROOM = 64
LEFT = -1
"""In place of a rank: whoever serves decides by a rule of its own."""


class Holdable(Protocol):
    """What can be held: a request as the books know it."""

    name: str
    prompt_tokens: int
    identity: int


R = TypeVar("R", bound=Holdable)


class Held(Generic[R]):
    """A request that is held back, whatever its sender believes.

    Attributes
    ----------
    message : object
        What it is sent, or answered, with.
    request : Holdable
        As the books know it.
    since : int
        Decode step at which it came.
    """

    __slots__ = ("message", "request", "since")

    def __init__(self, message: Any, request: R, since: int) -> None:
        self.message = message
        self.request = request
        self.since = since


class Pool(Generic[R]):
    """Held requests, first come first, with what decisions are made of in columns."""

    def __init__(self) -> None:
        self._held: dict[str, Held[R]] = {}
        self._order: list[Held[R]] = []
        self._columns: IntArray = np.zeros((QUEUE_ROWS, FIRST_ROOM), np.int64)

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def __iter__(self) -> Iterator[Held[R]]:
        return iter(self._order)

    def add(self, held: Held[R], at: int | None = None) -> None:
        """Hold a request, behind all others or behind so many of them."""
        last, request, columns = len(self._order), held.request, self._columns
        if last == columns.shape[1]:
            columns = self._columns = np.concatenate((columns, np.zeros_like(columns)), axis=1)
        at = last if at is None else at
        if at < last:
            columns[:, at + 1 : last + 1] = columns[:, at:last].copy()
        columns[TOKENS, at], columns[REQUEST, at] = request.prompt_tokens, request.identity
        columns[SINCE, at] = held.since
        self._order.insert(at, held)
        self._held[request.name] = held

    def drop(self, name: str) -> Held[R] | None:
        """Let one go, and return it; None if it is not held."""
        held = self._held.pop(name, None)
        if held is not None:
            order = self._order
            at, last = order.index(held), len(order) - 1
            del order[at]
            self._columns[:, at:last] = self._columns[:, at + 1 : last + 1]
        return held

    def take(self, chosen: list[Held[R]]) -> list[Held[R]]:
        """Let some go; return those that were held."""
        return [each for each in chosen if self.drop(each.request.name) is not None]

    def drain(self) -> list[Held[R]]:
        """Let all go."""
        everyone, self._order = self._order, []
        self._held.clear()
        return everyone

    def renumber(self) -> None:
        """Take in that requests have other identities."""
        for at, held in enumerate(self._order):
            self._columns[REQUEST, at] = held.request.identity

    @property
    def oldest(self) -> Held[R] | None:
        """Who came first; None if nobody is held."""
        return self._order[0] if self._order else None

    def offer(self, most: int = OFFERED) -> tuple[list[Held[R]], IntArray]:
        """Return the first ones and, in that order, their queue, shape (QUEUE_ROWS, n).

        No more than `most`, nor than `OFFERED`. The queue is the pool's own, to be read until the
        pool changes, and not to be written.
        """
        held = self._order[: min(most, OFFERED)]
        return held, self._columns[:, : len(held)]
