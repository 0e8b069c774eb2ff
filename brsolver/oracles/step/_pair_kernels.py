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
from brsolver.oracles.step._gain_kernels import concave_peak, gain
from brsolver.oracles.step._shapes import NONE, Decision, Leads, Offer, Share, Terms
from brsolver.oracles.step._slot_kernels import put, refresh, room_for

IntArray = NDArray[np.int64]

NEIGHBOURS = 4
"""Slots of a worker that are paired with each: all pairs of many slots would take too long."""


@kernel
def nearest_pairs(
    peak: int, last: int, p_kind: int, q_kind: int, sizes: IntArray, left: IntArray,
    found: IntArray,
) -> None:  # fmt: skip
    """Write the pairs of lengths with the largest sum up to `peak` and the smallest beyond.

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
        if both <= peak:
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
def best_pair(p: int, q: int, offer: Offer, decision: Decision, terms: Terms, leads: Leads) -> int:
    """Return where in `found` the best pair for two slots of one worker stands, -1 if none is.

    None is if the present pair is as good.
    """
    sizes, found, slots = offer.sizes, leads.found, decision.slots
    j = offer.slot_worker[p]
    had = Share(j, decision.tokens[j], decision.requests[j])
    base = Share(j, had.tokens - sizes[slots[p]] - sizes[slots[q]], had.requests)
    room: int = room_for(j, base.requests, offer) - base.tokens
    most = min(room, 2 * sizes[sizes.shape[0] - 1])
    peak = concave_peak(base, most, sizes[:0], terms, leads)
    last = int(np.searchsorted(sizes, room, side="right")) - 1
    nearest_pairs(peak, last, slots[p], slots[q], sizes, decision.left, found)
    best, best_gain = NONE, 0
    for side in range(2):
        if found[2 * side] == NONE:
            continue
        both = sizes[found[2 * side]] + sizes[found[2 * side + 1]]
        if both > room:
            continue
        value = gain(had, Share(j, base.tokens + both, base.requests), terms, leads)
        if value > best_gain:
            best, best_gain = 2 * side, value
    return best


@kernel
def replace_pairs(offer: Offer, decision: Decision, terms: Terms, leads: Leads) -> bool:
    """Put the best two requests into each two slots of a worker; return whether that gained."""
    slot_worker, slots, found = offer.slot_worker, decision.slots, leads.found
    improved = False
    for p in range(slots.shape[0]):
        q = p + 1
        while q < slots.shape[0] and slot_worker[q] == slot_worker[p] and q - p <= NEIGHBOURS:
            if slots[p] != NONE and slots[q] != NONE:
                side = best_pair(p, q, offer, decision, terms, leads)
                if side != NONE:
                    first, second = found[side], found[side + 1]
                    # Both return what they held first: it may be what the other takes.
                    for slot in (p, q):
                        put(slot, NONE, offer, decision)
                    put(p, first, offer, decision)
                    put(q, second, offer, decision)
                    refresh(decision, terms, leads)
                    improved = True
            q += 1
    return improved
