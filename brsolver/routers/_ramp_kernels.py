"""Kernels of `br-ramp`: slots filled so that workers stay level while they grow.

`brsolver.routers.ramp_reference` is the plain version, to be read first. Loads and sizes count
`request_tokens` for every request besides its KV tokens; room is in KV tokens.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.cluster.view import LOAD, NO_LIMIT, QUEUED, RUNNING, SLOTS, TOKEN_ROOM
from brsolver.routers._queue_classes import (
    first_fitting,
    link_all,
    put_back,
    sort_into_classes,
    take_out,
)
from brsolver.routers._spread_kernels import hold_back, places, spread

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

GAIN = 1e-9
"""Exchanges that lower the sum by less are left: rounding may be all there is to gain."""


class Workers(NamedTuple):
    """Where a decision stands at the workers, shape (G,) each.

    Attributes
    ----------
    free : ndarray of int64
        Slots to be filled yet.
    tokens_left : ndarray of int64
        KV tokens that may be given yet.
    level : ndarray of float64
        ``u_g``, the load with all slots filled, by mean requests where none is chosen yet.
    scale : ndarray of float64
        ``a_g``, what it grows until its next departure, in the mean.
    cost : ndarray of float64
        ψ of the level.
    """

    free: IntArray
    tokens_left: IntArray
    level: FloatArray
    scale: FloatArray
    cost: FloatArray


class Queue(NamedTuple):
    """Who waits, shape (n,) each but for the last two.

    Attributes
    ----------
    prompts, sizes : ndarray of int64
        KV tokens, and what they bring to loads.
    bonus : ndarray of float64
        What their waits are worth.
    classes, heads, links : ndarray of int64
        Queues by class of size, see `brsolver.routers._queue_classes`.
    """

    prompts: IntArray
    sizes: IntArray
    bonus: FloatArray
    classes: IntArray
    heads: IntArray
    links: IntArray


class Yardstick(NamedTuple):
    """What levels are measured by.

    Attributes
    ----------
    target : float
        T, the level that workers should have.
    mean : float
        ŝ, what a waiting request brings in the mean.
    knee, slope : float
        ``ln G`` and ``G - 1``: where ψ becomes a line, and how steep that is.
    """

    target: float
    mean: float
    knee: float
    slope: float


@kernel
def cost_of(level: float, scale: float, by: Yardstick) -> float:
    """Return ψ of a level: what growing on from there costs until the worker's next departure."""
    z = (level - by.target) / scale
    if z <= by.knee:
        return math.exp(z) - z - 1.0
    return by.slope * (z - by.knee) + by.slope - by.knee


@kernel
def median_of_live(table: IntArray, level: FloatArray, live: int) -> float:
    """Return the median level of the workers that are there, the middle of two."""
    there = np.empty(live)
    at = 0
    for g in range(level.shape[0]):
        if table[SLOTS, g] != 0:
            there[at] = level[g]
            at += 1
    there.sort()
    return float((there[(live - 1) // 2] + there[live // 2]) / 2)


@kernel
def furthest(at: Workers, target: float) -> int:
    """Return the worker with a slot left that is furthest from the target; -1 if none has any.

    Ties go to the lowest level.
    """
    best, most = -1, 0.0
    for g in range(at.free.shape[0]):
        if at.free[g] <= 0:
            continue
        off = abs(at.level[g] - target) / at.scale[g]
        if best < 0 or off > most or (off == most and at.level[g] < at.level[best]):
            best, most = g, off
    return best


@kernel
def least_increase(at: Workers, tokens: int, size: int, by: Yardstick) -> int:
    """Return the worker where one request raises the sum of ψ least; -1 if it fits nowhere."""
    best, least = -1, 0.0
    for g in range(at.free.shape[0]):
        if at.free[g] <= 0 or at.tokens_left[g] < tokens:
            continue
        more = cost_of(at.level[g] + (size - by.mean), at.scale[g], by) - at.cost[g]
        if best < 0 or more < least or (more == least and at.level[g] < at.level[best]):
            best, least = g, more
    return best


@kernel
def best_waiting(
    queue: Queue, room: int, base: float, scale: float, by: Yardstick
) -> tuple[int, float, float]:
    """Find the candidate with the least ``ψ(base + size) - bonus``.

    Returns
    -------
    tuple of (int, float, float)
        The request, -1 if none fits; that least value; and the least ψ of any candidate.
    """
    prompts, sizes, bonus, links = queue.prompts, queue.sizes, queue.bonus, queue.links
    best, least, cheapest = -1, 0.0, np.inf
    for head in queue.heads:
        i = first_fitting(head, links, prompts, room)
        if i < 0:
            continue
        cost = cost_of(base + sizes[i], scale, by)
        cheapest = min(cheapest, cost)
        value = cost - bonus[i]
        if best < 0 or value < least or (value == least and i < best):
            best, least = i, value
    return best, least, cheapest


@kernel
def shift(at: Workers, g: int, tokens: int, more: float, by: Yardstick) -> None:
    """Let worker g have so many KV tokens, and so much load, more than before."""
    at.level[g] += more
    at.cost[g] = cost_of(at.level[g], at.scale[g], by)
    if at.tokens_left[g] < NO_LIMIT:
        at.tokens_left[g] -= tokens


@kernel
def give(
    out: IntArray, made: int, i: int, g: int, at: Workers, queue: Queue, by: Yardstick
) -> None:
    """Write the pair (i, g) as row `made`; take the request out of the queue."""
    take_out(i, queue.heads, queue.links, queue.classes)
    out[made, 0], out[made, 1] = i, g
    at.free[g] -= 1
    shift(at, g, queue.prompts[i], queue.sizes[i] - by.mean, by)


@kernel
def place_overdue(
    table: IntArray,
    since: IntArray,
    overdue: int,
    out: IntArray,
    at: Workers,
    queue: Queue,
    by: Yardstick,
) -> int:
    """Place who has waited since step `overdue` or before; return how many were.

    For one that fits nowhere yet a worker is kept free.
    """
    made = 0
    for i in range(since.shape[0]):
        if since[i] > overdue:
            continue
        tokens = queue.prompts[i]
        g = least_increase(at, tokens, queue.sizes[i], by)
        if g >= 0:
            give(out, made, i, g, at, queue, by)
            made += 1
        else:
            kept = hold_back(table, at.tokens_left, at.free, tokens)
            if kept >= 0:
                at.free[kept] = 0
    return made


@kernel
def fill(out: IntArray, made: int, at: Workers, queue: Queue, by: Yardstick) -> tuple[int, float]:
    """Let the worker furthest from the target choose until no slot is left.

    Returns
    -------
    tuple of (int, float)
        How many pairs there are, and the sum of what the slots filled would have cost had
        nobody's wait counted.
    """
    total = 0.0
    while True:
        g = furthest(at, by.target)
        if g < 0:
            return made, total
        base = at.level[g] - by.mean
        i, _, cheapest = best_waiting(queue, at.tokens_left[g], base, at.scale[g], by)
        if i < 0:
            at.free[g] = 0
            continue
        give(out, made, i, g, at, queue, by)
        made += 1
        total += cheapest


@kernel
def exchange_with_waiting(k: int, out: IntArray, at: Workers, queue: Queue, by: Yardstick) -> bool:
    """Replace the k-th placed request by the best waiting one, if that lowers the sum."""
    i, g = out[k, 0], out[k, 1]
    prompts, sizes = queue.prompts, queue.sizes
    room, base = at.tokens_left[g] + prompts[i], at.level[g] - sizes[i]
    j, value, _ = best_waiting(queue, room, base, at.scale[g], by)
    if j < 0 or value - (at.cost[g] - queue.bonus[i]) >= -GAIN:
        return False
    take_out(j, queue.heads, queue.links, queue.classes)
    put_back(i, queue.heads, queue.links, queue.classes)
    out[k, 0] = j
    shift(at, g, prompts[j] - prompts[i], float(sizes[j] - sizes[i]), by)
    return True


@kernel
def exchange_with_placed(
    k: int, due: int, made: int, reach: int, out: IntArray, at: Workers, queue: Queue, by: Yardstick
) -> bool:
    """Exchange the k-th placed request with the best one of another worker, if that pays.

    Those placed next are looked at, `reach` of them, round and round. Who was overdue
    stays in the first `due` rows, where `exchange_with_waiting` does not reach.
    """
    i, g = out[k, 0], out[k, 1]
    level, scale, cost, left = at.level, at.scale, at.cost, at.tokens_left
    prompts, sizes = queue.prompts, queue.sizes
    best, least = -1, -GAIN
    for further in range(1, min(reach + 1, made)):
        m = (k + further) % made
        if (k < due) != (m < due):
            continue
        j, w = out[m, 0], out[m, 1]
        more, tokens = sizes[j] - sizes[i], prompts[j] - prompts[i]
        if w == g or more == 0 or tokens > left[g] or -tokens > left[w]:
            continue
        after = cost_of(level[g] + more, scale[g], by) + cost_of(level[w] - more, scale[w], by)
        gain = after - (cost[g] + cost[w])
        if gain < least:
            best, least = m, gain
    if best < 0:
        return False
    j, w = out[best, 0], out[best, 1]
    tokens, much = prompts[j] - prompts[i], float(sizes[j] - sizes[i])
    out[k, 0], out[best, 0] = j, i
    shift(at, g, tokens, much, by)
    shift(at, w, -tokens, -much, by)
    return True


@kernel
def exchange(
    due: int,
    made: int,
    sweeps: int,
    reach: int,
    out: IntArray,
    at: Workers,
    queue: Queue,
    by: Yardstick,
) -> None:
    """Sweep over what is placed while that lowers the sum; who was overdue stays placed."""
    for _ in range(sweeps):
        better = False
        for k in range(made):
            if k >= due:
                better |= exchange_with_waiting(k, out, at, queue, by)
            better |= exchange_with_placed(k, due, made, reach, out, at, queue, by)
        if not better:
            return


@kernel
def bonuses(since: IntArray, step: int, rate: float, live: int, price: float) -> FloatArray:
    """Return what each request's wait is worth: `price` per mean wait of the pool, P/(λ·G)."""
    out = np.empty(since.shape[0])
    mean_wait = since.shape[0] / (rate * live)
    for i in range(out.shape[0]):
        out[i] = price * max(step - since[i], 0) / mean_wait
    return out


@kernel
def workers_of(
    table: IntArray, free: IntArray, mean: float, live: int, rate: float
) -> tuple[Workers, Yardstick]:
    """Return where a decision begins, and what levels are measured by."""
    level = table[LOAD] + free * mean
    scale = np.maximum((table[RUNNING] + table[QUEUED] + free) / rate, 1.0)
    by = Yardstick(median_of_live(table, level, live), mean, math.log(live), live - 1.0)
    cost = np.empty(level.shape[0])
    for g in range(cost.shape[0]):
        cost[g] = cost_of(level[g], scale[g], by)
    return Workers(free, table[TOKEN_ROOM].copy(), level, scale, cost), by


@kernel
def route_ramp(
    table: IntArray,
    prompts: IntArray,
    since: IntArray,
    overdue: int,
    step: int,
    live: int,
    rate: float,
    price: float,
    exact: bool,
    sweeps: int,
    reach: int,
    request_tokens: int,
) -> tuple[IntArray, float]:
    """Decide; with rate 0, nothing being known of departures, or slots in plenty, by `spread`.

    Parameters
    ----------
    table, prompts, since, overdue, request_tokens
        As of `spread`.
    step, live : int
        Decode steps done so far, and workers that are there.
    rate : float
        λ, departures per worker and step.
    price : float
        ``θ·c̄``, what a mean wait is worth.
    exact : bool
        Whether all waiting requests are candidates, or the first of every class of sizes.
    sweeps : int
        Of exchanges, at most.
    reach : int
        Further placed requests that each is tried to be exchanged with, in a sweep.

    Returns
    -------
    tuple of (ndarray of int64, shape (k, 2), float)
        Pairs (waiting index, worker), and the mean of what filling a slot would have cost had
        nobody's wait counted; -1 where `spread` decided, or no slot was filled so.
    """
    free = places(table, prompts)
    if free.sum() == 0:
        return np.empty((0, 2), np.int64), -1.0
    if rate <= 0.0 or free.sum() > prompts.shape[0]:
        return spread(table, prompts, since, overdue, request_tokens), -1.0
    sizes = prompts + request_tokens
    out = np.empty((free.sum(), 2), np.int64)
    at, by = workers_of(table, free, sizes.mean(), live, rate)
    classes = sort_into_classes(sizes, exact)
    heads, links = link_all(classes)
    bonus = bonuses(since, step, rate, live, price)
    queue = Queue(prompts, sizes, bonus, classes, heads, links)
    due = place_overdue(table, since, overdue, out, at, queue, by)
    made, total = fill(out, due, at, queue, by)
    exchange(due, made, sweeps, reach, out, at, queue, by)
    return out[:made], total / (made - due) if made > due else -1.0
