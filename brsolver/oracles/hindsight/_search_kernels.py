"""Kernels of the local search: swaps of what two slots run between two common boundaries."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel

if TYPE_CHECKING:
    from brsolver.oracles.hindsight._shapes import Lanes, Leaders, Partners, Runs

IntArray = NDArray[np.int64]


@kernel
def link_lanes(
    start: IntArray, end: IntArray, worker: IntArray, workers: int, slots: int
) -> tuple[IntArray, IntArray]:
    """Lay every worker's requests out on its slots; return who follows and who precedes whom."""
    n = start.shape[0]
    after, before = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    last = np.full((workers, slots), -1, np.int64)
    for i in range(n):
        g = worker[i]
        for b in range(slots):
            j = last[g, b]
            if j < 0 or end[j] <= start[i]:
                before[i] = j
                if j >= 0:
                    after[j] = i
                last[g, b] = i
                break
    return after, before


@kernel
def next_random(state: IntArray) -> int:
    """Advance a xorshift generator and return a number of 62 bits."""
    x: int = state[0]
    x ^= x << 13
    x ^= (x >> 7) & 0x01FFFFFFFFFFFFFF
    x ^= x << 17
    state[0] = x
    return x & 0x3FFFFFFFFFFFFFFF


@kernel
def common_boundary(
    a: int, b: int, start: IntArray, end: IntArray, after: IntArray
) -> tuple[int, int, int]:
    """Return the last requests of two lanes before both are between requests, and that step."""
    while end[a] != end[b]:
        if end[a] < end[b]:
            follows = after[a]
            if follows < 0 or start[follows] >= end[b]:
                break
            a = follows
        else:
            follows = after[b]
            if follows < 0 or start[follows] >= end[a]:
                break
            b = follows
    return a, b, max(end[a], end[b])


@kernel
def lane_loads(
    i: int, first: int, last: int, sign: int, runs: Runs, after: IntArray, out: IntArray
) -> None:
    """Add ``sign`` times what the lane runs from request i on, steps first..last-1, to `out`."""
    prompt, start, end = runs
    while i >= 0 and start[i] < last:
        for k in range(max(start[i], first), min(end[i], last)):
            out[k - first] += sign * (prompt[i] + k - start[i])
        i = after[i]


@kernel
def find_leaders(loads: IntArray, first: int, last: int, heaviest: IntArray, who: IntArray) -> None:
    """Write the three largest loads of steps first..last-1 and whose they are; -1 if fewer."""
    for k in range(first, last):
        for rank in range(3):
            heaviest[rank, k], who[rank, k] = -1, -1
        for g in range(loads.shape[0]):
            load, owner = loads[g, k], g
            for rank in range(3):
                if load > heaviest[rank, k]:
                    load, heaviest[rank, k] = heaviest[rank, k], load
                    owner, who[rank, k] = who[rank, k], owner


@kernel
def swap_change(
    g: int, h: int, first: int, moved: IntArray, loads: IntArray, heaviest: IntArray, who: IntArray
) -> int:
    """Return by how much ``Σ_k M(k)`` grows if worker g passes the loads `moved` on to h."""
    change = 0
    for j in range(moved.shape[0]):
        k = first + j
        rank = 0
        while who[rank, k] in (g, h):
            rank += 1
            if rank == 3:
                break
        other = heaviest[rank, k] if rank < 3 else 0
        change += max(other, loads[g, k] - moved[j], loads[h, k] + moved[j]) - heaviest[0, k]
    return change


@kernel
def tolerated(change: int, temperature: float, state: IntArray) -> bool:
    """Tell whether annealing accepts a change: always if it costs nothing."""
    if change <= 0:
        return True
    if temperature <= 0.0:
        return False
    uniform = (next_random(state) % 1_000_000 + 1) / 1_000_001.0
    return change <= -temperature * math.log(uniform)


@kernel
def swap_search(
    runs: Runs,
    partners: Partners,
    lanes: Lanes,
    leaders: Leaders,
    difference: IntArray,
    state: IntArray,
    trials: int,
    temperature: float,
) -> int:
    """Try random swaps and keep those that annealing accepts; return the barrier time saved.

    Two requests admitted at the same step to different workers change places, with all that
    follows on their slots until both slots are between requests again. One of them is mostly
    on the worker that leads at a random step of its life: others cannot lower that step.
    `difference` is scratch, shape (K,); `state` that of the random numbers, shape (1,).
    """
    start, end = runs.start, runs.end
    first, last, eligible = partners
    worker, after, before = lanes
    loads, heaviest, who = leaders
    saved = 0
    for _ in range(trials):
        a = eligible[next_random(state) % eligible.shape[0]]
        b = first[a] + next_random(state) % (last[a] - first[a])
        g, h = worker[a], worker[b]
        k = start[a] + next_random(state) % (end[a] - start[a])
        if g == h or (who[0, k] != g and next_random(state) % loads.shape[0] > 0):
            continue
        last_a, last_b, until = common_boundary(a, b, start, end, after)
        begin = start[a]
        d = difference[: until - begin]
        d[:] = 0
        for i, sign in ((a, 1), (b, -1)):
            lane_loads(i, begin, until, sign, runs, after, d)
        change = swap_change(g, h, begin, d, loads, heaviest, who)
        if not tolerated(change, temperature, state):
            continue
        saved -= change
        for j in range(until - begin):
            loads[g, begin + j] -= d[j]
            loads[h, begin + j] += d[j]
        find_leaders(loads, begin, until, heaviest, who)
        swap_lanes(a, last_a, b, last_b, worker, after, before)
    return saved


@kernel
def swap_lanes(
    a: int, last_a: int, b: int, last_b: int, worker: IntArray, after: IntArray, before: IntArray
) -> None:
    """Swap the lane segments ``a..last_a`` and ``b..last_b``."""
    g, h = worker[a], worker[b]
    relabel(a, last_a, h, worker, after)
    relabel(b, last_b, g, worker, after)
    follows_a, follows_b = after[last_a], after[last_b]
    before_a, before_b = before[a], before[b]
    join(before_a, b, after, before)
    join(last_b, follows_a, after, before)
    join(before_b, a, after, before)
    join(last_a, follows_b, after, before)


@kernel
def relabel(i: int, last: int, g: int, worker: IntArray, after: IntArray) -> None:
    """Give requests ``i..last`` of a lane to worker g."""
    while i != last:
        worker[i] = g
        i = after[i]
    worker[last] = g


@kernel
def join(i: int, j: int, after: IntArray, before: IntArray) -> None:
    """Let request j follow request i, either of which may be missing (-1)."""
    if i >= 0:
        after[i] = j
    if j >= 0:
        before[j] = i
