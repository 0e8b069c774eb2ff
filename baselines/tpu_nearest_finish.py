"""The rule by which vLLM's scheduler for TPUs gives requests to data-parallel ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from baselines._kernels import IntArray, assignable, charge, fits
from brsolver._jit import kernel
from brsolver.cluster.view import LOAD, QUEUED, RUNNING
from brsolver.policy import BasePolicy

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Decision, Waiting

# Rows of what the rule compares, in order.
_PENDING, _REQUESTS, _OLDEST = range(3)


class TPUNearestFinish(BasePolicy):
    """Fewest prompt tokens to compute, then fewest requests, then nearest to a request's end.

    A worker counts as the nearer to an end the more tokens a request has generated there, as it
    did in the source at first; later it went by what ``max_tokens`` leaves of it. Pending are
    the KV tokens of what queues at the worker and of prompts under way there, these in full. A
    placement adds the request's tokens and 1 to its worker. Prefix hits, which the source looks
    at first, are left out. Ties go to the lowest index.
    """

    source = "vllm-project/tpu-inference, tpu_inference/core/sched/dp_scheduler.py (2780)"

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place waiting requests, first come first served."""
        active, each = cluster.active(), cluster.request_tokens
        figures = _figures(cluster.table, active.worker, active.load, active.age, each)
        return _place(cluster.table, figures, waiting.prompt_tokens, each)


@kernel
def _figures(
    table: IntArray, worker: IntArray, load: IntArray, age: IntArray, request_tokens: int
) -> IntArray:
    """Return what is compared, per worker, least first."""
    figures = np.zeros((3, table.shape[1]), np.int64)
    for g in range(table.shape[1]):
        figures[_PENDING, g] = table[LOAD, g] - request_tokens * table[QUEUED, g]
        figures[_REQUESTS, g] = table[RUNNING, g] + table[QUEUED, g]
    for i in range(worker.shape[0]):
        g = worker[i]
        figures[_PENDING, g] -= load[i]
        figures[_OLDEST, g] = min(figures[_OLDEST, g], -age[i])
    return figures


@kernel
def _before(figures: IntArray, g: int, other: int) -> bool:
    for row in range(figures.shape[0]):
        if figures[row, g] != figures[row, other]:
            return bool(figures[row, g] < figures[row, other])
    return False


@kernel
def _place(table: IntArray, figures: IntArray, tokens: IntArray, request_tokens: int) -> IntArray:
    table = table.copy()
    pairs = np.empty((assignable(table, tokens.shape[0]), 2), np.int64)
    for i in range(pairs.shape[0]):
        best = -1
        for g in range(table.shape[1]):
            if fits(table, g, tokens[i]) and (best < 0 or _before(figures, g, best)):
                best = g
        if best < 0:
            return pairs[:i]
        charge(table, best, tokens[i], 1, request_tokens)
        figures[_PENDING, best] += tokens[i]
        figures[_REQUESTS, best] += 1
        pairs[i, 0] = i
        pairs[i, 1] = best
    return pairs
