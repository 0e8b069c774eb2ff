"""Join the shortest queue, by number of requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from baselines._kernels import place_lowest, weights_of
from brsolver.policy import BasePolicy

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Decision, Waiting

_WEIGHTS = weights_of(running=1, queued=1)


class JSQ(BasePolicy):
    """Fewest requests first, running and queued together, lowest index on ties."""

    source = "Winston, Optimality of the shortest line discipline, J. Appl. Probab. 14 (1977)"

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place waiting requests, first come first served."""
        return place_lowest(cluster.table, waiting.prompt_tokens, _WEIGHTS, 1, 0, 0, 0)
