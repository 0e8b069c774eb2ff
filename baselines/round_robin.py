"""Round-robin over the workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from baselines._kernels import place_next
from brsolver.policy import BasePolicy

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Decision, Waiting


class RoundRobin(BasePolicy):
    """Each request to the next worker in turn, skipping those without room.

    In pooled routing every decision starts again at worker 0, as the reference simulator of
    [BFIO] does. In immediate routing a decision holds one request, so there the turn goes on
    from decision to decision.
    """

    source = "Chen et al., arXiv:2601.17855, reference simulator"

    def __init__(self) -> None:
        self._next = 0

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place waiting requests, first come first served."""
        start = self._next if cluster.immediate else 0
        pairs = place_next(cluster.table, waiting.prompt_tokens, start, True)
        if len(pairs):
            self._next = int(pairs[-1, 1]) + 1
        return pairs
