"""The ``total_tokens`` rule of SGLang's data-parallel controller."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from baselines._kernels import place_lowest, weights_of
from brsolver.policy import BasePolicy

if TYPE_CHECKING:
    from baselines._kernels import IntArray
    from brsolver.cluster.view import ClusterView, Decision, Waiting

_TOKEN = 1 << 20


class SGLangTotalTokens(BasePolicy):
    """Fewest total tokens first, then fewest requests, then lowest index.

    Total tokens are those of running and queued requests; what a request weighs besides does not
    count. As SGLang's `DPBudget.dispatch` does between load reports, every placement adds the
    request's tokens and 1 to its worker.
    """

    source = "SGLang, sglang/srt/managers/data_parallel_controller.py, total_tokens"

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place waiting requests, first come first served."""
        each = cluster.request_tokens
        return place_lowest(cluster.table, waiting.prompt_tokens, _weights(each), 1, 0, 0, each)


@cache
def _weights(request_tokens: int) -> IntArray:
    # A request counts less than any token, so that counts only decide between equal token sums
    # (exact below 2^20 requests and 2^43 tokens per worker); loads have its weight in them.
    request = 1 - _TOKEN * request_tokens
    return weights_of(load=_TOKEN, running=request, queued=request)
