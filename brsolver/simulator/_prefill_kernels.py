"""Kernels of prefill on the decode ranks: what each rank's own scheduler computes in a step.

A prompt under prefill holds a slot and the KV tokens of all of it. For the cluster's state it
counts as queued at its worker until its prompt ends; then it is one of the running.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.cluster._state_kernels import (
    NONE,
    W_ACTIVE,
    W_ALIVE,
    W_BACKLOG,
    W_CAPACITY,
    W_LOAD,
    W_SLOTS,
)
from brsolver.hardware._step_kernels import (
    GONE,
    N_CONTEXT,
    N_PREFILL,
    N_SEQUENCES,
    N_TOKENS,
)
from brsolver.simulator._delay_kernels import note_attempt, release
from brsolver.simulator._layout import (
    AT_ONCE,
    B_COMPUTED,
    B_DUE,
    B_GENERATED,
    B_OUTPUT,
    B_PROMPT,
    B_QUEUE_NEXT,
    B_START_STEP,
    B_STATUS,
    D_READY,
    FRESH,
    HELD,
    M_COUNT,
    M_TOKENS,
    NOBODY,
    P_BOUND,
    P_COUNT,
    P_HEAD,
    P_TAIL,
    P_TOKENS,
    Q_HEAD,
    Q_TAIL,
    RELEASED,
    RUNNING_NOW,
    SGLANG,
    T_START,
    V1,
    Cursor,
)
from brsolver.simulator._prefix_kernels import keep, take_up
from brsolver.simulator._queue_kernels import reject, take_prompt, uncomputed, unqueue
from brsolver.simulator._request_kernels import close, start

if TYPE_CHECKING:
    from brsolver.cluster import _state_kernels as k
    from brsolver.simulator._prefix_kernels import Caches

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

NOTHING = -1
"""Of a step that has nothing to do: all that waited at the ranks was rejected."""


@kernel
def decode_loads(workers: IntArray, loads: IntArray) -> None:
    """Write what every rank decodes; no prefill."""
    for g in range(workers.shape[1]):
        alive = workers[W_ALIVE, g] != 0
        loads[N_SEQUENCES, g] = workers[W_ACTIVE, g] if alive else GONE
        loads[N_TOKENS, g] = workers[W_LOAD, g]
        loads[N_PREFILL, g] = 0
        loads[N_CONTEXT, g] = 0


@kernel
def leave_decoding(loads: IntArray) -> None:
    """Take back what every rank decodes; those that are gone stay so."""
    for g in range(loads.shape[1]):
        loads[N_SEQUENCES, g] = min(loads[N_SEQUENCES, g], 0)
        loads[N_TOKENS, g] = 0


@kernel
def gives_slot(
    workers: IntArray, book: IntArray, cursor: Cursor, queues: IntArray, g: int, idle: bool
) -> bool:
    """Tell whether the first that waits at worker g gets a slot; reject what never fits there.

    A worker that holds something keeps a token of growth per request in reserve. What is still
    in transit is not there yet, but for a cluster where nothing runs: there no step brings it.
    """
    while queues[Q_HEAD, g] != NONE:
        i = queues[Q_HEAD, g]
        held = workers[W_ACTIVE, g] + queues[P_COUNT, g] + queues[M_COUNT, g]
        if held >= workers[W_SLOTS, g] or (book[B_DUE, i] > cursor[0].step and not idle):
            return False
        tokens = book[B_PROMPT, i] + book[B_GENERATED, i]
        reserve = held + 1 if held > 0 else 0
        taken = workers[W_LOAD, g] + queues[P_TOKENS, g] + queues[M_TOKENS, g]
        if taken + tokens + reserve <= workers[W_CAPACITY, g]:
            return True
        if held > 0:
            return False
        unqueue(workers, book, cursor, queues, g)
        reject(book, cursor, i)
    return False


@kernel
def begin(
    workers: IntArray,
    book: IntArray,
    times: FloatArray,
    cursor: Cursor,
    queues: IntArray,
    caches: Caches | None,
    g: int,
) -> int:
    """Give the first that waits at worker g a slot, for its prompt to be prefilled."""
    c = cursor[0]
    i: int = queues[Q_HEAD, g]
    queues[Q_HEAD, g] = book[B_QUEUE_NEXT, i]
    if queues[Q_HEAD, g] == NONE:
        queues[Q_TAIL, g] = NONE
    last = queues[P_TAIL, g]
    if last == NONE:
        queues[P_HEAD, g] = i
    else:
        book[B_QUEUE_NEXT, last] = i
    queues[P_TAIL, g] = i
    book[B_QUEUE_NEXT, i] = NONE
    queues[P_COUNT, g] += 1
    queues[P_TOKENS, g] += book[B_PROMPT, i] + book[B_GENERATED, i]
    take_up(workers, book, caches, cursor, queues, i, g)
    book[B_STATUS, i] = RUNNING_NOW
    if book[B_START_STEP, i] < 0:
        book[B_START_STEP, i] = c.step
        times[T_START, i] = c.clock_s
    c.prefilling += 1
    c.last_admission = c.step
    return i


@kernel
def compute(workers: IntArray, book: IntArray, loads: IntArray, g: int, i: int, most: int) -> int:
    """Compute a chunk of prompt i on worker g, at most so many tokens; return how many."""
    computed = book[B_COMPUTED, i]
    chunk: int = min(uncomputed(book, i), most)
    workers[W_BACKLOG, g] -= chunk
    loads[N_PREFILL, g] += chunk
    # The j-th token of the chunk follows `computed + j - 1` others and itself.
    loads[N_CONTEXT, g] += chunk * computed + chunk * (chunk + 1) // 2
    book[B_COMPUTED, i] = computed + chunk
    return chunk


@kernel
def computed_whole(book: IntArray, i: int) -> bool:
    """Tell whether all of prompt i is computed."""
    return uncomputed(book, i) == 0


@kernel
def schedule_rank(
    workers: IntArray,
    requests: IntArray,
    counters: k.Counters,
    book: IntArray,
    times: FloatArray,
    cursor: Cursor,
    heads: IntArray,
    queues: IntArray,
    buffers: IntArray,
    loads: IntArray,
    caches: Caches | None,
    g: int,
    idle: bool,
    begins: bool,
) -> int:
    """Compute prompts on worker g: those under way, then what waits, while budget lasts.

    By V1 a prompt that ends runs from this very step, which generates its first token. Returns
    how many prompts it has computed tokens of; none is begun unless `begins`.
    """
    c = cursor[0]
    count = 0
    left = c.budget - workers[W_ACTIVE, g] if c.scheduler == V1 else c.budget
    most = c.threshold if c.threshold > 0 else c.budget
    before, i = NONE, queues[P_HEAD, g]
    while left > 0:
        if i == NONE:
            if not begins or not gives_slot(workers, book, cursor, queues, g, idle):
                break
            i = begin(workers, book, times, cursor, queues, caches, g)
        after, computed = book[B_QUEUE_NEXT, i], book[B_COMPUTED, i]
        left -= compute(workers, book, loads, g, i, min(left, most))
        keep(book, caches, cursor, queues, i, g, computed)
        count += 1
        if not computed_whole(book, i):
            before = i
        else:
            c.ending += 1
            if c.scheduler == V1:
                take_prompt(workers, book, cursor, queues, g, before)
                start(workers, requests, counters, book, times, cursor, heads, buffers, i, g)
            else:
                before = i
        i = after
    head = queues[Q_HEAD, g]
    queues[P_BOUND, g] = 1 if head != NONE and book[B_DUE, head] <= c.step else 0
    return count


@kernel
def verdict(workers: IntArray, book: IntArray, cursor: Cursor, queues: IntArray, idle: bool) -> int:
    """Return what a delayer lets the ranks prefill in this step: RELEASED, UNDER_WAY or HELD.

    Nothing is HELD unless somebody decodes.
    """
    for g in range(workers.shape[1]):
        ready = queues[P_HEAD, g] != NONE or gives_slot(workers, book, cursor, queues, g, idle)
        queues[D_READY, g] = 1 if ready else 0
    return release(workers, book, cursor, queues)


@kernel
def schedule(
    workers: IntArray,
    requests: IntArray,
    counters: k.Counters,
    book: IntArray,
    times: FloatArray,
    cursor: Cursor,
    heads: IntArray,
    queues: IntArray,
    buffers: IntArray,
    loads: IntArray,
    caches: Caches | None,
) -> int:
    """Let every rank's scheduler plan the step; return the prefill tokens of all, or `NOTHING`.

    Writes the ranks' loads. By SGLang's scheduler nobody decodes while anybody prefills.
    """
    c = cursor[0]
    if c.scheduler == NOBODY:
        return 0
    c.ending, c.apart = 0, False
    decode_loads(workers, loads)
    if c.queued == 0 and c.delayer == AT_ONCE:
        return 0
    idle = counters[0].active_total == 0 and c.prefilling == 0
    may = RELEASED
    if c.delayer != AT_ONCE:
        may = verdict(workers, book, cursor, queues, idle)
    if may == HELD:
        return 0
    off = c.step % c.interval != 0
    total = 0
    for g in range(workers.shape[1]):
        if queues[P_HEAD, g] == NONE and queues[Q_HEAD, g] == NONE:
            continue
        if off and queues[P_BOUND, g] == 0 and workers[W_ACTIVE, g] > 0:
            continue
        prompts = schedule_rank(
            workers, requests, counters, book, times, cursor, heads, queues, buffers, loads,
            caches, g, idle, may == RELEASED,
        )  # fmt: skip
        if c.attempts > 0:
            note_attempt(workers, cursor, queues, g, prompts)
        total += loads[N_PREFILL, g]
    c.apart = c.scheduler == SGLANG and total > 0
    if c.apart:
        leave_decoding(loads)
    return total if total > 0 or counters[0].active_total > 0 else NOTHING


@kernel
def finish_prompts(
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
    """Give the prompts that a prefill step has ended their first token."""
    c = cursor[0]
    for g in range(workers.shape[1]):
        while queues[P_HEAD, g] != NONE and computed_whole(book, queues[P_HEAD, g]):
            i = take_prompt(workers, book, cursor, queues, g, NONE)
            book[B_GENERATED, i] += 1
            if book[B_GENERATED, i] < book[B_OUTPUT, i]:
                start(workers, requests, counters, book, times, cursor, heads, buffers, i, g)
            else:
                close(book, times, cursor, i)
                buffers[FRESH, c.fresh] = i
                c.fresh += 1
