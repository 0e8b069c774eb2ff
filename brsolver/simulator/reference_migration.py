"""Moves of running requests in plain Python: which one, from where, where to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.simulator.migration import Migration
    from brsolver.simulator.reference_books import Request, Worker


@dataclass(frozen=True)
class Mover:
    """Says who is to move.

    Attributes
    ----------
    params : Migration
    request_tokens : int
        KV tokens that every request weighs besides those it holds.
    """

    params: Migration
    request_tokens: int

    def transfer_s(self, request: Request) -> float:
        """Return how long its KV tokens are under way."""
        return self.params.setup_s + request.kv_tokens * self.params.token_s

    def choose(
        self, workers: Sequence[Worker], step_s: float
    ) -> tuple[Request, Worker, Worker] | None:
        """Return the request whose move lowers the larger load most, and between which workers."""
        alive = [w for w in workers if w.alive]
        targets = [w for w in alive if len(w.running) + len(w.coming) < w.slots]
        if not targets:
            return None
        source = max(alive, key=self._running_load)
        target = min(targets, key=self._load)
        gains = [self._gain(r, source, target, step_s) for r in source.running]
        if source is target or max(gains, default=0) <= 0:
            return None
        return source.running[gains.index(max(gains))], source, target

    def _gain(self, request: Request, source: Worker, target: Worker, step_s: float) -> int:
        """Return by how much the larger load falls, as of the end of the transfer."""
        if request.generated == 0 or not self._fits(request, source, target):
            return 0
        steps = math.ceil(min(self.transfer_s(request) / step_s, 1e9)) if step_s > 0 else 0
        weight = request.kv_tokens + self.request_tokens
        kept = self._running_load(source) + steps * (len(source.running) - 1)
        with_it = self._load(target) + weight + steps * len(target.running)
        return kept - max(kept - weight, with_it)

    @staticmethod
    def _fits(request: Request, source: Worker, target: Worker) -> bool:
        reserve = len(target.running) + len(target.coming) + 1
        fitting = target.committed + request.kv_tokens + reserve <= target.capacity
        return fitting and target.capacity >= source.capacity

    def _running_load(self, worker: Worker) -> int:
        return worker.load + self.request_tokens * len(worker.running)

    def _load(self, worker: Worker) -> int:
        return worker.committed + self.request_tokens * (len(worker.running) + len(worker.coming))
