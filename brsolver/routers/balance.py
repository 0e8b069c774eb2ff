"""BR-0 and BR-H, the two-stage routers of [BR] (arXiv:2605.06113)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from brsolver.cluster.view import LOAD, ClusterView, IntArray, Waiting
from brsolver.policy import BasePolicy
from brsolver.routers._br_kernels import census, route_immediate, route_pooled
from brsolver.routers._discounting import Turnover
from brsolver.routers._score_kernels import Weights
from brsolver.routers._spread_kernels import plentiful, spread
from brsolver.routers._subset_kernels import BY_SCORE
from brsolver.routers.params import BR0Params, BRHParams

FloatArray = NDArray[np.float64]

# Smaller changes of γ are not worth a new table of its powers.
_NOTICEABLE = 1e-3


def discounts(gamma: float, horizon: int) -> FloatArray:
    """Return ``d_h = γ^h`` by repeated multiplication, the same bits on any machine."""
    factors = np.full(horizon + 1, gamma)
    factors[0] = 1.0
    return np.cumprod(factors)


def overdue(cluster: ClusterView, patience: int) -> int:
    """Return the step since which a request must have waited to go first; -1 for none."""
    return cluster.step - patience if patience else -1


def spread_out(cluster: ClusterView, waiting: Waiting, patience: int) -> IntArray:
    """Place what waits by length and load alone, as is best while slots are plentiful."""
    return spread(
        cluster.table,
        waiting.prompt_tokens,
        waiting.since,
        overdue(cluster, patience),
        cluster.request_tokens,
    )


class BR0(BasePolicy):
    """Two-stage routing by the F-score of current loads.

    ``F_g(Q) = S - G·(S - m_g)_+`` with ``m_g = max_j L_j - L_g``: slope +1 while the margin is
    being filled, ``-(G - 1)`` beyond ([BR] §2). While more than `s_greedy` slots are free, the
    worker with the most of them takes the waiting request with the largest F. Otherwise each
    worker takes the best subset of the first `r_max` waiting requests, or the best single one
    if no subset has positive F, so that nobody starves. Ties go to the lowest load.

    With `guard`, pooled routing comes to the stages only where slots are scarce: while more are
    free than requests wait, the longest goes first, to the least load.
    """

    # Slots: attributes of an object that was copied once, for a warm-up, are slow to look up in a
    # dictionary, and a decision looks up many.
    __slots__ = ("_discounts", "_live", "_weights", "params")

    Params: ClassVar[type] = BR0Params
    source = "[BR] arXiv:2605.06113"

    def __init__(self, params: BR0Params | None = None) -> None:
        self.params: BR0Params = params or BR0Params()
        self._discounts = np.ones(1)
        self._live, self._weights = 0, Weights(1.0, 0.0, 0.0)

    def route(self, cluster: ClusterView, waiting: Waiting) -> IntArray:
        """Choose subsets by current loads; see `brsolver.Policy`."""
        table, p = cluster.table, self.params
        if p.guard and not cluster.immediate and plentiful(table, waiting.prompt_tokens):
            return spread_out(cluster, waiting, p.patience)
        live, _ = census(table)
        if live != self._live:
            self._live, self._weights = live, Weights(1.0, 0.0, float(live))
        projected, each = table[LOAD].reshape(-1, 1), cluster.request_tokens
        if cluster.immediate:
            tokens = waiting.prompt_tokens[0]
            return route_immediate(
                table, projected, tokens, self._discounts, *self._weights, 0, each
            )
        return route_pooled(
            table,
            projected.copy(),
            waiting.prompt_tokens,
            self._discounts,
            *self._weights,
            p.s_greedy,
            p.r_max,
            0,
            BY_SCORE,
            waiting.since,
            overdue(cluster, p.patience),
            each,
        )


class BRH(BasePolicy):
    """Two-stage routing by the F-score of loads projected over a short horizon.

    ``F_g(Q) = α·(Σ_h d_h)·S - β·Σ_h d_h·(S - m_{g,h})_+`` with ``d_h = γ^h`` and margins
    ``m_{g,h} = max_j L_{j,h} - L_{g,h}`` of loads projected from the forecast ends of running
    requests ([BR] §2). ``horizon=0, alpha=1, beta=G`` is BR-0. The stages are BR-0's.

    Where forecasts deserve less belief (``cluster.trust`` below 1), γ falls in proportion, and
    with it the steps that count; at trust 0 BR-0 decides, with its own default parameters but
    this router's `s_greedy`, `patience` and `guard`.

    Parameters
    ----------
    params : BRHParams, optional
    turnover : Turnover, optional
        What γ follows where it is ``auto``.
    """

    __slots__ = (
        "_discounting",
        "_discounts",
        "_live",
        "_steps",
        "_turnover",
        "_weights",
        "_without_forecasts",
        "horizon",
        "params",
    )

    Params: ClassVar[type] = BRHParams
    source = "[BR] arXiv:2605.06113"

    def __init__(
        self, params: BRHParams | None = None, *, turnover: Turnover | None = None
    ) -> None:
        self.params: BRHParams = params or BRHParams()
        self.horizon = self.params.horizon
        self._steps = np.arange(self.horizon + 1)
        self._without_forecasts = BR0(
            BR0Params(
                s_greedy=self.params.s_greedy,
                patience=self.params.patience,
                guard=self.params.guard,
            )
        )
        self._turnover = (turnover or Turnover()) if self.params.gamma == "auto" else None
        self._discount_by(self.gamma)

    @property
    def gamma(self) -> float:
        """The discount per step in use, before any loss of trust."""
        if self._turnover is not None:
            return self._turnover.gamma
        return float(self.params.gamma)

    def _discount_by(self, gamma: float) -> None:
        self._discounting = gamma
        self._discounts: FloatArray = discounts(gamma, self.horizon)
        alpha, beta = self.params.alpha, self.params.beta
        self._live = 0
        self._weights = Weights(
            alpha * float(self._discounts.sum()),
            alpha * float(self._discounts @ self._steps),
            0.0 if beta is None else float(beta),
        )

    def route(self, cluster: ClusterView, waiting: Waiting) -> IntArray:
        """Choose subsets by projected loads; see `brsolver.Policy`."""
        live, present = census(cluster.table)
        if self._turnover is None:
            return self._choose(cluster, waiting, live)
        self._turnover.look(cluster.step, live, present)
        chosen = self._choose(cluster, waiting, live)
        self._turnover.placed(chosen.shape[0])
        return chosen

    def _choose(self, cluster: ClusterView, waiting: Waiting, live: int) -> IntArray:
        p, table = self.params, cluster.table
        if p.guard and not cluster.immediate and plentiful(table, waiting.prompt_tokens):
            return spread_out(cluster, waiting, p.patience)
        if cluster.trust <= 0 < self.horizon:
            return self._without_forecasts.route(cluster, waiting)
        gamma = self.gamma
        if p.guard and cluster.immediate and self._turnover is not None:
            # The next arrival corrects this decision, on whichever worker: G times the chances.
            gamma **= live
        gamma *= cluster.trust
        if abs(gamma - self._discounting) > _NOTICEABLE:
            self._discount_by(gamma)
        if p.beta is None and live != self._live:
            self._live = live
            self._weights = self._weights._replace(overflow=p.alpha * live)
        projected = cluster.projection(
            self.horizon,
            growth=p.growth,
            survival=self.horizon > 0 and p.projection == "survival",
        )
        growth = int(p.growth)
        if cluster.immediate:
            tokens = waiting.prompt_tokens[0]
            return route_immediate(
                table,
                projected,
                tokens,
                self._discounts,
                *self._weights,
                growth,
                cluster.request_tokens,
            )
        return route_pooled(
            table,
            projected,
            waiting.prompt_tokens,
            self._discounts,
            *self._weights,
            p.s_greedy,
            p.r_max,
            growth,
            BY_SCORE,
            waiting.since,
            overdue(cluster, p.patience),
            cluster.request_tokens,
        )
