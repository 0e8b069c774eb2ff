"""Loads of the steps to come, and what a token of each of them weighs, for BR-T."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.cluster.view import LOAD

if TYPE_CHECKING:
    from brsolver.cluster.costs import StepCosts
    from brsolver.cluster.view import ClusterView, IntArray
    from brsolver.routers._discounting import Turnover

FloatArray = NDArray[np.float64]


class Outlook:
    """Which loads count, by how much.

    A load that is placed stays for the τ steps until the next departure lets it be corrected.
    Without a horizon all of that is given to the load as it is now. With one it is spread over the
    steps h to come by ``e^{-h/τ}``, the chance that nothing has departed by then. Where forecasts
    deserve less belief that falls by ``trust^h`` besides, and the present counts for more.

    Parameters
    ----------
    horizon : int
        H; 0 looks at current loads only.
    """

    __slots__ = ("_steps", "horizon")

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon
        self._steps = np.arange(horizon + 1)

    def weights(self, turnover: Turnover, trust: float) -> FloatArray:
        """Return shares of the steps 0 to H, of sum 1, shape (H + 1,)."""
        kept: FloatArray = (trust * np.exp(-1.0 / turnover.steps_between)) ** self._steps
        shares: FloatArray = kept / kept.sum()
        return shares

    def seconds(
        self, cluster: ClusterView, costs: StepCosts, turnover: Turnover
    ) -> tuple[IntArray, FloatArray]:
        """Return loads, and what a prefill token and a KV token in each step cost, (H + 2,).

        Loads have shape (G, H + 1), without a horizon (G,).
        """
        found = np.empty(self.horizon + 2)
        found[0] = costs.per_prefill_token_s
        found[1] = costs.per_kv_token_s * turnover.steps_between
        if not self.horizon:
            return cluster.table[LOAD], found
        found[1:] = found[1] * self.weights(turnover, cluster.trust)
        return self._projected(cluster, growth=True), found

    def expected(self, cluster: ClusterView, turnover: Turnover) -> ClusterView:
        """Return a view whose loads are the means of those to come, growth left out.

        `BRRamp`, which decides by it, has growth in what a level costs.
        """
        loads = self._projected(cluster, growth=False) @ self.weights(turnover, cluster.trust)
        table = cluster.table.copy()
        table[LOAD] = np.rint(loads)

        def projection(horizon: int, growth: bool, survival: bool) -> IntArray:
            return cluster.projection(horizon, growth=growth, survival=survival)

        return cluster.seen_as(table, projection=projection, active=cluster.active)

    def _projected(self, cluster: ClusterView, *, growth: bool) -> IntArray:
        return cluster.projection(self.horizon, growth=growth, survival=True)
