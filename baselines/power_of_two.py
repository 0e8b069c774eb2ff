"""The power of two choices: the better of two random workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from baselines._kernels import (
    FloatArray,
    IntArray,
    assignable,
    charge,
    nth_open,
    open_workers,
    score_of,
    weights_of,
)
from brsolver._jit import kernel
from brsolver.policy import BasePolicy

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Decision, Waiting


class PowerOfTwo(BasePolicy):
    """The worker with fewer requests of two drawn at random, running and queued together.

    Both are drawn from the workers with room for the request, without replacement; the first
    drawn wins ties, so that ties are broken at random.

    Parameters
    ----------
    rng : numpy.random.Generator, optional
        Source of randomness; by default one seeded with 0.
    """

    source = "Mitzenmacher, The power of two choices, IEEE TPDS 12 (2001)"
    _weights: ClassVar[IntArray] = weights_of(running=1, queued=1)

    def __init__(self, *, rng: np.random.Generator | None = None) -> None:
        self._rng = np.random.default_rng(0) if rng is None else rng

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place waiting requests, first come first served."""
        draws = self._rng.random((assignable(cluster.table, len(waiting)), 2))
        return _place(
            cluster.table, waiting.prompt_tokens, draws, self._weights, cluster.request_tokens
        )


class PowerOfTwoLoad(PowerOfTwo):
    """The worker with less load of two drawn at random; otherwise as `PowerOfTwo`."""

    _weights: ClassVar[IntArray] = weights_of(load=1)


@kernel
def _better(table: IntArray, tokens: int, count: int, draws: FloatArray, weights: IntArray) -> int:
    rank = int(draws[0] * count)
    first = nth_open(table, tokens, rank)
    if count == 1:
        return first
    other = int(draws[1] * (count - 1))
    second = nth_open(table, tokens, other + (other >= rank))
    worse = score_of(table, weights, second) < score_of(table, weights, first)
    return second if worse else first


@kernel
def _place(
    table: IntArray,
    tokens: IntArray,
    draws: FloatArray,
    weights: IntArray,
    request_tokens: int,
) -> IntArray:
    table = table.copy()
    pairs = np.empty((draws.shape[0], 2), np.int64)
    for i in range(draws.shape[0]):
        count = open_workers(table, tokens[i])
        if count == 0:
            return pairs[:i]
        g = _better(table, tokens[i], count, draws[i], weights)
        charge(table, g, tokens[i], 1, request_tokens)
        pairs[i, 0] = i
        pairs[i, 1] = g
    return pairs
