"""First come first served, filling one worker after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from baselines._kernels import IntArray, fits, place_lowest, place_next, weights_of
from brsolver._jit import kernel
from brsolver.cluster.view import QUEUED, RUNNING, SLOTS
from brsolver.policy import BasePolicy

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Decision, Waiting

_WEIGHTS = weights_of(running=1, queued=1)


class FCFS(BasePolicy):
    """Worker 0's free slots first, then worker 1's, and so on.

    In immediate routing a request goes to the first worker with a free slot; if there is none,
    to the one with the fewest requests, running and queued together, lowest index on ties.
    """

    source = "Chen et al., arXiv:2601.17855, reference simulator"

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place waiting requests, first come first served."""
        tokens = waiting.prompt_tokens
        if not cluster.immediate:
            return place_next(cluster.table, tokens, 0, False)
        free = _first_free(cluster.table, tokens)
        return free if len(free) else place_lowest(cluster.table, tokens, _WEIGHTS, 1, 0, 0, 0)


@kernel
def _first_free(table: IntArray, tokens: IntArray) -> IntArray:
    for g in range(table.shape[1]):
        free = table[SLOTS, g] - table[RUNNING, g] - table[QUEUED, g]
        if free > 0 and fits(table, g, tokens[0]):
            return np.array([[0, g]], np.int64)
    return np.empty((0, 2), np.int64)
