"""Kernels of BR-T: where prompts would be prefilled, and what that costs at the barrier.

`brsolver.routers.reference_waves` says the same in plain Python, where every worker is looked at
for every request. Here they stand in order of their work, so that a search ends once all that
follow can only be worse.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.cluster.view import (
    BACKLOG,
    NO_LIMIT,
    ROOM,
    TOKEN_ROOM,
)
from brsolver.routers._load_kernels import (
    TOPS,
    add_work,
    give,
    lift,
    steps_of,
    tops_and_brings,
    with_request,
)
from brsolver.routers._window_kernels import (
    GONE,
    NOWHERE,
    WAITS,
    fresh_tokens,
    largest_that_fits,
    least_fresh,
    mean_rise,
    slots_and_running,
    window_of,
)

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

ANYWHERE = NO_LIMIT
"""Backlog that prompts may reach, where none is set."""

ROUNDING = 1e-12
"""Relative error that sums of seconds stay below: bounds give way by that much."""


class Plan(NamedTuple):
    """What could be released, and what it costs.

    Attributes
    ----------
    fills : int
        Placements, the first of those written, that no rank's prefill outlasts.
    placements : int
        All of them.
    lost : float
        Prefill tokens by which the rest raises the largest backlog, less those by which it
        raises the mean one: what all ranks wait for one of them.
    longest : int
        Largest backlog after all.
    running : int
        Requests that run now, as reported; 0 while every slot is known to be free.
    """

    fills: int
    placements: int
    lost: float
    longest: int
    running: int


class Field(NamedTuple):
    """The workers, as a plan changes them.

    Attributes
    ----------
    now : ndarray of int64, shape (VIEW_ROWS, G)
        Of a view: what is placed is counted in room, token room and backlog.
    loads : ndarray of int64, shape (G,) or (G, H + 1)
        Now, or now and in the H steps to come; with what is placed.
    work : ndarray of float64, shape (G,)
        Seconds that backlog and loads come to.
    order : ndarray of int64, shape (G,)
        Workers with a slot left, least work first.
    marks : ndarray of int64, shape (H + 4,)
        How many have a slot left; no token room of theirs is more; largest backlog, and from
        `TOPS` on largest load in every step, departed workers' included. One array, as every
        further one that is passed on costs a placement some 15 ns.
    """

    now: IntArray
    loads: IntArray
    work: FloatArray
    order: IntArray
    marks: IntArray


OPEN, ROOMIEST, LONGEST = range(TOPS)
"""Of `Field.marks`."""


@kernel
def lay_out(table: IntArray, loads: IntArray, seconds: FloatArray) -> Field:
    """Return the workers as they are."""
    workers = loads.shape[0]
    work, order = np.empty(workers), np.empty(workers, np.int64)
    marks = np.zeros(TOPS + steps_of(loads), np.int64)
    for g in range(workers):
        work[g] = add_work(seconds[0] * table[BACKLOG, g], loads, g, seconds)
        marks[LONGEST] = max(marks[LONGEST], table[BACKLOG, g])
        lift(marks, loads, g)
    for g in np.argsort(work, kind="mergesort"):
        if table[ROOM, g] > 0:
            order[marks[OPEN]] = g
            marks[OPEN] += 1
    field = Field(table.copy(), loads.copy(), work, order, marks)
    look_again(field)
    return field


@kernel
def look_again(field: Field) -> None:
    """Bring the largest token room up to date."""
    roomiest = 0
    for at in range(field.marks[OPEN]):
        roomiest = max(roomiest, field.now[TOKEN_ROOM, field.order[at]])
    field.marks[ROOMIEST] = roomiest


@kernel
def best_worker(
    field: Field,
    prompts: IntArray,
    cached: IntArray,
    i: int,
    fresh: int,
    each: int,
    growing: int,
    most: int,
    seconds: FloatArray,
) -> int:
    """Return where in the order request i adds least to the barrier; -1 for nowhere.

    Of equals the worker with least work then, of these the first. `fresh` is the least that must
    be computed of it; `most` is the backlog that no worker may exceed; `seconds` are those of a
    prefill token, and of a KV token in this step and those to come.
    """
    now, loads, marks, tokens = field.now, field.loads, field.marks, prompts[i] + each
    longest = marks[LONGEST]
    found, best, least_over, least_work = -1, -1, 0.0, 0.0
    kv_top, kv_brings = tops_and_brings(loads, marks, tokens, growing, seconds)
    brings = seconds[0] * fresh + kv_brings
    latest = seconds[0] * most + kv_top + kv_brings
    top = (seconds[0] * longest + kv_top) * (1 + ROUNDING)
    for at in range(marks[OPEN]):
        g = field.order[at]
        # From here on nobody's work is less than this, and what it has beyond the tops is over.
        bound = (field.work[g] + brings) * (1 - ROUNDING)
        beyond = max(bound - top, 0.0)
        if bound > latest:
            break
        if best >= 0 and (beyond > least_over or (beyond == least_over and bound > least_work)):
            break
        computes = now[BACKLOG, g] + fresh_tokens(prompts, cached, i, g)
        if now[TOKEN_ROOM, g] < prompts[i] or computes > most:
            continue
        over, work = seconds[0] * max(computes - longest, 0), seconds[0] * computes
        over, work = with_request(over, work, loads, marks, g, tokens, growing, seconds)
        if best < 0 or (over, work, g) < (least_over, least_work, best):
            found, best, least_over, least_work = at, g, over, work
    return found


@kernel
def put(
    field: Field,
    prompts: IntArray,
    cached: IntArray,
    i: int,
    at: int,
    each: int,
    growing: int,
    seconds: FloatArray,
) -> int:
    """Give the worker there in the order request i, and return which it is."""
    now, loads, order, marks = field.now, field.loads, field.order, field.marks
    g = order[at]
    now[ROOM, g] -= 1
    now[TOKEN_ROOM, g] -= prompts[i]
    now[BACKLOG, g] += fresh_tokens(prompts, cached, i, g)
    marks[LONGEST] = max(marks[LONGEST], now[BACKLOG, g])
    give(loads, g, prompts[i] + each, growing)
    lift(marks, loads, g)
    field.work[g] = add_work(seconds[0] * now[BACKLOG, g], loads, g, seconds)
    full = now[ROOM, g] == 0
    while at + 1 < marks[OPEN] and (full or field.work[order[at + 1]] < field.work[g]):
        order[at] = order[at + 1]
        at += 1
    order[at] = g
    marks[OPEN] -= full
    return g


@kernel
def place(
    field: Field,
    prompts: IntArray,
    cached: IntArray,
    i: int,
    fresh: int,
    each: int,
    growing: int,
    most: int,
    seconds: FloatArray,
) -> int:
    """Place request i where it adds least to the barrier; return where, -1 for nowhere."""
    if prompts[i] > field.marks[ROOMIEST]:
        return -1
    at = best_worker(field, prompts, cached, i, fresh, each, growing, most, seconds)
    if at < 0:
        look_again(field)
        return -1
    return put(field, prompts, cached, i, at, each, growing, seconds)


@kernel
def place_overdue(
    field: Field,
    prompts: IntArray,
    cached: IntArray,
    each: int,
    growing: int,
    since: IntArray,
    overdue: int,
    seconds: FloatArray,
    goes: IntArray,
) -> bool:
    """Give a place to who has waited since step `overdue` or before, first come first.

    Return whether one of them has no room yet: there the rest ends.
    """
    for i in range(prompts.shape[0] if overdue >= 0 else 0):
        if since[i] <= overdue and goes[i] != NOWHERE:
            goes[i] = place(field, prompts, cached, i, 0, each, growing, ANYWHERE, seconds)
            if goes[i] < 0:
                return True
    return False


@kernel
def write_overdue(
    table: IntArray,
    prompts: IntArray,
    cached: IntArray,
    before: int,
    goes: IntArray,
    pairs: IntArray,
) -> tuple[int, int]:
    """Write who of the overdue ends within the backlog before; others' places stay taken.

    Return how many these are, and what they have to compute.
    """
    backlog = table[BACKLOG].copy()
    made, filled = 0, 0
    for i in range(goes.shape[0]):
        g = goes[i]
        if g < 0:
            continue
        fresh = fresh_tokens(prompts, cached, i, g)
        if backlog[g] + fresh <= before:
            backlog[g] += fresh
            pairs[made, 0], pairs[made, 1] = i, g
            goes[i] = GONE
            made += 1
            filled += fresh
    return made, filled


@kernel
def plan_wave(
    table: IntArray,
    projected: IntArray,
    prompts: IntArray,
    cached: IntArray,
    each: int,
    growing: int,
    since: IntArray,
    overdue: int,
    seconds: FloatArray,
    pairs: IntArray,
) -> Plan:
    """Place the first requests that there is room for, longest prefill first.

    Who is overdue has a place before all others, first come first; while one of these has no
    room, nobody after it has. Requests larger than any worker there are passed over. Whatever
    ends no later than the largest backlog there is costs nobody anything: it is the first to be
    written. Then the others, each where it adds least to the barrier.

    Parameters
    ----------
    table : ndarray of int64, shape (VIEW_ROWS, G)
        Of a view; only read.
    projected : ndarray of int64, shape (G,) or (G, H + 1)
        Loads now, or now and in the H steps to come; only read.
    prompts : ndarray of int64, shape (n,)
        KV tokens of the waiting requests, first come first.
    cached : ndarray of int64, shape (n, G) or (0, 0)
        Tokens of each prompt that a worker need not compute; empty if there are none.
    each : int
        `request_tokens` of the view.
    growing : int
        Tokens that a request placed grows in each of these steps.
    since : ndarray of int64, shape (n,)
        Step from which each request has waited.
    overdue : int
        Who has waited since that step or before is overdue; -1 for nobody.
    seconds : ndarray of float64, shape (H + 2,)
        What a prefill token costs, and a KV token in each step.
    pairs : ndarray of int64, shape (at least n, 2)
        Written to.
    """
    field = lay_out(table, projected, seconds)
    left, running = slots_and_running(table)
    before = field.marks[LONGEST]
    goes = np.where(prompts > largest_that_fits(table), NOWHERE, WAITS)
    window = window_of(goes, min(left, prompts.shape[0]))
    blocked = place_overdue(field, prompts, cached, each, growing, since, overdue, seconds, goes)
    made, filled = 0, 0
    if overdue >= 0:
        made, filled = write_overdue(table, prompts, cached, before, goes, pairs)
    count = 0 if blocked else window.shape[0]
    fresh = least_fresh(prompts, cached, window)
    order = np.argsort(-fresh, kind="mergesort")
    # No prompt ends within no backlog, unless all of it is cached.
    for j in range(count if before > 0 or cached.shape[0] > 0 else 0):
        i = window[order[j]]
        if goes[i] == WAITS:
            g = place(field, prompts, cached, i, fresh[order[j]], each, growing, before, seconds)
            if g >= 0:
                pairs[made, 0], pairs[made, 1] = i, g
                goes[i] = GONE
                made += 1
                filled += fresh_tokens(prompts, cached, i, g)
    fills = made
    for i in range(prompts.shape[0] if overdue >= 0 else 0):
        if goes[i] >= 0:
            pairs[made, 0], pairs[made, 1] = i, goes[i]
            goes[i] = GONE
            made += 1
    for j in range(count):
        i = window[order[j]]
        if goes[i] == WAITS:
            g = place(field, prompts, cached, i, fresh[order[j]], each, growing, ANYWHERE, seconds)
            if g >= 0:
                pairs[made, 0], pairs[made, 1] = i, g
                made += 1
    lost = (field.marks[LONGEST] - before) - mean_rise(table, field.now, filled)
    return Plan(fills, made, lost, field.marks[LONGEST], running)
