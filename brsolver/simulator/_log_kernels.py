"""Kernels that write down what happened in a step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.cluster._state_kernels import W_ACTIVE, W_BACKLOG, W_LOAD
from brsolver.hardware._step_kernels import N_PREFILL
from brsolver.simulator._layout import (
    B_FIRST_STEP,
    FRESH,
    I_HELD,
    I_PREFILL,
    I_PREFILL_MAX,
    NOBODY,
    T_FIRST,
    Cursor,
)

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@kernel
def sample_backlog(workers: IntArray, loads: IntArray, cursor: Cursor, samples: IntArray) -> None:
    """Keep the prefill backlogs before this step, which scheduling has taken its part off."""
    c = cursor[0]
    if c.scheduler == NOBODY or c.samples == 0:
        return
    for g in range(workers.shape[1]):
        now = workers[W_BACKLOG, g] + loads[N_PREFILL, g]
        samples[2, c.samples - 1, g] = max(samples[2, c.samples - 1, g], now)


@kernel
def sample(
    workers: IntArray, loads: IntArray, cursor: Cursor, samples: IntArray, at: FloatArray
) -> None:
    """Keep this step's loads for pictures; when space runs out, keep every other one.

    Of backlogs the largest up to the next that is kept: a step of prefill would not show else.
    """
    c = cursor[0]
    if c.step % c.sample_stride != 0:
        sample_backlog(workers, loads, cursor, samples)
        return
    if c.samples == samples.shape[1]:
        half = c.samples // 2
        for j in range(half):
            samples[2, 2 * j] = np.maximum(samples[2, 2 * j], samples[2, 2 * j + 1])
            samples[:, j] = samples[:, 2 * j]
            at[:, j] = at[:, 2 * j]
        c.samples = half
        c.sample_stride *= 2
        samples[2, half:] = 0
        if c.step % c.sample_stride != 0:
            sample_backlog(workers, loads, cursor, samples)
            return
    j = c.samples
    at[0, j] = c.step
    at[1, j] = c.clock_s
    samples[0, j] = workers[W_LOAD]
    samples[1, j] = workers[W_ACTIVE]
    c.samples = j + 1
    sample_backlog(workers, loads, cursor, samples)


@kernel
def log_prefill(cursor: Cursor, loads: IntArray, total: int, log_i: IntArray) -> None:
    """Log a step's prefill tokens."""
    most = 0
    if total > 0:
        for g in range(loads.shape[1]):
            most = max(most, loads[N_PREFILL, g])
    log_i[I_PREFILL, cursor[0].step] = total
    log_i[I_PREFILL_MAX, cursor[0].step] = most


@kernel
def log_held(cursor: Cursor, slots: int, active: int, log_i: IntArray) -> None:
    """Log how many requests wait although slots are free for them."""
    c = cursor[0]
    free = max(slots - active - c.queued - c.moving, 0)
    log_i[I_HELD, c.step] = min(c.wait_tail - c.wait_head, free)


@kernel
def first_tokens(book: IntArray, times: FloatArray, cursor: Cursor, buffers: IntArray) -> None:
    """Time the first token of the requests admitted before this step."""
    c = cursor[0]
    for j in range(c.fresh):
        i = buffers[FRESH, j]
        if np.isnan(times[T_FIRST, i]):
            times[T_FIRST, i] = c.clock_s
            book[B_FIRST_STEP, i] = c.step
    c.fresh = 0
