"""Kernels that check a policy's decision and carry it out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver._state_kernels import (
    NONE,
    W_ACTIVE,
    W_ALIVE,
    W_CAPACITY,
    W_LOAD,
    W_QUEUED,
    W_QUEUED_TOKENS,
    W_SLOTS,
)
from brsolver.policy import NO_LIMIT
from brsolver.simulator._layout import (
    B_DUE,
    B_GENERATED,
    B_PROMPT,
    B_WAITING,
    B_WAITING_SINCE,
    B_WAITING_TOKENS,
    BAD_INDEX,
    BAD_WORKER,
    C_IMMEDIATE,
    C_STEP,
    C_TRANSIT,
    C_WAIT_HEAD,
    C_WAIT_TAIL,
    NO_SLOT,
    NO_TOKENS,
    OK,
    TWICE,
)
from brsolver.simulator._request_kernels import enqueue, reject, start

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


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
        book[B_DUE, i] = control[C_STEP] + control[C_TRANSIT]
        if not control[C_IMMEDIATE]:
            if control[C_TRANSIT]:
                enqueue(workers, book, control, queues, i, g, False)
            else:
                start(workers, requests, meta, book, times, control, clock, heads, buffers, i, g)
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
