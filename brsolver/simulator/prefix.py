"""Prefix caches of ranks: the blocks that prompts of a trace share, made ready for kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import TraceError
from brsolver.simulator import _layout as lay
from brsolver.simulator import _prefix_kernels as pk

if TYPE_CHECKING:
    from brsolver.cluster.view import Waiting
    from brsolver.simulator.prefill import Prefill
    from brsolver.traces.trace import Trace

IntArray = NDArray[np.int64]


class PrefixCaches:
    """What is in the ranks' caches, and which blocks prompts are made of.

    A rank has 12 bytes for every block that differs from all others of the trace.

    Parameters
    ----------
    trace : Trace
        With prefix-hash chains, if there is a cache.
    prefill : Prefill
        How large caches and blocks are.
    workers : int
        Ranks G.
    book : ndarray of int64, shape (BOOK_ROWS, n)
        Where each request's chain is entered.
    queues : ndarray of int64, shape (WORKER_QUEUE_ROWS, G)
        Which holds the ends of each rank's blocks by age.

    Attributes
    ----------
    caches : Caches or None
        For kernels; None without a cache.

    Raises
    ------
    TraceError
        The trace has no chains, one that is longer than its prompt has blocks, or none but
        such as are shorter than their prompts have full ones: they are of larger blocks.
    """

    def __init__(
        self, trace: Trace, prefill: Prefill, workers: int, book: IntArray, queues: IntArray
    ) -> None:
        self._block = prefill.block
        self._book, self._queues = book, queues
        self.caches: pk.Caches | None = None
        book[[lay.B_CHAIN, lay.B_BLOCKS, lay.B_FOUND]] = 0
        if prefill.colocated and prefill.cache:
            chains, offsets = block_chains(trace, prefill.block)
            book[lay.B_CHAIN], book[lay.B_BLOCKS] = offsets[:-1], np.diff(offsets)
            shape = workers, int(chains.max(initial=-1)) + 1, lay.LINK_FIELDS
            self.caches = pk.Caches(chains, np.zeros(shape, np.int32))
            # Compiled here, lest the first decision that asks waits for it.
            self._found(self.caches, np.zeros(0, np.int64), np.zeros(0, np.int64))

    def cached_tokens(self, waiting: Waiting) -> IntArray:
        """Return the tokens of waiting prompts that are in each rank's cache, shape (n, G)."""
        if self.caches is None:
            return np.zeros((len(waiting), self._queues.shape[1]), np.int64)
        return self._found(self.caches, waiting.request, waiting.prompt_tokens)

    def forget(self, worker: int, lost: IntArray) -> None:
        """Empty the cache of a worker that has lost these requests."""
        if self.caches is not None:
            pk.forget(self._queues, self.caches.links, worker)
            self._book[lay.B_CACHED, lost] = 0

    def resize(self, queues: IntArray) -> None:
        """Take in that there are more ranks, whose caches are empty."""
        self._queues = queues
        if self.caches is not None:
            more = queues.shape[1] - self.caches.links.shape[0]
            links = np.pad(self.caches.links, ((0, more), (0, 0), (0, 0)))
            self.caches = self.caches._replace(links=links)

    def _found(self, caches: pk.Caches, requests: IntArray, tokens: IntArray) -> IntArray:
        found: IntArray = np.zeros((requests.size, caches.links.shape[0]), np.int64)
        pk.look_up(self._book, caches, self._block, requests, tokens, found)
        return found


def block_chains(trace: Trace, block: int) -> tuple[IntArray, IntArray]:
    """Return the full blocks of all prompts, numbered from 0, and where each prompt's begin.

    Parameters
    ----------
    trace : Trace
        With columns ``hash_offsets`` and ``hash_values``.
    block : int
        Tokens of a block.

    Returns
    -------
    chains : ndarray of int64
    offsets : ndarray of int64, shape (n + 1,)
        Prompt i has ``chains[offsets[i]:offsets[i + 1]]``.

    Raises
    ------
    TraceError
        The trace has no chains, one that is longer than its prompt has blocks, or none but
        such as are shorter than their prompts have full ones: they are of larger blocks.
    """
    if "hash_offsets" not in trace.columns:
        raise TraceError(
            f"{trace.name} has no hash_ids, must have them for a prefix cache: they say which "
            "blocks prompts share"
        )
    offsets: Any = trace.columns["hash_offsets"].astype(np.int64)
    values: Any = trace.columns["hash_values"]
    lengths = np.diff(offsets)
    whole = -(-trace.prompt_tokens // block)
    bad = np.flatnonzero(lengths > whole)
    if bad.size:
        row = int(bad[0])
        raise TraceError(
            f"{trace.name}: row {row} has {lengths[row]} hash_ids, must have at most {whole[row]}: "
            f"its prompt of {trace.prompt_tokens[row]} tokens has no more blocks of {block}"
        )
    _require_long(trace, lengths, block)
    full = np.minimum(lengths, trace.prompt_tokens // block)
    starts = np.concatenate(([0], np.cumsum(full)))
    at = np.repeat(offsets[:-1] - starts[:-1], full) + np.arange(starts[-1])
    return np.unique(values[at], return_inverse=True)[1].astype(np.int64), starts


def _require_long(trace: Trace, lengths: IntArray, block: int) -> None:
    """Refuse chains that are all too short: a block is then larger than it is said to be."""
    full = trace.prompt_tokens // block
    there = np.flatnonzero((lengths > 0) & (full > 0))
    if there.size and np.all(lengths[there] < full[there]):
        row = int(there[0])
        raise TraceError(
            f"{trace.name}: a block of {block} tokens does not fit, must be as large as those of "
            f"its hash_ids: all prompts have fewer than full blocks, row {row} {lengths[row]} for "
            f"{trace.prompt_tokens[row]} tokens"
        )


def most_cached(trace: Trace, block: int) -> IntArray:
    """Return the most tokens of each prompt that any run can find in a cache, shape (n,).

    Those of its first blocks as long as each recurs in the trace.

    Parameters
    ----------
    trace, block
        As of `block_chains`.
    """
    chains, offsets = block_chains(trace, block)
    full = np.diff(offsets)
    once = np.flatnonzero(np.bincount(chains)[chains] == 1)
    request = np.repeat(np.arange(len(trace)), full)[once]
    found = np.minimum(full, (trace.prompt_tokens - 1) // block)
    np.minimum.at(found, request, once - offsets[request])
    return found * block
