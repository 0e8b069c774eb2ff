"""Kernels that choose a set of waiting requests for one worker."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.routers._score_kernels import (
    EXHAUSTIVE,
    MAX_CELLS,
    nearest_cells,
    peak,
    reachable_sums,
    score,
    subset_exhaustive,
    trace_back,
)

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# How a set is chosen: by the largest F, or exactly as many requests as slots, within the margin.
BY_SCORE, EXACTLY_K = 0, 1


@kernel
def set_margins(
    projected: IntArray, top: IntArray, g: int, growing: int, margins: IntArray
) -> None:
    """Write ``m_{g,h} = M_h - L_{g,h}``, less h tokens for each of `growing` new requests."""
    for h in range(top.shape[0]):
        margins[h] = top[h] - projected[g, h] - growing * h


@kernel
def best_subset(
    prompts: IntArray,
    window: IntArray,
    size: int,
    slots: int,
    token_room: int,
    projected: IntArray,
    top: IntArray,
    g: int,
    discounts: FloatArray,
    weights: FloatArray,
    growth: int,
    rule: int,
    chosen: IntArray,
) -> tuple[int, float]:
    """Choose up to `slots` requests of the window for worker g.

    Under growth the margins depend on how many requests are chosen, so each number is tried on
    its own; without it one pass covers all.

    Returns
    -------
    tuple of (int, float)
        How many window indices were written to `chosen` (0 if none fits) and their F.
    """
    most = min(slots, size)
    margins = np.empty(top.shape[0], np.int64)
    total = 0
    for i in range(size):
        total += prompts[window[i]]
    one_pass = growth == 0 and rule == BY_SCORE
    trial = np.empty(most, np.int64)
    bits, first, cells, shift = sums_within_reach(
        prompts, window, size, most, token_room, projected, top, g, discounts, weights, rule,
        one_pass,
    )  # fmt: skip
    best_count, best_value = 0, 0.0
    for upto in range(most if one_pass or rule == EXACTLY_K else 1, most + 1):
        least = 1 if one_pass else upto
        set_margins(projected, top, g, growth * upto, margins)
        target = aim(margins, discounts, weights, total, rule)
        for side in range(2):
            if cells == 0:
                count, tokens = next_to_narrow(
                    prompts, window, size, least, upto, token_room, target, side, trial
                )
            else:
                count, tokens = next_to_wide(
                    prompts, window, bits, first, least, upto, token_room, target, cells, shift,
                    side, trial,
                )  # fmt: skip
            if count == 0:
                continue
            value = score(margins, discounts, weights[0], weights[2], tokens)
            value += weights[1] * growth * count
            if best_count == 0 or (rule == BY_SCORE and value > best_value):
                best_count, best_value = count, value
                chosen[:count] = trial[:count]
    return best_count, best_value


@kernel
def aim(
    margins: IntArray, discounts: FloatArray, weights: FloatArray, total: int, rule: int
) -> int:
    """Return the sum that subsets should come next to: the peak of F, or the least margin."""
    if rule == EXACTLY_K:
        return max(margins.min(), 0)
    return peak(margins, discounts, weights[0], weights[2], total)


@kernel
def sums_within_reach(
    prompts: IntArray,
    window: IntArray,
    size: int,
    most: int,
    token_room: int,
    projected: IntArray,
    top: IntArray,
    g: int,
    discounts: FloatArray,
    weights: FloatArray,
    rule: int,
    may_stop: bool,
) -> tuple[NDArray[np.uint64], NDArray[np.int16], int, int]:
    """Run the reachable-sum programme for wide windows; 0 cells mean that all are enumerated.

    Sums beyond the peak by more than the largest request are never best: taking a request away
    comes nearer.
    """
    if size <= EXHAUSTIVE:
        return np.zeros((1, 1), np.uint64), np.zeros((1, 1), np.int16), 0, 0
    heaviest, total = 0, 0
    for i in range(size):
        heaviest = max(heaviest, prompts[window[i]])
        total += prompts[window[i]]
    margins = np.empty(top.shape[0], np.int64)
    set_margins(projected, top, g, 0, margins)
    crest = peak(margins, discounts, weights[0], weights[2], total)
    bound = min(crest + heaviest, total)
    if rule == EXACTLY_K:
        bound = min(total, most * heaviest)
    bound = max(min(bound, token_room), 0)
    shift = 0
    while (bound >> shift) >= MAX_CELLS:
        shift += 1
    cells = (bound >> shift) + 1
    stop = min(crest, cells - 1) if may_stop and shift == 0 else -1
    bits, first = reachable_sums(prompts, window, size, most, cells, shift, stop)
    return bits, first, cells, shift


@kernel
def next_to_narrow(
    prompts: IntArray,
    window: IntArray,
    size: int,
    least: int,
    upto: int,
    token_room: int,
    target: int,
    side: int,
    trial: IntArray,
) -> tuple[int, int]:
    """Write the enumerated subset next below (side 0) or above the target; return size, sum."""
    below, below_mask, above, above_mask = subset_exhaustive(
        prompts, window, size, least, upto, token_room, target
    )
    tokens = below if side == 0 else above
    mask = below_mask if side == 0 else above_mask
    if tokens < 0:
        return 0, 0
    count = 0
    for i in range(size):
        if (mask >> i) & 1:
            trial[count] = i
            count += 1
    return count, tokens


@kernel
def next_to_wide(
    prompts: IntArray,
    window: IntArray,
    bits: NDArray[np.uint64],
    first: NDArray[np.int16],
    least: int,
    upto: int,
    token_room: int,
    target: int,
    cells: int,
    shift: int,
    side: int,
    trial: IntArray,
) -> tuple[int, int]:
    """Write the reachable subset next below (side 0) or above the target; return size, sum."""
    goal = min(target >> shift, cells - 1)
    best, best_count = -1, 0
    for n in range(least, upto + 1):
        low, high = nearest_cells(bits, n, goal, cells)
        cell = low if side == 0 else high
        nearer = cell > best if side == 0 else cell < best
        if cell >= 0 and (best < 0 or nearer):
            trace_back(prompts, window, first, n, cell, shift, trial)
            if sum_of(prompts, window, trial, n) <= token_room:
                best, best_count = cell, n
    if best < 0:
        return 0, 0
    trace_back(prompts, window, first, best_count, best, shift, trial)
    return best_count, sum_of(prompts, window, trial, best_count)


@kernel
def sum_of(prompts: IntArray, window: IntArray, chosen: IntArray, count: int) -> int:
    """Return the tokens of the first `count` window indices in `chosen`."""
    tokens = 0
    for j in range(count):
        tokens += prompts[window[chosen[j]]]
    return tokens
