"""Kernels of the dynamic programme over partitions of slot positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.oracles.hindsight._partition_kernels import popcount, representative

if TYPE_CHECKING:
    from brsolver.oracles.hindsight._shapes import Classes, Events, Partitions, Sweep

IntArray = NDArray[np.int64]
SmallArray = NDArray[np.int32]

FAR = 1 << 62


@kernel
def subset_sums(
    masks: IntArray, values: IntArray, low: IntArray, high: IntArray, out: IntArray
) -> None:
    """Write the sum of `values` over every mask to `out`, from tables of both halves."""
    half = (values.shape[0] + 1) // 2
    _table_of(values[:half], low)
    _table_of(values[half:], high)
    mask_low = low.shape[0] - 1
    for c in range(masks.shape[0]):
        out[c] = low[masks[c] & mask_low] + high[masks[c] >> half]


@kernel
def _table_of(values: IntArray, table: IntArray) -> None:
    table[0] = 0
    for p in range(values.shape[0]):
        size = 1 << p
        for mask in range(size):
            table[size + mask] = table[mask] + values[p]


@kernel
def add_heaviest(
    cost: IntArray, table: SmallArray, sums: IntArray, times: int, plus: int, floor: int
) -> None:
    """Add ``times·max(floor, max_g sums_g) + plus`` to every state's cost."""
    groups = table.shape[1]
    for s in range(table.shape[0]):
        envelope = floor
        for g in range(groups):
            envelope = max(envelope, sums[table[s, g]])
        cost[s] += times * envelope + plus


@kernel
def merge_classes(
    free: int, choice: SmallArray, partitions: Partitions, cost: IntArray, classes: Classes
) -> None:
    """Replace every cost by the least of the states that agree with it outside `free`.

    `choice`, if it has any entries, receives the cheapest state of each class at its
    representative.
    """
    table, masks, binomial = partitions.table, partitions.masks, partitions.binomial
    least, of, size = classes.least, classes.of, partitions.size
    groups = table.shape[1]
    group = np.empty(groups, np.int64)
    least[:] = FAR
    keep = choice.shape[0] > 0
    for s in range(cost.shape[0]):
        for g in range(groups):
            group[g] = masks[table[s, g]]
        r = representative(group, free, groups, size, binomial)
        of[s] = r
        if cost[s] < least[r]:
            least[r] = cost[s]
            if keep:
                choice[r] = s
    for s in range(cost.shape[0]):
        cost[s] = least[of[s]]


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
            envelope = floor[j]
            for g in range(groups):
                envelope = max(envelope, sums[table[s, g]] + counts[table[s, g]] * j)
            total += envelope
        cost[s] += total


@kernel
def free_positions(until: IntArray, step: int) -> int:
    """Return the positions that no request holds at a step, as a mask."""
    free = 0
    for p in range(until.shape[0]):
        if until[p] <= step:
            free |= 1 << p
    return free


@kernel
def carry(
    first: int, last: int, partitions: Partitions, events: Events, sweep: Sweep, classes: Classes
) -> None:
    """Carry the cost of every state over events ``first..last-1``."""
    cost, value, until = sweep.cost, sweep.value, sweep.until
    table, masks, size = partitions.table, partitions.masks, partitions.size
    positions = value.shape[0]
    half = (positions + 1) // 2
    low, high = np.zeros(1 << half, np.int64), np.zeros(1 << (positions - half), np.int64)
    sums = np.empty(masks.shape[0], np.int64)
    loads = np.empty(positions, np.int64)
    for e in range(first, last):
        step = events.step[e]
        if events.row[e] >= 0:
            free = free_positions(until, step)
            row = events.row[e] if classes.choices.shape[1] > 0 else 0
            merge_classes(free, classes.choices[row], partitions, cost, classes)
        for i in range(events.first[e], events.first[e + 1]):
            p = events.position[i]
            value[p], until[p] = events.base[i], events.end[i]
        for p in range(positions):
            loads[p] = value[p] + step if until[p] > step else 0
        n = events.step[e + 1] - step
        subset_sums(masks, loads, low, high, sums)
        add_heaviest(cost, table, sums, n, size * (n * (n - 1) // 2), events.floor[e])


@kernel
def count_bits(masks: IntArray, active: int, out: IntArray) -> None:
    """Write how many `active` positions every mask holds."""
    for c in range(masks.shape[0]):
        out[c] = popcount(masks[c] & active)
