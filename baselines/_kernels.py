"""Greedy placement loops that the baselines share, compiled.

All take requests in the order given, place each on one worker that has room for it and stop at
the first that fits nowhere. They return int64 pairs (index into `tokens`, worker), shape (k, 2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.cluster.view import LOAD, PROMPT_TOKENS, QUEUED, ROOM, RUNNING, TOKEN_ROOM, VIEW_ROWS

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def weights_of(
    *, load: int = 0, running: int = 0, queued: int = 0, prompt_tokens: int = 0
) -> IntArray:
    """Return the weight of every row of `ClusterView.table` in a policy's score."""
    weights = np.zeros(VIEW_ROWS, np.int64)
    weights[[LOAD, RUNNING, QUEUED, PROMPT_TOKENS]] = load, running, queued, prompt_tokens
    return weights


@kernel
def fits(table: IntArray, worker: int, tokens: int) -> bool:
    """Tell whether `worker` may be given one more request of so many tokens."""
    return bool(table[ROOM, worker] > 0 and table[TOKEN_ROOM, worker] >= tokens)


@kernel
def assignable(table: IntArray, waiting: int) -> int:
    """Bound from above how many of the `waiting` requests one decision can place."""
    room = 0
    for g in range(table.shape[1]):
        # Clipped one by one, so that unlimited rooms do not overflow the sum.
        room += min(max(table[ROOM, g], 0), waiting)
    return min(room, waiting)


@kernel
def charge(table: IntArray, worker: int, tokens: int, requests: int, request_tokens: int) -> None:
    """Enter a request just placed into the working copy of the view."""
    table[LOAD, worker] += tokens + request_tokens
    table[PROMPT_TOKENS, worker] += tokens
    table[QUEUED, worker] += requests
    table[ROOM, worker] -= 1
    table[TOKEN_ROOM, worker] -= tokens


@kernel
def score_of(table: IntArray, weights: IntArray, worker: int) -> int:
    """Evaluate a score linear in the rows of the view."""
    score = 0
    for row in range(weights.shape[0]):
        score += weights[row] * table[row, worker]
    return score


@kernel
def lowest_open(table: IntArray, scores: IntArray, tokens: int, start: int) -> int:
    """Return the worker of least score that has room, the first from `start` on ties, or -1."""
    workers = table.shape[1]
    best = -1
    for offset in range(workers):
        g = (start + offset) % workers
        if fits(table, g, tokens) and (best < 0 or scores[g] < scores[best]):
            best = g
    return best


@kernel
def place_lowest(
    table: IntArray,
    tokens: IntArray,
    weights: IntArray,
    requests: int,
    start: int,
    rotation: int,
    request_tokens: int,
) -> IntArray:
    """Place every request on the open worker of least score.

    Parameters
    ----------
    table : ndarray of int64, shape (8, G)
        `ClusterView.table`; left as it is.
    tokens : ndarray of int64, shape (n,)
        KV tokens of each request, in the order of placement.
    weights : ndarray of int64, shape (8,)
        The score of worker g is ``Σ_row weights[row]·table[row, g]``, kept up to date as
        requests are placed.
    requests : int
        Queued requests that a placement counts as in the score.
    start, rotation : int
        Worker that the first scan starts from, and how far every further scan's start moves
        on. The first worker of least score wins.
    request_tokens : int
        What a request adds to its worker's load besides its tokens.
    """
    workers = table.shape[1]
    table = table.copy()
    scores = np.empty(workers, np.int64)
    for g in range(workers):
        scores[g] = score_of(table, weights, g)
    pairs = np.empty((assignable(table, tokens.shape[0]), 2), np.int64)
    for i in range(pairs.shape[0]):
        g = lowest_open(table, scores, tokens[i], start + i * rotation)
        if g < 0:
            return pairs[:i]
        charge(table, g, tokens[i], requests, request_tokens)
        scores[g] = score_of(table, weights, g)
        pairs[i, 0] = i
        pairs[i, 1] = g
    return pairs


@kernel
def place_next(table: IntArray, tokens: IntArray, start: int, advance: bool) -> IntArray:
    """Place every request on the first open worker from a pointer on, cyclically.

    Parameters
    ----------
    table, tokens
        As in `place_lowest`.
    start : int
        Where the pointer stands at first.
    advance : bool
        Whether the pointer moves on behind the worker chosen.
    """
    workers = table.shape[1]
    table = table.copy()
    scores = np.zeros(workers, np.int64)
    pairs = np.empty((assignable(table, tokens.shape[0]), 2), np.int64)
    for i in range(pairs.shape[0]):
        g = lowest_open(table, scores, tokens[i], start)
        if g < 0:
            return pairs[:i]
        charge(table, g, tokens[i], 1, 0)
        start = g + 1 if advance else start
        pairs[i, 0] = i
        pairs[i, 1] = g
    return pairs


@kernel
def open_workers(table: IntArray, tokens: int) -> int:
    """Count the workers that have room for a request of so many tokens."""
    count = 0
    for g in range(table.shape[1]):
        count += fits(table, g, tokens)
    return count


@kernel
def nth_open(table: IntArray, tokens: int, n: int) -> int:
    """Return the worker with n open ones before it."""
    g = 0
    while n > 0 or not fits(table, g, tokens):
        n -= fits(table, g, tokens)
        g += 1
    return g
