"""Workers that came back since the last report, for routers that go by who is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brsolver.cluster.view import ROOM, SLOTS

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, IntArray


def with_returned(cluster: ClusterView) -> ClusterView:
    """Return a view in which every worker has at least the slots that it has room for.

    By old information a worker that has come back since is still gone. Its room is no news: whoever
    routes hands it out.
    """
    table = cluster.table
    if (table[ROOM] <= table[SLOTS]).all():
        return cluster
    known = table.copy()
    np.maximum(table[SLOTS], table[ROOM], out=known[SLOTS])

    def projection(horizon: int, growth: bool, survival: bool) -> IntArray:
        return cluster.projection(horizon, growth=growth, survival=survival)

    return cluster.seen_as(known, projection=projection, active=cluster.active)
