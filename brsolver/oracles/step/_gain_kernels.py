"""Kernels of what a change of one or two workers gains; see `brsolver.oracles.step.search`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel

IntArray = NDArray[np.int64]

# Entries of the array of scalars.
ALPHA_D, ALPHA_R, BETA, SUM_D, SUM_R, WORKERS, ADMIT, BY_SCORE, GROWS = range(9)
SCALARS = 9

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
    value: int = scalars[ALPHA_D] * tokens + scalars[ALPHA_R] * count
    if scalars[GROWS] == 0:
        low, high = 0, bends.shape[2] - 1
        while low < high:
            middle = (low + high) // 2
            if bends[j, 0, middle] < tokens:
                low = middle + 1
            else:
                high = middle
        value -= scalars[BETA] * (bends[j, 1, low] * tokens - bends[j, 2, low])
        return value
    for h in range(weights.shape[0]):
        over = tokens + steps[h] * count - margins[j, h]
        if over > 0:
            value -= scalars[BETA] * weights[h] * over
    return value


@kernel
def slope(j: int, tokens: IntArray, scalars: IntArray, bends: IntArray) -> int:
    """Return a slope of F of worker j, without growth, at what it is given."""
    below = np.searchsorted(bends[j, 0], tokens[j])
    steep: int = scalars[ALPHA_D] - scalars[BETA] * bends[j, 1, below]
    return steep


@kernel
def leaders(
    tokens: IntArray,
    requests: IntArray,
    margins: IntArray,
    weights: IntArray,
    steps: IntArray,
    top: IntArray,
    who: IntArray,
    hope: IntArray,
) -> None:
    """Write the two largest envelope increases per step, at least 0, and whose the first is.

    `hope` gets, per worker, by how much the weighted envelope falls if it leaves all its leads.
    """
    for h in range(weights.shape[0]):
        top[0, h] = 0
        top[1, h] = 0
        who[h] = NONE
    for j in range(margins.shape[0]):
        hope[j] = 0
        given, count = tokens[j], requests[j]
        for h in range(weights.shape[0]):
            over = given + steps[h] * count - margins[j, h]
            first = top[0, h]
            top[1, h] = max(top[1, h], min(first, over))
            top[0, h] = max(first, over)
            who[h] = j if over > first else who[h]
    for h in range(weights.shape[0]):
        if who[h] != NONE:
            hope[who[h]] += weights[h] * (top[0, h] - top[1, h])


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
    """Return by how much ``Σ_h d_h·E_h`` changes when workers j and i (or none) are given that.

    If there is an i, it is given less than before and j more: then the second largest increase
    is all there is to know of the others, for where j had it, it only rises.
    """
    change = 0
    for h in range(weights.shape[0]):
        rest = top[1, h] if who[h] == j or who[h] == i else top[0, h]
        rest = max(rest, tokens_j + steps[h] * count_j - margins[j, h])
        if i >= 0:
            rest = max(rest, tokens_i + steps[h] * count_i - margins[i, h])
        change += weights[h] * (rest - top[0, h])
    return change


@kernel
def exchange_pays(
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
    hope: IntArray,
) -> bool:
    """Return whether ``Σ_h d_h·E_h`` falls when worker j is given more and i as much less.

    Stops as soon as all that i's remaining leads can bring does not make up for what j costs.
    """
    change, remaining = 0, hope[i]
    for h in range(weights.shape[0]):
        if change >= remaining:
            return False
        over = tokens_j + steps[h] * count_j - margins[j, h]
        if who[h] == i:
            remaining -= weights[h] * (top[0, h] - top[1, h])
            rest = max(over, tokens_i + steps[h] * count_i - margins[i, h])
            change += weights[h] * (max(rest, top[1, h]) - top[0, h])
        elif over > top[0, h]:
            change += weights[h] * (over - top[0, h])
    return change < 0


@kernel
def first_past_peak(
    j: int,
    count: int,
    last: int,
    sizes: IntArray,
    base: int,
    scalars: IntArray,
    margins: IntArray,
    weights: IntArray,
    steps: IntArray,
    top: IntArray,
    who: IntArray,
    bend: IntArray,
) -> int:
    """Return the first length, up to `last`, beyond which more on worker j gains nothing.

    The gain is concave in the worker's sum: ``D`` a token, less ``G·d_h`` from the sum on at
    which it leads step h, which is written to `bend`. `base` is the sum without the length.
    """
    for h in range(weights.shape[0]):
        rest = top[1, h] if who[h] == j else top[0, h]
        bend[h] = rest + margins[j, h] - steps[h] * count - base
    low, high = 0, last
    while low < high:
        middle = (low + high) // 2
        size, lost = sizes[middle], 0
        for h in range(weights.shape[0]):
            lost += weights[h] if bend[h] <= size else 0
        if scalars[SUM_D] > scalars[WORKERS] * lost:
            low = middle + 1
        else:
            high = middle
    return low


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
    value: int
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
    value -= scalars[WORKERS] * change
    return value


@kernel
def concave_peak(
    j: int,
    present: int,
    extra: int,
    last: int,
    sizes: IntArray,
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
    """Return the length up to `last` that worker j gains most by instead of the `present` tokens.

    An index into `sizes`, whether that length waits or not; without any `sizes`, tokens.
    """
    low, high = 0, last
    while low < high:
        middle = (low + high) // 2
        less, more = middle, middle + 1
        if sizes.shape[0]:
            less, more = sizes[middle], sizes[middle + 1]
        here = gain(
            j, less - present, extra, NONE, 0, 0, tokens, requests, scalars, bends, margins,
            weights, steps, top, who,
        )  # fmt: skip
        after = gain(
            j, more - present, extra, NONE, 0, 0, tokens, requests, scalars, bends, margins,
            weights, steps, top, who,
        )  # fmt: skip
        if after > here:
            low = middle + 1
        else:
            high = middle
    return low


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
    value = 0
    for j in range(tokens.shape[0]):
        if scalars[BY_SCORE] == 1:
            value += score_at(j, tokens[j], requests[j], scalars, bends, margins, weights, steps)
        else:
            value += scalars[SUM_D] * tokens[j] + scalars[SUM_R] * requests[j]
    if scalars[BY_SCORE] == 0:
        for h in range(weights.shape[0]):
            value -= scalars[WORKERS] * weights[h] * top[0, h]
    return value
