"""Kernels that move running requests from one worker to another.

A request under way holds a slot and its KV tokens at the worker that it goes to, and generates
nothing. For the cluster's state it counts as queued there until it runs again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.cluster import _state_kernels as k
from brsolver.cluster._state_kernels import (
    NONE,
    W_ACTIVE,
    W_ALIVE,
    W_CAPACITY,
    W_CLOCK,
    W_HEAD,
    W_LOAD,
    W_QUEUED,
    W_QUEUED_TOKENS,
    W_REQUEST_TOKENS,
    W_SLOTS,
)
from brsolver.simulator._layout import (
    AGAIN,
    B_GENERATED,
    B_MOVES,
    B_PROMPT,
    B_QUEUE_NEXT,
    B_WORKER,
    DONE,
    F_DURATION,
    STALLED,
    T_MOVED,
    T_READY,
    Cursor,
)
from brsolver.simulator._prefill_kernels import NOTHING, schedule
from brsolver.simulator._queue_kernels import put_under_way, take_off_the_way
from brsolver.simulator._request_kernels import interrupt, start
from brsolver.simulator._turn_kernels import by_rows, follow, next_to_come

if TYPE_CHECKING:
    from brsolver.simulator._prefix_kernels import Caches

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

MANY_STEPS = 1e9
"""Times the most slots it is still a whole number of 64 bits."""


@kernel
def heaviest(workers: IntArray) -> int:
    """Return the live worker whose running requests load it most, the first of several."""
    best = NONE
    for g in range(workers.shape[1]):
        if workers[W_ALIVE, g] and (
            best == NONE or k.running_load(workers, g) > k.running_load(workers, best)
        ):
            best = g
    return best


@kernel
def lightest_with_slot(workers: IntArray) -> int:
    """Return the live worker of least load, of those with a slot that nobody has or is to get."""
    best = NONE
    for g in range(workers.shape[1]):
        taken = workers[W_ACTIVE, g] + workers[W_QUEUED, g]
        if not workers[W_ALIVE, g] or taken >= workers[W_SLOTS, g]:
            continue
        if best == NONE or k.effective_load(workers, g) < k.effective_load(workers, best):
            best = g
    return best


@kernel
def transfer_s(cursor: Cursor, tokens: int) -> float:
    """Return how long so many KV tokens are under way."""
    c = cursor[0]
    seconds: float = c.move_setup_s + tokens * c.move_token_s
    return seconds


@kernel
def steps_under_way(seconds: float, step_s: float) -> int:
    """Return how many steps like the last one a move takes; of what never ends a great many."""
    if step_s <= 0.0:
        return 0
    return int(np.ceil(min(seconds / step_s, MANY_STEPS)))


@kernel
def fits(workers: IntArray, source: int, target: int, tokens: int) -> bool:
    """Tell whether a worker holds so many KV tokens more, growth in reserve, and is no smaller."""
    held = workers[W_ACTIVE, target] + workers[W_QUEUED, target]
    taken = workers[W_LOAD, target] + workers[W_QUEUED_TOKENS, target]
    fitting: bool = taken + tokens + held + 1 <= workers[W_CAPACITY, target]
    return fitting and workers[W_CAPACITY, target] >= workers[W_CAPACITY, source]


@kernel
def best_to_move(
    workers: IntArray,
    requests: IntArray,
    cursor: Cursor,
    source: int,
    target: int,
    step_s: float,
) -> int:
    """Return the handle of the request whose move lowers the larger of two loads most, or NONE.

    Loads are those at the end of the transfer, when all others have grown a token per step.
    """
    best, most = NONE, 0
    here, there = k.running_load(workers, source), k.effective_load(workers, target)
    handle = workers[W_HEAD, source]
    while handle != NONE:
        tokens = requests[k.R_OFFSET, handle] + workers[W_CLOCK, source]
        # What has generated nothing yet has only just been placed.
        if tokens > requests[k.R_PROMPT, handle] and fits(workers, source, target, tokens):
            weight = tokens + workers[W_REQUEST_TOKENS, source]
            steps = steps_under_way(transfer_s(cursor, tokens), step_s)
            kept = here + steps * (workers[W_ACTIVE, source] - 1)
            with_it = there + weight + steps * workers[W_ACTIVE, target]
            gain = kept - max(kept - weight, with_it)
            if gain > most:
                best, most = handle, gain
        handle = requests[k.R_NEXT, handle]
    return best


@kernel
def land(
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
    """Let the requests run again whose transfer is over."""
    c = cursor[0]
    before, i = NONE, c.move_head
    while i != NONE:
        after = book[B_QUEUE_NEXT, i]
        if times[T_MOVED, i] > c.clock_s:
            before = i
        else:
            take_off_the_way(workers, book, cursor, queues, before)
            # A request that is moved is not admitted anew: averages end where admissions do.
            last = c.last_admission
            g = book[B_WORKER, i]
            start(workers, requests, counters, book, times, cursor, heads, buffers, i, g)
            c.last_admission = last
        i = after


@kernel
def migrate(
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
    log_f: FloatArray,
) -> None:
    """Move a request from the heaviest worker to the lightest, if that lowers the heavier load.

    Some request still runs afterwards: the last one of a worker is never worth moving.
    """
    c = cursor[0]
    source, target = heaviest(workers), lightest_with_slot(workers)
    if c.step == 0 or source == NONE or target in (NONE, source):
        return
    step_s = log_f[F_DURATION, c.step - 1]
    handle = best_to_move(workers, requests, cursor, source, target, step_s)
    if handle == NONE:
        return
    i = requests[k.R_ID, handle]
    interrupt(workers, requests, counters, ring, book, cursor, heads, i)
    tokens = book[B_PROMPT, i] + book[B_GENERATED, i]
    book[B_WORKER, i] = target
    put_under_way(workers, book, cursor, queues, i)
    times[T_MOVED, i] = c.clock_s + transfer_s(cursor, tokens)
    book[B_MOVES, i] += 1
    c.moved_tokens += tokens
    land(workers, requests, counters, book, times, cursor, heads, queues, buffers)


@kernel
def comes_by_time(cursor: Cursor) -> bool:
    """Tell whether somebody who is known to come is still to arrive, at a time of its own."""
    c = cursor[0]
    by_time: bool = c.arrived < c.known and not by_rows(cursor)
    return by_time


@kernel
def wait(book: IntArray, times: FloatArray, cursor: Cursor) -> None:
    """Let time pass to the end of the next transfer, or before it to the next arrival or event."""
    c = cursor[0]
    when, i = np.inf, c.move_head
    while i != NONE:
        when = min(when, times[T_MOVED, i])
        i = book[B_QUEUE_NEXT, i]
    if comes_by_time(cursor):
        when = min(when, times[T_READY, next_to_come(book, times, cursor)])
    c.clock_s = min(when, c.stop_s)
    c.routed = False


@kernel
def pass_time(book: IntArray, times: FloatArray, cursor: Cursor, held: int) -> int:
    """Let the clock jump to what comes next, since nothing runs; return AGAIN, or why it cannot.

    `held` requests wait.
    """
    c = cursor[0]
    if follow(book, times, cursor) > 0:
        c.routed = False
        return AGAIN
    if c.moving > 0 or comes_by_time(cursor):
        wait(book, times, cursor)
        return AGAIN
    return STALLED if held > 0 or c.queued > 0 or c.arrived < c.known else DONE


@kernel
def prepare_step(
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
    loads: IntArray,
    caches: Caches | None,
    log_f: FloatArray,
) -> int:
    """Move a request if that is due, let the ranks' schedulers plan, and return as `schedule`."""
    c = cursor[0]
    if c.move_every > 0 and c.step % c.move_every == 0:
        migrate(
            workers, requests, counters, ring, book, times, cursor, heads, queues, buffers, log_f
        )
    prefill: int = schedule(
        workers, requests, counters, book, times, cursor, heads, queues, buffers, loads, caches
    )
    if prefill == NOTHING and c.moving > 0:
        # All that waits has to, for what is on its way.
        wait(book, times, cursor)
    return prefill
