"""Prefix affinity alone: where most of the prompt is cached."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from baselines._prefixes import first_and_cached, place_most_cached
from brsolver.policy import BasePolicy

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Decision, Waiting


class PrefixAffinity(BasePolicy):
    """Most tokens of the prompt in the worker's prefix cache first, then least load.

    Load decides between equal hits only, so that whoever has a popular prefix gets all of its
    requests while there is room.
    """

    asks_cached = True
    source = "llm-d, prefix-cache-scorer alone under max-score-picker"

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place waiting requests, first come first served."""
        tokens, cached = first_and_cached(cluster, waiting)
        return place_most_cached(cluster.table, tokens, cached, np.inf, cluster.request_tokens)
