"""Kernels of the engines' own rules for when ranks may prefill.

Each engine lets its ranks agree, once per step, on whether prefill goes ahead or those that decode
go on undisturbed until more ranks can prefill along. `brsolver.simulator.reference_delay` says in
plain Python what they agree on, and by whose source.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.cluster._state_kernels import (
    NONE,
    W_ACTIVE,
    W_ALIVE,
    W_CAPACITY,
    W_LOAD,
    W_QUEUED,
    W_SLOTS,
)
from brsolver.cluster.view import NO_LIMIT
from brsolver.simulator._layout import (
    B_CACHED,
    B_COMPUTED,
    B_DUE,
    B_GENERATED,
    B_PROMPT,
    B_QUEUE_NEXT,
    BY_ATOM,
    BY_SGLANG,
    D_AT,
    D_READY,
    D_RECENT,
    HELD,
    P_HEAD,
    P_TOKENS,
    Q_HEAD,
    RELEASED,
    UNDER_WAY,
    Cursor,
)

IntArray = NDArray[np.int64]

HIGH_WATERMARK = 0.9
"""Share of its KV tokens in use from which ATOM lets a rank wait no longer (its default)."""


class Ranks(NamedTuple):
    """What the live ranks tell each other.

    How many there are, can prefill, decode; the fewest slots that nobody decodes in and the most
    prompts of a recent attempt, on any of them; of those that can prefill how many are below the
    watermark of KV tokens, how many above the high one.
    """

    alive: int
    ready: int
    decoding: int
    least_slots: int
    largest: int
    low: int
    high: int


@kernel
def gather(workers: IntArray, cursor: Cursor, queues: IntArray) -> Ranks:
    """Let all live ranks tell what they could do in this step."""
    c = cursor[0]
    alive, ready, decoding, low, high = 0, 0, 0, 0, 0
    least_slots, largest = NO_LIMIT, 0
    for g in range(workers.shape[1]):
        if not workers[W_ALIVE, g]:
            continue
        slots = workers[W_SLOTS, g] - workers[W_ACTIVE, g]
        alive += 1
        decoding += workers[W_ACTIVE, g] > 0
        least_slots = min(least_slots, slots)
        for at in range(c.attempts):
            largest = max(largest, queues[D_RECENT + at, g])
        if queues[D_READY, g]:
            usage = (workers[W_LOAD, g] + queues[P_TOKENS, g]) / workers[W_CAPACITY, g]
            ready += 1
            low += usage < c.watermark
            high += usage >= HIGH_WATERMARK
    return Ranks(alive, ready, decoding, least_slots, largest, low, high)


@kernel
def by_sglang(cursor: Cursor, ranks: Ranks) -> int:
    """Hold new prompts back while some rank has none, or slots are few; others go on."""
    c = cursor[0]
    together = ranks.ready == ranks.alive and ranks.least_slots >= ranks.largest
    # Passes in which no rank would do anything take no time: the hold is over at once.
    idle = ranks.decoding == 0 and c.prefilling == 0
    over = idle or ranks.low > 0 or c.held >= c.longest_hold - 1
    if ranks.ready == 0 or together or over:
        c.held = 0
        return RELEASED
    c.held += 1
    return UNDER_WAY


@kernel
def pending_tokens(workers: IntArray, book: IntArray, cursor: Cursor, queues: IntArray) -> int:
    """Return the prefill tokens that there are at all ranks, at most a budget of each."""
    c = cursor[0]
    total = 0
    for g in range(workers.shape[1]):
        tokens, i = 0, queues[P_HEAD, g]
        while i != NONE and tokens < c.budget:
            tokens += book[B_PROMPT, i] + book[B_GENERATED, i] - book[B_COMPUTED, i]
            i = book[B_QUEUE_NEXT, i]
        i = queues[Q_HEAD, g]
        while i != NONE and tokens < c.budget and book[B_DUE, i] <= c.step:
            tokens += book[B_PROMPT, i] + book[B_GENERATED, i] - book[B_CACHED, i]
            i = book[B_QUEUE_NEXT, i]
        total += min(tokens, c.budget)
    return total


@kernel
def filled(workers: IntArray, book: IntArray, cursor: Cursor, queues: IntArray, alive: int) -> bool:
    """Tell whether there is enough for a step of prefill, or has long not become more."""
    c = cursor[0]
    pending = pending_tokens(workers, book, cursor, queues)
    if pending / (alive * c.budget) >= c.fill_target:
        return True
    c.stalled = c.stalled + 1 if pending <= c.pending else 0
    c.pending = pending
    enough: bool = c.stalled >= c.stall
    return enough


@kernel
def by_atom(
    workers: IntArray, book: IntArray, cursor: Cursor, queues: IntArray, ranks: Ranks
) -> int:
    """Hold all prefill back until every rank has some, and it fills a step."""
    c = cursor[0]
    must = ranks.ready == 0 or ranks.decoding == 0 or ranks.low > 0 or ranks.high > 0
    must = must or c.held >= c.longest_hold or (c.prefilling > 0 and c.held >= c.partial_hold)
    if must or (ranks.ready == ranks.alive and filled(workers, book, cursor, queues, ranks.alive)):
        c.held, c.stalled, c.pending = 0, 0, 0
        return RELEASED
    c.held += 1
    return HELD


@kernel
def by_trtllm(cursor: Cursor, ranks: Ranks) -> int:
    """Hold all prefill back until every rank has some, and then for some steps more."""
    c = cursor[0]
    everybody_decodes = ranks.decoding == ranks.alive
    if ranks.ready == ranks.alive:
        c.held = 0
        if not everybody_decodes:
            return RELEASED
        c.stalled = c.stalled + 1 if c.stalled < c.batching_wait else 0
        return HELD if c.stalled > 0 else RELEASED
    c.held += 1
    if everybody_decodes and c.held < c.longest_hold:
        return HELD
    c.held = 0
    return RELEASED


@kernel
def release(workers: IntArray, book: IntArray, cursor: Cursor, queues: IntArray) -> int:
    """Let the ranks agree on what may be prefilled: RELEASED, UNDER_WAY or HELD."""
    ranks = gather(workers, cursor, queues)
    if cursor[0].delayer == BY_SGLANG:
        return by_sglang(cursor, ranks)
    if cursor[0].delayer == BY_ATOM:
        return by_atom(workers, book, cursor, queues, ranks)
    return by_trtllm(cursor, ranks)


@kernel
def note_attempt(workers: IntArray, cursor: Cursor, queues: IntArray, g: int, prompts: int) -> None:
    """Remember how many prompts worker g has computed or, held back, could have begun."""
    c = cursor[0]
    if queues[D_READY, g] == 0:
        return
    if prompts == 0:
        slots = workers[W_SLOTS, g] - workers[W_ACTIVE, g]
        prompts = min(workers[W_QUEUED, g], slots)
    queues[D_RECENT + queues[D_AT, g], g] = prompts
    queues[D_AT, g] = (queues[D_AT, g] + 1) % c.attempts
