"""Waiting requests by size, for decisions that place many of them one by one.

With the waiting requests sorted once, the two that can have the largest F are found by binary
search, whatever their number; links skip those already taken.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.routers._score_kernels import peak, score

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# Rows of the index: queue positions by size, sizes, links down and up past what is taken.
POSITION, TOKENS, DOWN, UP = range(4)


@kernel
def sort_waiting(prompts: IntArray, taken: NDArray[np.bool_]) -> IntArray:
    """Return the index of the requests not yet taken, with a sentinel on each side."""
    order = np.argsort(prompts, kind="mergesort")
    index = np.empty((4, prompts.shape[0] + 2), np.int64)
    size = 0
    for j in range(order.shape[0]):
        if not taken[order[j]]:
            size += 1
            index[POSITION, size] = order[j]
            index[TOKENS, size] = prompts[order[j]]
    for j in range(size + 2):
        index[DOWN, j] = j
        index[UP, j] = j
    index[TOKENS, 0] = -1
    return index[:, : size + 2]


@kernel
def follow(links: IntArray, at: int) -> int:
    """Return the first entry from `at` that is not taken, shortening the links on the way."""
    end = at
    while links[end] != end:
        end = links[end]
    while links[at] != end:
        at, links[at] = links[at], end
    return end


@kernel
def remove(index: IntArray, at: int) -> None:
    """Take an entry out."""
    index[DOWN, at] = at - 1
    index[UP, at] = at + 1


@kernel
def best_sorted(
    index: IntArray,
    token_room: int,
    margins: IntArray,
    discounts: FloatArray,
    filling: float,
    overflow: float,
) -> int:
    """Return the entry with the largest F that fits, the first in the queue on ties; 0 if none."""
    last = index.shape[1] - 1
    sizes = index[TOKENS, :last]
    largest = follow(index[DOWN], last - 1)
    if largest == 0 or token_room < 1:
        return 0
    most = peak(margins, discounts, filling, overflow, sizes[largest])
    reach = int(np.searchsorted(sizes, min(most, token_room), side="right"))
    below = follow(index[DOWN], reach - 1)
    if below > 0:
        below = follow(index[UP], int(np.searchsorted(sizes, sizes[below], side="left")))
    above = last
    if most < token_room:
        above = follow(index[UP], reach)
    if above == last or sizes[above] > token_room:
        return below
    if below == 0:
        return above
    low = score(margins, discounts, filling, overflow, sizes[below])
    high = score(margins, discounts, filling, overflow, sizes[above])
    return below if low >= high else above
