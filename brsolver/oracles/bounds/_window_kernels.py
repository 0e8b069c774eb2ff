"""Kernels of the window bounds: who shares a worker shares it for as long as both run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel

IntArray = NDArray[np.int64]


@kernel
def pair_excess(
    key: IntArray, end: IntArray, edges: IntArray, first_step: int, known: IntArray
) -> IntArray:
    """Return by how much every pair on one worker exceeds the bounds per step, cumulated.

    ``excess[i, j, e] = Σ_k (c_i + c_j + 2k - LB_k)_+`` over the steps from ``edges[0]`` to
    ``edges[e]`` during which both run, ``known[k - first_step] = LB_k``.
    """
    n, windows = key.shape[0], edges.shape[0] - 1
    excess = np.zeros((n, n, windows + 1), np.int64)
    for i in range(n):
        for j in range(i + 1, n):
            total, both_end = 0, min(end[i], end[j])
            for e in range(windows):
                for k in range(edges[e], min(edges[e + 1], both_end)):
                    total += max(0, key[i] + key[j] + 2 * k - known[k - first_step])
                excess[i, j, e + 1] = total
                excess[j, i, e + 1] = total
    return excess


@kernel
def crowd(excess: IntArray, first: int, opens: int, closes: int, size: int, least: int) -> int:
    """Grow a set of `size` requests from `first`; return its smallest pair excess.

    Each request added is the one whose smallest excess with the set is largest. Any set gives a
    valid bound, so nothing is lost but strength if the greedy choice is not the best. Gives up
    with 0 once the value cannot exceed `least`.
    """
    n = excess.shape[0]
    value = np.iinfo(np.int64).max
    nearest = excess[first, :, closes] - excess[first, :, opens]
    nearest[first] = -1
    for _ in range(size - 1):
        chosen = np.argmax(nearest)
        value = min(value, nearest[chosen])
        if value <= least:
            return 0
        for j in range(n):
            if nearest[j] >= 0:
                nearest[j] = min(nearest[j], excess[chosen, j, closes] - excess[chosen, j, opens])
        nearest[chosen] = -1
    return value


@kernel
def window_gains(excess: IntArray, workers: int, starts: int) -> IntArray:
    """Return what two of G + 1 requests sharing a worker add to each window of edges."""
    n, windows = excess.shape[0], excess.shape[2] - 1
    gains = np.zeros((windows + 1, windows + 1), np.int64)
    for opens in range(windows):
        for closes in range(opens + 1, windows + 1):
            for first in range(min(starts, n)):
                value = crowd(excess, first, opens, closes, workers + 1, gains[opens, closes])
                gains[opens, closes] = max(gains[opens, closes], value)
    return gains


@kernel
def best_windows(gains: IntArray) -> IntArray:
    """Choose disjoint windows with the largest total gain, by dynamic programming.

    Returns the edge at which the last window before each edge opens.
    """
    edges = gains.shape[0]
    total = np.zeros(edges, np.int64)
    opened = np.zeros(edges, np.int64)
    for closes in range(1, edges):
        for opens in range(closes):
            value = total[opens] + gains[opens, closes]
            if opens == 0 or value > total[closes]:
                total[closes], opened[closes] = value, opens
    return opened
