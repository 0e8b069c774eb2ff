"""Unlabelled partitions of G·B slot positions into G groups of B: numbering and look-up.

Groups are ordered by their lowest position. The first holds the lowest position of all and
``B - 1`` others, whose places among the remaining positions are ranked colexicographically
(``Σ_j C(place_j, j)``); and so on with what remains. The digits form one mixed-radix number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel

IntArray = NDArray[np.int64]
SmallArray = NDArray[np.int32]


@kernel
def popcount(x: int) -> int:
    """Count the bits of a number below 2⁶²."""
    x = x - ((x >> 1) & 0x5555555555555555)
    x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F
    return (x * 0x0101010101010101) >> 56 & 127


@kernel
def subset_masks(positions: int, size: int, count: int) -> tuple[IntArray, SmallArray]:
    """Return all subsets of `size` positions as masks, and the index of every mask."""
    masks = np.empty(count, np.int64)
    index = np.full(1 << positions, -1, np.int32)
    made = 0
    for mask in range(1 << positions):
        if popcount(mask) == size:
            masks[made] = mask
            index[mask] = made
            made += 1
    return masks, index


@kernel
def deposit(bits: int, onto: int) -> int:
    """Deposit the low bits of `bits` onto the set bits of `onto`, lowest first."""
    out = 0
    while bits:
        low = onto & -onto
        if bits & 1:
            out |= low
        onto ^= low
        bits >>= 1
    return out


@kernel
def list_partitions(
    groups: int, size: int, states: int, index: SmallArray, binomial: IntArray
) -> SmallArray:
    """Return the subset index of every group of every state, shape (states, groups)."""
    table = np.empty((states, groups), np.int32)
    positions = groups * size
    choices = binomial[positions - 1, size - 1]
    picks = np.empty(choices, np.int64)
    made = 0
    for mask in range(1 << (positions - 1)):
        if popcount(mask) == size - 1:
            picks[made] = mask
            made += 1
    digits = np.zeros(groups, np.int64)
    for state in range(states):
        left = (1 << positions) - 1
        for g in range(groups):
            low = left & -left
            group = low | deposit(picks[digits[g]], left ^ low)
            table[state, g] = index[group]
            left ^= group
        for g in range(groups - 1, -1, -1):
            digits[g] += 1
            if digits[g] < binomial[positions - g * size - 1, size - 1]:
                break
            digits[g] = 0
    return table


@kernel
def rank(masks: IntArray, groups: int, size: int, binomial: IntArray) -> int:
    """Return the number of the state with these groups, ordered by lowest position."""
    left = (1 << (groups * size)) - 1
    number = 0
    for g in range(groups):
        group = masks[g]
        left ^= group & -group
        digit, j = 0, 1
        rest = group & (group - 1)
        while rest:
            low = rest & -rest
            digit += binomial[popcount(left & (low - 1)), j]
            j += 1
            rest ^= low
        number = number * binomial[groups * size - g * size - 1, size - 1] + digit
        left &= ~group
    return number


@kernel
def order_by_lowest(masks: IntArray, groups: int) -> None:
    """Sort masks by lowest bit, empty ones last, in place."""
    for g in range(1, groups):
        mask = masks[g]
        key = mask & -mask
        j = g - 1
        while j >= 0 and (masks[j] == 0 or (key != 0 and (masks[j] & -masks[j]) > key)):
            if key == 0:
                break
            masks[j + 1] = masks[j]
            j -= 1
        masks[j + 1] = mask


@kernel
def representative(masks: IntArray, free: int, groups: int, size: int, binomial: IntArray) -> int:
    """Return the state that stands for all that agree with `masks` outside `free`.

    It hands the free positions, lowest first, to the groups in the order of the lowest position
    each of them keeps. Overwrites `masks`.
    """
    for g in range(groups):
        masks[g] &= ~free
    order_by_lowest(masks, groups)
    left = free
    for g in range(groups):
        for _ in range(size - popcount(masks[g])):
            low = left & -left
            masks[g] |= low
            left ^= low
    order_by_lowest(masks, groups)
    return rank(masks, groups, size, binomial)
