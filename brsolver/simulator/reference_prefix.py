"""Prefix caches of ranks in plain Python.

A rank's cache is a count of users per block, and a list of blocks without users by age. Tests
hold the kernels to it; it is the place to read what a cache keeps, and for how long.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.simulator.reference_colocated import ColocatedReference, Rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.cluster.view import IntArray, Waiting
    from brsolver.simulator.components import WorkerEvent
    from brsolver.simulator.reference import Request, Worker


@dataclass
class Cache:
    """The blocks that one rank has.

    Attributes
    ----------
    block : int
        Tokens of a block.
    users : Counter
        Requests that use each block.
    unused : list of int
        Blocks that nobody uses, the oldest first.
    of : dict
        Blocks that each request uses, from the start of its prompt.
    """

    block: int
    users: Counter[int] = field(default_factory=Counter)
    unused: list[int] = field(default_factory=list)
    of: dict[int, list[int]] = field(default_factory=dict)

    def found(self, chain: Sequence[int], tokens: int) -> list[int]:
        """Return the longest prefix of a chain that is there, but for the last of the tokens."""
        there = []
        for b in chain[: (tokens - 1) // self.block]:
            if not self.users[b] and b not in self.unused:
                break
            there.append(b)
        return there

    def use(self, request: int, b: int) -> None:
        """Let a request use a block, which is there from now on."""
        self.of.setdefault(request, []).append(b)
        self.users[b] += 1
        if b in self.unused:
            self.unused.remove(b)

    def let_go(self, request: int) -> None:
        """Let a request use nothing any more; its last block gets older than its first."""
        for b in reversed(self.of.pop(request, [])):
            self.users[b] -= 1
            if not self.users[b]:
                self.unused.append(b)

    def tokens(self, held: int) -> int:
        """Return the KV tokens of a rank whose requests hold so many, shared ones counted once."""
        counts = [count for count in self.users.values() if count]
        return held + self.block * (len(self.unused) - sum(counts) + len(counts))

    def evict(self, held: int, limit: int) -> None:
        """Give up what has gone unused for longest until the rest fits, or nothing is left."""
        while self.unused and self.tokens(held) > limit:
            self.unused.pop(0)


class PrefixReference(ColocatedReference):
    """Replays requests step by step, prefill on decode ranks that keep blocks of prompts.

    Parameters
    ----------
    chains : sequence of sequence of int
        Full blocks of every request's prompt, by its index.
    **regime
        As of `ColocatedReference`; its `prefill` says how large caches and blocks are.

    Attributes
    ----------
    caches : list of Cache
        By rank.
    found : dict
        Tokens that each request found when it first got a slot.
    """

    def __init__(self, *parts: Any, chains: Sequence[Sequence[int]], **regime: Any) -> None:
        super().__init__(*parts, **regime)
        self.chains = chains
        self.caches = [Cache(self.prefill.block) for _ in self.workers]
        self.found: dict[int, int] = {}
        self.cached = self._look_up

    def _look_up(self, waiting: Waiting) -> IntArray:
        asked = list(zip(waiting.request.tolist(), waiting.prompt_tokens.tolist(), strict=True))
        blocks = [[len(c.found(self.chains[i], s)) for c in self.caches] for i, s in asked]
        return np.array(blocks, np.int64).reshape(len(asked), -1) * self.prefill.block

    def _begin(self, request: Request, rank: Rank) -> None:
        cache = self._cache_of(rank)
        there = cache.found(self.chains[request.index], request.kv_tokens)
        for b in there:
            cache.use(request.index, b)
        request.cached = len(there) * cache.block
        self.found.setdefault(request.index, request.cached)
        super()._begin(request, rank)
        self._make_room(rank)

    def _computed(self, request: Request, rank: Rank) -> None:
        cache = self._cache_of(rank)
        done = len(cache.of.get(request.index, []))
        for b in self.chains[request.index][done : request.computed // cache.block]:
            cache.use(request.index, b)

    def _depart(self, rank: Rank) -> None:
        for request in rank.running:
            if request.generated == request.output:
                self._cache_of(rank).let_go(request.index)
        super()._depart(rank)

    def _preempt(self, worker: Worker) -> None:
        assert isinstance(worker, Rank)  # noqa: S101 # every one of them
        before = worker.running + worker.prompts
        super()._preempt(worker)
        kept = worker.running + worker.prompts
        for request in reversed(before):
            if request not in kept:
                self._cache_of(worker).let_go(request.index)
                self._knows_nothing(request)
        self._make_room(worker)

    def _fire(self, event: WorkerEvent) -> None:
        rank = self.workers[event.worker]
        lost = rank.running + rank.prompts if event.kind == "fail" else []
        super()._fire(event)
        self.caches[event.worker] = Cache(self.prefill.block)
        for request in lost:
            self._knows_nothing(request)

    @staticmethod
    def _knows_nothing(request: Request) -> None:
        """Count all of a prompt as uncomputed until its request begins again, if it does."""
        if not request.rejected:
            request.cached = request.computed = 0

    def _make_room(self, rank: Rank) -> None:
        self._cache_of(rank).evict(rank.held, min(self.prefill.cache, rank.capacity))

    def _cache_of(self, rank: Rank) -> Cache:
        return next(c for r, c in zip(self.workers, self.caches, strict=True) if r is rank)
