"""Kernels of turns that follow others: each comes after a delay once the one before has ended.

What is known to come is in two lists: requests that follow nobody, in the order in which they
come, and a heap of turns whose previous one has ended. Where requests come as the cluster takes
them, not at times of their own, delays do not count and rows of the trace are the order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.cluster._state_kernels import NONE
from brsolver.simulator._layout import (
    B_COMING,
    B_FINISHED,
    B_NEXT_TURN,
    B_ORDER,
    B_REJECTED,
    T_ARRIVAL,
    T_DELAY,
    T_FINISH,
    T_PREFILL,
    T_READY,
    Cursor,
)

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@kernel
def by_rows(cursor: Cursor) -> bool:
    """Tell whether requests come as the cluster takes them, in the order of rows."""
    c = cursor[0]
    asked: bool = c.pool > 0 or c.concurrency > 0
    return asked


@kernel
def before(times: FloatArray, cursor: Cursor, i: int, j: int) -> bool:
    """Tell whether request i comes before j: by time, at the same time by row."""
    if by_rows(cursor) or times[T_READY, i] == times[T_READY, j]:
        return i < j
    sooner: bool = times[T_READY, i] < times[T_READY, j]
    return sooner


@kernel
def expect(book: IntArray, times: FloatArray, cursor: Cursor, i: int) -> None:
    """Put turn i among those that are known to come."""
    c = cursor[0]
    at = c.coming
    c.coming += 1
    c.known += 1
    while at > 0:
        above = (at - 1) // 2
        if not before(times, cursor, i, book[B_COMING, above]):
            break
        book[B_COMING, at] = book[B_COMING, above]
        at = above
    book[B_COMING, at] = i


@kernel
def drop_soonest(book: IntArray, times: FloatArray, cursor: Cursor) -> None:
    """Take the first out of the turns that are known to come."""
    c = cursor[0]
    c.coming -= 1
    last, at, below = book[B_COMING, c.coming], 0, 1
    while below < c.coming:
        right = below + 1
        if right < c.coming and before(times, cursor, book[B_COMING, right], book[B_COMING, below]):
            below = right
        if not before(times, cursor, book[B_COMING, below], last):
            break
        book[B_COMING, at] = book[B_COMING, below]
        at, below = below, 2 * below + 1
    book[B_COMING, at] = last


@kernel
def follow_one(book: IntArray, times: FloatArray, cursor: Cursor, i: int, ended_s: float) -> None:
    """Let the turn come that follows request i, which has ended."""
    j = book[B_NEXT_TURN, i]
    if j == NONE:
        return
    if not by_rows(cursor):
        times[T_ARRIVAL, j] = ended_s + times[T_DELAY, j]
        times[T_READY, j] = times[T_ARRIVAL, j] + times[T_PREFILL, j]
    expect(book, times, cursor, j)


@kernel
def follow(book: IntArray, times: FloatArray, cursor: Cursor) -> int:
    """Let turns come whose previous one has ended since the last call; return how many.

    What was rejected since then was so at this clock: called before the clock moves.
    """
    c = cursor[0]
    if not c.turns:
        return 0
    known = c.known
    while c.heard_finished < c.finished:
        i = book[B_FINISHED, c.heard_finished]
        c.heard_finished += 1
        follow_one(book, times, cursor, i, times[T_FINISH, i])
    while c.heard_rejected < c.rejected:
        i = book[B_REJECTED, c.heard_rejected]
        c.heard_rejected += 1
        follow_one(book, times, cursor, i, c.clock_s)
    more: int = c.known - known
    return more


@kernel
def next_to_come(book: IntArray, times: FloatArray, cursor: Cursor) -> int:
    """Return which request comes next, of those that are known to and have not."""
    c = cursor[0]
    first: int = book[B_ORDER, c.first if c.turns else c.arrived]
    if c.coming == 0:
        return first
    turn: int = book[B_COMING, 0]
    return turn if c.first == c.firsts or before(times, cursor, turn, first) else first


@kernel
def has_come(book: IntArray, times: FloatArray, cursor: Cursor, i: int) -> None:
    """Count request i, the next to come, as arrived."""
    c = cursor[0]
    c.arrived += 1
    if c.turns and c.coming > 0 and book[B_COMING, 0] == i:
        drop_soonest(book, times, cursor)
    elif c.turns:
        c.first += 1
