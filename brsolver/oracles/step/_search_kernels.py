"""Kernels of the local search over one routing decision; see `brsolver.oracles.step.search`.

A decision is held as the length (index into `sizes`, -1 for none) in each free slot. Both
objectives are gains to maximise; each is concave in one worker's token sum while the others
stand still, so the best replacement of one request is found by bisection over the lengths.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel

IntArray = NDArray[np.int64]

# Entries of the array of scalars.
ALPHA_D, ALPHA_R, BETA, SUM_D, SUM_R, WORKERS, ADMIT, BY_SCORE, GROWS = range(9)
SCALARS = 9

# Entries of the array of counters.
ADMITTED, SEED = range(2)

NONE = -1


@kernel
def score_at(
    j: int,
    tokens: int,
    count: int,
    scalars: IntArray,
    bends: IntArray,
    margins: IntArray,
    weights: IntArray,
    steps: IntArray,
) -> int:
    """Return F of worker j given `tokens` in `count` requests.

    Without growth `bends` holds the ascending margins and the sums of weights and of weights
    times margins up to each, shape (J, 3, H + 1): bisection instead of a pass over the horizon.
    """
    value = scalars[ALPHA_D] * tokens + scalars[ALPHA_R] * count
    if scalars[GROWS] == 0:
        low, high = 0, bends.shape[2] - 1
        while low < high:
            middle = (low + high) // 2
            if bends[j, 0, middle] < tokens:
                low = middle + 1
            else:
                high = middle
        return value - scalars[BETA] * (bends[j, 1, low] * tokens - bends[j, 2, low])
    for h in range(weights.shape[0]):
        over = tokens + steps[h] * count - margins[j, h]
        if over > 0:
            value -= scalars[BETA] * weights[h] * over
    return value


@kernel
def leaders(
    tokens: IntArray,
    requests: IntArray,
    margins: IntArray,
    steps: IntArray,
    top: IntArray,
    who: IntArray,
) -> None:
    """Write the three largest envelope increases per step and their workers, at least 0."""
    for h in range(margins.shape[1]):
        for r in range(3):
            top[r, h] = 0
            who[r, h] = NONE
        for j in range(margins.shape[0]):
            over = tokens[j] + steps[h] * requests[j] - margins[j, h]
            place, by = over, j
            for r in range(3):
                if place > top[r, h]:
                    top[r, h], place = place, top[r, h]
                    who[r, h], by = by, who[r, h]


@kernel
def rise_change(
    j: int,
    tokens_j: int,
    count_j: int,
    i: int,
    tokens_i: int,
    count_i: int,
    margins: IntArray,
    weights: IntArray,
    steps: IntArray,
    top: IntArray,
    who: IntArray,
) -> int:
    """Return by how much ``Σ_h d_h·E_h`` changes when workers j and i (or none) are given that."""
    change = 0
    for h in range(weights.shape[0]):
        rest = 0
        for r in range(3):
            if who[r, h] != j and who[r, h] != i:
                rest = top[r, h]
                break
        over = tokens_j + steps[h] * count_j - margins[j, h]
        rest = max(rest, over)
        if i >= 0:
            over = tokens_i + steps[h] * count_i - margins[i, h]
            rest = max(rest, over)
        change += weights[h] * (rest - top[0, h])
    return change


@kernel
def gain(
    j: int,
    more_j: int,
    extra_j: int,
    i: int,
    more_i: int,
    extra_i: int,
    tokens: IntArray,
    requests: IntArray,
    scalars: IntArray,
    bends: IntArray,
    margins: IntArray,
    weights: IntArray,
    steps: IntArray,
    top: IntArray,
    who: IntArray,
) -> int:
    """Return the gain of adding tokens and requests to worker j, and to worker i unless -1."""
    tokens_j, count_j = tokens[j] + more_j, requests[j] + extra_j
    tokens_i, count_i = 0, 0
    if i >= 0:
        tokens_i, count_i = tokens[i] + more_i, requests[i] + extra_i
    if scalars[BY_SCORE] == 1:
        value = score_at(j, tokens_j, count_j, scalars, bends, margins, weights, steps)
        value -= score_at(j, tokens[j], requests[j], scalars, bends, margins, weights, steps)
        if i >= 0:
            value += score_at(i, tokens_i, count_i, scalars, bends, margins, weights, steps)
            value -= score_at(i, tokens[i], requests[i], scalars, bends, margins, weights, steps)
        return value
    value = scalars[SUM_D] * (more_j + more_i) + scalars[SUM_R] * (extra_j + extra_i)
    change = rise_change(
        j, tokens_j, count_j, i, tokens_i, count_i, margins, weights, steps, top, who
    )
    return value - scalars[WORKERS] * change


@kernel
def put(
    slot: int,
    kind: int,
    sizes: IntArray,
    slot_worker: IntArray,
    slots: IntArray,
    left: IntArray,
    tokens: IntArray,
    requests: IntArray,
    counters: IntArray,
) -> None:
    """Put a length into a slot, returning what was there to the waiting ones."""
    j, old = slot_worker[slot], slots[slot]
    if old != NONE:
        left[old] += 1
        tokens[j] -= sizes[old]
        requests[j] -= 1
        counters[ADMITTED] -= 1
    if kind != NONE:
        left[kind] -= 1
        tokens[j] += sizes[kind]
        requests[j] += 1
        counters[ADMITTED] += 1
    slots[slot] = kind


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
) -> tuple[int, int]:
    """Return the best length to put into a slot instead of what it holds, and its gain.

    The gain is 0 and the length the present one if none is better.
    """
    j, old = slot_worker[slot], slots[slot]
    present = sizes[old] if old != NONE else 0
    extra = 0 if old != NONE else 1
    best, best_gain = old, np.int64(0)
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
    low, high = 0, last
    while low < high:
        middle = (low + high) // 2
        here = gain(
            j, sizes[middle] - present, extra, NONE, 0, 0, tokens, requests, scalars, bends,
            margins, weights, steps, top, who,
        )  # fmt: skip
        after = gain(
            j, sizes[middle + 1] - present, extra, NONE, 0, 0, tokens, requests, scalars, bends,
            margins, weights, steps, top, who,
        )  # fmt: skip
        if after > here:
            low = middle + 1
        else:
            high = middle
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
) -> int:
    """Replace and exchange requests until neither helps; return what was gained."""
    gained = np.int64(0)
    improved = True
    while improved:
        improved = False
        for p in range(slots.shape[0]):
            kind, value = best_kind(
                p, sizes, slot_worker, limit, slots, left, tokens, requests, counters, scalars,
                bends, margins, weights, steps, top, who,
            )  # fmt: skip
            if kind != slots[p]:
                put(p, kind, sizes, slot_worker, slots, left, tokens, requests, counters)
                if scalars[BY_SCORE] == 0:
                    leaders(tokens, requests, margins, steps, top, who)
                gained += value
                improved = improved or value > 0
        for p in range(slots.shape[0]):
            for q in range(p + 1, slots.shape[0]):
                a, b = slots[p], slots[q]
                j, i = slot_worker[p], slot_worker[q]
                if i == j or a == b:
                    continue
                more = (sizes[b] if b != NONE else 0) - (sizes[a] if a != NONE else 0)
                extra = (1 if b != NONE else 0) - (1 if a != NONE else 0)
                if tokens[j] + more > limit[j] or tokens[i] - more > limit[i]:
                    continue
                value = gain(
                    j, more, extra, i, -more, -extra, tokens, requests, scalars, bends, margins,
                    weights, steps, top, who,
                )  # fmt: skip
                if value > 0:
                    slots[p], slots[q] = b, a
                    tokens[j] += more
                    tokens[i] -= more
                    requests[j] += extra
                    requests[i] -= extra
                    if scalars[BY_SCORE] == 0:
                        leaders(tokens, requests, margins, steps, top, who)
                    gained += value
                    improved = True
    return gained


@kernel
def draw(counters: IntArray, below: int) -> int:
    """Return a pseudo-random integer in [0, below) (a 31-bit linear congruence)."""
    counters[SEED] = (counters[SEED] * 1103515245 + 12345) & 0x7FFFFFFF
    return (counters[SEED] >> 8) % below


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
def total(
    tokens: IntArray,
    requests: IntArray,
    scalars: IntArray,
    bends: IntArray,
    margins: IntArray,
    weights: IntArray,
    steps: IntArray,
    top: IntArray,
) -> int:
    """Return the gain of a whole decision over admitting nothing."""
    value = np.int64(0)
    for j in range(tokens.shape[0]):
        if scalars[BY_SCORE] == 1:
            value += score_at(j, tokens[j], requests[j], scalars, bends, margins, weights, steps)
        else:
            value += scalars[SUM_D] * tokens[j] + scalars[SUM_R] * requests[j]
    if scalars[BY_SCORE] == 0:
        for h in range(weights.shape[0]):
            value -= scalars[WORKERS] * weights[h] * top[0, h]
    return value


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
    top = np.zeros((3, weights.shape[0]), np.int64)
    who = np.full((3, weights.shape[0]), NONE, np.int64)
    for p in range(slots.shape[0]):
        put(p, start[p], sizes, slot_worker, slots, left, tokens, requests, counters)
    leaders(tokens, requests, margins, steps, top, who)
    descend(
        sizes, slot_worker, limit, slots, left, tokens, requests, counters, scalars, bends,
        margins, weights, steps, top, who,
    )  # fmt: skip
    best = slots.copy()
    value = total(tokens, requests, scalars, bends, margins, weights, steps, top)
    admitted = counters[ADMITTED]
    for turn in range(kicks):
        kick(
            2 + turn % 3, sizes, slot_worker, limit, slots, left, tokens, requests, counters
        )
        leaders(tokens, requests, margins, steps, top, who)
        descend(
            sizes, slot_worker, limit, slots, left, tokens, requests, counters, scalars, bends,
            margins, weights, steps, top, who,
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
