"""Kernels that prove single steps by searching for a split among G workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel

if TYPE_CHECKING:
    from brsolver.oracles.bounds.fixed import FixedRuns

IntArray = NDArray[np.int64]

# What a search for a split came to.
IMPOSSIBLE, POSSIBLE, UNDECIDED = range(3)


@kernel
def has_twin(load: IntArray, held: IntArray, g: int) -> bool:
    """Tell whether an earlier worker is in the same state, so that g need not be tried."""
    found = False
    for h in range(g):
        found = found or (load[h] == load[g] and held[h] == held[g])
    return found


@kernel
def usable_room(load: IntArray, held: IntArray, slots: int, ceiling: int, smallest: int) -> int:
    """Return the room below `ceiling` on workers that can take one more of the smallest."""
    room = 0
    for g in range(load.shape[0]):
        left = ceiling - load[g]
        if left >= smallest and held[g] < slots:
            room += left
    return room


@kernel
def next_worker(
    load: IntArray,
    held: IntArray,
    slots: int,
    ceiling: int,
    weight: int,
    after: int,
    smallest: int,
    rest: int,
) -> int:
    """Return the first worker beyond `after` that may take `weight`, or -1."""
    for g in range(after + 1, load.shape[0]):
        if held[g] >= slots or load[g] + weight > ceiling or has_twin(load, held, g):
            continue
        load[g] += weight
        held[g] += 1
        enough = usable_room(load, held, slots, ceiling, smallest) >= rest
        load[g] -= weight
        held[g] -= 1
        if enough:
            return g
    return -1


@kernel
def split(weights: IntArray, workers: int, slots: int, ceiling: int, max_nodes: int) -> int:
    """Search for a split of `weights`, largest first, with no worker above `ceiling`.

    Depth first, the largest weight first; workers in the same state are tried once, and a branch
    ends where what is left exceeds the room on workers that can still take the smallest weight.
    """
    n = weights.shape[0]
    if weights[0] > ceiling or weights.sum() > workers * ceiling or n > workers * slots:
        return IMPOSSIBLE
    load = np.zeros(workers, np.int64)
    held = np.zeros(workers, np.int64)
    chosen = np.full(n, -1, np.int64)
    rest = np.zeros(n + 1, np.int64)
    for i in range(n - 1, -1, -1):
        rest[i] = rest[i + 1] + weights[i]
    i, nodes = 0, 0
    while i < n:
        g = chosen[i]
        if g >= 0:
            load[g] -= weights[i]
            held[g] -= 1
        g = next_worker(load, held, slots, ceiling, weights[i], g, weights[n - 1], rest[i + 1])
        chosen[i] = g
        if g < 0:
            i -= 1
            if i < 0:
                return IMPOSSIBLE
            continue
        load[g] += weights[i]
        held[g] += 1
        i += 1
        nodes += 1
        if nodes > max_nodes:
            return UNDECIDED
    return POSSIBLE


@kernel
def lift(weights: IntArray, workers: int, slots: int, known: int, max_nodes: int) -> int:
    """Raise the lower bound `known` of ``min max_g L_g`` as far as searches prove it.

    Every ceiling up to the returned value less one is proven too low; growing steps, then
    bisection, find the largest such ceiling that the searches settle.
    """
    proven, stride = known - 1, max(1, known // 512)
    while split(weights, workers, slots, proven + stride, max_nodes) == IMPOSSIBLE:
        proven += stride
        stride *= 2
    beyond = proven + stride
    while beyond - proven > 1:
        middle = (proven + beyond) // 2
        if split(weights, workers, slots, middle, max_nodes) == IMPOSSIBLE:
            proven = middle
        else:
            beyond = middle
    return proven + 1


@kernel
def lift_steps(runs: FixedRuns, steps: IntArray, known: IntArray, max_nodes: int) -> IntArray:
    """Apply `lift` to the active sets of `steps`, whose bounds so far are `known`."""
    prompt, start, end = runs.prompt, runs.start, runs.end
    lifted = np.empty(steps.shape[0], np.int64)
    for at in range(steps.shape[0]):
        k = steps[at]
        active = np.flatnonzero((start <= k) & (end > k))
        weights = np.sort(prompt[active] + k - start[active])[::-1].copy()
        lifted[at] = lift(weights, runs.workers, runs.slots, known[at], max_nodes)
    return lifted
