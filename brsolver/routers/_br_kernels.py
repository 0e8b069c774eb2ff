"""Kernels of the two-stage router over projected loads; see `brsolver.routers.balance`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.policy import NO_LIMIT, ROOM, TOKEN_ROOM
from brsolver.routers._score_kernels import (
    EXHAUSTIVE,
    MAX_CELLS,
    best_single,
    nearest_cells,
    peak,
    reachable_sums,
    score,
    subset_exhaustive,
    trace_back,
)

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# How stage 2 chooses a subset.
BY_SCORE, EXACTLY_K = 0, 1

NEVER_OVER = 1e12
"""Weight of overflow that lets the largest request within the margin win over any beyond it."""


@kernel
def envelope(projected: IntArray) -> IntArray:
    """Return ``M_h = max_g L_{g,h}``, shape (H + 1,)."""
    out = projected[0].copy()
    for g in range(1, projected.shape[0]):
        for h in range(out.shape[0]):
            out[h] = max(out[h], projected[g, h])
    return out


@kernel
def set_margins(
    projected: IntArray, top: IntArray, g: int, growing: int, margins: IntArray
) -> None:
    """Write ``m_{g,h} = M_h - L_{g,h}``, less h tokens for each of `growing` new requests."""
    for h in range(top.shape[0]):
        margins[h] = top[h] - projected[g, h] - growing * h


@kernel
def place(projected: IntArray, top: IntArray, g: int, tokens: int, growing: int) -> None:
    """Add requests to worker g's projected load and lift the envelope."""
    for h in range(top.shape[0]):
        projected[g, h] += tokens + growing * h
        top[h] = max(top[h], projected[g, h])


@kernel
def roomiest(room: IntArray, projected: IntArray) -> int:
    """Return the worker with the most free slots, ties to the lowest load; -1 if all are full."""
    best = -1
    for g in range(room.shape[0]):
        if room[g] <= 0:
            continue
        if (
            best < 0
            or room[g] > room[best]
            or (room[g] == room[best] and projected[g, 0] < projected[best, 0])
        ):
            best = g
    return best


@kernel
def best_worker(
    room: IntArray,
    tokens_left: IntArray,
    projected: IntArray,
    top: IntArray,
    margins: IntArray,
    tokens: int,
    discounts: FloatArray,
    weights: FloatArray,
    growth: int,
) -> int:
    """Return the worker on which one request has the largest F, ties to the lowest load."""
    best, best_value = -1, 0.0
    for g in range(projected.shape[0]):
        if room[g] <= 0 or tokens_left[g] < tokens:
            continue
        set_margins(projected, top, g, growth, margins)
        value = score(margins, discounts, weights[0], weights[2], tokens)
        if (
            best < 0
            or value > best_value
            or (value == best_value and projected[g, 0] < projected[best, 0])
        ):
            best, best_value = g, value
    return best


@kernel
def count_overdue(since: IntArray, latest: int) -> int:
    """Count the leading requests that could have been routed at step `latest` or before."""
    count = 0
    while count < since.shape[0] and since[count] <= latest:
        count += 1
    return count


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

    Returns
    -------
    tuple of (int, float)
        How many window indices were written to `chosen` (0 if none fits) and their F.
    """
    alpha_sum, alpha_ramp, beta = weights[0], weights[1], weights[2]
    horizon = top.shape[0]
    margins = np.empty(horizon, np.int64)
    most = min(slots, size)
    heaviest, total = 0, 0
    for i in range(size):
        heaviest = max(heaviest, prompts[window[i]])
        total += prompts[window[i]]
    best_count, best_value = 0, 0.0
    levels = most if (growth == 1 or rule == EXACTLY_K) else 1
    bits = np.zeros((1, 1), np.uint64)
    first = np.zeros((1, 1), np.int16)
    cells, shift = 0, 0
    wide = size > EXHAUSTIVE
    if wide:
        set_margins(projected, top, g, 0, margins)
        bound = min(peak(margins, discounts, alpha_sum, beta, total) + heaviest, total)
        if rule == EXACTLY_K:
            bound = max(bound, min(total, most * heaviest))
        bound = min(bound, token_room)
        while (bound >> shift) >= MAX_CELLS:
            shift += 1
        cells = (bound >> shift) + 1
        stop = -1
        if rule == BY_SCORE and growth == 0 and shift == 0:
            stop = min(peak(margins, discounts, alpha_sum, beta, total), cells - 1)
        bits, first = reachable_sums(prompts, window, size, most, cells, shift, stop)
    first_level = most if rule == EXACTLY_K else 1
    for level in range(first_level, levels + 1):
        least = 1 if levels == 1 and rule == BY_SCORE else level
        upto = most if levels == 1 and rule == BY_SCORE else level
        set_margins(projected, top, g, growth * upto if growth == 1 else 0, margins)
        if rule == EXACTLY_K:
            target = max(margins.min(), 0)
        else:
            target = peak(margins, discounts, alpha_sum, beta, total)
        if not wide:
            below, below_mask, above, above_mask = subset_exhaustive(
                prompts, window, size, least, upto, token_room, target
            )
            for side in range(2):
                tokens = below if side == 0 else above
                mask = below_mask if side == 0 else above_mask
                if tokens < 0:
                    continue
                value = score(margins, discounts, alpha_sum, beta, tokens)
                value += alpha_ramp * growth * upto
                if best_count == 0 or (rule == BY_SCORE and value > best_value):
                    best_value = value
                    best_count = 0
                    for i in range(size):
                        if (mask >> i) & 1:
                            chosen[best_count] = i
                            best_count += 1
        else:
            trial = np.empty(most, np.int64)
            for n in range(least, upto + 1):
                low, high = nearest_cells(bits, n, min(target >> shift, cells - 1), cells)
                for side in range(2):
                    cell = low if side == 0 else high
                    if cell < 0:
                        continue
                    trace_back(prompts, window, first, n, cell, shift, trial)
                    tokens = 0
                    for i in range(n):
                        tokens += prompts[window[trial[i]]]
                    if tokens > token_room:
                        continue
                    value = score(margins, discounts, alpha_sum, beta, tokens)
                    value += alpha_ramp * growth * n
                    if best_count == 0 or (rule == BY_SCORE and value > best_value):
                        best_value = value
                        best_count = n
                        chosen[:n] = trial[:n]
    return best_count, best_value


@kernel
def fill_window(taken: NDArray[np.bool_], start: int, width: int, window: IntArray) -> int:
    """Write the first `width` requests not yet taken into `window`; return how many."""
    size = 0
    for i in range(start, taken.shape[0]):
        if size == width:
            break
        if not taken[i]:
            window[size] = i
            size += 1
    return size


@kernel
def route_pooled(
    table: IntArray,
    projected: IntArray,
    prompts: IntArray,
    discounts: FloatArray,
    weights: FloatArray,
    s_greedy: int,
    r_max: int,
    growth: int,
    rule: int,
    overdue: int,
) -> IntArray:
    """Place the first `overdue` requests, then run both stages.

    Returns
    -------
    ndarray of int64, shape (k, 2)
        Pairs (waiting index, worker).
    """
    alpha_sum, beta = weights[0], weights[2]
    count = prompts.shape[0]
    room = table[ROOM].copy()
    tokens_left = table[TOKEN_ROOM].copy()
    free = 0
    for g in range(room.shape[0]):
        free += room[g]
    top = envelope(projected)
    margins = np.empty(top.shape[0], np.int64)
    taken = np.zeros(count, np.bool_)
    out = np.empty((min(count, free), 2), np.int64)
    window = np.empty(count, np.int64)
    made = 0
    start = 0
    for i in range(min(overdue, free)):
        g = best_worker(
            room, tokens_left, projected, top, margins, prompts[i], discounts, weights, growth
        )
        if g < 0:
            break
        taken[i] = True
        start = i + 1
        out[made, 0] = i
        out[made, 1] = g
        made += 1
        free -= 1
        room[g] -= 1
        if tokens_left[g] < NO_LIMIT:
            tokens_left[g] -= prompts[i]
        place(projected, top, g, prompts[i], growth)
    while free > s_greedy and made < count:
        g = roomiest(room, projected)
        size = fill_window(taken, start, count, window)
        set_margins(projected, top, g, growth, margins)
        pick = best_single(
            prompts, window, size, tokens_left[g], margins, discounts, alpha_sum, beta
        )
        if pick < 0:
            free -= room[g]
            room[g] = 0
            continue
        i = window[pick]
        taken[i] = True
        while start < count and taken[start]:
            start += 1
        out[made, 0] = i
        out[made, 1] = g
        made += 1
        free -= 1
        room[g] -= 1
        if tokens_left[g] < NO_LIMIT:
            tokens_left[g] -= prompts[i]
        place(projected, top, g, prompts[i], growth)
    chosen = np.empty(max(min(free, r_max), 1), np.int64)
    while free > 0 and made < count:
        g = roomiest(room, projected)
        size = fill_window(taken, start, r_max, window)
        picked = 0
        value = 0.0
        if room[g] > 1 and size > 1:
            picked, value = best_subset(
                prompts, window, size, room[g], tokens_left[g], projected, top, g,
                discounts, weights, growth, rule, chosen,
            )  # fmt: skip
        if picked == 0 or (rule == BY_SCORE and value <= 0.0):
            set_margins(projected, top, g, growth, margins)
            if rule == BY_SCORE:
                chosen[0] = best_single(
                    prompts, window, size, tokens_left[g], margins, discounts, alpha_sum, beta
                )
            else:
                least = np.full(1, max(margins.min(), 0), np.int64)
                chosen[0] = best_single(
                    prompts, window, size, tokens_left[g], least, np.ones(1), 1.0, NEVER_OVER
                )
            picked = 1
            if chosen[0] < 0:
                free -= room[g]
                room[g] = 0
                continue
        tokens = 0
        for j in range(picked):
            i = window[chosen[j]]
            taken[i] = True
            out[made, 0] = i
            out[made, 1] = g
            made += 1
            tokens += prompts[i]
        while start < count and taken[start]:
            start += 1
        free -= picked
        room[g] -= picked
        if tokens_left[g] < NO_LIMIT:
            tokens_left[g] -= tokens
        place(projected, top, g, tokens, growth * picked)
    return out[:made]


@kernel
def route_immediate(
    table: IntArray,
    projected: IntArray,
    tokens: int,
    discounts: FloatArray,
    weights: FloatArray,
    growth: int,
) -> IntArray:
    """Place one request where F is largest, ties to the lowest load."""
    top = envelope(projected)
    margins = np.empty(top.shape[0], np.int64)
    best = best_worker(
        table[ROOM], table[TOKEN_ROOM], projected, top, margins, tokens, discounts, weights, growth
    )
    out = np.empty((1 if best >= 0 else 0, 2), np.int64)
    if best >= 0:
        out[0, 0] = 0
        out[0, 1] = best
    return out
