"""JSQ-Load: the worker with the fewest KV tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from baselines._kernels import place_lowest, weights_of
from brsolver.policy import BasePolicy

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Decision, Waiting

_WEIGHTS = weights_of(load=1)


class JSQLoad(BasePolicy):
    """Least load first, lowest index on ties: fewest KV tokens, unless requests weigh as well.

    Requests are taken in queue order; each goes to ``argmin_g L_g`` among the workers that have
    room for it, `L_g` counting what this decision has already placed. The reference simulator
    of [BFIO] calls this rule JSQ.
    """

    source = "DP-BalanceRouter, The EP Barrier Tax (2026)"

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place waiting requests, first come first served."""
        return place_lowest(
            cluster.table, waiting.prompt_tokens, _WEIGHTS, 1, 0, 0, cluster.request_tokens
        )
