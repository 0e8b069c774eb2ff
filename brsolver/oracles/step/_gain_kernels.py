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
