"""Kernels of the F-score: value, peak, best single request and best subset for one worker.

F depends on a set Q only through its token sum S (and, under growth, its size n) and is concave
in S. So its maximum over any collection of sums lies at one of the two sums next to the peak,
and no candidate needs a pass over the horizon but those two.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


class Weights(NamedTuple):
    """Weights of F.

    Attributes
    ----------
    filling : float
        ``α·Σ_h d_h``, per token.
    growth : float
        ``α·Σ_h h·d_h``, per request that grows.
    overflow : float
        β, per token beyond the margin.
    """

    filling: float
    growth: float
    overflow: float


MAX_CELLS = 1 << 15
"""Sums the reachable-sum programme tells apart; beyond it they are rounded to 2^q tokens."""

EXHAUSTIVE = 8
"""Widest window whose subsets are all enumerated."""


@kernel
def score(
    margins: IntArray, discounts: FloatArray, filling: float, overflow: float, total: int
) -> float:
    """Return ``α·Σ_h d_h·S - β·Σ_h d_h·(S - m_h)_+`` for the sum S = `total`."""
    beyond = 0.0
    for h in range(margins.shape[0]):
        over = total - margins[h]
        if over > 0:
            beyond += discounts[h] * over
    return filling * total - overflow * beyond


@kernel
def peak(
    margins: IntArray, discounts: FloatArray, filling: float, overflow: float, highest: int
) -> int:
    """Return the smallest S in [0, highest] beyond which F no longer rises."""
    low, high = 0, highest
    while low < high:
        middle = (low + high) // 2
        filled = 0.0
        for h in range(margins.shape[0]):
            if margins[h] <= middle:
                filled += discounts[h]
        if filling - overflow * filled <= 0.0:
            high = middle
        else:
            low = middle + 1
    return low


@kernel
def best_single(
    prompts: IntArray,
    window: IntArray,
    size: int,
    token_room: int,
    margins: IntArray,
    discounts: FloatArray,
    filling: float,
    overflow: float,
) -> int:
    """Return the index into `window` of the request with the largest F, -1 if none fits."""
    highest = 0
    for i in range(size):
        highest = max(highest, prompts[window[i]])
    most = peak(margins, discounts, filling, overflow, highest)
    below, above = -1, -1
    for i in range(size):
        tokens = prompts[window[i]]
        if tokens > token_room:
            continue
        if tokens <= most:
            if below < 0 or tokens > prompts[window[below]]:
                below = i
        elif above < 0 or tokens < prompts[window[above]]:
            above = i
    if below < 0 or above < 0:
        return max(below, above)
    low = score(margins, discounts, filling, overflow, prompts[window[below]])
    high = score(margins, discounts, filling, overflow, prompts[window[above]])
    return below if low >= high else above


@kernel
def subset_exhaustive(
    prompts: IntArray,
    window: IntArray,
    size: int,
    least: int,
    most: int,
    token_room: int,
    aim: int,
    request_tokens: int,
) -> tuple[int, int, int, int]:
    """Enumerate subsets of `least` to `most` requests; return the sums next to `aim`.

    Returns
    -------
    tuple of int
        Largest sum up to `aim` and its bit mask, smallest sum beyond and its mask; -1 for none.
    """
    sums = np.zeros(1 << size, np.int64)
    counts = np.zeros(1 << size, np.int64)
    below, below_mask, above, above_mask = -1, -1, -1, -1
    for mask in range(1, 1 << size):
        rest = mask & (mask - 1)
        bit = 0
        while (mask >> bit) & 1 == 0:
            bit += 1
        counts[mask] = counts[rest] + 1
        total = sums[rest] + prompts[window[bit]]
        sums[mask] = total
        count = counts[mask]
        if count < least or count > most or total > token_room + request_tokens * count:
            continue
        if total <= aim:
            if total > below:
                below, below_mask = total, mask
        elif above < 0 or total < above:
            above, above_mask = total, mask
    return below, below_mask, above, above_mask


@kernel
def reachable_sums(
    prompts: IntArray,
    window: IntArray,
    size: int,
    most: int,
    cells: int,
    shift: int,
    stop: int,
    fewest: int,
) -> tuple[NDArray[np.uint64], NDArray[np.int16]]:
    """Mark which sums subsets of up to `most` requests reach.

    Stops early once `stop` (a cell, or -1) is reached by a subset of `fewest` requests or more.

    Returns
    -------
    bits : ndarray of uint64, shape (most + 1, words)
        Bit S of row n is set if n requests sum to S (in cells of 2^shift tokens).
    first : ndarray of int16, shape (most + 1, cells)
        Index into `window` of the request that first reached that cell; the requests that
        reached what remains come before it.
    """
    words = (cells + 63) // 64
    bits = np.zeros((most + 1, words), np.uint64)
    first = np.empty((most + 1, words * 64), np.int16)
    bits[0, 0] = np.uint64(1)
    for i in range(size):
        jump = prompts[window[i]] >> shift
        if jump >= cells:
            continue
        skip, lift = jump // 64, np.uint64(jump % 64)
        for n in range(min(i + 1, most), 0, -1):
            for word in range(words - 1, skip - 1, -1):
                moved = bits[n - 1, word - skip] << lift
                if lift > np.uint64(0) and word > skip:
                    moved |= bits[n - 1, word - skip - 1] >> (np.uint64(64) - lift)
                fresh = moved & ~bits[n, word]
                bits[n, word] |= fresh
                while fresh:
                    lowest = fresh & (~fresh + np.uint64(1))
                    position = _bit_index(lowest)
                    first[n, word * 64 + position] = i
                    fresh ^= lowest
        if stop >= 0:
            for n in range(fewest, most + 1):
                if (bits[n, stop // 64] >> np.uint64(stop % 64)) & np.uint64(1):
                    return bits, first
    return bits, first


@kernel
def _bit_index(lowest: np.uint64) -> int:
    position = 0
    if lowest & np.uint64(0xFFFFFFFF00000000):
        position += 32
    if lowest & np.uint64(0xFFFF0000FFFF0000):
        position += 16
    if lowest & np.uint64(0xFF00FF00FF00FF00):
        position += 8
    if lowest & np.uint64(0xF0F0F0F0F0F0F0F0):
        position += 4
    if lowest & np.uint64(0xCCCCCCCCCCCCCCCC):
        position += 2
    if lowest & np.uint64(0xAAAAAAAAAAAAAAAA):
        position += 1
    return position


@kernel
def nearest_cells(bits: NDArray[np.uint64], n: int, aim: int, cells: int) -> tuple[int, int]:
    """Return the largest set cell of row n up to `aim`, and the smallest beyond; -1 for none."""
    below = min(aim, cells - 1)
    while below >= 0 and not (bits[n, below // 64] >> np.uint64(below % 64)) & np.uint64(1):
        below -= 1
    above = aim + 1
    while above < cells and not (bits[n, above // 64] >> np.uint64(above % 64)) & np.uint64(1):
        above += 1
    return below, (above if above < cells else -1)


@kernel
def trace_back(
    prompts: IntArray,
    window: IntArray,
    first: NDArray[np.int16],
    n: int,
    cell: int,
    shift: int,
    chosen: IntArray,
) -> None:
    """Write the window indices of the n requests behind `cell` into `chosen`."""
    for row in range(n, 0, -1):
        index = first[row, cell]
        chosen[row - 1] = index
        cell -= prompts[window[index]] >> shift
