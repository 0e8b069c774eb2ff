"""Kernels of the guard: with more free slots than requests, balance what is there, and at once.

Then no request competes with another for a slot, and none has to be left for later: what a request
does to the barrier depends on its worker's load alone. `brsolver.routers.reference.spread` is the
plain version.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.cluster.view import CAPACITY, LOAD, NO_LIMIT, ROOM, SLOTS, TOKEN_ROOM

IntArray = NDArray[np.int64]


@kernel
def places(table: IntArray, prompts: IntArray) -> IntArray:
    """Return how many of the waiting requests each worker has place for, shape (G,).

    Its free slots; where its KV tokens are limited, so many as mean prompts fit into, and one at
    least if the shortest fits: slots that memory cannot back are none.
    """
    mean, shortest = max(prompts.mean(), 1.0), prompts.min()
    out = table[ROOM].copy()
    for g in range(out.shape[0]):
        left = table[TOKEN_ROOM, g]
        if left < shortest:
            out[g] = 0
        elif left < NO_LIMIT and out[g] > 0:
            out[g] = max(min(out[g], int(left / mean)), 1)
    return out


@kernel
def plentiful(table: IntArray, prompts: IntArray) -> bool:
    """Tell whether there are more places than waiting requests."""
    return bool(places(table, prompts).sum() > prompts.shape[0])


@kernel
def hold_back(table: IntArray, tokens_left: IntArray, room: IntArray, tokens: int) -> int:
    """Return the worker to keep free for a request that fits nowhere yet; -1 if none ever will.

    `tokens` are its KV tokens. Given nothing else, the one with the most KV tokens left is the
    first that can take it.
    """
    best = -1
    for g in range(room.shape[0]):
        if table[SLOTS, g] == 0 or table[CAPACITY, g] < tokens:
            continue
        if best < 0 or tokens_left[g] > tokens_left[best]:
            best = g
    return best


@kernel
def least_loaded(load: IntArray, room: IntArray, tokens_left: IntArray, tokens: int) -> int:
    """Return the worker of least load that takes so many KV tokens, the first on ties; or -1."""
    best = -1
    for g in range(load.shape[0]):
        if room[g] <= 0 or tokens_left[g] < tokens:
            continue
        if best < 0 or load[g] < load[best]:
            best = g
    return best


@kernel
def longest_first(prompts: IntArray, since: IntArray, overdue: int) -> IntArray:
    """Order the waiting requests: those due since `overdue` in their order, then by length."""
    rank = -prompts
    for i in range(prompts.shape[0]):
        if since[i] <= overdue:
            rank[i] = -NO_LIMIT
    return np.argsort(rank, kind="mergesort")


@kernel
def spread(
    table: IntArray, prompts: IntArray, since: IntArray, overdue: int, request_tokens: int
) -> IntArray:
    """Place the longest prompt first, each on the least loaded worker that has room for it.

    Requests that have waited since step `overdue` or before go before all others, and for one
    that fits nowhere yet a worker is kept free. `prompts` are KV tokens.

    Returns
    -------
    ndarray of int64, shape (k, 2)
        Pairs (waiting index, worker).
    """
    load, room, tokens_left = table[LOAD].copy(), table[ROOM].copy(), table[TOKEN_ROOM].copy()
    out = np.empty((min(prompts.shape[0], room.sum()), 2), np.int64)
    made = 0
    for i in longest_first(prompts, since, overdue):
        if made == out.shape[0]:
            break
        g = least_loaded(load, room, tokens_left, prompts[i])
        if g < 0:
            kept = hold_back(table, tokens_left, room, prompts[i]) if since[i] <= overdue else -1
            if kept >= 0:
                room[kept] = 0
            continue
        out[made, 0], out[made, 1] = i, g
        made += 1
        load[g] += prompts[i] + request_tokens
        room[g] -= 1
        if tokens_left[g] < NO_LIMIT:
            tokens_left[g] -= prompts[i]
    return out[:made]
