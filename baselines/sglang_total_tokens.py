"""The ``total_tokens`` rule of SGLang's data-parallel controller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from baselines._kernels import place_lowest, weights_of

if TYPE_CHECKING:
    from brsolver.policy import ClusterView, Decision, Waiting

# A request weighs less than any token, so that counts only decide between equal token sums
# (exact below 2^20 requests and 2^43 tokens per worker).
_WEIGHTS = weights_of(load=1 << 20, running=1, queued=1)


class SGLangTotalTokens:
    """Fewest total tokens first, then fewest requests, then lowest index.

    Total tokens are those of running and queued requests. As SGLang's `DPBudget.dispatch` does
    between load reports, every placement adds the request's tokens and 1 to its worker.
    """

    source = "SGLang, sglang/srt/managers/data_parallel_controller.py, total_tokens"

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place waiting requests, first come first served."""
        return place_lowest(cluster.table, waiting.prompt_tokens, _WEIGHTS, 1, 0, 0)
