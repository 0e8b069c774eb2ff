"""Kernels that move requests: arrivals, queues, slots, preemption, departure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.cluster import _state_kernels as k
from brsolver.cluster._state_kernels import (
    NONE,
    W_ACTIVE,
    W_CAPACITY,
    W_CLOCK,
    W_LOAD,
    W_QUEUED,
    W_SLOTS,
    W_TAIL,
)
from brsolver.cluster.view import REQUEST, SINCE, TOKENS
from brsolver.simulator._layout import (
    ADMITTED,
    B_CAL_NEXT,
    B_CAL_PREV,
    B_DUE,
    B_FINISH_STEP,
    B_FINISHED,
    B_GENERATED,
    B_HANDLE,
    B_OUTPUT,
    B_PREEMPTIONS,
    B_PROMPT,
    B_START_STEP,
    B_STATUS,
    B_WORKER,
    FINISHED,
    FRESH,
    M_COUNT,
    M_TOKENS,
    NOBODY,
    P_BOUND,
    P_COUNT,
    P_HEAD,
    P_TOKENS,
    Q_HEAD,
    RUNNING_NOW,
    T_ARRIVAL,
    T_FINISH,
    T_READY,
    T_START,
    WAITING,
    Cursor,
)
from brsolver.simulator._prefix_kernels import Caches, let_go
from brsolver.simulator._queue_kernels import (
    enqueue,
    lose_under_way,
    reject,
    take_newest_prompt,
    take_prompt,
    unqueue,
)
from brsolver.simulator._turn_kernels import has_come, next_to_come

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@kernel
def push_waiting(waiting: IntArray, book: IntArray, cursor: Cursor, i: int) -> None:
    """Append request i to the waiting requests."""
    c = cursor[0]
    if c.wait_tail == waiting.shape[1]:
        count = c.wait_tail - c.wait_head
        # Element by element: slices of two dimensions take a second longer to compile.
        for row in range(waiting.shape[0]):
            for j in range(count):
                waiting[row, j] = waiting[row, c.wait_head + j]
        c.wait_head, c.wait_tail = 0, count
    at = c.wait_tail
    waiting[TOKENS, at] = book[B_PROMPT, i] + book[B_GENERATED, i]
    waiting[REQUEST, at] = i
    waiting[SINCE, at] = c.step
    book[B_STATUS, i] = WAITING
    c.wait_tail = at + 1


@kernel
def queued_beyond_slots(workers: IntArray, cursor: Cursor) -> int:
    """Return how many requests queue at workers, those in transit or with a slot left out."""
    c = cursor[0]
    if not c.transit and c.scheduler == NOBODY:
        return c.queued
    count = 0
    for g in range(workers.shape[1]):
        free = workers[W_SLOTS, g] - workers[W_ACTIVE, g]
        count += max(workers[W_QUEUED, g] - free, 0)
    return count


@kernel
def reveal(
    workers: IntArray, waiting: IntArray, book: IntArray, times: FloatArray, cursor: Cursor
) -> None:
    """Let requests arrive: by the pool rule, as others end, or those whose time has come."""
    c = cursor[0]
    pool = c.pool
    while c.arrived < c.known:
        i = next_to_come(book, times, cursor)
        if pool > 0 or c.concurrency > 0:
            held = c.wait_tail - c.wait_head
            if c.concurrency > 0:
                held, pool = c.arrived - c.finished - c.rejected, c.concurrency
            elif c.immediate:
                held += queued_beyond_slots(workers, cursor)
            if held >= pool:
                break
            times[T_ARRIVAL, i] = c.clock_s
            times[T_READY, i] = c.clock_s
        elif times[T_READY, i] > c.clock_s:
            break
        push_waiting(waiting, book, cursor, i)
        has_come(book, times, cursor, i)


@kernel
def start(
    workers: IntArray,
    requests: IntArray,
    counters: k.Counters,
    book: IntArray,
    times: FloatArray,
    cursor: Cursor,
    heads: IntArray,
    buffers: IntArray,
    i: int,
    g: int,
) -> None:
    """Admit request i to a slot of worker g."""
    c = cursor[0]
    kv_tokens = book[B_PROMPT, i] + book[B_GENERATED, i]
    handle = k.admit(workers, requests, counters, g, i, book[B_PROMPT, i], kv_tokens)
    step = c.step
    book[B_HANDLE, i] = handle
    book[B_WORKER, i] = g
    book[B_STATUS, i] = RUNNING_NOW
    if book[B_START_STEP, i] < 0:
        book[B_START_STEP, i] = step
        times[T_START, i] = c.clock_s
    slot = (c.tick + book[B_OUTPUT, i] - book[B_GENERATED, i] - 1) & (heads.shape[0] - 1)
    book[B_CAL_PREV, i] = NONE
    book[B_CAL_NEXT, i] = heads[slot]
    if heads[slot] != NONE:
        book[B_CAL_PREV, heads[slot]] = i
    heads[slot] = i
    c.last_admission = step
    buffers[FRESH, c.fresh] = i
    c.fresh += 1
    if c.admitted < buffers.shape[1]:
        buffers[ADMITTED, c.admitted] = handle
        c.admitted += 1
    else:
        c.admitted_lost = True


@kernel
def stop(
    workers: IntArray,
    requests: IntArray,
    counters: k.Counters,
    ring: IntArray,
    book: IntArray,
    heads: IntArray,
    finish_tick: int,
    i: int,
) -> None:
    """Take running request i off its worker and out of the calendar."""
    before, after = book[B_CAL_PREV, i], book[B_CAL_NEXT, i]
    if before == NONE:
        heads[finish_tick & (heads.shape[0] - 1)] = after
    else:
        book[B_CAL_NEXT, before] = after
    if after != NONE:
        book[B_CAL_PREV, after] = before
    k.finish(workers, requests, counters, ring, book[B_HANDLE, i])
    book[B_HANDLE, i] = NONE


@kernel
def interrupt(
    workers: IntArray,
    requests: IntArray,
    counters: k.Counters,
    ring: IntArray,
    book: IntArray,
    cursor: Cursor,
    heads: IntArray,
    i: int,
) -> None:
    """Stop request i before its end, keeping count of what it generated."""
    handle = book[B_HANDLE, i]
    kv_tokens = requests[k.R_OFFSET, handle] + workers[W_CLOCK, requests[k.R_WORKER, handle]]
    generated = kv_tokens - book[B_PROMPT, i]
    finish_tick = cursor[0].tick + book[B_OUTPUT, i] - generated - 1
    stop(workers, requests, counters, ring, book, heads, finish_tick, i)
    book[B_GENERATED, i] = generated


@kernel
def admit_queued(
    workers: IntArray,
    requests: IntArray,
    counters: k.Counters,
    book: IntArray,
    times: FloatArray,
    cursor: Cursor,
    heads: IntArray,
    queues: IntArray,
    buffers: IntArray,
) -> None:
    """Let every worker admit from its own queue, in order, while slots and KV tokens last.

    A worker that runs something keeps a token of growth per request in reserve, lest it preempt
    at once what it has just admitted. What is still in transit has to come first, but for a
    cluster where nothing runs: there no step keeps it.
    """
    idle = counters[0].active_total == 0
    for g in range(workers.shape[1]):
        while queues[Q_HEAD, g] != NONE:
            i = queues[Q_HEAD, g]
            held = workers[W_ACTIVE, g] + queues[M_COUNT, g]
            if held >= workers[W_SLOTS, g]:
                break
            if book[B_DUE, i] > cursor[0].step and not idle:
                break
            tokens = book[B_PROMPT, i] + book[B_GENERATED, i]
            reserve = held + 1 if held > 0 else 0
            taken = workers[W_LOAD, g] + queues[M_TOKENS, g]
            if taken + tokens + reserve > workers[W_CAPACITY, g]:
                if held > 0:
                    break
                unqueue(workers, book, cursor, queues, g)
                reject(book, cursor, i)
                continue
            unqueue(workers, book, cursor, queues, g)
            start(workers, requests, counters, book, times, cursor, heads, buffers, i, g)


@kernel
def preempt_over_capacity(
    workers: IntArray,
    requests: IntArray,
    counters: k.Counters,
    ring: IntArray,
    book: IntArray,
    cursor: Cursor,
    heads: IntArray,
    queues: IntArray,
    caches: Caches | None,
) -> None:
    """Preempt the newest requests of every worker whose load exceeds its KV capacity.

    Prompts that are prefilled there hold all their tokens, and are the newest. So do requests that
    are moved there, which stay.
    """
    for g in range(workers.shape[1]):
        while (
            workers[W_LOAD, g] + queues[P_TOKENS, g] + queues[M_TOKENS, g] > workers[W_CAPACITY, g]
        ):
            if queues[P_COUNT, g] > 0:
                i = take_newest_prompt(workers, book, cursor, queues, g)
                let_go(book, caches, cursor, queues, i, g)
                book[B_PREEMPTIONS, i] += 1
                enqueue(workers, book, cursor, queues, i, g, True)
                continue
            i = requests[k.R_ID, workers[W_TAIL, g]]
            alone = workers[W_ACTIVE, g] + queues[M_COUNT, g] == 1
            interrupt(workers, requests, counters, ring, book, cursor, heads, i)
            let_go(book, caches, cursor, queues, i, g)
            if alone:
                reject(book, cursor, i)
            else:
                book[B_PREEMPTIONS, i] += 1
                enqueue(workers, book, cursor, queues, i, g, True)


@kernel
def evict_worker(
    workers: IntArray,
    requests: IntArray,
    counters: k.Counters,
    ring: IntArray,
    book: IntArray,
    cursor: Cursor,
    heads: IntArray,
    queues: IntArray,
    g: int,
) -> IntArray:
    """Interrupt all requests of worker g; return them: running, prefilled, moved there, queued."""
    count = workers[W_ACTIVE, g] + workers[W_QUEUED, g]
    lost = np.empty(count, np.int64)
    made = 0
    while workers[W_ACTIVE, g] > 0:
        i = requests[k.R_ID, workers[k.W_HEAD, g]]
        interrupt(workers, requests, counters, ring, book, cursor, heads, i)
        book[B_PREEMPTIONS, i] += 1
        lost[made] = i
        made += 1
    while queues[P_HEAD, g] != NONE:
        lost[made] = take_prompt(workers, book, cursor, queues, g, NONE)
        book[B_PREEMPTIONS, lost[made]] += 1
        made += 1
    queues[P_BOUND, g] = 0
    made = lose_under_way(workers, book, cursor, queues, g, lost, made)
    while queues[Q_HEAD, g] != NONE:
        lost[made] = unqueue(workers, book, cursor, queues, g)
        made += 1
    for j in range(count):
        book[B_STATUS, lost[j]] = WAITING
    return lost


@kernel
def close(book: IntArray, times: FloatArray, cursor: Cursor, i: int) -> None:
    """Record that request i got its last token."""
    c = cursor[0]
    book[B_STATUS, i] = FINISHED
    book[B_FINISH_STEP, i] = c.step
    times[T_FINISH, i] = c.clock_s
    book[B_FINISHED, c.finished] = i
    c.finished += 1


@kernel
def depart(
    workers: IntArray,
    requests: IntArray,
    counters: k.Counters,
    ring: IntArray,
    book: IntArray,
    times: FloatArray,
    cursor: Cursor,
    heads: IntArray,
) -> None:
    """Let the requests leave whose last token this step generated."""
    tick = cursor[0].tick
    slot = tick & (heads.shape[0] - 1)
    while heads[slot] != NONE:
        i = heads[slot]
        stop(workers, requests, counters, ring, book, heads, tick, i)
        close(book, times, cursor, i)
