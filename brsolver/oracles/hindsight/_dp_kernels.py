"""Kernels of the dynamic programme over partitions of slot positions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.oracles.hindsight._partition_kernels import popcount, representative

IntArray = NDArray[np.int64]
SmallArray = NDArray[np.int32]

FAR = 1 << 62


@kernel
def subset_sums(
    masks: IntArray, values: IntArray, low: IntArray, high: IntArray, out: IntArray
) -> None:
    """Write the sum of `values` over every mask to `out`, from tables of both halves."""
    half = (values.shape[0] + 1) // 2
    _half_table(values, 0, half, low)
    _half_table(values, half, values.shape[0] - half, high)
    mask_low = low.shape[0] - 1
    for c in range(masks.shape[0]):
        out[c] = low[masks[c] & mask_low] + high[masks[c] >> half]


@kernel
def _half_table(values: IntArray, offset: int, count: int, table: IntArray) -> None:
    table[0] = 0
    for p in range(count):
        size = 1 << p
        for mask in range(size):
            table[size + mask] = table[mask] + values[offset + p]


@kernel
def add_heaviest(
    cost: IntArray, table: SmallArray, sums: IntArray, times: int, plus: int, floor: int
) -> None:
    """Add ``times·max(floor, max_g sums_g) + plus`` to every state's cost."""
    groups = table.shape[1]
    for s in range(table.shape[0]):
        top = floor
        for g in range(groups):
            top = max(top, sums[table[s, g]])
        cost[s] += times * top + plus


@kernel
def merge_classes(
    cost: IntArray,
    table: SmallArray,
    masks: IntArray,
    free: int,
    size: int,
    binomial: IntArray,
    best: IntArray,
    of: SmallArray,
    choice: SmallArray,
) -> None:
    """Replace every cost by the least of the states that agree with it outside `free`.

    `of` receives each state's representative; `choice`, if it has any entries, the cheapest
    state of each class at its representative.
    """
    groups = table.shape[1]
    group = np.empty(groups, np.int64)
    best[:] = FAR
    keep = choice.shape[0] > 0
    for s in range(cost.shape[0]):
        for g in range(groups):
            group[g] = masks[table[s, g]]
        r = representative(group, free, groups, size, binomial)
        of[s] = r
        if cost[s] < best[r]:
            best[r] = cost[s]
            if keep:
                choice[r] = s
    for s in range(cost.shape[0]):
        cost[s] = best[of[s]]


@kernel
def envelope_sum(values: IntArray, slopes: IntArray, lines: int, n: int) -> int:
    """Return ``Σ_{j<n} max_h (values_h + slopes_h·j)``, walking along the upper envelope."""
    total, j = 0, 0
    while j < n:
        lead = 0
        for h in range(1, lines):
            ahead = values[h] + slopes[h] * j - values[lead] - slopes[lead] * j
            if ahead > 0 or (ahead == 0 and slopes[h] > slopes[lead]):
                lead = h
        until = n
        for h in range(lines):
            gain = slopes[h] - slopes[lead]
            if gain > 0:
                behind = values[lead] + slopes[lead] * j - values[h] - slopes[h] * j
                until = min(until, j + behind // gain + 1)
        m = until - j
        total += m * (values[lead] + slopes[lead] * j) + slopes[lead] * (m * (m - 1) // 2)
        j = until
    return total


@kernel
def add_envelope(
    cost: IntArray, table: SmallArray, sums: IntArray, counts: IntArray, n: int
) -> None:
    """Add the barrier time of n steps without admissions, each group growing by its count."""
    groups = table.shape[1]
    values = np.empty(groups, np.int64)
    slopes = np.empty(groups, np.int64)
    triangle = n * (n - 1) // 2
    for s in range(table.shape[0]):
        first, last, at_end = -1, -1, -1
        for g in range(groups):
            a, c = sums[table[s, g]], counts[table[s, g]]
            values[g], slopes[g] = a, c
            z = a + c * (n - 1)
            if first < 0 or a > values[first] or (a == values[first] and z > at_end):
                first = g
                at_end = z
            if last < 0 or z > values[last] + slopes[last] * (n - 1):
                last = g
        if values[first] + slopes[first] * (n - 1) == values[last] + slopes[last] * (n - 1):
            cost[s] += n * values[first] + slopes[first] * triangle
        else:
            cost[s] += envelope_sum(values, slopes, groups, n)


@kernel
def add_stepwise(
    cost: IntArray, table: SmallArray, sums: IntArray, counts: IntArray, floor: IntArray
) -> None:
    """Add the barrier time of steps without admissions where other workers set a floor."""
    groups = table.shape[1]
    for s in range(table.shape[0]):
        total = 0
        for j in range(floor.shape[0]):
            top = floor[j]
            for g in range(groups):
                top = max(top, sums[table[s, g]] + counts[table[s, g]] * j)
            total += top
        cost[s] += total


@kernel
def sweep(
    cost: IntArray,
    table: SmallArray,
    masks: IntArray,
    binomial: IntArray,
    size: int,
    events: IntArray,
    rows: IntArray,
    first: int,
    last: int,
    request_first: IntArray,
    position: IntArray,
    base: IntArray,
    end: IntArray,
    value: IntArray,
    until: IntArray,
    floor: IntArray,
    scratch: IntArray,
    of: SmallArray,
    choices: SmallArray,
) -> None:
    """Carry the cost of every state over events ``first..last-1``.

    Parameters
    ----------
    cost : ndarray, shape (states,)
        Least cost of being in each state; updated.
    table, masks, binomial
        See `_partition_kernels`.
    size : int
        B.
    events : ndarray, shape (E + 1,)
        Steps at which admissions happen, and the first step after the last interval.
    rows : ndarray, shape (E,)
        Row of `choices` for events with a choice, -1 elsewhere.
    request_first : ndarray, shape (E + 1,)
        Where each event's requests begin.
    position, base, end : ndarray, shape (n,)
        Per request: slot position, ``s_i - x_i`` and the step it has left by.
    value, until : ndarray, shape (P,)
        Per position: `base` and `end` of its request; updated.
    floor : ndarray, shape (E,)
        Heaviest other worker at each event.
    scratch, of, choices
        Room for `merge_classes`; `choices` may have no columns.
    """
    positions = value.shape[0]
    half = (positions + 1) // 2
    low, high = np.zeros(1 << half, np.int64), np.zeros(1 << (positions - half), np.int64)
    sums = np.empty(masks.shape[0], np.int64)
    loads = np.empty(positions, np.int64)
    for e in range(first, last):
        step = events[e]
        if rows[e] >= 0:
            free = 0
            for p in range(positions):
                if until[p] <= step:
                    free |= 1 << p
            row = rows[e] if choices.shape[1] > 0 else 0
            merge_classes(cost, table, masks, free, size, binomial, scratch, of, choices[row])
        for i in range(request_first[e], request_first[e + 1]):
            value[position[i]], until[position[i]] = base[i], end[i]
        for p in range(positions):
            loads[p] = value[p] + step if until[p] > step else 0
        n = events[e + 1] - step
        subset_sums(masks, loads, low, high, sums)
        add_heaviest(cost, table, sums, n, size * (n * (n - 1) // 2), floor[e])


@kernel
def count_bits(masks: IntArray, active: int, out: IntArray) -> None:
    """Write how many `active` positions every mask holds."""
    for c in range(masks.shape[0]):
        out[c] = popcount(masks[c] & active)
