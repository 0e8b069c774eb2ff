"""Kernels that say which of the waiting requests a wave of BR-T is chosen from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.cluster.view import CAPACITY, NO_LIMIT, SLOTS, TOKEN_ROOM

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
