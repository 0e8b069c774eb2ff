"""Waiting requests in classes of like size, each in order of arrival: a queue per class.

The requests of a class are all but the same to whoever looks for a size, so the first that fits
stands for them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel

IntArray = NDArray[np.int64]

# Rows of the links of a queue: the request after, and before; -1 at its ends.
AFTER, BEFORE = range(2)

STEPS = tuple(2.0 ** (m / 8) for m in range(1, 8))
"""Bounds of the classes within an octave: eight, each 9 % wide."""


@kernel
def size_class(size: int) -> int:
    """Return ``⌊8·log2(size)⌋``, by comparisons that are exact on any machine."""
    octave, whole = 0, 1
    while 2 * whole <= size:
        whole *= 2
        octave += 1
    place = 0
    for bound in STEPS:
        if size / whole >= bound:
            place += 1
    return 8 * octave + place


@kernel
def sort_into_classes(sizes: IntArray, exact: bool) -> IntArray:
    """Return every request's class, numbered by size, shape (n,).

    With `exact` requests are of a class if they are of one size.
    """
    keys = sizes.copy()
    if not exact:
        for i in range(keys.shape[0]):
            keys[i] = size_class(sizes[i])
        return _ranks_of_small(keys)
    order = np.argsort(keys, kind="mergesort")
    out = np.empty_like(keys)
    rank = 0
    for at in range(order.shape[0]):
        if at > 0 and keys[order[at]] != keys[order[at - 1]]:
            rank += 1
        out[order[at]] = rank
    return out


@kernel
def _ranks_of_small(keys: IntArray) -> IntArray:
    ranks = np.zeros(keys.max() + 1, np.int64)
    for key in keys:
        ranks[key] = 1
    ranks = np.cumsum(ranks) - 1
    return ranks[keys]


@kernel
def link_all(classes: IntArray) -> tuple[IntArray, IntArray]:
    """Return the first request of every class, and the links to those behind it."""
    heads = np.full(classes.max() + 1, -1, np.int64)
    links = np.full((2, classes.shape[0]), -1, np.int64)
    for i in range(classes.shape[0] - 1, -1, -1):
        _link(i, -1, heads[classes[i]], heads, links, classes)
    return heads, links


@kernel
def _link(
    i: int, before: int, after: int, heads: IntArray, links: IntArray, classes: IntArray
) -> None:
    links[AFTER, i], links[BEFORE, i] = after, before
    if before >= 0:
        links[AFTER, before] = i
    else:
        heads[classes[i]] = i
    if after >= 0:
        links[BEFORE, after] = i


@kernel
def take_out(i: int, heads: IntArray, links: IntArray, classes: IntArray) -> None:
    """Take a request out of its queue."""
    after, before = links[AFTER, i], links[BEFORE, i]
    if before >= 0:
        links[AFTER, before] = after
    else:
        heads[classes[i]] = after
    if after >= 0:
        links[BEFORE, after] = before


@kernel
def put_back(i: int, heads: IntArray, links: IntArray, classes: IntArray) -> None:
    """Put a request back where it stood in its queue."""
    before, after = -1, heads[classes[i]]
    while 0 <= after < i:
        before, after = after, links[AFTER, after]
    _link(i, before, after, heads, links, classes)


@kernel
def first_fitting(head: int, links: IntArray, prompts: IntArray, room: int) -> int:
    """Return the first request of a queue that fits into the room; -1 if none does."""
    while head >= 0 and prompts[head] > room:
        head = links[AFTER, head]
    return head
