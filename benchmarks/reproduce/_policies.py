"""Rules that were measured by others and that nobody should use, to show what they do."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from brsolver import BasePolicy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from brsolver.cluster.view import ClusterView, Decision, Waiting


class FirstOfEqual(BasePolicy):
    """BR-0 of one request without its tie-break: the first of the workers whose F is largest.

    [DPR] reports that this sent 43 % of the requests to worker 0.
    """

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place the first waiting request by ``F_g = s - G·(s - m_g)_+``."""
        prompt = int(waiting.prompt_tokens[0])
        load = np.asarray(cluster.load)
        over = np.maximum(prompt - (load.max() - load), 0)
        return [(0, int(np.argmax(prompt - cluster.workers * over)))]


FIRST_OF_EQUAL = "br-0 without its tie-break"
POLICIES: Mapping[str, type[BasePolicy]] = MappingProxyType({FIRST_OF_EQUAL: FirstOfEqual})
"""By what studies call them."""
