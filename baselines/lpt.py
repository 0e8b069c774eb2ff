"""Longest processing time first, with prompt tokens for processing time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from baselines._kernels import place_lowest, weights_of
from brsolver.policy import BasePolicy

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Decision, Waiting

_WEIGHTS = weights_of(load=1)


class LPT(BasePolicy):
    """Largest waiting request first, each to the worker with the fewest KV tokens.

    Equally large requests keep their queue order; ties between workers go to the lowest index.
    The decision ends with the first request that fits nowhere.
    """

    source = "Graham, Bounds on multiprocessing timing anomalies, SIAM J. Appl. Math. 17 (1969)"

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place waiting requests, largest first."""
        order = np.argsort(-waiting.prompt_tokens, kind="stable")
        tokens = waiting.prompt_tokens[order]
        each = cluster.request_tokens
        pairs = place_lowest(cluster.table, tokens, _WEIGHTS, 1, 0, 0, each)
        pairs[:, 0] = order[pairs[:, 0]]
        return pairs
