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
    W_ACTIVE,
    W_ALIVE,
    W_CAPACITY,
    W_LOAD,
    W_PROMPTS,
    W_QUEUED,
    W_QUEUED_TOKENS,
    W_SLOTS,
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
from brsolver.simulator._layout import (
    AGAIN,
    B_ORDER,
    BUSY_WATTS,
    C_ARRIVED,
    C_FRESH,
    C_IMMEDIATE,
    C_POOL,
    C_QUEUED,
    C_ROUTED,
    C_SAMPLE_STRIDE,
    C_SAMPLES,
    C_STEP,
    C_STOP_STEP,
    C_WAIT_HEAD,
    C_WAIT_TAIL,
    CLOCK,
    DONE,
    EVENT,
    F_DURATION,
    F_ENERGY,
    F_POST_ENERGY,
    F_START,
    FRESH,
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
    MODEL_LINEAR,
    POWER_EXPONENT,
    ROUTE,
    S_BASE,
    S_MODEL,
    S_PER_MEAN,
    S_PER_TOKEN,
    STALLED,
    STEP,
    STOP_S,
    T_FIRST,
    T_READY,
)
from brsolver.simulator._request_kernels import (
    admit_queued,
    depart,
    preempt_over_capacity,
    reveal,
)

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


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
                table[TOKEN_ROOM, g] = max(workers[W_CAPACITY, g] - load, 0)
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
    """Write workers, max, min, sum of loads and slots to `counts`, total power to `figures`."""
    alive, top, low, total, slots = 0, 0, NO_LIMIT, 0, 0
    for g in range(workers.shape[1]):
        if workers[W_ALIVE, g]:
            load = workers[W_LOAD, g]
            alive += 1
            top = max(top, load)
            low = min(low, load)
            total += load
            slots += workers[W_SLOTS, g]
    watts = 0.0
    for g in range(workers.shape[1]):
        if workers[W_ALIVE, g]:
            share = workers[W_LOAD, g] / top if top > 0 else 0.0
            watts += IDLE_WATTS + BUSY_WATTS * share**POWER_EXPONENT
    counts[0], counts[1], counts[2], counts[3], counts[4] = alive, top, low, total, slots
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
def log_routed(
    control: IntArray,
    clock: FloatArray,
    figures: FloatArray,
    counts: IntArray,
    active: int,
    lasts: float,
    log_f: FloatArray,
    log_i: IntArray,
) -> None:
    """Log a step's loads as routed."""
    step = control[C_STEP]
    log_f[F_START, step] = clock[CLOCK]
    log_f[F_DURATION, step] = lasts
    log_f[F_ENERGY, step] = figures[0] * lasts
    log_i[I_ACTIVE, step] = active
    log_i[I_ALIVE, step] = counts[0]
    log_i[I_SLOTS, step] = counts[4]
    log_i[I_MAX, step] = counts[1]
    log_i[I_MIN, step] = counts[2]
    log_i[I_SUM, step] = counts[3]


@kernel
def first_tokens(
    times: FloatArray, control: IntArray, clock: FloatArray, buffers: IntArray
) -> None:
    """Time the first token of the requests admitted before this step."""
    for j in range(control[C_FRESH]):
        i = buffers[FRESH, j]
        if np.isnan(times[T_FIRST, i]):
            times[T_FIRST, i] = clock[CLOCK]
    control[C_FRESH] = 0


@kernel
def boundary(
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
    table: IntArray,
) -> int:
    """Do what comes before a step; return why not to step, or STEP."""
    total = book.shape[1]
    if control[C_ARRIVED] < total and (control[C_IMMEDIATE] or not control[C_ROUTED]):
        reveal(workers, book, times, control, clock)
    waiting = control[C_WAIT_TAIL] - control[C_WAIT_HEAD]
    if control[C_IMMEDIATE] and waiting > 0 and fill_view(workers, 1, table) > 0:
        return ROUTE
    if control[C_QUEUED] > 0:
        admit_queued(workers, requests, meta, book, times, control, clock, heads, queues, buffers)
    if waiting > 0 and not control[C_IMMEDIATE] and not control[C_ROUTED]:
        control[C_ROUTED] = 1
        if fill_view(workers, 0, table) > 0:
            return ROUTE
    if meta[k.ACTIVE_TOTAL] > 0:
        return STEP
    if control[C_ARRIVED] < total and control[C_POOL] == 0:
        clock[CLOCK] = min(times[T_READY, book[B_ORDER, control[C_ARRIVED]]], clock[STOP_S])
        control[C_ROUTED] = 0
        return AGAIN
    if waiting > 0 or control[C_QUEUED] > 0 or control[C_ARRIVED] < total:
        return STALLED
    return DONE


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
    counts = np.empty(5, np.int64)
    surveyed = -1
    while True:
        if control[C_STEP] >= control[C_STOP_STEP] or clock[CLOCK] >= clock[STOP_S]:
            return EVENT
        why = boundary(
            workers, requests, meta, book, times, control, clock, heads, queues, buffers, table
        )
        if why == AGAIN:
            continue
        if why != STEP:
            return why
        step = control[C_STEP]
        if step >= max_steps:
            return LIMIT
        if step == log_f.shape[1]:
            return LOG_FULL
        active = meta[k.ACTIVE_TOTAL]
        if active != surveyed or control[C_FRESH] > 0:
            survey(workers, figures, counts)
        sample(workers, control, clock, samples, sampled_at)
        lasts = duration(model, xs, ys, counts[1], counts[3] / counts[0])
        log_routed(control, clock, figures, counts, active, lasts, log_f, log_i)
        clock[CLOCK] += lasts
        first_tokens(times, control, clock, buffers)
        k.advance_all(workers, ring)
        depart(workers, requests, meta, ring, book, times, control, clock, heads)
        survey(workers, figures, counts)
        log_i[I_POST_MAX, step] = counts[1]
        log_i[I_POST_MIN, step] = counts[2]
        log_i[I_POST_SUM, step] = counts[3]
        log_f[F_POST_ENERGY, step] = figures[0] * lasts
        surveyed = meta[k.ACTIVE_TOTAL]
        control[C_STEP] = step + 1
        control[C_ROUTED] = 0
        preempt_over_capacity(workers, requests, meta, ring, book, control, heads, queues)
