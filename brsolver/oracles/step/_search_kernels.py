"""Kernels of the local search over one routing decision; see `brsolver.oracles.step.search`.

A decision is held as the length (index into `sizes`, -1 for none) in each free slot. Both
objectives are gains to maximise; each is concave in one worker's token sum while the others
stand still, so the best replacement of one request is found by bisection over the lengths.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.oracles.step._gain_kernels import (
    ADMIT,
    BY_SCORE,
    GROWS,
    NONE,
    concave_peak,
    exchange_pays,
    first_past_peak,
    gain,
    total,
)
from brsolver.oracles.step._pair_kernels import replace_pairs
from brsolver.oracles.step._slot_kernels import ADMITTED, SEED, put, refresh

IntArray = NDArray[np.int64]


@kernel
def best_kind(
    slot: int,
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
    bend: IntArray,
) -> tuple[int, int]:
    """Return the best length to put into a slot instead of what it holds, and its gain.

    The gain is 0 and the length the present one if none is better.
    """
    j, old = slot_worker[slot], slots[slot]
    present = sizes[old] if old != NONE else 0
    extra = 0 if old != NONE else 1
    best, best_gain = old, 0
    if old != NONE and scalars[ADMIT] == NONE:
        value = gain(
            j, -present, -1, NONE, 0, 0, tokens, requests, scalars, bends, margins, weights,
            steps, top, who,
        )  # fmt: skip
        if value > best_gain:
            best, best_gain = NONE, value
    if old == NONE and counters[ADMITTED] == scalars[ADMIT]:
        return best, best_gain
    last = np.searchsorted(sizes, limit[j] - tokens[j] + present, side="right") - 1
    if scalars[BY_SCORE] == 1:
        low = concave_peak(
            j, present, extra, last, sizes, tokens, requests, scalars, bends, margins, weights,
            steps, top, who,
        )  # fmt: skip
    else:
        low = first_past_peak(
            j, requests[j] + extra, last, sizes, tokens[j] - present, scalars, margins, weights,
            steps, top, who, bend,
        ) - 1  # fmt: skip
    below, above = low, low + 1
    while below >= 0 and left[below] == 0:
        below -= 1
    while above <= last and left[above] == 0:
        above += 1
    # An empty slot below the number to admit is filled whatever it costs.
    forced = old == NONE and scalars[ADMIT] != NONE
    for side in range(2):
        pick = below if side == 0 else above
        if pick < 0 or pick > last:
            continue
        value = gain(
            j, sizes[pick] - present, extra, NONE, 0, 0, tokens, requests, scalars, bends,
            margins, weights, steps, top, who,
        )  # fmt: skip
        if value > best_gain or (forced and best == NONE):
            best, best_gain = pick, value
    return best, best_gain


@kernel
def replace_all(
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
    bend: IntArray,
) -> bool:
    """Put the best waiting request into each slot in turn; return whether that gained."""
    improved = False
    for p in range(slots.shape[0]):
        kind, value = best_kind(
            p, sizes, slot_worker, limit, slots, left, tokens, requests, counters, scalars,
            bends, margins, weights, steps, top, who, bend,
        )  # fmt: skip
        if kind != slots[p]:
            put(p, kind, sizes, slot_worker, slots, left, tokens, requests, counters)
            refresh(tokens, requests, scalars, bends, margins, weights, steps, top, who, hope)
            improved = improved or value > 0
    return improved


@kernel
def exchange(
    p: int,
    q: int,
    sizes: IntArray,
    slot_worker: IntArray,
    limit: IntArray,
    slots: IntArray,
    tokens: IntArray,
    requests: IntArray,
    scalars: IntArray,
    bends: IntArray,
    margins: IntArray,
    weights: IntArray,
    steps: IntArray,
    top: IntArray,
    who: IntArray,
    hope: IntArray,
) -> bool:
    """Exchange what two slots hold if that gains; return whether it did."""
    a, b = slots[p], slots[q]
    j, i = slot_worker[p], slot_worker[q]
    more = (sizes[b] if b != NONE else 0) - (sizes[a] if a != NONE else 0)
    extra = (1 if b != NONE else 0) - (1 if a != NONE else 0)
    if tokens[j] + more > limit[j] or tokens[i] - more > limit[i]:
        return False
    if scalars[BY_SCORE] == 1:
        up, down = (j, i) if more > 0 else (i, j)
        # F is concave: what moves gains at most the difference of the slopes it moves between.
        if scalars[GROWS] == 0 and hope[up] <= hope[down]:
            return False
        pays = gain(
            j, more, extra, i, -more, -extra, tokens, requests, scalars, bends, margins, weights,
            steps, top, who,
        ) > 0  # fmt: skip
    else:
        up, down = (j, i) if more > 0 else (i, j)
        more_up, extra_up = abs(more), abs(extra)
        pays = hope[down] > 0 and exchange_pays(
            up, tokens[up] + more_up, requests[up] + extra_up, down, tokens[down] - more_up,
            requests[down] - extra_up, margins, weights, steps, top, who, hope,
        )  # fmt: skip
    if not pays:
        return False
    slots[p], slots[q] = b, a
    tokens[j] += more
    tokens[i] -= more
    requests[j] += extra
    requests[i] -= extra
    refresh(tokens, requests, scalars, bends, margins, weights, steps, top, who, hope)
    return True


@kernel
def exchange_all(
    sizes: IntArray,
    slot_worker: IntArray,
    limit: IntArray,
    slots: IntArray,
    tokens: IntArray,
    requests: IntArray,
    scalars: IntArray,
    bends: IntArray,
    margins: IntArray,
    weights: IntArray,
    steps: IntArray,
    top: IntArray,
    who: IntArray,
    hope: IntArray,
) -> bool:
    """Exchange requests between workers where that gains; return whether any was."""
    improved = False
    for p in range(slots.shape[0]):
        for q in range(p + 1, slots.shape[0]):
            if slot_worker[p] != slot_worker[q] and slots[p] != slots[q]:
                improved |= exchange(
                    p, q, sizes, slot_worker, limit, slots, tokens, requests, scalars, bends,
                    margins, weights, steps, top, who, hope,
                )  # fmt: skip
    return improved


@kernel
def descend(
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
    bend: IntArray,
    found: IntArray,
) -> None:
    """Replace and exchange requests, and then pairs of them, until nothing helps."""
    improved = True
    while improved:
        improved = replace_all(
            sizes, slot_worker, limit, slots, left, tokens, requests, counters, scalars, bends,
            margins, weights, steps, top, who, hope, bend,
        )  # fmt: skip
        improved |= exchange_all(
            sizes, slot_worker, limit, slots, tokens, requests, scalars, bends, margins, weights,
            steps, top, who, hope,
        )  # fmt: skip
        if not improved:
            improved = replace_pairs(
                sizes, slot_worker, limit, slots, left, tokens, requests, counters, scalars,
                bends, margins, weights, steps, top, who, hope, found,
            )  # fmt: skip


@kernel
def draw(counters: IntArray, below: int) -> int:
    """Return a pseudo-random integer in [0, below) (a 31-bit linear congruence)."""
    counters[SEED] = (counters[SEED] * 1103515245 + 12345) & 0x7FFFFFFF
    drawn: int = (counters[SEED] >> 8) % below
    return drawn


@kernel
def kick(
    strength: int,
    sizes: IntArray,
    slot_worker: IntArray,
    limit: IntArray,
    slots: IntArray,
    left: IntArray,
    tokens: IntArray,
    requests: IntArray,
    counters: IntArray,
) -> None:
    """Put random waiting requests into random occupied slots, where they fit."""
    for _ in range(strength):
        p = draw(counters, slots.shape[0])
        kind = draw(counters, sizes.shape[0])
        old, j = slots[p], slot_worker[p]
        if old == NONE or left[kind] == 0:
            continue
        if tokens[j] - sizes[old] + sizes[kind] <= limit[j]:
            put(p, kind, sizes, slot_worker, slots, left, tokens, requests, counters)


@kernel
def search(
    sizes: IntArray,
    counts: IntArray,
    slot_worker: IntArray,
    limit: IntArray,
    start: IntArray,
    scalars: IntArray,
    bends: IntArray,
    margins: IntArray,
    weights: IntArray,
    steps: IntArray,
    kicks: int,
    seed: int,
) -> tuple[IntArray, int, int]:
    """Improve `start`; return the lengths per slot, their gain, and how many are admitted."""
    slots = np.full(slot_worker.shape[0], NONE, np.int64)
    left = counts.copy()
    tokens = np.zeros(margins.shape[0], np.int64)
    requests = np.zeros(margins.shape[0], np.int64)
    counters = np.array([0, seed], np.int64)
    top = np.zeros((2, weights.shape[0]), np.int64)
    who = np.full(weights.shape[0], NONE, np.int64)
    hope = np.zeros(margins.shape[0], np.int64)
    bend = np.zeros(weights.shape[0], np.int64)
    found = np.zeros(4, np.int64)
    for p in range(slots.shape[0]):
        put(p, start[p], sizes, slot_worker, slots, left, tokens, requests, counters)
    refresh(tokens, requests, scalars, bends, margins, weights, steps, top, who, hope)
    descend(
        sizes, slot_worker, limit, slots, left, tokens, requests, counters, scalars, bends,
        margins, weights, steps, top, who, hope, bend, found,
    )  # fmt: skip
    best = slots.copy()
    value = total(tokens, requests, scalars, bends, margins, weights, steps, top)
    admitted = counters[ADMITTED]
    for turn in range(kicks):
        # Fewer than these and the descent mostly undoes the kick.
        strength = 6 + turn % 7
        kick(strength, sizes, slot_worker, limit, slots, left, tokens, requests, counters)
        refresh(tokens, requests, scalars, bends, margins, weights, steps, top, who, hope)
        descend(
            sizes, slot_worker, limit, slots, left, tokens, requests, counters, scalars, bends,
            margins, weights, steps, top, who, hope, bend, found,
        )  # fmt: skip
        reached = total(tokens, requests, scalars, bends, margins, weights, steps, top)
        more = counters[ADMITTED] > admitted and scalars[ADMIT] != NONE
        same = counters[ADMITTED] == admitted or scalars[ADMIT] == NONE
        if more or (same and reached >= value):
            best[:] = slots
            value, admitted = reached, counters[ADMITTED]
        else:
            for p in range(slots.shape[0]):
                put(p, best[p], sizes, slot_worker, slots, left, tokens, requests, counters)
    return best, value, admitted
