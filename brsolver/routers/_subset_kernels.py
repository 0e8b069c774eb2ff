"""Kernels that choose a set of waiting requests for one worker.

`prompts` are what requests bring to its load, `request_tokens` each more than the KV tokens that
its room is in: n of them fit if their sum is at most the room and n times that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.routers._score_kernels import (
    EXHAUSTIVE,
    MAX_CELLS,
    Weights,
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
    projected: IntArray, envelope: IntArray, g: int, growing: int, margins: IntArray
) -> None:
    """Write ``m_{g,h} = M_h - L_{g,h}``, less h tokens for each of `growing` new requests."""
    for h in range(envelope.shape[0]):
        margins[h] = envelope[h] - projected[g, h] - growing * h


@kernel
def best_subset(
    prompts: IntArray,
    window: IntArray,
    size: int,
    slots: int,
    token_room: int,
    projected: IntArray,
    envelope: IntArray,
    g: int,
    discounts: FloatArray,
    weights: Weights,
    growth: int,
    rule: int,
    request_tokens: int,
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
    margins = np.empty(envelope.shape[0], np.int64)
    total = 0
    for i in range(size):
        total += prompts[window[i]]
    one_pass = growth == 0 and rule == BY_SCORE
    trial = np.empty(most, np.int64)
    bits, first, cells, shift = sums_within_reach(
        prompts, window, size, most, token_room, projected, envelope, g, discounts, weights, rule,
        one_pass, request_tokens,
    )  # fmt: skip
    best_count, best_value = 0, 0.0
    for upto in range(most if one_pass or rule == EXACTLY_K else 1, most + 1):
        least = 1 if one_pass else upto
        set_margins(projected, envelope, g, growth * upto, margins)
        aim = sum_to_aim_at(margins, discounts, weights, total, rule)
        for side in range(2):
            if cells == 0:
                count, tokens = next_to_narrow(
                    prompts, window, size, least, upto, token_room, aim, side, request_tokens,
                    trial,
                )  # fmt: skip
            else:
                count, tokens = next_to_wide(
                    prompts, window, bits, first, least, upto, token_room, aim, cells, shift,
                    side, request_tokens, trial,
                )  # fmt: skip
            if count == 0:
                continue
            value = score(margins, discounts, weights.filling, weights.overflow, tokens)
            value += weights.growth * growth * count
            if best_count == 0 or (rule == BY_SCORE and value > best_value):
                best_count, best_value = count, value
                chosen[:count] = trial[:count]
    return best_count, best_value


@kernel
def sum_to_aim_at(
    margins: IntArray, discounts: FloatArray, weights: Weights, total: int, rule: int
) -> int:
    """Return the sum that subsets should come next to: the peak of F, or the least margin."""
    if rule == EXACTLY_K:
        return max(margins.min(), 0)
    return peak(margins, discounts, weights.filling, weights.overflow, total)


@kernel
def sums_within_reach(
    prompts: IntArray,
    window: IntArray,
    size: int,
    most: int,
    token_room: int,
    projected: IntArray,
    envelope: IntArray,
    g: int,
    discounts: FloatArray,
    weights: Weights,
    rule: int,
    may_stop: bool,
    request_tokens: int,
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
    margins = np.empty(envelope.shape[0], np.int64)
    set_margins(projected, envelope, g, 0, margins)
    most_wanted = peak(margins, discounts, weights.filling, weights.overflow, total)
    bound = min(most_wanted + heaviest, total)
    if rule == EXACTLY_K:
        bound = min(total, most * heaviest)
    bound = max(min(bound, token_room + request_tokens * most), 0)
    shift = 0
    while (bound >> shift) >= MAX_CELLS:
        shift += 1
    cells = (bound >> shift) + 1
    stop = min(most_wanted, cells - 1) if may_stop and shift == 0 else -1
    # So many requests may come to the sum that ends the search.
    fewest = 1
    while request_tokens and fewest < most and token_room + request_tokens * fewest < stop:
        fewest += 1
    bits, first = reachable_sums(prompts, window, size, most, cells, shift, stop, fewest)
    return bits, first, cells, shift


@kernel
def next_to_narrow(
    prompts: IntArray,
    window: IntArray,
    size: int,
    least: int,
    upto: int,
    token_room: int,
    aim: int,
    side: int,
    request_tokens: int,
    trial: IntArray,
) -> tuple[int, int]:
    """Write the enumerated subset next below (side 0) or above the aim; return size, sum."""
    below, below_mask, above, above_mask = subset_exhaustive(
        prompts, window, size, least, upto, token_room, aim, request_tokens
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
    aim: int,
    cells: int,
    shift: int,
    side: int,
    request_tokens: int,
    trial: IntArray,
) -> tuple[int, int]:
    """Write the reachable subset next below (side 0) or above the aim; return size, sum."""
    best, best_count = -1, 0
    for n in range(least, upto + 1):
        room = token_room + request_tokens * n
        # Below the aim the largest sum that fits is wanted, beyond it none that does not.
        aim_cell = min(min(aim, room) >> shift, cells - 1)
        low, high = nearest_cells(bits, n, aim_cell, cells)
        cell = low if side == 0 else high
        nearer = cell > best if side == 0 else cell < best
        if cell >= 0 and (best < 0 or nearer):
            trace_back(prompts, window, first, n, cell, shift, trial)
            if sum_of(prompts, window, trial, n) <= room:
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
