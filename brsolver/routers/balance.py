"""BR-0 and BR-H, the two-stage routers of [BR] (arXiv:2605.06113)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import ParameterError
from brsolver.policy import LOAD, ClusterView, IntArray, Waiting
from brsolver.routers._br_kernels import census, route_immediate, route_pooled
from brsolver.routers._discounting import Turnover
from brsolver.routers._subset_kernels import BY_SCORE

FloatArray = NDArray[np.float64]

_MAX_COUNT = 2**53
# Far beyond any useful ratio, and far from where products with tokens overflow.
_MAX_WEIGHT = 1e12
# Smaller changes of γ are not worth a new table of its powers.
_NOTICEABLE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class BR0Params:
    """Parameters of BR-0.

    Attributes
    ----------
    s_greedy : int
        Free slots, over all workers, above which requests are placed one by one on the
        emptiest worker; at or below it subsets are chosen for one worker at a time.
    r_max : int
        Waiting requests, first come first, among which a subset is chosen. Up to 8 all subsets
        are enumerated, beyond that reachable sums.
    patience : int
        Decode steps after which a waiting request is placed before all others, on the worker
        where its F is largest; 0 is no limit. Bounds the wait that wide windows inflict on
        requests that never fit well.
    """

    s_greedy: int = 7
    r_max: int = 64
    patience: int = 2500

    def __post_init__(self) -> None:
        check_stages(self.s_greedy, self.r_max)
        check_patience(self.patience)


@dataclass(frozen=True, slots=True, kw_only=True)
class BRHParams:
    """Parameters of BR-H.

    Attributes
    ----------
    alpha : float
        Weight of filling margins.
    beta : float or None
        Weight of overflow; None is ``alpha·G``, with which F is the exact fall of the
        discounted imbalance of the projection.
    gamma : float or "auto"
        Discount per step, in (0, 1]. ``auto`` follows the cluster: ``γ = exp(-1.5·λ)`` with λ
        departures per worker and step, the chance that a step passes without an
        opportunity to correct this decision.
    horizon : int
        Steps H of the projection; 0 looks at current loads only.
    r_max, s_greedy, patience : int
        As in `BR0Params`.
    growth : bool
        Project a token of growth per request and step ([DPR]); [BR] leaves it out.
    projection : {"expected", "survival"}
        ``expected``: a running request counts in full up to its expected contribution ``ĉ``
        and not at all beyond ([BR]). ``survival``: at every step with the probability that it
        still runs ([DPR]), which costs a pass over the running requests per decision.
    """

    alpha: float = 1.0
    beta: float | None = None
    gamma: float | Literal["auto"] = "auto"
    horizon: int = 80
    r_max: int = 64
    s_greedy: int = 7
    patience: int = 2500
    growth: bool = False
    projection: Literal["expected", "survival"] = "survival"

    def __post_init__(self) -> None:
        check_stages(self.s_greedy, self.r_max)
        check_patience(self.patience)
        given: object = self.gamma
        if isinstance(given, str) and given != "auto":
            raise ParameterError(f"gamma is {given!r}, must be a number in (0, 1] or auto")
        gamma = 1.0 if self.gamma == "auto" else self.gamma
        check_weights(self.alpha, self.beta, gamma, self.horizon)
        if self.projection not in ("expected", "survival"):
            raise ParameterError(f"projection is {self.projection!r}, must be expected or survival")


def check_stages(s_greedy: int, r_max: int) -> None:
    """Raise `ParameterError` unless the stages' parameters make sense."""
    if not 0 <= s_greedy <= _MAX_COUNT:
        raise ParameterError(f"s_greedy is {s_greedy}, must be between 0 and 2^53 free slots")
    if not 1 <= r_max <= 32767:
        raise ParameterError(f"r_max is {r_max}, must be between 1 and 32767 requests")


def check_patience(patience: int) -> None:
    """Raise `ParameterError` unless `patience` makes sense."""
    if not 0 <= patience <= _MAX_COUNT:
        raise ParameterError(
            f"patience is {patience}, must be between 0 and 2^53 steps (0: no limit)"
        )


def check_weights(alpha: float, beta: float | None, gamma: float, horizon: int) -> None:
    """Raise `ParameterError` unless the F-score's weights make sense."""
    if not 0 < alpha <= _MAX_WEIGHT:
        raise ParameterError(f"alpha is {alpha}, must be a positive number up to {_MAX_WEIGHT:g}")
    if beta is not None and not 0 <= beta <= _MAX_WEIGHT:
        raise ParameterError(f"beta is {beta}, must be between 0 and {_MAX_WEIGHT:g}")
    if not 0 < gamma <= 1:
        raise ParameterError(f"gamma is {gamma}, must be in (0, 1]")
    if not 0 <= horizon <= 100_000:
        raise ParameterError(f"horizon is {horizon}, must be between 0 and 100000 steps")


def discounts(gamma: float, horizon: int) -> FloatArray:
    """Return ``d_h = γ^h`` by repeated multiplication, the same bits on any machine."""
    factors = np.full(horizon + 1, gamma)
    factors[0] = 1.0
    return np.cumprod(factors)


def overdue(cluster: ClusterView, patience: int) -> int:
    """Return the step since which a request must have waited to go first; -1 for none."""
    return cluster.step - patience if patience else -1


class BR0:
    """Two-stage routing by the F-score of current loads.

    ``F_g(Q) = S - G·(S - m_g)_+`` with ``m_g = max_j L_j - L_g``: slope +1 while the margin is
    being filled, ``-(G - 1)`` beyond ([BR] §2). While more than `s_greedy` slots are free, the
    worker with the most of them takes the waiting request with the largest F. Otherwise each
    worker takes the best subset of the first `r_max` waiting requests, or the best single one
    if no subset has positive F, so that nobody starves. Ties go to the lowest load.
    """

    Params: ClassVar[type] = BR0Params
    source = "[BR] arXiv:2605.06113"
    horizon = 0

    def __init__(self, params: BR0Params | None = None) -> None:
        self.params = params or BR0Params()
        self._discounts = np.ones(1)
        self._weights = np.array([1.0, 0.0, 0.0])

    def route(self, cluster: ClusterView, waiting: Waiting) -> IntArray:
        """Choose subsets by current loads; see `brsolver.Policy`."""
        table = cluster.table
        self._weights[2], _ = census(table)
        projected = table[LOAD].reshape(-1, 1)
        if cluster.immediate:
            tokens = waiting.prompt_tokens[0]
            return route_immediate(table, projected, tokens, self._discounts, self._weights, 0)
        return route_pooled(
            table,
            projected.copy(),
            waiting.prompt_tokens,
            self._discounts,
            self._weights,
            self.params.s_greedy,
            self.params.r_max,
            0,
            BY_SCORE,
            waiting.since,
            overdue(cluster, self.params.patience),
        )


class BRH:
    """Two-stage routing by the F-score of loads projected over a short horizon.

    ``F_g(Q) = α·(Σ_h d_h)·S - β·Σ_h d_h·(S - m_{g,h})_+`` with ``d_h = γ^h`` and margins
    ``m_{g,h} = max_j L_{j,h} - L_{g,h}`` of loads projected from the forecast ends of running
    requests ([BR] §2). ``horizon=0, alpha=1, beta=G`` is BR-0. The stages are BR-0's.

    Where forecasts deserve less belief (``cluster.trust`` below 1), γ falls in proportion, and
    with it the steps that count; at trust 0 BR-0 decides, with its own default parameters but
    this router's `s_greedy` and `patience`.

    Parameters
    ----------
    params : BRHParams, optional
    turnover : Turnover, optional
        What γ follows where it is ``auto``.
    """

    Params: ClassVar[type] = BRHParams
    source = "[BR] arXiv:2605.06113"

    def __init__(
        self, params: BRHParams | None = None, *, turnover: Turnover | None = None
    ) -> None:
        self.params = params or BRHParams()
        self.horizon = self.params.horizon
        self._steps = np.arange(self.horizon + 1)
        self._without_forecasts = BR0(
            BR0Params(s_greedy=self.params.s_greedy, patience=self.params.patience)
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
        self._weights = alpha * np.array(
            [self._discounts.sum(), self._discounts @ self._steps, 0.0]
        )
        self._weights[2] = 0.0 if beta is None else beta

    def route(self, cluster: ClusterView, waiting: Waiting) -> IntArray:
        """Choose subsets by projected loads; see `brsolver.Policy`."""
        if self._turnover is None:
            return self._choose(cluster, waiting)
        self._turnover.look(cluster)
        chosen = self._choose(cluster, waiting)
        self._turnover.placed(chosen.shape[0])
        return chosen

    def _choose(self, cluster: ClusterView, waiting: Waiting) -> IntArray:
        if cluster.trust <= 0 < self.horizon:
            return self._without_forecasts.route(cluster, waiting)
        gamma = self.gamma * cluster.trust
        if abs(gamma - self._discounting) > _NOTICEABLE:
            self._discount_by(gamma)
        p = self.params
        table = cluster.table
        if p.beta is None:
            live, _ = census(table)
            self._weights[2] = p.alpha * live
        projected = cluster.projection(
            self.horizon,
            growth=p.growth,
            survival=self.horizon > 0 and p.projection == "survival",
        )
        growth = int(p.growth)
        if cluster.immediate:
            tokens = waiting.prompt_tokens[0]
            return route_immediate(table, projected, tokens, self._discounts, self._weights, growth)
        return route_pooled(
            table,
            projected,
            waiting.prompt_tokens,
            self._discounts,
            self._weights,
            p.s_greedy,
            p.r_max,
            growth,
            BY_SCORE,
            waiting.since,
            overdue(cluster, p.patience),
        )
