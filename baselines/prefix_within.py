"""The best hit among the workers whose load is near the least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from baselines._prefixes import first_and_cached, place_most_cached
from brsolver.errors import ParameterError
from brsolver.policy import BasePolicy

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Decision, Waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixWithinParams:
    """Parameters of `PrefixWithin`.

    Attributes
    ----------
    share : float
        How far above the least load a worker's may lie, in mean loads of live workers, 0 to 1000.
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1000:
            raise ParameterError(f"share is {self.share}, must be from 0 to 1000")


class PrefixWithin(BasePolicy):
    """Most of the prompt cached among workers with ``L_g ≤ min L + share·mean L``, then least load.

    The least load is that of the workers with room for the request, the mean that of all live
    ones, both with what this decision has already placed. Balance comes first and affinity
    decides within what it leaves open, which no weight has to be found for.

    Parameters
    ----------
    params : PrefixWithinParams, optional
        How far loads may lie apart.
    """

    asks_cached = True
    source = "this project, docs/prefix.md"
    Params = PrefixWithinParams

    def __init__(self, params: PrefixWithinParams | None = None) -> None:
        self.params: PrefixWithinParams = params or PrefixWithinParams()

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place waiting requests, first come first served."""
        tokens, cached = first_and_cached(cluster, waiting)
        share = float(self.params.share)
        return place_most_cached(cluster.table, tokens, cached, share, cluster.request_tokens)
