"""Kernels of the schedule: when requests run under FCFS admission, and what workers carry."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel

IntArray = NDArray[np.int64]


@kernel
def admit_in_order(output: IntArray, positions: int, pool: int) -> tuple[IntArray, IntArray]:
    """Return the admission step and the slot position of every request.

    At every step up to `pool` waiting requests take the free positions, lowest first.
    """
    n = output.shape[0]
    start = np.empty(n, np.int64)
    position = np.empty(n, np.int64)
    free_from = np.zeros(positions, np.int64)
    step, i = 0, 0
    while i < n:
        left, spare = min(pool, n - i), 0
        for p in range(positions):
            if free_from[p] <= step:
                if left == 0:
                    spare += 1
                    continue
                start[i], position[i] = step, p
                free_from[p] = step + output[i]
                i += 1
                left -= 1
        step = step + 1 if spare > 0 else max(step + 1, free_from.min())
    return start, position


@kernel
def worker_loads(
    prompt: IntArray, start: IntArray, end: IntArray, worker: IntArray, workers: int, steps: int
) -> IntArray:
    """Return ``L_g(k)``, shape (workers, steps), by second differences."""
    slope = np.zeros((workers, steps + 1), np.int64)
    jump = np.zeros((workers, steps + 1), np.int64)
    for i in range(prompt.shape[0]):
        g = worker[i]
        jump[g, start[i]] += prompt[i]
        slope[g, start[i]] += 1
        jump[g, end[i]] -= prompt[i] + end[i] - start[i]
        slope[g, end[i]] -= 1
    loads = np.empty((workers, steps), np.int64)
    for g in range(workers):
        load, growth = 0, 0
        for k in range(steps):
            load += growth + jump[g, k]
            growth += slope[g, k]
            loads[g, k] = load
    return loads


@kernel
def most_active(start: IntArray, end: IntArray, worker: IntArray, g: int, steps: int) -> int:
    """Return the largest number of requests that worker g runs at once."""
    change = np.zeros(steps + 1, np.int64)
    for i in range(start.shape[0]):
        if worker[i] == g:
            change[start[i]] += 1
            change[end[i]] -= 1
    most, active = 0, 0
    for k in range(steps):
        active += change[k]
        most = max(most, active)
    return most


@kernel
def companion_bound(weights: IntArray, workers: int, slots: int) -> int:
    """Bound ``max_g`` of a partition of `weights` into `workers` sets of at most `slots`.

    The largest of: the average rounded up; the largest weight; for every q, the q + 1 smallest
    of the ``q·G + 1`` largest, since some worker holds q + 1 of them; and for every weight among
    the heaviest, itself with the companions that the other workers' slots cannot take.
    """
    n = weights.shape[0]
    if n == 0:
        return 0
    down = np.sort(weights)[::-1]
    best: int = max(down[0], -(-down.sum() // workers))
    q = 1
    while q * workers + 1 <= n:
        total = 0
        for j in range(q * workers - q, q * workers + 1):
            total += down[j]
        best = max(best, total)
        q += 1
    forced = n - (workers - 1) * slots - 1
    if forced > 0:
        total = down[0]
        for j in range(n - forced, n):
            total += down[j]
        best = max(best, total)
    return best


@kernel
def interval_bounds(
    prompt: IntArray,
    start: IntArray,
    end: IntArray,
    edges: IntArray,
    workers: int,
    slots: int,
) -> IntArray:
    """Bound ``Σ_{k∈I} M(k)`` of every interval between consecutive `edges`.

    `companion_bound` of the work that each active request brings to the interval; by Jensen's
    inequality the sum of maxima is at least the maximum of sums.
    """
    bounds = np.zeros(edges.shape[0] - 1, np.int64)
    active = np.empty(workers * slots, np.int64)
    weights = np.empty(workers * slots, np.int64)
    count, i = 0, 0
    for e in range(edges.shape[0] - 1):
        kept = 0
        for j in range(count):
            if end[active[j]] > edges[e]:
                active[kept] = active[j]
                kept += 1
        count = kept
        while i < prompt.shape[0] and start[i] <= edges[e]:
            if end[i] > edges[e]:
                active[count] = i
                count += 1
            i += 1
        n = edges[e + 1] - edges[e]
        for j in range(count):
            r = active[j]
            weights[j] = n * (prompt[r] + edges[e] - start[r]) + n * (n - 1) // 2
        bounds[e] = companion_bound(weights[:count], workers, slots)
    return bounds


@kernel
def chain_of(start: IntArray, end: IntArray, position: IntArray, positions: int) -> IntArray:
    """Return the chain of every request; see `chains.Chains`."""
    n = start.shape[0]
    chain = np.empty(n, np.int64)
    last = np.full(positions, -1, np.int64)
    made, i = 0, 0
    while i < n:
        step, free = start[i], 0
        for p in range(positions):
            if last[p] < 0 or end[last[p]] <= step:
                free += 1
        while i < n and start[i] == step:
            before = last[position[i]]
            if free == 1 and before >= 0 and end[before] == step:
                chain[i] = chain[before]
            else:
                chain[i] = made
                made += 1
            last[position[i]] = i
            i += 1
    return chain


@kernel
def interval_work(
    prompt: IntArray, start: IntArray, end: IntArray, chain: IntArray, edges: IntArray
) -> IntArray:
    """Return (interval, chain, work) of every request in every interval, shape (3, cells)."""
    intervals = edges.shape[0] - 1
    cells = 0
    for i in range(start.shape[0]):
        if start[i] < edges[intervals] and end[i] > edges[0]:
            first = max(0, np.searchsorted(edges, start[i]))
            cells += np.searchsorted(edges[: intervals + 1], min(end[i], edges[intervals])) - first
    out = np.empty((3, cells), np.int64)
    at = 0
    for i in range(start.shape[0]):
        if start[i] < edges[intervals] and end[i] > edges[0]:
            first = max(0, np.searchsorted(edges, start[i]))
            for e in range(first, np.searchsorted(edges, min(end[i], edges[intervals]))):
                n = edges[e + 1] - edges[e]
                out[0, at] = e
                out[1, at] = chain[i]
                out[2, at] = n * (prompt[i] + edges[e] - start[i]) + n * (n - 1) // 2
                at += 1
    return out


@kernel
def assign_least_loaded(
    prompt: IntArray, start: IntArray, end: IntArray, workers: int, slots: int
) -> IntArray:
    """Give each request, in order, to the worker with the fewest KV tokens that has a slot."""
    n = prompt.shape[0]
    worker = np.empty(n, np.int64)
    running = np.full((workers, slots), -1, np.int64)
    for i in range(n):
        chosen, least, place = -1, 0, 0
        for g in range(workers):
            load, spare = 0, -1
            for b in range(slots):
                j = running[g, b]
                if j >= 0 and end[j] > start[i]:
                    load += prompt[j] + start[i] - start[j]
                else:
                    spare = b
            if spare >= 0 and (chosen < 0 or load < least):
                chosen, least, place = g, load, spare
        worker[i] = chosen
        running[chosen, place] = i
    return worker


@kernel
def overlap_cost(load: IntArray, prompt: int, discount: float) -> float:
    """Return ``Σ_k d^(k-x)·w(k)·L(k)``: by how much a request adds to the square of a load."""
    cost, weight = 0.0, 1.0
    for j in range(load.shape[0]):
        cost += weight * (prompt + j) * load[j]
        weight *= discount
    return cost


@kernel
def assign_smoothest(
    prompt: IntArray,
    start: IntArray,
    end: IntArray,
    workers: int,
    slots: int,
    steps: int,
    discount: float,
) -> IntArray:
    """Give each request to the worker whose known future load it overlaps least.

    Admission step by admission step, those with most work first. Overlap is `overlap_cost`; the
    least of it is the least growth of ``Σ_g Σ_k L_g(k)²``, knowing who has been admitted so far.
    """
    n = prompt.shape[0]
    loads = np.zeros((workers, steps), np.int64)
    taken = np.zeros((workers, steps), np.int64)
    worker = np.empty(n, np.int64)
    i = 0
    while i < n:
        last = np.searchsorted(start, start[i], side="right")
        output = end[i:last] - start[i:last]
        work = output * prompt[i:last] + output * (output - 1) // 2
        for at in np.argsort(-work, kind="mergesort"):
            r = i + at
            chosen, least = -1, 0.0
            for g in range(workers):
                if taken[g, start[r]] < slots:
                    future = loads[g, start[r] : end[r]]
                    cost = overlap_cost(future, prompt[r], discount)
                    if chosen < 0 or cost < least:
                        chosen, least = g, cost
            worker[r] = chosen
            for k in range(start[r], end[r]):
                loads[chosen, k] += prompt[r] + k - start[r]
                taken[chosen, k] += 1
        i = last
    return worker
