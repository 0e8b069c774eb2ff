"""The kernel that carries a policy's decision out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.cluster._state_kernels import NONE, W_CAPACITY
from brsolver.cluster.decision import OK, check
from brsolver.cluster.view import REQUEST, TOKENS, fill_view
from brsolver.simulator._layout import B_DUE, B_GENERATED, B_PROMPT, NOBODY, Cursor
from brsolver.simulator._queue_kernels import enqueue, reject
from brsolver.simulator._request_kernels import start

if TYPE_CHECKING:
    from brsolver.cluster import _state_kernels as k

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@kernel
def apply(
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
    limits: IntArray,
    pairs: IntArray,
) -> tuple[int, int]:
    """Carry out a decision, all of it or, if any pair is bad, none of it."""
    c = cursor[0]
    head = c.wait_head
    tail = head + 1 if c.immediate else c.wait_tail
    fill_view(workers, c.immediate, limits)
    found, row = check(limits, waiting[TOKENS, head:tail], pairs, c.immediate)
    if found != OK:
        return found, row
    last = head - 1
    for j in range(pairs.shape[0]):
        at, g = head + pairs[j, 0], pairs[j, 1]
        i = waiting[REQUEST, at]
        waiting[REQUEST, at] = NONE
        last = max(last, at)
        book[B_DUE, i] = c.step + c.transit
        if not c.immediate:
            if c.transit or c.scheduler != NOBODY:
                enqueue(workers, book, cursor, queues, i, g, False)
            else:
                start(workers, requests, counters, book, times, cursor, heads, buffers, i, g)
        elif book[B_PROMPT, i] + book[B_GENERATED, i] > workers[W_CAPACITY, g]:
            reject(book, cursor, i)
        else:
            enqueue(workers, book, cursor, queues, i, g, False)
    keep = last
    for at in range(last, head - 1, -1):
        if waiting[REQUEST, at] != NONE:
            for row in range(waiting.shape[0]):
                waiting[row, keep] = waiting[row, at]
            keep -= 1
    c.wait_head = keep + 1
    return OK, -1
