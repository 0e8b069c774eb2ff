"""Uniformly random routing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from baselines._kernels import (
    FloatArray,
    IntArray,
    assignable,
    charge,
    nth_open,
    open_workers,
)
from brsolver._jit import kernel
from brsolver.policy import BasePolicy

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Decision, Waiting


class RandomChoice(BasePolicy):
    """Each request to a worker drawn uniformly from those with room for it.

    Parameters
    ----------
    rng : numpy.random.Generator, optional
        Source of randomness; by default one seeded with 0.
    """

    source = "Bu et al., arXiv:2605.06113, baseline Random"

    def __init__(self, *, rng: np.random.Generator | None = None) -> None:
        self._rng = np.random.default_rng(0) if rng is None else rng

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place waiting requests, first come first served."""
        draws = self._rng.random(assignable(cluster.table, len(waiting)))
        return _place(cluster.table, waiting.prompt_tokens, draws)


@kernel
def _place(table: IntArray, tokens: IntArray, draws: FloatArray) -> IntArray:
    table = table.copy()
    pairs = np.empty((draws.shape[0], 2), np.int64)
    for i in range(draws.shape[0]):
        count = open_workers(table, tokens[i])
        if count == 0:
            return pairs[:i]
        g = nth_open(table, tokens[i], int(draws[i] * count))
        charge(table, g, tokens[i], 1, 0)
        pairs[i, 0] = i
        pairs[i, 1] = g
    return pairs
