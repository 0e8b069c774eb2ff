"""Kernels that move requests: arrivals, queues, slots, preemption, departure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver import _state_kernels as k
from brsolver._jit import kernel
from brsolver._state_kernels import (
    NONE,
    W_ACTIVE,
    W_CAPACITY,
    W_CLOCK,
    W_LOAD,
    W_PROMPTS,
    W_QUEUED,
    W_QUEUED_TOKENS,
    W_SLOTS,
    W_TAIL,
)
from brsolver.simulator._layout import (
    ADMITTED,
    B_CAL_NEXT,
    B_CAL_PREV,
    B_DUE,
    B_FINISH_STEP,
    B_FINISHED,
    B_GENERATED,
    B_HANDLE,
    B_ORDER,
    B_OUTPUT,
    B_PREEMPTIONS,
    B_PROMPT,
    B_QUEUE_NEXT,
    B_START_STEP,
    B_STATUS,
    B_WAITING,
    B_WAITING_SINCE,
    B_WAITING_TOKENS,
    B_WORKER,
    C_ADMITTED,
    C_ADMITTED_LOST,
    C_ARRIVED,
    C_FINISHED,
    C_FRESH,
    C_IMMEDIATE,
    C_LAST_ADMISSION,
    C_POOL,
    C_QUEUED,
    C_REJECTED,
    C_STEP,
    C_TRANSIT,
    C_WAIT_HEAD,
    C_WAIT_TAIL,
    CLOCK,
    FINISHED,
    FRESH,
    IN_QUEUE,
    REJECTED,
    RUNNING_NOW,
    T_ARRIVAL,
    T_FINISH,
    T_READY,
    T_START,
    WAITING,
)

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@kernel
def push_waiting(book: IntArray, control: IntArray, i: int) -> None:
    """Append request i to the waiting queue."""
    if control[C_WAIT_TAIL] == book.shape[1]:
        head, tail = control[C_WAIT_HEAD], control[C_WAIT_TAIL]
        book[B_WAITING, : tail - head] = book[B_WAITING, head:tail].copy()
        book[B_WAITING_TOKENS, : tail - head] = book[B_WAITING_TOKENS, head:tail].copy()
        book[B_WAITING_SINCE, : tail - head] = book[B_WAITING_SINCE, head:tail].copy()
        control[C_WAIT_HEAD], control[C_WAIT_TAIL] = 0, tail - head
    at = control[C_WAIT_TAIL]
    book[B_WAITING, at] = i
    book[B_WAITING_TOKENS, at] = book[B_PROMPT, i] + book[B_GENERATED, i]
    book[B_WAITING_SINCE, at] = control[C_STEP]
    book[B_STATUS, i] = WAITING
    control[C_WAIT_TAIL] = at + 1


@kernel
def queued_beyond_slots(workers: IntArray, control: IntArray) -> int:
    """Return how many requests queue at workers, those in transit to a free slot left out."""
    if not control[C_TRANSIT]:
        return control[C_QUEUED]
    count = 0
    for g in range(workers.shape[1]):
        free = workers[W_SLOTS, g] - workers[W_ACTIVE, g]
        count += max(workers[W_QUEUED, g] - free, 0)
    return count


@kernel
def reveal(
    workers: IntArray, book: IntArray, times: FloatArray, control: IntArray, clock: FloatArray
) -> None:
    """Let requests arrive: by the pool rule, or those whose time has come."""
    total = book.shape[1]
    pool = control[C_POOL]
    while control[C_ARRIVED] < total:
        i = book[B_ORDER, control[C_ARRIVED]]
        if pool > 0:
            held = control[C_WAIT_TAIL] - control[C_WAIT_HEAD]
            if control[C_IMMEDIATE]:
                held += queued_beyond_slots(workers, control)
            if held >= pool:
                break
            times[T_ARRIVAL, i] = clock[CLOCK]
            times[T_READY, i] = clock[CLOCK]
        elif times[T_READY, i] > clock[CLOCK]:
            break
        push_waiting(book, control, i)
        control[C_ARRIVED] += 1


@kernel
def start(
    workers: IntArray,
    requests: IntArray,
    meta: IntArray,
    book: IntArray,
    times: FloatArray,
    control: IntArray,
    clock: FloatArray,
    heads: IntArray,
    buffers: IntArray,
    i: int,
    g: int,
) -> None:
    """Admit request i to a slot of worker g."""
    kv_tokens = book[B_PROMPT, i] + book[B_GENERATED, i]
    handle = k.admit(workers, requests, meta, g, i, book[B_PROMPT, i], kv_tokens)
    step = control[C_STEP]
    book[B_HANDLE, i] = handle
    book[B_WORKER, i] = g
    book[B_STATUS, i] = RUNNING_NOW
    if book[B_START_STEP, i] < 0:
        book[B_START_STEP, i] = step
        times[T_START, i] = clock[CLOCK]
    slot = (step + book[B_OUTPUT, i] - book[B_GENERATED, i] - 1) & (heads.shape[0] - 1)
    book[B_CAL_PREV, i] = NONE
    book[B_CAL_NEXT, i] = heads[slot]
    if heads[slot] != NONE:
        book[B_CAL_PREV, heads[slot]] = i
    heads[slot] = i
    control[C_LAST_ADMISSION] = step
    buffers[FRESH, control[C_FRESH]] = i
    control[C_FRESH] += 1
    if control[C_ADMITTED] < buffers.shape[1]:
        buffers[ADMITTED, control[C_ADMITTED]] = handle
        control[C_ADMITTED] += 1
    else:
        control[C_ADMITTED_LOST] = 1


@kernel
def stop(
    workers: IntArray,
    requests: IntArray,
    meta: IntArray,
    ring: IntArray,
    book: IntArray,
    heads: IntArray,
    finish_step: int,
    i: int,
) -> None:
    """Take running request i off its worker and out of the calendar."""
    before, after = book[B_CAL_PREV, i], book[B_CAL_NEXT, i]
    if before == NONE:
        heads[finish_step & (heads.shape[0] - 1)] = after
    else:
        book[B_CAL_NEXT, before] = after
    if after != NONE:
        book[B_CAL_PREV, after] = before
    k.finish(workers, requests, meta, ring, book[B_HANDLE, i])
    book[B_HANDLE, i] = NONE


@kernel
def interrupt(
    workers: IntArray,
    requests: IntArray,
    meta: IntArray,
    ring: IntArray,
    book: IntArray,
    control: IntArray,
    heads: IntArray,
    i: int,
) -> None:
    """Stop request i before its end, keeping count of what it generated."""
    handle = book[B_HANDLE, i]
    kv_tokens = requests[k.R_OFFSET, handle] + workers[W_CLOCK, requests[k.R_WORKER, handle]]
    generated = kv_tokens - book[B_PROMPT, i]
    finish_step = control[C_STEP] + book[B_OUTPUT, i] - generated - 1
    stop(workers, requests, meta, ring, book, heads, finish_step, i)
    book[B_GENERATED, i] = generated


@kernel
def enqueue(
    workers: IntArray,
    book: IntArray,
    control: IntArray,
    queues: IntArray,
    i: int,
    g: int,
    front: bool,
) -> None:
    """Put request i into worker g's own queue."""
    if queues[0, g] == NONE:
        queues[0, g] = i
        queues[1, g] = i
        book[B_QUEUE_NEXT, i] = NONE
    elif front:
        book[B_QUEUE_NEXT, i] = queues[0, g]
        queues[0, g] = i
    else:
        book[B_QUEUE_NEXT, queues[1, g]] = i
        book[B_QUEUE_NEXT, i] = NONE
        queues[1, g] = i
    book[B_STATUS, i] = IN_QUEUE
    book[B_WORKER, i] = g
    workers[W_QUEUED, g] += 1
    workers[W_QUEUED_TOKENS, g] += book[B_PROMPT, i] + book[B_GENERATED, i]
    workers[W_PROMPTS, g] += book[B_PROMPT, i]
    control[C_QUEUED] += 1


@kernel
def unqueue(workers: IntArray, book: IntArray, control: IntArray, queues: IntArray, g: int) -> int:
    """Take the first request out of worker g's own queue."""
    i = queues[0, g]
    queues[0, g] = book[B_QUEUE_NEXT, i]
    if queues[0, g] == NONE:
        queues[1, g] = NONE
    workers[W_QUEUED, g] -= 1
    workers[W_QUEUED_TOKENS, g] -= book[B_PROMPT, i] + book[B_GENERATED, i]
    workers[W_PROMPTS, g] -= book[B_PROMPT, i]
    control[C_QUEUED] -= 1
    return i


@kernel
def reject(book: IntArray, control: IntArray, i: int) -> None:
    """Give up on request i, which its worker can never hold."""
    book[B_STATUS, i] = REJECTED
    control[C_REJECTED] += 1


@kernel
def admit_queued(
    workers: IntArray,
    requests: IntArray,
    meta: IntArray,
    book: IntArray,
    times: FloatArray,
    control: IntArray,
    clock: FloatArray,
    heads: IntArray,
    queues: IntArray,
    buffers: IntArray,
) -> None:
    """Let every worker admit from its own queue, in order, while slots and KV tokens last.

    A worker that runs something keeps a token of growth per request in reserve, lest it preempt
    at once what it has just admitted. What is still in transit has to come first, but for a
    cluster where nothing runs: there no step keeps it.
    """
    idle = meta[k.ACTIVE_TOTAL] == 0
    for g in range(workers.shape[1]):
        while queues[0, g] != NONE and workers[W_ACTIVE, g] < workers[W_SLOTS, g]:
            i = queues[0, g]
            if book[B_DUE, i] > control[C_STEP] and not idle:
                break
            tokens = book[B_PROMPT, i] + book[B_GENERATED, i]
            reserve = workers[W_ACTIVE, g] + 1 if workers[W_ACTIVE, g] > 0 else 0
            if workers[W_LOAD, g] + tokens + reserve > workers[W_CAPACITY, g]:
                if workers[W_ACTIVE, g] > 0:
                    break
                unqueue(workers, book, control, queues, g)
                reject(book, control, i)
                continue
            unqueue(workers, book, control, queues, g)
            start(workers, requests, meta, book, times, control, clock, heads, buffers, i, g)


@kernel
def preempt_over_capacity(
    workers: IntArray,
    requests: IntArray,
    meta: IntArray,
    ring: IntArray,
    book: IntArray,
    control: IntArray,
    heads: IntArray,
    queues: IntArray,
) -> None:
    """Preempt the newest requests of every worker whose load exceeds its KV capacity."""
    for g in range(workers.shape[1]):
        while workers[W_LOAD, g] > workers[W_CAPACITY, g]:
            i = requests[k.R_ID, workers[W_TAIL, g]]
            alone = workers[W_ACTIVE, g] == 1
            interrupt(workers, requests, meta, ring, book, control, heads, i)
            if alone:
                reject(book, control, i)
            else:
                book[B_PREEMPTIONS, i] += 1
                enqueue(workers, book, control, queues, i, g, True)


@kernel
def evict_worker(
    workers: IntArray,
    requests: IntArray,
    meta: IntArray,
    ring: IntArray,
    book: IntArray,
    control: IntArray,
    heads: IntArray,
    queues: IntArray,
    g: int,
) -> IntArray:
    """Interrupt all requests of worker g; return them, running ones first, then queued ones."""
    count = workers[W_ACTIVE, g] + workers[W_QUEUED, g]
    lost = np.empty(count, np.int64)
    made = 0
    while workers[W_ACTIVE, g] > 0:
        i = requests[k.R_ID, workers[k.W_HEAD, g]]
        interrupt(workers, requests, meta, ring, book, control, heads, i)
        book[B_PREEMPTIONS, i] += 1
        lost[made] = i
        made += 1
    while queues[0, g] != NONE:
        lost[made] = unqueue(workers, book, control, queues, g)
        made += 1
    for j in range(count):
        book[B_STATUS, lost[j]] = WAITING
    return lost


@kernel
def depart(
    workers: IntArray,
    requests: IntArray,
    meta: IntArray,
    ring: IntArray,
    book: IntArray,
    times: FloatArray,
    control: IntArray,
    clock: FloatArray,
    heads: IntArray,
) -> None:
    """Let the requests leave whose last token this step generated."""
    step = control[C_STEP]
    slot = step & (heads.shape[0] - 1)
    while heads[slot] != NONE:
        i = heads[slot]
        stop(workers, requests, meta, ring, book, heads, step, i)
        book[B_STATUS, i] = FINISHED
        book[B_FINISH_STEP, i] = step
        times[T_FINISH, i] = clock[CLOCK]
        book[B_FINISHED, control[C_FINISHED]] = i
        control[C_FINISHED] += 1
