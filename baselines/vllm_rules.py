"""The rules of vLLM's internal data-parallel load balancer, before and after its rework.

Both follow ``DPLBAsyncMPClient.get_core_engine_for_request`` (vllm/v1/engine/core_client.py).
There every front end keeps each engine's counts as last reported and adds the number of front
ends to the engine's waiting count with each request it sends: the others are assumed to send as
many. Here the view is the report, and that correction lasts for one decision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from baselines._kernels import (
    FloatArray,
    IntArray,
    assignable,
    charge,
    fits,
    place_lowest,
    weights_of,
)
from brsolver._jit import kernel
from brsolver.cluster.view import CAPACITY, LOAD, NO_LIMIT, QUEUED, RUNNING
from brsolver.policy import BasePolicy

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Decision, Waiting

_WEIGHTS = weights_of(running=1, queued=4)


class VLLM020(BasePolicy):
    """vLLM's default up to 0.20: least ``4·waiting + running`` first.

    The scan starts at worker 0, as that of the first of the front ends does, and the first
    worker of least score wins. A placement adds `ClusterView.clients` to the worker's waiting
    count for the rest of the decision.
    """

    source = "vLLM 0.20, vllm/v1/engine/core_client.py"

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place waiting requests, first come first served."""
        tokens = waiting.prompt_tokens
        return place_lowest(cluster.table, tokens, _WEIGHTS, cluster.clients, 0, 0, 0)


class VLLM032(BasePolicy):
    """vLLM's default in 0.32: requests, plus a penalty on queues at workers short of KV cache.

    The score is ``max(clients·inflight, waiting + running) + waiting·6·max(0, kv_usage - 0.5)``.
    A front end's own requests in flight at a worker are taken to be its equal share of those
    running and queued there and, each, 1 for those placed in this decision; both arguments of
    the maximum are then ``waiting + running``, `waiting` growing by `ClusterView.clients` with
    each placement. `kv_usage` is load over KV capacity, at most 1, and 0 where the capacity is
    not known; placements leave it as it was reported. The scan starts one worker further on
    with every request placed, and the first worker of least score wins.
    """

    source = "vLLM 0.32, vllm/v1/engine/core_client.py (pull request 49204)"

    def __init__(self) -> None:
        self._start = 0

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place waiting requests, first come first served."""
        tokens, each = waiting.prompt_tokens, cluster.request_tokens
        pairs = _place(cluster.table, tokens, each, cluster.clients, self._start)
        self._start = (self._start + len(pairs)) % cluster.workers
        return pairs


@kernel
def _kv_pressure(table: IntArray, request_tokens: int) -> FloatArray:
    pressure = np.zeros(table.shape[1])
    for g in range(table.shape[1]):
        if 0 < table[CAPACITY, g] < NO_LIMIT:
            # Memory holds KV tokens, whatever a request weighs besides.
            held = table[LOAD, g] - request_tokens * (table[RUNNING, g] + table[QUEUED, g])
            usage = min(1.0, held / table[CAPACITY, g])
            pressure[g] = 6.0 * max(0.0, usage - 0.5)
    return pressure


@kernel
def _best(table: IntArray, pressure: FloatArray, tokens: int, start: int) -> int:
    workers = table.shape[1]
    best, least = -1, np.inf
    for offset in range(workers):
        g = (start + offset) % workers
        queued = table[QUEUED, g]
        score = queued + table[RUNNING, g] + queued * pressure[g]
        if score < least and fits(table, g, tokens):
            best, least = g, score
    return best


@kernel
def _place(
    table: IntArray, tokens: IntArray, request_tokens: int, clients: int, start: int
) -> IntArray:
    table = table.copy()
    pressure = _kv_pressure(table, request_tokens)
    pairs = np.empty((assignable(table, tokens.shape[0]), 2), np.int64)
    for i in range(pairs.shape[0]):
        g = _best(table, pressure, tokens[i], start + i)
        if g < 0:
            return pairs[:i]
        charge(table, g, tokens[i], clients, 0)
        pairs[i, 0] = i
        pairs[i, 1] = g
    return pairs
