"""Kernels of the ranks' prefix caches: which blocks of prompts each has, and which it gives up.

A block is there from when it is computed. While requests use it, it stays; then it is kept, the
last block of a prompt as the oldest, until requests that run need its tokens. Tokens of a block
that several requests use count once. `brsolver.simulator.reference_prefix` says it in plain
Python; docs/prefix.md says what is left out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.cluster._state_kernels import NONE, W_BACKLOG, W_CAPACITY, W_LOAD
from brsolver.simulator._layout import (
    B_BLOCKS,
    B_CACHED,
    B_CHAIN,
    B_COMPUTED,
    B_FINISHED,
    B_FOUND,
    B_GENERATED,
    B_PROMPT,
    B_START_STEP,
    B_WORKER,
    C_IDLE,
    C_NEWEST,
    C_OLDEST,
    C_SHARED,
    NEWER,
    OLDER,
    P_TOKENS,
    USERS,
    Cursor,
)

IntArray = NDArray[np.int64]
Links = NDArray[np.int32]


class Caches(NamedTuple):
    """The caches of all ranks.

    Kernels take None where there are none: they are compiled for it, and cost nothing then.

    Attributes
    ----------
    chains : ndarray of int64
        Full blocks of all prompts one after the other, numbered from 0.
    links : ndarray of int32, shape (G, blocks, LINK_FIELDS)
        Who uses which block where.
    """

    chains: IntArray
    links: Links


ABSENT, UNUSED = 0, 1


@kernel
def unlink(queues: IntArray, links: Links, b: int, g: int) -> None:
    """Take block b of rank g out of those that nobody uses."""
    older, newer = links[g, b, OLDER], links[g, b, NEWER]
    if older == NONE:
        queues[C_OLDEST, g] = newer
    else:
        links[g, older, NEWER] = newer
    if newer == NONE:
        queues[C_NEWEST, g] = older
    else:
        links[g, newer, OLDER] = older
    queues[C_IDLE, g] -= 1


@kernel
def use(queues: IntArray, caches: Caches, first: int, end: int, g: int) -> None:
    """Let a request of rank g use a piece of its chain, which is there from now on."""
    chains, links = caches.chains, caches.links
    shared = 0
    for j in range(first, end):
        b = chains[j]
        users = links[g, b, USERS]
        if users == ABSENT:
            users = UNUSED
        elif users == UNUSED:
            unlink(queues, links, b, g)
        else:
            shared += 1
        links[g, b, USERS] = users + 1
    queues[C_SHARED, g] += shared


@kernel
def use_no_more(queues: IntArray, caches: Caches, first: int, end: int, g: int) -> None:
    """Let a request of rank g use a piece of its chain no more; its last block gets the oldest."""
    chains, links = caches.chains, caches.links
    newest, shared, unused = queues[C_NEWEST, g], 0, 0
    for j in range(end - 1, first - 1, -1):
        b = chains[j]
        users = links[g, b, USERS] - 1
        links[g, b, USERS] = users
        if users > UNUSED:
            shared += 1
            continue
        links[g, b, OLDER], links[g, b, NEWER] = newest, NONE
        if newest == NONE:
            queues[C_OLDEST, g] = b
        else:
            links[g, newest, NEWER] = b
        newest = b
        unused += 1
    queues[C_NEWEST, g] = newest
    queues[C_SHARED, g] -= shared
    queues[C_IDLE, g] += unused


@kernel
def blocks_found(book: IntArray, caches: Caches, block: int, i: int, g: int, tokens: int) -> int:
    """Return how many blocks from the start of prompt i are at rank g, but for its last token."""
    chains, links = caches.chains, caches.links
    first, most = book[B_CHAIN, i], min(book[B_BLOCKS, i], (tokens - 1) // block)
    found = 0
    while found < most and links[g, chains[first + found], USERS] != ABSENT:
        found += 1
    return found


@kernel
def evict(workers: IntArray, queues: IntArray, links: Links, cursor: Cursor, g: int) -> None:
    """Give up the oldest blocks that nobody uses at rank g, until the rest has room."""
    c = cursor[0]
    limit = min(c.cache, workers[W_CAPACITY, g])
    used = workers[W_LOAD, g] + queues[P_TOKENS, g] - queues[C_SHARED, g] * c.block
    idle, oldest = queues[C_IDLE, g], queues[C_OLDEST, g]
    if idle == 0 or used + idle * c.block <= limit:
        return
    while idle > 0 and used + idle * c.block > limit:
        links[g, oldest, USERS] = ABSENT
        oldest = links[g, oldest, NEWER]
        idle -= 1
    if oldest == NONE:
        queues[C_NEWEST, g] = NONE
    else:
        links[g, oldest, OLDER] = NONE
    queues[C_IDLE, g], queues[C_OLDEST, g] = idle, oldest


@kernel
def take_up(
    workers: IntArray,
    book: IntArray,
    caches: Caches | None,
    cursor: Cursor,
    queues: IntArray,
    i: int,
    g: int,
) -> None:
    """Let request i, to which rank g gives a slot, have what is there of its prompt."""
    if caches is None:
        return
    c, first = cursor[0], book[B_CHAIN, i]
    tokens = book[B_PROMPT, i] + book[B_GENERATED, i]
    found = blocks_found(book, caches, c.block, i, g, tokens)
    use(queues, caches, first, first + found, g)
    book[B_CACHED, i] = found * c.block
    workers[W_BACKLOG, g] -= book[B_CACHED, i] - book[B_COMPUTED, i]
    book[B_COMPUTED, i] = book[B_CACHED, i]
    if book[B_START_STEP, i] < 0:
        book[B_FOUND, i] = found * c.block
    evict(workers, queues, caches.links, cursor, g)


@kernel
def keep(
    book: IntArray,
    caches: Caches | None,
    cursor: Cursor,
    queues: IntArray,
    i: int,
    g: int,
    before: int,
) -> None:
    """Keep the blocks of prompt i that rank g has completed since it had computed `before`."""
    if caches is None:
        return
    block, first = cursor[0].block, book[B_CHAIN, i]
    end = first + min(book[B_COMPUTED, i] // block, book[B_BLOCKS, i])
    use(queues, caches, first + before // block, end, g)


@kernel
def let_go(
    book: IntArray, caches: Caches | None, cursor: Cursor, queues: IntArray, i: int, g: int
) -> None:
    """Let request i, which leaves rank g, use its blocks no more; what it finds next, who knows."""
    if caches is None:
        return
    first = book[B_CHAIN, i]
    used = min(book[B_COMPUTED, i] // cursor[0].block, book[B_BLOCKS, i])
    use_no_more(queues, caches, first, first + used, g)
    book[B_CACHED, i] = 0


@kernel
def let_finished_go(
    book: IntArray, caches: Caches | None, cursor: Cursor, queues: IntArray, before: int
) -> None:
    """Let go of those that have finished in this step, `before` having before it.

    In order of admission: the calendar, unlike a step apart, lists the latest first.
    """
    if caches is None:
        return
    c = cursor[0]
    for j in range(before, c.finished):
        at = j if c.apart else before + c.finished - 1 - j
        i = book[B_FINISHED, at]
        let_go(book, caches, cursor, queues, i, book[B_WORKER, i])


@kernel
def make_room(workers: IntArray, queues: IntArray, caches: Caches | None, cursor: Cursor) -> None:
    """Give up blocks on every rank for what has grown there."""
    if caches is None:
        return
    for g in range(workers.shape[1]):
        evict(workers, queues, caches.links, cursor, g)


@kernel
def forget(queues: IntArray, links: Links, g: int) -> None:
    """Empty the cache of rank g, whose requests are gone."""
    for b in range(links.shape[1]):
        links[g, b, USERS] = ABSENT
    queues[C_OLDEST, g], queues[C_NEWEST, g] = NONE, NONE
    queues[C_IDLE, g], queues[C_SHARED, g] = 0, 0


@kernel
def look_up(
    book: IntArray,
    caches: Caches,
    block: int,
    requests: IntArray,
    tokens: IntArray,
    found: IntArray,
) -> None:
    """Write how many tokens of each request's prompt are in each rank's cache.

    Parameters
    ----------
    requests, tokens : ndarray of int64, shape (n,)
        Identities, of which unknown ones have nothing cached, and KV tokens that each brings.
    found : ndarray of int64, shape (n, G)
        Written.
    """
    for j in range(requests.shape[0]):
        i = requests[j]
        known = 0 <= i < book.shape[1]
        for g in range(found.shape[1]):
            blocks = blocks_found(book, caches, block, i, g, tokens[j]) if known else 0
            found[j, g] = blocks * block
