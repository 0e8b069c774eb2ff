"""Kernels of the bounds per step, for active sets that no assignment changes.

All loads grow by one per step, so the order of two active requests never changes: with the key
``c_i = s_i - x_i`` the load of request i at step k is ``c_i + k``. The active set is kept sorted
by key, and prefix sums of keys are renewed only when it changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel

if TYPE_CHECKING:
    from brsolver.oracles.bounds.fixed import FixedRuns

IntArray = NDArray[np.int64]


class StepTable(NamedTuple):
    """What is known of every step.

    Attributes
    ----------
    active, work : ndarray of int64, shape (K,)
        Requests, and their load altogether.
    bound : ndarray of int64, shape (K,)
        ``LB_k``.
    """

    active: IntArray
    work: IntArray
    bound: IntArray


@kernel
def retire(keys: IntArray, ends: IntArray, count: int, step: int) -> int:
    """Drop the requests that have left before `step`; return how many are left."""
    kept = 0
    for j in range(count):
        if ends[j] > step:
            keys[kept], ends[kept] = keys[j], ends[j]
            kept += 1
    return kept


@kernel
def insert(keys: IntArray, ends: IntArray, count: int, key: int, end: int) -> None:
    """Insert a request into the first `count` entries, largest key first."""
    at = count
    while at > 0 and keys[at - 1] < key:
        keys[at], ends[at] = keys[at - 1], ends[at - 1]
        at -= 1
    keys[at], ends[at] = key, end


@kernel
def sum_prefixes(keys: IntArray, count: int, prefix: IntArray) -> None:
    """Write ``prefix[j] = Σ_{i<j} keys[i]``."""
    prefix[0] = 0
    for j in range(count):
        prefix[j + 1] = prefix[j] + keys[j]


@kernel
def shared_bound(prefix: IntArray, count: int, step: int, workers: int) -> int:
    """Return the largest, over q, of the q + 1 smallest of the ``q·G + 1`` largest loads."""
    best, last = 0, workers + 1
    q = 1
    while last <= count:
        total = prefix[last] - prefix[last - q - 1] + (q + 1) * step
        best = max(best, total)
        q += 1
        last += workers
    return best


@kernel
def forced_bound(prefix: IntArray, count: int, step: int, workers: int, slots: int) -> int:
    """Return the largest load and the smallest ones that the other workers cannot take."""
    company = max(0, count - (workers - 1) * slots - 1)
    total: int = prefix[1] + prefix[count] - prefix[count - company] + (company + 1) * step
    return total


@kernel
def step_bound(prefix: IntArray, count: int, step: int, workers: int, slots: int) -> int:
    """Return ``LB_k``: the largest of average, largest load, shared and forced bound."""
    average: int = -(-(prefix[count] + count * step) // workers)
    largest: int = prefix[1] + step
    best = max(average, largest)
    best = max(best, shared_bound(prefix, count, step, workers))
    return max(best, forced_bound(prefix, count, step, workers, slots))


@kernel
def step_table(runs: FixedRuns) -> StepTable:
    """Return what is known of every step up to the last."""
    prompt, start, end, workers, slots = runs
    steps = end.max()
    active = np.zeros(steps, np.int64)
    work = np.zeros(steps, np.int64)
    bound = np.zeros(steps, np.int64)
    keys = np.empty(workers * slots + 1, np.int64)
    ends = np.empty(workers * slots + 1, np.int64)
    prefix = np.zeros(workers * slots + 2, np.int64)
    leaving = np.zeros(steps + 1, np.int64)
    for i in range(end.shape[0]):
        leaving[end[i]] += 1
    count, coming = 0, 0
    for step in range(steps):
        changed = leaving[step] > 0
        if changed:
            count = retire(keys, ends, count, step)
        while coming < start.shape[0] and start[coming] == step:
            insert(keys, ends, count, prompt[coming] - step, end[coming])
            count += 1
            coming += 1
            changed = True
        if changed:
            sum_prefixes(keys, count, prefix)
        if count > 0:
            active[step] = count
            work[step] = prefix[count] + count * step
            bound[step] = step_bound(prefix, count, step, workers, slots)
    return StepTable(active, work, bound)
