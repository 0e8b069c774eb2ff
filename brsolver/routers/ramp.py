"""br-ramp: a router without forecasts, by what a worker grows until its next departure."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from brsolver.policy import BasePolicy
from brsolver.routers._br_kernels import census
from brsolver.routers._discounting import Turnover
from brsolver.routers._ramp_kernels import route_ramp
from brsolver.routers._returned import with_returned
from brsolver.routers.balance import overdue
from brsolver.routers.params import BRRampParams

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, IntArray, Waiting

SEEN = 5
"""Departures that must have been seen before anything is told from their rate."""
SWEEPS, EXACT_SWEEPS = 2, 3
REACH, EXACT_REACH = 64, 1 << 30
"""Placed requests that each is tried to be exchanged with: a decision fills few slots, as a rule,
and where it fills hundreds it costs their number, not its square."""
MEMORY = 0.02
"""Share of the latest decision in what filling a slot costs in the mean."""


class BRRamp(BasePolicy):
    """Slots filled to the level at which workers meet while they grow until their next departure.

    A worker that was filled grows by a token per request and step, until it loses a request with
    λ per step, its next chance to be corrected. Where it will be, over the median of all, is an
    exponential variable of scale ``a_g = n_g/λ``; a token above makes ``G - 1`` others wait, one
    below wastes itself. What a level costs is then ``ψ(z) = e^z - z - 1``, z its distance from
    the median level in scales, a line from ``z = ln G``; a decision fills all free slots at the
    least sum of ψ, less what the requests' waits are worth. Of every class of like sizes the
    first to have come is looked at, and what is placed is exchanged while that pays.

    While more slots are free than requests wait, and until five departures were seen, the longest
    goes first, to the least load; in immediate routing each arrival goes to the least load.

    Parameters
    ----------
    params : BRRampParams, optional
    exact : bool
        Look at all that wait instead, with a third sweep of exchanges: slower, about as good.
    """

    __slots__ = ("_exact", "_mean_cost", "_reach", "_sweeps", "_turnover", "params")

    Params: ClassVar[type] = BRRampParams

    def __init__(self, params: BRRampParams | None = None, *, exact: bool = False) -> None:
        self.params: BRRampParams = params or BRRampParams()
        self._turnover = Turnover(prior_steps=0.0)
        self._mean_cost = 1.0
        self._exact = exact
        self._sweeps, self._reach = (EXACT_SWEEPS, EXACT_REACH) if exact else (SWEEPS, REACH)

    def route(self, cluster: ClusterView, waiting: Waiting) -> IntArray:
        """Fill the free slots; see `brsolver.Policy`."""
        table, turnover = with_returned(cluster).table, self._turnover
        live, present = census(table)
        turnover.look(cluster.step, live, present)
        known = turnover.departures >= SEEN and not cluster.immediate
        pairs, cost = route_ramp(
            table,
            waiting.prompt_tokens,
            waiting.since,
            overdue(cluster, self.params.patience),
            cluster.step,
            live,
            turnover.rate if known else 0.0,
            self.params.theta * self._mean_cost,
            self._exact,
            self._sweeps,
            self._reach,
            cluster.request_tokens,
        )
        if cost >= 0:
            self._mean_cost += MEMORY * (cost - self._mean_cost)
        turnover.placed(pairs.shape[0])
        return pairs
