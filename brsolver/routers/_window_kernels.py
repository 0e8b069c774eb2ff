"""Kernels that say which of the waiting requests a wave of BR-T is chosen from, and of what."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.cluster.view import (
    BACKLOG,
    CAPACITY,
    NO_LIMIT,
    ROOM,
    RUNNING,
    SLOTS,
    TOKEN_ROOM,
)

IntArray = NDArray[np.int64]

WAITS, GONE, NOWHERE = -1, -2, -3
"""Where a request goes, if to no worker; NOWHERE for as long as no larger one is there."""


@kernel
def least_fresh(prompts: IntArray, cached: IntArray, window: IntArray) -> IntArray:
    """Return how many tokens of each prompt in the window must be computed, wherever it goes."""
    fresh = prompts[window]
    if cached.shape[0] > 0:
        for j in range(window.shape[0]):
            fresh[j] -= cached[window[j]].max()
    return fresh


@kernel
def largest_that_fits(table: IntArray) -> int:
    """Return the KV tokens of the largest request that any worker there could ever hold."""
    largest = 0
    for g in range(table.shape[1]):
        if table[SLOTS, g] != 0:
            endless = table[TOKEN_ROOM, g] == NO_LIMIT
            largest = max(largest, NO_LIMIT if endless else table[CAPACITY, g])
    return largest


@kernel
def window_of(goes: IntArray, count: int) -> IntArray:
    """Return the first so many requests that could go somewhere, in order of arrival."""
    window = np.empty(count, np.int64)
    made = 0
    for i in range(goes.shape[0]):
        if made == count:
            break
        if goes[i] != NOWHERE:
            window[made] = i
            made += 1
    return window[:made]


@kernel
def fresh_tokens(prompts: IntArray, cached: IntArray, i: int, g: int) -> int:
    """Return how many tokens of prompt i worker g would have to compute."""
    return prompts[i] - cached[i, g] if cached.shape[0] > 0 else prompts[i]


@kernel
def mean_rise(table: IntArray, now: IntArray, filled: int) -> float:
    """Return by how much the mean backlog of workers that are there rises, fills left out."""
    rise, live = -filled, 0
    for g in range(table.shape[1]):
        if table[SLOTS, g] != 0:
            live += 1
            rise += now[BACKLOG, g] - table[BACKLOG, g]
    return rise / live if live > 0 else 0.0


@kernel
def slots_and_running(table: IntArray) -> tuple[int, int]:
    """Return how many slots are left, and how many requests run: none if all slots are left.

    What runs may have been told long ago; what room there is, is always true.
    """
    left, running, busy = 0, 0, False
    for g in range(table.shape[1]):
        left += max(table[ROOM, g], 0)
        running += table[RUNNING, g]
        busy = busy or table[ROOM, g] < table[SLOTS, g]
    return left, running if busy else 0


@kernel
def ends_at(table: IntArray, prompts: IntArray, cached: IntArray, pairs: IntArray) -> IntArray:
    """Return the backlog of its worker at which the prefill of each placement ends, shape (k,).

    Each worker computes what it has, then what it is given in the order of `pairs`, shape (k, 2).
    """
    backlog = table[BACKLOG].copy()
    out = np.empty(pairs.shape[0], np.int64)
    for at in range(pairs.shape[0]):
        i, g = pairs[at]
        backlog[g] += fresh_tokens(prompts, cached, i, g)
        out[at] = backlog[g]
    return out
