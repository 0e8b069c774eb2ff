"""Parameters of BR-0, BR-H and br-ramp, apart from the routers: the command line needs no more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from brsolver._limits import require_flag, require_number
from brsolver.errors import ParameterError
from brsolver.options import POLICY, Search, option

_MAX_COUNT = 2**53
# Far beyond any useful ratio, and far from where products with tokens overflow.
_MAX_WEIGHT = 1e12

_S_GREEDY = option(
    "Free slots above which requests are placed one by one.", metavar="N", panel=POLICY
)
_R_MAX = option(
    "Waiting requests that subsets are chosen from, first come first.",
    metavar="N",
    panel=POLICY,
    search=Search(low=2, high=256, log=True),
)
_PATIENCE = option(
    "Steps after which a waiting request is placed before all others; 0 is no limit.",
    metavar="N",
    panel=POLICY,
)
_GUARD = option(
    "With more free slots than waiting requests: the longest first, each to the least load.",
    panel=POLICY,
)


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
    guard : bool
        In pooled routing, while there are more free slots than waiting requests, place the
        longest prompt first, each on the least loaded worker with a slot, instead of filling the
        emptiest: a slot that stays empty needs no filling. Where KV tokens are limited, slots
        count as far as prompts of mean length fit.
    """

    s_greedy: int = field(default=7, metadata=_S_GREEDY)
    r_max: int = field(default=64, metadata=_R_MAX)
    patience: int = field(default=2500, metadata=_PATIENCE)
    guard: bool = field(default=True, metadata=_GUARD)

    def __post_init__(self) -> None:
        check_stages(self.s_greedy, self.r_max)
        check_patience(self.patience)
        require_flag("guard", self.guard)


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
    guard : bool
        As in `BR0Params`; in immediate routing discount by ``γ^G`` where γ is ``auto``: a request
        that arrives may go to any worker, and correct what this decision left behind.
    growth : bool
        Project a token of growth per request and step ([DPR]); [BR] leaves it out.
    projection : {"expected", "survival"}
        ``expected``: a running request counts in full up to its expected contribution ``ĉ``
        and not at all beyond ([BR]). ``survival``: at every step with the probability that it
        still runs ([DPR]), which costs a pass over the running requests per decision.
    """

    alpha: float = field(
        default=1.0, metadata=option("Weight of filling margins.", metavar="X", panel=POLICY)
    )
    beta: float | None = field(
        default=None,
        metadata=option("Weight of overflow.", unset="alpha·G", metavar="X|none", panel=POLICY),
    )
    gamma: float | Literal["auto"] = field(
        default="auto",
        metadata=option(
            "Discount per projected step, in (0, 1]; auto follows the cluster's turnover.",
            metavar="X|auto",
            panel=POLICY,
            search=Search(choices=("auto", 0.9, 0.98, 1.0)),
        ),
    )
    horizon: int = field(
        default=80,
        metadata=option(
            "Steps of load projection; 0 looks at current loads only.",
            metavar="H",
            panel=POLICY,
            search=Search(low=10, high=320, log=True),
        ),
    )
    r_max: int = field(default=64, metadata=_R_MAX)
    s_greedy: int = field(default=7, metadata=_S_GREEDY)
    patience: int = field(default=2500, metadata=_PATIENCE)
    guard: bool = field(default=True, metadata=_GUARD)
    growth: bool = field(
        default=False,
        metadata=option(
            "Project a token per request and step.",
            panel=POLICY,
            search=Search(choices=(False, True)),
        ),
    )
    projection: Literal["expected", "survival"] = field(
        default="survival",
        metadata=option(
            "Count running requests in full until they are expected to end, or at every step "
            "with the probability that they still run.",
            panel=POLICY,
            search=Search(choices=("survival", "expected")),
        ),
    )

    def __post_init__(self) -> None:
        check_stages(self.s_greedy, self.r_max)
        check_patience(self.patience)
        require_flag("guard", self.guard)
        given: object = self.gamma
        if isinstance(given, str) and given != "auto":
            raise ParameterError(f"gamma is {given!r}, must be a number in (0, 1] or auto")
        gamma = 1.0 if self.gamma == "auto" else self.gamma
        check_weights(self.alpha, self.beta, gamma, self.horizon)
        if self.projection not in ("expected", "survival"):
            raise ParameterError(f"projection is {self.projection!r}, must be expected or survival")


@dataclass(frozen=True, slots=True, kw_only=True)
class BRRampParams:
    """Parameters of br-ramp.

    Attributes
    ----------
    theta : float
        What having waited as long as requests wait in the mean is worth, in what a placement
        costs in the mean. Less keeps loads more level, more serves in order of arrival sooner.
    patience : int
        Decode steps after which a waiting request is placed before all others; 0 is no limit.
    """

    theta: float = field(
        default=0.3,
        metadata=option(
            "Weight of waiting: what a mean wait is worth, in mean costs of a placement.",
            metavar="X",
            panel=POLICY,
            search=Search(low=0.03, high=3.0, log=True),
        ),
    )
    patience: int = field(default=2500, metadata=_PATIENCE)

    def __post_init__(self) -> None:
        require_number("theta", self.theta, 0, _MAX_WEIGHT)
        check_patience(self.patience)


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
