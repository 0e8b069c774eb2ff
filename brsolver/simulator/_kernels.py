"""Kernels of the simulator: from one routing event to the next.

Order of events at a step boundary: worker events, arrivals, admission from the workers' own
queues, routing; then the step lasts its time, every running request generates a token, requests
that are done leave, and workers over their KV capacity preempt the newest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver import _state_kernels as k
from brsolver._jit import kernel
from brsolver._state_kernels import (
    NONE,
    W_ACTIVE,
    W_ALIVE,
    W_CAPACITY,
    W_CLOCK,
    W_LOAD,
    W_PROMPTS,
    W_QUEUED,
    W_QUEUED_TOKENS,
    W_SLOTS,
    W_TAIL,
)
from brsolver.policy import (
    CAPACITY,
    LOAD,
    NO_LIMIT,
    PROMPT_TOKENS,
    QUEUED,
    ROOM,
    RUNNING,
    SLOTS,
    TOKEN_ROOM,
)

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# Rows of the book, one column per request.
(
    B_PROMPT,
    B_OUTPUT,
    B_ORDER,
    B_WORKER,
    B_START_STEP,
    B_FINISH_STEP,
    B_PREEMPTIONS,
    B_STATUS,
    B_GENERATED,
    B_HANDLE,
    B_CAL_PREV,
    B_CAL_NEXT,
    B_QUEUE_NEXT,
    B_FINISHED,
    B_WAITING,
    B_WAITING_TOKENS,
    B_WAITING_SINCE,
) = range(17)
BOOK_ROWS = 17

# Rows of the times, one column per request.
T_ARRIVAL, T_READY, T_START, T_FIRST, T_FINISH = range(5)
TIME_ROWS = 5

# Entries of the control block.
(
    C_STEP,
    C_ARRIVED,
    C_WAIT_HEAD,
    C_WAIT_TAIL,
    C_ROUTED,
    C_FINISHED,
    C_QUEUED,
    C_LAST_ADMISSION,
    C_FRESH,
    C_ADMITTED,
    C_ADMITTED_LOST,
    C_SAMPLE_STRIDE,
    C_SAMPLES,
    C_POOL,
    C_IMMEDIATE,
    C_STOP_STEP,
    C_REJECTED,
) = range(17)
CONTROL_SIZE = 17

# Entries of the clock block.
CLOCK, STOP_S = range(2)

# Rows of the step log.
F_START, F_DURATION, F_ENERGY, F_POST_ENERGY = range(4)
FLOAT_LOG_ROWS = 4
I_ACTIVE, I_ALIVE, I_MAX, I_MIN, I_SUM, I_POST_MAX, I_POST_MIN, I_POST_SUM = range(8)
INT_LOG_ROWS = 8

# Rows of the buffers.
FRESH, ADMITTED = range(2)

# Entries of the step-time block.
S_MODEL, S_BASE, S_PER_TOKEN, S_PER_MEAN = range(4)
MODEL_LINEAR, MODEL_TABLE = 0.0, 1.0

# Why `advance` came back.
DONE, ROUTE, STALLED, LOG_FULL, EVENT, LIMIT = range(6)

# What `apply` found.
OK, BAD_INDEX, TWICE, BAD_WORKER, NO_SLOT, NO_TOKENS = range(6)

# RequestStatus, as numbers.
PENDING, WAITING, IN_QUEUE, RUNNING_NOW, FINISHED, REJECTED = range(6)

IDLE_WATTS, BUSY_WATTS, POWER_EXPONENT = 100.0, 300.0, 0.7
"""Energy model of [BFIO] (formulation §6)."""


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
def reveal(book: IntArray, times: FloatArray, control: IntArray, clock: FloatArray) -> None:
    """Let requests arrive: by the pool rule, or those whose time has come."""
    total = book.shape[1]
    pool = control[C_POOL]
    while control[C_ARRIVED] < total:
        i = book[B_ORDER, control[C_ARRIVED]]
        if pool > 0:
            held = control[C_WAIT_TAIL] - control[C_WAIT_HEAD]
            if control[C_IMMEDIATE]:
                held += control[C_QUEUED]
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
    at once what it has just admitted.
    """
    for g in range(workers.shape[1]):
        while queues[0, g] != NONE and workers[W_ACTIVE, g] < workers[W_SLOTS, g]:
            i = queues[0, g]
            tokens = book[B_PROMPT, i] + book[B_GENERATED, i]
            reserve = workers[W_ACTIVE, g] + 1 if workers[W_ACTIVE, g] > 0 else 0
            if workers[W_LOAD, g] + tokens + reserve > workers[W_CAPACITY, g]:
                if workers[W_ACTIVE, g] > 0:
                    break
                unqueue(workers, book, control, queues, g)
                reject(book, control, i)
                continue
            unqueue(workers, book, control, queues, g)
            start(
                workers, requests, meta, book, times, control, clock, heads, buffers, i, g
            )


@kernel
def fill_view(workers: IntArray, immediate: int, table: IntArray) -> int:
    """Write the per-worker figures that policies see; return the total room."""
    total = 0
    for g in range(workers.shape[1]):
        load = workers[W_LOAD, g] + workers[W_QUEUED_TOKENS, g]
        table[LOAD, g] = load
        table[RUNNING, g] = workers[W_ACTIVE, g]
        table[QUEUED, g] = workers[W_QUEUED, g]
        table[SLOTS, g] = workers[W_SLOTS, g]
        table[CAPACITY, g] = workers[W_CAPACITY, g]
        table[PROMPT_TOKENS, g] = workers[W_PROMPTS, g]
        if immediate:
            table[ROOM, g] = workers[W_ALIVE, g]
            table[TOKEN_ROOM, g] = NO_LIMIT
        else:
            free = workers[W_SLOTS, g] - workers[W_ACTIVE, g] - workers[W_QUEUED, g]
            table[ROOM, g] = max(free, 0)
            if workers[W_CAPACITY, g] < NO_LIMIT:
                table[TOKEN_ROOM, g] = workers[W_CAPACITY, g] - load
            else:
                table[TOKEN_ROOM, g] = NO_LIMIT
        total += table[ROOM, g]
    return total


@kernel
def duration(
    model: FloatArray, xs: FloatArray, ys: FloatArray, load_max: int, load_mean: float
) -> float:
    """Return how long a step lasts, in seconds."""
    if model[S_MODEL] == MODEL_LINEAR:
        lasts = model[S_BASE] + model[S_PER_TOKEN] * load_max
        if model[S_PER_MEAN] > 0.0:
            lasts += model[S_PER_MEAN] * load_mean
        return lasts
    at = min(max(np.searchsorted(xs, load_max), 1), xs.shape[0] - 1)
    slope = (ys[at] - ys[at - 1]) / (xs[at] - xs[at - 1])
    return max(ys[at - 1] + slope * (load_max - xs[at - 1]), 0.0)


@kernel
def survey(workers: IntArray, figures: FloatArray, counts: IntArray) -> None:
    """Write live workers, max, min and sum of loads to `counts`, total power to `figures`."""
    alive, top, low, total = 0, 0, NO_LIMIT, 0
    for g in range(workers.shape[1]):
        if workers[W_ALIVE, g]:
            load = workers[W_LOAD, g]
            alive += 1
            top = max(top, load)
            low = min(low, load)
            total += load
    watts = 0.0
    for g in range(workers.shape[1]):
        if workers[W_ALIVE, g]:
            share = workers[W_LOAD, g] / top if top > 0 else 0.0
            watts += IDLE_WATTS + BUSY_WATTS * share**POWER_EXPONENT
    counts[0], counts[1], counts[2], counts[3] = alive, top, low, total
    figures[0] = watts


@kernel
def sample(
    workers: IntArray, control: IntArray, clock: FloatArray, samples: IntArray, at: FloatArray
) -> None:
    """Keep this step's loads for pictures; when space runs out, keep every other one."""
    if control[C_STEP] % control[C_SAMPLE_STRIDE] != 0:
        return
    if control[C_SAMPLES] == samples.shape[1]:
        half = control[C_SAMPLES] // 2
        for j in range(half):
            samples[:, j] = samples[:, 2 * j]
            at[:, j] = at[:, 2 * j]
        control[C_SAMPLES] = half
        control[C_SAMPLE_STRIDE] *= 2
        if control[C_STEP] % control[C_SAMPLE_STRIDE] != 0:
            return
    j = control[C_SAMPLES]
    at[0, j] = control[C_STEP]
    at[1, j] = clock[CLOCK]
    samples[0, j] = workers[W_LOAD]
    samples[1, j] = workers[W_ACTIVE]
    control[C_SAMPLES] = j + 1


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


@kernel
def advance(
    workers: IntArray,
    requests: IntArray,
    meta: IntArray,
    ring: IntArray,
    book: IntArray,
    times: FloatArray,
    control: IntArray,
    clock: FloatArray,
    heads: IntArray,
    queues: IntArray,
    log_f: FloatArray,
    log_i: IntArray,
    samples: IntArray,
    sampled_at: FloatArray,
    buffers: IntArray,
    table: IntArray,
    model: FloatArray,
    xs: FloatArray,
    ys: FloatArray,
    max_steps: int,
) -> int:
    """Run until a policy must be asked, or nothing more can happen; return why."""
    figures = np.empty(1)
    counts = np.empty(4, np.int64)
    fresh_state = True
    total = book.shape[1]
    bounded = False
    for g in range(workers.shape[1]):
        bounded |= workers[W_CAPACITY, g] < NO_LIMIT
    while True:
        if control[C_STEP] >= control[C_STOP_STEP] or clock[CLOCK] >= clock[STOP_S]:
            return EVENT
        if control[C_ARRIVED] < total and (control[C_IMMEDIATE] or not control[C_ROUTED]):
            reveal(book, times, control, clock)
        waiting = control[C_WAIT_TAIL] - control[C_WAIT_HEAD]
        if control[C_IMMEDIATE] and waiting > 0 and fill_view(workers, 1, table) > 0:
            return ROUTE
        before = meta[k.ACTIVE_TOTAL]
        if control[C_QUEUED] > 0:
            admit_queued(
                workers, requests, meta, book, times, control, clock, heads, queues, buffers
            )
        if waiting > 0 and not control[C_IMMEDIATE] and not control[C_ROUTED]:
            control[C_ROUTED] = 1
            if fill_view(workers, 0, table) > 0:
                return ROUTE
        active = meta[k.ACTIVE_TOTAL]
        fresh_state |= active != before
        if active == 0:
            if control[C_ARRIVED] < total and control[C_POOL] == 0:
                clock[CLOCK] = min(
                    times[T_READY, book[B_ORDER, control[C_ARRIVED]]], clock[STOP_S]
                )
                control[C_ROUTED] = 0
                continue
            if waiting > 0 or control[C_QUEUED] > 0 or control[C_ARRIVED] < total:
                return STALLED
            return DONE
        step = control[C_STEP]
        if step >= max_steps:
            return LIMIT
        if step == log_f.shape[1]:
            return LOG_FULL
        if fresh_state:
            survey(workers, figures, counts)
        sample(workers, control, clock, samples, sampled_at)
        lasts = duration(model, xs, ys, counts[1], counts[3] / counts[0])
        log_f[F_START, step] = clock[CLOCK]
        log_f[F_DURATION, step] = lasts
        log_f[F_ENERGY, step] = figures[0] * lasts
        log_i[I_ACTIVE, step] = active
        log_i[I_ALIVE, step] = counts[0]
        log_i[I_MAX, step] = counts[1]
        log_i[I_MIN, step] = counts[2]
        log_i[I_SUM, step] = counts[3]
        clock[CLOCK] += lasts
        for j in range(control[C_FRESH]):
            i = buffers[FRESH, j]
            if times[T_FIRST, i] != times[T_FIRST, i]:
                times[T_FIRST, i] = clock[CLOCK]
        control[C_FRESH] = 0
        k.advance_all(workers, ring)
        depart(workers, requests, meta, ring, book, times, control, clock, heads)
        survey(workers, figures, counts)
        log_i[I_POST_MAX, step] = counts[1]
        log_i[I_POST_MIN, step] = counts[2]
        log_i[I_POST_SUM, step] = counts[3]
        log_f[F_POST_ENERGY, step] = figures[0] * lasts
        fresh_state = False
        control[C_STEP] = step + 1
        control[C_ROUTED] = 0
        if bounded:
            preempt_over_capacity(
                workers, requests, meta, ring, book, control, heads, queues
            )
            fresh_state = True


@kernel
def check(
    workers: IntArray, book: IntArray, control: IntArray, decision: IntArray, fault: IntArray
) -> int:
    """Check a decision before any of it is carried out; write the bad pair to `fault`."""
    head = control[C_WAIT_HEAD]
    waiting = 1 if control[C_IMMEDIATE] else control[C_WAIT_TAIL] - head
    given = np.zeros(workers.shape[1], np.int64)
    tokens = np.zeros(workers.shape[1], np.int64)
    seen = np.zeros(waiting, np.bool_)
    for j in range(decision.shape[0]):
        at, g = decision[j, 0], decision[j, 1]
        fault[0], fault[1] = at, g
        if at < 0 or at >= waiting:
            return BAD_INDEX
        if seen[at]:
            return TWICE
        seen[at] = True
        if g < 0 or g >= workers.shape[1] or not workers[W_ALIVE, g]:
            return BAD_WORKER
        if control[C_IMMEDIATE]:
            continue
        given[g] += 1
        tokens[g] += book[B_WAITING_TOKENS, head + at]
        free = workers[W_SLOTS, g] - workers[W_ACTIVE, g] - workers[W_QUEUED, g]
        if given[g] > free:
            return NO_SLOT
        held = workers[W_LOAD, g] + workers[W_QUEUED_TOKENS, g]
        if workers[W_CAPACITY, g] < NO_LIMIT and held + tokens[g] > workers[W_CAPACITY, g]:
            return NO_TOKENS
    return OK


@kernel
def apply(
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
    decision: IntArray,
    fault: IntArray,
) -> int:
    """Carry out a decision, all of it or, if any pair is bad, none of it."""
    found = check(workers, book, control, decision, fault)
    if found != OK:
        return found
    head = control[C_WAIT_HEAD]
    last = head - 1
    for j in range(decision.shape[0]):
        at, g = head + decision[j, 0], decision[j, 1]
        i = book[B_WAITING, at]
        book[B_WAITING, at] = NONE
        last = max(last, at)
        if not control[C_IMMEDIATE]:
            start(
                workers, requests, meta, book, times, control, clock, heads, buffers, i, g
            )
        elif book[B_PROMPT, i] + book[B_GENERATED, i] > workers[W_CAPACITY, g]:
            reject(book, control, i)
        else:
            enqueue(workers, book, control, queues, i, g, False)
    keep = last
    for at in range(last, head - 1, -1):
        if book[B_WAITING, at] != NONE:
            book[B_WAITING, keep] = book[B_WAITING, at]
            book[B_WAITING_TOKENS, keep] = book[B_WAITING_TOKENS, at]
            book[B_WAITING_SINCE, keep] = book[B_WAITING_SINCE, at]
            keep -= 1
    control[C_WAIT_HEAD] = keep + 1
    return OK
