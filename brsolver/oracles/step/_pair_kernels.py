"""Kernels that replace two requests of one worker at once; see `brsolver.oracles.step.search`.

Single requests leave a worker's sum up to half a gap between lengths off its best; the sums of
two are so much denser that they nearly always hit it. The best pair is exact, not searched for:
the gain is concave in the sum, so only the nearest sums below and above its peak can be best,
and two pointers over the sorted lengths find both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.oracles.step._gain_kernels import NONE, concave_peak, gain
from brsolver.oracles.step._slot_kernels import put, refresh

IntArray = NDArray[np.int64]

NEIGHBOURS = 4
"""Slots of a worker that are paired with each: all pairs of many slots would take too long."""


@kernel
def nearest_pairs(
    target: int, last: int, p_kind: int, q_kind: int, sizes: IntArray, left: IntArray,
    found: IntArray,
) -> None:  # fmt: skip
    """Write the pairs of lengths with the largest sum up to `target` and the smallest beyond.

    Lengths up to `last` that wait, and those in hand, may be used. `found` gets four indices, -1
    where there is no such pair.
    """
    found[:] = NONE
    low, high = 0, last
    below, above = -1, 1 << 62
    while low <= high:
        spare_low = left[low] + (low == p_kind) + (low == q_kind)
        spare_high = left[high] + (high == p_kind) + (high == q_kind)
        if spare_low == 0:
            low += 1
            continue
        if spare_high == 0:
            high -= 1
            continue
        if low == high and spare_low < 2:
            break
        both = sizes[low] + sizes[high]
        if both <= target:
            if both > below:
                below = both
                found[0], found[1] = low, high
            low += 1
        else:
            if both < above:
                above = both
                found[2], found[3] = low, high
            high -= 1


@kernel
def best_pair(
    p: int,
    q: int,
    sizes: IntArray,
    slot_worker: IntArray,
    limit: IntArray,
    slots: IntArray,
    left: IntArray,
    tokens: IntArray,
    requests: IntArray,
    scalars: IntArray,
    bends: IntArray,
    margins: IntArray,
    weights: IntArray,
    steps: IntArray,
    top: IntArray,
    who: IntArray,
    found: IntArray,
) -> int:
    """Return where in `found` the best pair for two slots of one worker stands, -1 if none is.

    None is if the present pair is as good.
    """
    j = slot_worker[p]
    present = sizes[slots[p]] + sizes[slots[q]]
    room = limit[j] - tokens[j] + present
    most = min(room, 2 * sizes[sizes.shape[0] - 1])
    target = concave_peak(
        j, present, 0, most, sizes[:0], tokens, requests, scalars, bends, margins, weights, steps,
        top, who,
    )  # fmt: skip
    last = np.searchsorted(sizes, room, side="right") - 1
    nearest_pairs(target, last, slots[p], slots[q], sizes, left, found)
    best, best_gain = NONE, 0
    for side in range(2):
        if found[2 * side] == NONE:
            continue
        both = sizes[found[2 * side]] + sizes[found[2 * side + 1]]
        if both > room:
            continue
        value = gain(
            j, both - present, 0, NONE, 0, 0, tokens, requests, scalars, bends, margins, weights,
            steps, top, who,
        )  # fmt: skip
        if value > best_gain:
            best, best_gain = 2 * side, value
    return best


@kernel
def replace_pairs(
    sizes: IntArray,
    slot_worker: IntArray,
    limit: IntArray,
    slots: IntArray,
    left: IntArray,
    tokens: IntArray,
    requests: IntArray,
    counters: IntArray,
    scalars: IntArray,
    bends: IntArray,
    margins: IntArray,
    weights: IntArray,
    steps: IntArray,
    top: IntArray,
    who: IntArray,
    hope: IntArray,
    found: IntArray,
) -> bool:
    """Put the best two requests into each two slots of a worker; return whether that gained."""
    improved = False
    for p in range(slots.shape[0]):
        q = p + 1
        while q < slots.shape[0] and slot_worker[q] == slot_worker[p] and q - p <= NEIGHBOURS:
            if slots[p] != NONE and slots[q] != NONE:
                side = best_pair(
                    p, q, sizes, slot_worker, limit, slots, left, tokens, requests, scalars,
                    bends, margins, weights, steps, top, who, found,
                )  # fmt: skip
                if side != NONE:
                    first, second = found[side], found[side + 1]
                    # Both return what they held first: it may be what the other takes.
                    for slot in (p, q):
                        put(slot, NONE, sizes, slot_worker, slots, left, tokens, requests, counters)
                    put(p, first, sizes, slot_worker, slots, left, tokens, requests, counters)
                    put(q, second, sizes, slot_worker, slots, left, tokens, requests, counters)
                    refresh(
                        tokens, requests, scalars, bends, margins, weights, steps, top, who, hope
                    )
                    improved = True
            q += 1
    return improved
