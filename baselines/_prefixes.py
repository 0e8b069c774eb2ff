"""What rules that go by prefix caches share: whom they ask about, and a greedy loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from baselines._kernels import IntArray, assignable, charge, fits
from brsolver._jit import kernel
from brsolver.cluster.view import LOAD, SLOTS, Waiting

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView


def first_and_cached(cluster: ClusterView, waiting: Waiting) -> tuple[IntArray, IntArray]:
    """Return the KV tokens of those that could be placed, first come first served, and the cached.

    Returns
    -------
    tokens : ndarray of int64, shape (k,)
    cached : ndarray of int64, shape (k, G)
        Tokens of each that are in each worker's prefix cache.
    """
    count = assignable(cluster.table, len(waiting))
    tokens = waiting.prompt_tokens[:count]
    few = Waiting(tokens, waiting.request[:count], waiting.since[:count])
    return tokens, cluster.cached_tokens(few)


@kernel
def limit_of(table: IntArray, tokens: int, share: float) -> float:
    """Return the load that an open worker may have: the least of these, and a share of the mean."""
    least, total, alive = np.inf, 0, 0
    for g in range(table.shape[1]):
        if table[SLOTS, g] > 0:
            alive += 1
            total += table[LOAD, g]
        if fits(table, g, tokens):
            least = min(least, table[LOAD, g])
    return least + share * total / max(alive, 1)


@kernel
def most_cached(table: IntArray, cached: IntArray, tokens: int, limit: float) -> int:
    """Return the open worker within the load limit that has most cached, or -1.

    Ties go to the least load, then to the lowest index.
    """
    best = -1
    for g in range(table.shape[1]):
        if not fits(table, g, tokens) or table[LOAD, g] > limit:
            continue
        if best < 0 or (cached[g], -table[LOAD, g]) > (cached[best], -table[LOAD, best]):
            best = g
    return best


@kernel
def place_most_cached(
    table: IntArray, tokens: IntArray, cached: IntArray, share: float, request_tokens: int
) -> IntArray:
    """Place requests in order, each where most of it is cached, among the workers not too loaded.

    Parameters
    ----------
    table : ndarray of int64, shape (VIEW_ROWS, G)
        `ClusterView.table`; left as it is.
    tokens : ndarray of int64, shape (k,)
    cached : ndarray of int64, shape (k, G)
    share : float
        How far a load may lie above the least, in mean loads of live workers; infinite is any.
    request_tokens : int
        What a request adds to its worker's load besides its tokens.

    Returns
    -------
    ndarray of int64, shape (j, 2)
        Pairs (index into `tokens`, worker).
    """
    table = table.copy()
    pairs = np.empty((tokens.shape[0], 2), np.int64)
    for i in range(pairs.shape[0]):
        limit = np.inf if np.isinf(share) else limit_of(table, tokens[i], share)
        g = most_cached(table, cached[i], tokens[i], limit)
        if g < 0:
            return pairs[:i]
        charge(table, g, tokens[i], 1, request_tokens)
        pairs[i, 0] = i
        pairs[i, 1] = g
    return pairs
