"""BF-IO(H): fill every slot so that the imbalance of the next H steps is least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from brsolver.policy import BasePolicy
from brsolver.routers._br_kernels import route_immediate, route_pooled
from brsolver.routers._subset_kernels import EXACTLY_K
from brsolver.routers.balance import discounts
from brsolver.routers.params import check_stages, check_weights

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, IntArray, Waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class BFIOParams:
    """Parameters of BF-IO.

    Attributes
    ----------
    horizon : int
        Steps H that the imbalance is summed over; 0 looks at current loads only.
    s_greedy : int
        Free slots, over all workers, above which requests are placed one by one.
    window : int
        Waiting requests, first come first, among which sets are chosen.
    alpha, beta, gamma : float
        Weights of the F-score in the stage that places one by one.
    """

    horizon: int = 20
    s_greedy: int = 7
    window: int = 1024
    alpha: float = 1.0
    beta: float = 43.0
    gamma: float = 0.86

    def __post_init__(self) -> None:
        check_stages(self.s_greedy, self.window)
        check_weights(self.alpha, self.beta, self.gamma, self.horizon)


class BFIO(BasePolicy):
    """Imbalance over the next H steps, every slot filled, solved by two-stage heuristics.

    As the public code of [BFIO] does it: while slots are plentiful, the F-score of [BR] over a
    hard-end projection without growth; when they are scarce, for each worker the set of exactly
    as many requests as it has free slots with the largest sum within ``floor(min_h m_{g,h})``,
    found among all reachable sums, or else the smallest sum beyond.
    """

    __slots__ = ("_discounts", "_sum", "horizon", "params")

    Params: ClassVar[type] = BFIOParams
    source = "[BFIO] arXiv:2601.17855"

    def __init__(self, params: BFIOParams | None = None) -> None:
        self.params: BFIOParams = params or BFIOParams()
        self.horizon = self.params.horizon
        self._discounts = discounts(self.params.gamma, self.horizon)
        self._sum = self.params.alpha * float(self._discounts.sum())

    def route(self, cluster: ClusterView, waiting: Waiting) -> IntArray:
        """Choose sets for all workers with free slots; see `brsolver.Policy`."""
        weights = self._sum, 0.0, float(self.params.beta)
        projected, each = cluster.projection(self.horizon), cluster.request_tokens
        if cluster.immediate:
            tokens = waiting.prompt_tokens[0]
            return route_immediate(
                cluster.table, projected, tokens, self._discounts, *weights, 0, each
            )
        return route_pooled(
            cluster.table,
            projected,
            waiting.prompt_tokens,
            self._discounts,
            *weights,
            self.params.s_greedy,
            self.params.window,
            0,
            EXACTLY_K,
            waiting.since,
            -1,
            each,
        )
