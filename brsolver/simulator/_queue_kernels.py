"""Kernels that move requests into the workers' own queues and out of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.cluster import _state_kernels as k
from brsolver.cluster._state_kernels import NONE, W_BACKLOG
from brsolver.simulator._layout import (
    B_CACHED,
    B_COMPUTED,
    B_GENERATED,
    B_PREEMPTIONS,
    B_PROMPT,
    B_QUEUE_NEXT,
    B_REJECTED,
    B_STATUS,
    B_WORKER,
    IN_QUEUE,
    M_COUNT,
    M_TOKENS,
    NOBODY,
    P_COUNT,
    P_HEAD,
    P_TAIL,
    P_TOKENS,
    Q_HEAD,
    Q_TAIL,
    REJECTED,
    Cursor,
)

IntArray = NDArray[np.int64]


@kernel
def uncomputed(book: IntArray, i: int) -> int:
    """Return the tokens of request i's prompt that its worker has yet to compute."""
    tokens: int = book[B_PROMPT, i] + book[B_GENERATED, i] - book[B_COMPUTED, i]
    return tokens


@kernel
def enqueue(
    workers: IntArray,
    book: IntArray,
    cursor: Cursor,
    queues: IntArray,
    i: int,
    g: int,
    front: bool,
) -> None:
    """Put request i into worker g's own queue."""
    if queues[Q_HEAD, g] == NONE:
        queues[Q_HEAD, g] = i
        queues[Q_TAIL, g] = i
        book[B_QUEUE_NEXT, i] = NONE
    elif front:
        book[B_QUEUE_NEXT, i] = queues[Q_HEAD, g]
        queues[Q_HEAD, g] = i
    else:
        book[B_QUEUE_NEXT, queues[Q_TAIL, g]] = i
        book[B_QUEUE_NEXT, i] = NONE
        queues[Q_TAIL, g] = i
    book[B_STATUS, i] = IN_QUEUE
    book[B_WORKER, i] = g
    k.enqueue(workers, g, book[B_PROMPT, i] + book[B_GENERATED, i], book[B_PROMPT, i])
    if cursor[0].scheduler != NOBODY:
        book[B_COMPUTED, i] = book[B_CACHED, i]
        workers[W_BACKLOG, g] += uncomputed(book, i)
    cursor[0].queued += 1


@kernel
def unqueue(workers: IntArray, book: IntArray, cursor: Cursor, queues: IntArray, g: int) -> int:
    """Take the first request out of worker g's own queue."""
    i: int = queues[Q_HEAD, g]
    queues[Q_HEAD, g] = book[B_QUEUE_NEXT, i]
    if queues[Q_HEAD, g] == NONE:
        queues[Q_TAIL, g] = NONE
    k.dequeue(workers, g, book[B_PROMPT, i] + book[B_GENERATED, i], book[B_PROMPT, i])
    if cursor[0].scheduler != NOBODY:
        workers[W_BACKLOG, g] -= uncomputed(book, i)
    cursor[0].queued -= 1
    return i


@kernel
def reject(book: IntArray, cursor: Cursor, i: int) -> None:
    """Give up on request i, which its worker can never hold."""
    book[B_STATUS, i] = REJECTED
    if cursor[0].turns:
        book[B_REJECTED, cursor[0].rejected] = i
    cursor[0].rejected += 1


@kernel
def take_prompt(
    workers: IntArray, book: IntArray, cursor: Cursor, queues: IntArray, g: int, before: int
) -> int:
    """Take a prompt out of those prefilled at worker g: the one after `before`, NONE for none."""
    i: int = queues[P_HEAD, g] if before == NONE else book[B_QUEUE_NEXT, before]
    after = book[B_QUEUE_NEXT, i]
    if before == NONE:
        queues[P_HEAD, g] = after
    else:
        book[B_QUEUE_NEXT, before] = after
    if after == NONE:
        queues[P_TAIL, g] = before
    tokens = book[B_PROMPT, i] + book[B_GENERATED, i]
    queues[P_COUNT, g] -= 1
    queues[P_TOKENS, g] -= tokens
    k.dequeue(workers, g, tokens, book[B_PROMPT, i])
    workers[W_BACKLOG, g] -= uncomputed(book, i)
    cursor[0].queued -= 1
    cursor[0].prefilling -= 1
    return i


@kernel
def take_newest_prompt(
    workers: IntArray, book: IntArray, cursor: Cursor, queues: IntArray, g: int
) -> int:
    """Take the last prompt out of those prefilled at worker g."""
    before, i = NONE, queues[P_HEAD, g]
    while i != queues[P_TAIL, g]:
        before, i = i, book[B_QUEUE_NEXT, i]
    return take_prompt(workers, book, cursor, queues, g, before)


@kernel
def put_under_way(
    workers: IntArray, book: IntArray, cursor: Cursor, queues: IntArray, i: int
) -> None:
    """Put request i, which runs nowhere now, last of those under way to their workers."""
    c = cursor[0]
    g, tokens = book[B_WORKER, i], book[B_PROMPT, i] + book[B_GENERATED, i]
    if c.move_head == NONE:
        c.move_head = i
    else:
        last = c.move_head
        while book[B_QUEUE_NEXT, last] != NONE:
            last = book[B_QUEUE_NEXT, last]
        book[B_QUEUE_NEXT, last] = i
    book[B_QUEUE_NEXT, i] = NONE
    queues[M_COUNT, g] += 1
    queues[M_TOKENS, g] += tokens
    k.enqueue(workers, g, tokens, book[B_PROMPT, i])
    c.moving += 1


@kernel
def take_off_the_way(
    workers: IntArray, book: IntArray, cursor: Cursor, queues: IntArray, before: int
) -> int:
    """Take a request out of those under way: the one after `before`, NONE for none."""
    c = cursor[0]
    i: int = c.move_head if before == NONE else book[B_QUEUE_NEXT, before]
    if before == NONE:
        c.move_head = book[B_QUEUE_NEXT, i]
    else:
        book[B_QUEUE_NEXT, before] = book[B_QUEUE_NEXT, i]
    g, tokens = book[B_WORKER, i], book[B_PROMPT, i] + book[B_GENERATED, i]
    queues[M_COUNT, g] -= 1
    queues[M_TOKENS, g] -= tokens
    k.dequeue(workers, g, tokens, book[B_PROMPT, i])
    c.moving -= 1
    return i


@kernel
def lose_under_way(
    workers: IntArray,
    book: IntArray,
    cursor: Cursor,
    queues: IntArray,
    g: int,
    lost: IntArray,
    made: int,
) -> int:
    """Append to `lost`, of which `made` are there, all that is under way to worker g; count it."""
    before, i = NONE, cursor[0].move_head
    while i != NONE:
        after = book[B_QUEUE_NEXT, i]
        if book[B_WORKER, i] == g:
            lost[made] = take_off_the_way(workers, book, cursor, queues, before)
            book[B_PREEMPTIONS, i] += 1
            made += 1
        else:
            before = i
        i = after
    return made
