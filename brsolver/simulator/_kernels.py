"""Kernels of the simulator: from one routing event to the next.

Order of events at a step boundary: worker events, arrivals, admission from the workers' own
queues, routing; then the step lasts its time, every running request generates a token, requests
that are done leave, and workers over their KV capacity preempt the newest. With prefill on the
decode ranks what is routed queues there, and each rank's scheduler admits right before the step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.cluster import _state_kernels as k
from brsolver.cluster._state_kernels import (
    W_ACTIVE,
    W_ALIVE,
    W_LOAD,
    W_REQUEST_TOKENS,
    W_SLOTS,
)
from brsolver.cluster.decision import OK
from brsolver.cluster.view import (
    NO_LIMIT,
    fill_view,
)
from brsolver.hardware._step_kernels import (
    StepParts,
    StepTimeRecord,
    envelope_parts,
    step_parts,
)
from brsolver.simulator._decision_kernels import apply
from brsolver.simulator._layout import (
    AGAIN,
    BUSY_WATTS,
    EVENT,
    F_DURATION,
    F_ENERGY,
    F_LOST_KV,
    F_LOST_PADDING,
    F_LOST_PREFILL,
    F_LOST_SEQUENCES,
    F_POST_ENERGY,
    F_START,
    I_ACTIVE,
    I_ALIVE,
    I_MAX,
    I_MIN,
    I_POST_MAX,
    I_POST_MIN,
    I_POST_SUM,
    I_SLOTS,
    I_SUM,
    IDLE_WATTS,
    LIMIT,
    LOG_FULL,
    NOBODY,
    POWER_EXPONENT,
    REFUSED,
    ROUTE,
    STEP,
    Cursor,
)
from brsolver.simulator._log_kernels import first_tokens, log_held, log_prefill, sample
from brsolver.simulator._migration_kernels import land, pass_time, prepare_step
from brsolver.simulator._prefill_kernels import (
    NOTHING,
    decode_loads,
    finish_prompts,
)
from brsolver.simulator._prefix_kernels import Caches, let_finished_go, make_room
from brsolver.simulator._request_kernels import (
    admit_queued,
    depart,
    preempt_over_capacity,
    reveal,
)
from brsolver.simulator._turn_kernels import follow

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


class Survey(NamedTuple):
    """Live workers, the heaviest, lightest and total load, slots, watts; the same of KV tokens.

    Loads count `W_REQUEST_TOKENS` for every request besides its KV tokens.
    """

    alive: int
    envelope: int
    lowest: int
    total: int
    slots: int
    watts: float
    kv_max: int
    kv_total: int


@kernel
def step_cost(
    workers: IntArray,
    cursor: Cursor,
    seen: Survey,
    step_time: StepTimeRecord,
    figures: FloatArray,
    loads: IntArray,
) -> StepParts:
    """Return how long a step lasts, and its parts.

    The ranks' `loads` are scratch, unless their schedulers have written them.
    """
    if cursor[0].scheduler == NOBODY:
        if step_time[0].envelope_only:
            return envelope_parts(step_time, seen.kv_max, seen.kv_total / seen.alive)
        decode_loads(workers, loads)
    return step_parts(step_time, figures, loads)


@kernel
def survey(workers: IntArray) -> Survey:
    """Look at the loads of all live workers."""
    alive, envelope, lowest, total, slots = 0, 0, NO_LIMIT, 0, 0
    each = workers[W_REQUEST_TOKENS, 0]
    for g in range(workers.shape[1]):
        if workers[W_ALIVE, g]:
            load = workers[W_LOAD, g] + each * workers[W_ACTIVE, g]
            alive += 1
            envelope = max(envelope, load)
            lowest = min(lowest, load)
            total += load
            slots += workers[W_SLOTS, g]
    watts = 0.0
    for g in range(workers.shape[1]):
        if workers[W_ALIVE, g]:
            load = workers[W_LOAD, g] + each * workers[W_ACTIVE, g]
            share = load / envelope if envelope > 0 else 0.0
            watts += IDLE_WATTS + BUSY_WATTS * share**POWER_EXPONENT
    kv_max, kv_total = envelope, total
    if each != 0:
        kv_max, kv_total = kv_tokens(workers)
    return Survey(alive, envelope, lowest, total, slots, watts, kv_max, kv_total)


@kernel
def kv_tokens(workers: IntArray) -> tuple[int, int]:
    """Return the KV tokens of the worker that holds most, and of all."""
    most, total = 0, 0
    for g in range(workers.shape[1]):
        if workers[W_ALIVE, g]:
            most = max(most, workers[W_LOAD, g])
            total += workers[W_LOAD, g]
    return most, total


@kernel
def log_routed(
    cursor: Cursor, seen: Survey, active: int, cost: StepParts, log_f: FloatArray, log_i: IntArray
) -> None:
    """Log a step's loads as routed, and what it costs."""
    step = cursor[0].step
    cursor[0].outside += cost.outside
    log_f[F_START, step] = cursor[0].clock_s
    log_f[F_DURATION, step] = cost.seconds
    log_f[F_ENERGY, step] = seen.watts * cost.seconds
    log_f[F_LOST_SEQUENCES, step] = cost.lost_sequences
    log_f[F_LOST_KV, step] = cost.lost_kv
    log_f[F_LOST_PREFILL, step] = cost.lost_prefill
    log_f[F_LOST_PADDING, step] = cost.lost_padding
    log_i[I_ACTIVE, step] = active
    log_i[I_ALIVE, step] = seen.alive
    log_i[I_SLOTS, step] = seen.slots
    log_i[I_MAX, step] = seen.envelope
    log_i[I_MIN, step] = seen.lowest
    log_i[I_SUM, step] = seen.total


@kernel
def log_departed(
    cursor: Cursor, seen: Survey, lasts: float, log_f: FloatArray, log_i: IntArray
) -> None:
    """Log a step's loads after its departures."""
    step = cursor[0].step
    log_f[F_POST_ENERGY, step] = seen.watts * lasts
    log_i[I_POST_MAX, step] = seen.envelope
    log_i[I_POST_MIN, step] = seen.lowest
    log_i[I_POST_SUM, step] = seen.total


@kernel
def offer_waiting(waiting: IntArray, cursor: Cursor, offer: IntArray) -> int:
    """Copy what is to be routed to where policies are given it; return ROUTE."""
    c = cursor[0]
    c.asked = True
    count = 1 if c.immediate else c.wait_tail - c.wait_head
    for row in range(waiting.shape[0]):
        for j in range(count):
            offer[row, j] = waiting[row, c.wait_head + j]
    return ROUTE


@kernel
def boundary(
    workers: IntArray,
    requests: IntArray,
    counters: k.Counters,
    waiting: IntArray,
    book: IntArray,
    times: FloatArray,
    cursor: Cursor,
    heads: IntArray,
    queues: IntArray,
    buffers: IntArray,
    table: IntArray,
    offer: IntArray,
) -> int:
    """Do what comes before a step; return why not to step, or STEP."""
    c = cursor[0]
    if c.moving > 0:
        land(workers, requests, counters, book, times, cursor, heads, queues, buffers)
    # Asked for here, lest every step pays for a call.
    if c.turns:
        follow(book, times, cursor)
    if c.arrived < c.known and (c.immediate or not c.routed):
        reveal(workers, waiting, book, times, cursor)
    held = c.wait_tail - c.wait_head
    if c.immediate and held > 0 and fill_view(workers, c.immediate, table) > 0:
        return offer_waiting(waiting, cursor, offer)
    if c.queued > 0 and c.scheduler == NOBODY:
        admit_queued(workers, requests, counters, book, times, cursor, heads, queues, buffers)
    if held > 0 and not c.immediate and not c.routed:
        c.routed = True
        if fill_view(workers, c.immediate, table) > 0:
            return offer_waiting(waiting, cursor, offer)
    if counters[0].active_total > 0 or (c.queued > 0 and c.scheduler != NOBODY):
        return STEP
    return pass_time(book, times, cursor, held)


@kernel
def allowed(cursor: Cursor, log_f: FloatArray) -> int:
    """Return why there can be no further step, or STEP."""
    c = cursor[0]
    if c.step >= c.max_steps:
        return LIMIT
    return LOG_FULL if c.step == log_f.shape[1] else STEP


@kernel
def generate(
    workers: IntArray,
    requests: IntArray,
    counters: k.Counters,
    ring: IntArray,
    book: IntArray,
    times: FloatArray,
    cursor: Cursor,
    heads: IntArray,
    queues: IntArray,
    buffers: IntArray,
) -> None:
    """Give a token to all that run or, in a step apart, to the prompts that it has ended."""
    c = cursor[0]
    if c.apart:
        finish_prompts(workers, requests, counters, book, times, cursor, heads, queues, buffers)
        first_tokens(book, times, cursor, buffers)
        return
    first_tokens(book, times, cursor, buffers)
    k.advance_all(workers, ring)
    depart(workers, requests, counters, ring, book, times, cursor, heads)
    c.tick += 1


@kernel
def advance(  # noqa: C901 # a branch in every step in place of a call
    workers: IntArray,
    requests: IntArray,
    counters: k.Counters,
    ring: IntArray,
    waiting: IntArray,
    book: IntArray,
    times: FloatArray,
    cursor: Cursor,
    heads: IntArray,
    queues: IntArray,
    log_f: FloatArray,
    log_i: IntArray,
    samples: IntArray,
    sampled_at: FloatArray,
    buffers: IntArray,
    table: IntArray,
    offer: IntArray,
    step_time: StepTimeRecord,
    figures: FloatArray,
    loads: IntArray,
    caches: Caches | None,
    limits: IntArray,
    pairs: IntArray,
) -> int:
    """Carry out what was decided, and run until a policy must be asked or all is over.

    Parameters
    ----------
    table, offer : ndarray of int64
        Where policies are given the cluster and what waits, when the answer is ROUTE.
    step_time, figures : ndarray
        As of `brsolver.hardware.step_arrays.step_time_arrays`.
    loads : ndarray of int64, shape (LOAD_ROWS, G)
        Scratch for the ranks' loads.
    caches : Caches or None
        The ranks' prefix caches, if they have any.
    pairs : ndarray of int64, shape (k, 2)
        The policy's decision, if it was asked by the last call; else of no account.
    limits : ndarray of int64
        As of `brsolver.cluster.decision.check`, by whose finding a decision is REFUSED.

    Returns
    -------
    int
        Why it came back.
    """
    c = cursor[0]
    if c.asked:
        c.asked = False
        c.found, c.found_at = apply(
            workers, requests, counters, waiting, book, times, cursor, heads, queues, buffers,
            limits, pairs,
        )  # fmt: skip
        if c.found != OK:
            return REFUSED
    seen, surveyed = Survey(0, 0, 0, 0, 0, 0.0, 0, 0), -1
    while True:
        if c.step >= c.stop_step or c.clock_s >= c.stop_s:
            return EVENT
        why = boundary(
            workers, requests, counters, waiting, book, times, cursor, heads, queues, buffers,
            table, offer,
        )  # fmt: skip
        if why == AGAIN:
            continue
        if why == STEP:
            why = allowed(cursor, log_f)
        if why != STEP:
            return why
        prefill = prepare_step(
            workers, requests, counters, ring, book, times, cursor, heads, queues, buffers, loads,
            caches, log_f,
        )  # fmt: skip
        if prefill == NOTHING:
            c.routed = False
            continue
        if counters[0].active_total != surveyed or c.fresh > 0:
            seen = survey(workers)
        sample(workers, loads, cursor, samples, sampled_at)
        cost = step_cost(workers, cursor, seen, step_time, figures, loads)
        lasts = cost.seconds
        active = c.ending if c.apart else counters[0].active_total
        log_routed(cursor, seen, active, cost, log_f, log_i)
        log_prefill(cursor, loads, prefill, log_i)
        log_held(cursor, seen.slots, counters[0].active_total, log_i)
        if c.turns:
            follow(book, times, cursor)
        c.clock_s += lasts
        finished = c.finished
        generate(workers, requests, counters, ring, book, times, cursor, heads, queues, buffers)
        let_finished_go(book, caches, cursor, queues, finished)
        seen, surveyed = survey(workers), counters[0].active_total
        log_departed(cursor, seen, lasts, log_f, log_i)
        c.step += 1
        c.routed = False
        preempt_over_capacity(
            workers, requests, counters, ring, book, cursor, heads, queues, caches
        )
        make_room(workers, queues, caches, cursor)
