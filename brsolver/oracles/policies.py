"""Routers that optimise every step: what "route by the exact optimum" does to a whole run.

Expect less than it sounds. Optimising a step's objective exactly fills each worker up to the
envelope, which takes the long prompts first and leaves a pool of short ones with nothing to
balance with; over a whole run that routes worse than the heuristics of [BR].
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import MissingExtraError, ParameterError
from brsolver.oracles.result import SolverError, SolveResult, SolverLoadError
from brsolver.oracles.step.instance import StepInstance
from brsolver.oracles.step.search import heuristic, local_search, to_assignment
from brsolver.oracles.step.solve import solve_step
from brsolver.oracles.step.trajectory import StepRelaxer
from brsolver.policy import BasePolicy
from brsolver.routers.params import check_weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.cluster.view import ClusterView, IntArray, Waiting

FloatArray = NDArray[np.float64]
StepObjective = Literal["score", "imbalance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepParams:
    """Parameters that all step-optimising routers share.

    Attributes
    ----------
    objective : {"score", "imbalance"}
        ``Σ_g F_g`` ([BR] §2), or the discounted imbalance over the horizon ([BFIO]).
    horizon : int
        Steps H of the projection; 0 looks at current loads only.
    gamma : float
        Discount per step, in (0, 1].
    alpha : int
        Weight of filling margins.
    beta : int or None
        Weight of overflow; None is ``alpha·G``.
    growth : bool
        Project a token of growth per request and step.
    hold : bool
        Free to keep requests waiting; otherwise every slot that can be filled is.
    """

    objective: StepObjective = "score"
    horizon: int = 0
    gamma: float = 0.86
    alpha: int = 1
    beta: int | None = None
    growth: bool = False
    hold: bool = False

    def __post_init__(self) -> None:
        if self.objective not in {"score", "imbalance"}:
            raise ParameterError(f"objective is {self.objective!r}, must be score or imbalance")
        beta = None if self.beta is None else float(self.beta)
        check_weights(float(self.alpha), beta, self.gamma, self.horizon)


@dataclass(frozen=True, slots=True, kw_only=True)
class MilpStepParams(StepParams):
    """Parameters of `MilpStep`.

    Attributes
    ----------
    time_limit_s : float
        Seconds for one decision; the best found by then is used.
    backend : {"highs", "cp-sat"}
        Solver of the integer models.
    """

    time_limit_s: float = 1.0
    backend: Literal["highs", "cp-sat"] = "highs"

    def __post_init__(self) -> None:
        StepParams.__post_init__(self)
        _check_limit(self.time_limit_s)
        if self.backend not in {"highs", "cp-sat"}:
            raise ParameterError(f"backend is {self.backend!r}, must be highs or cp-sat")


@dataclass(frozen=True, slots=True, kw_only=True)
class LpRoundParams(StepParams):
    """Parameters of `LpRound`.

    Attributes
    ----------
    time_limit_s : float
        Seconds for one relaxation; beyond it the heuristic decides.
    """

    time_limit_s: float = 1.0

    def __post_init__(self) -> None:
        StepParams.__post_init__(self)
        _check_limit(self.time_limit_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSearchParams(StepParams):
    """Parameters of `LocalSearch`.

    Attributes
    ----------
    kicks : int
        Perturbations per decision; instead of seconds, so that runs repeat exactly.
    """

    kicks: int = 20

    def __post_init__(self) -> None:
        StepParams.__post_init__(self)
        if self.kicks < 0:
            raise ParameterError(f"kicks is {self.kicks}, must be at least 0")


def _check_limit(time_limit_s: float) -> None:
    if not (math.isfinite(time_limit_s) and time_limit_s > 0):
        raise ParameterError(f"time_limit_s is {time_limit_s}, must be a positive number")


class _StepRouter(BasePolicy):
    """Takes the decision apart; falls back to the heuristic where optimising yields nothing."""

    def __init__(self, params: StepParams) -> None:
        self._step = params
        self.horizon = params.horizon
        self.decisions = 0
        self.fallbacks = 0

    def route(self, cluster: ClusterView, waiting: Waiting) -> IntArray:
        """Optimise this step; see `brsolver.Policy`."""
        p = self._step
        instance = StepInstance.from_view(
            cluster,
            waiting,
            horizon=p.horizon,
            gamma=p.gamma,
            alpha=p.alpha,
            beta=p.beta,
            growth=p.growth,
            # In immediate routing a request cannot be held.
            hold=p.hold and not cluster.immediate,
        )
        known = heuristic(instance)
        admitted = int((known >= 0).sum())
        if instance.admit is not None and admitted < instance.admit:
            # KV tokens, not slots, are short: admit as many as the heuristic could.
            instance = replace(instance, admit=admitted)
        found = self._decide(instance)
        self.decisions += 1
        if found is None:
            self.fallbacks += 1
        decision = known if found is None else found
        taken = np.flatnonzero(decision >= 0)
        return np.stack((taken, decision[taken]), axis=1)

    def notes(self) -> tuple[str, ...]:
        """Say how often the heuristic decided instead."""
        if not self.fallbacks:
            return ()
        return (
            f"{self.fallbacks:,} of {self.decisions:,} decisions fell back to the heuristic: the "
            "solver failed, or found nothing within its time",
        )

    @abstractmethod
    def _decide(self, instance: StepInstance) -> IntArray | None:
        """Return a worker or -1 per request, or None for the heuristic's decision."""


class MilpStep(_StepRouter):
    """Route every step by the exact optimum of its objective.

    Within its time limit: beyond it by the best found, and by the heuristic if there is none or
    the solver fails.
    """

    Params: ClassVar[type] = MilpStepParams
    source = "[BR] arXiv:2605.06113, [BFIO] arXiv:2601.17855, solved exactly"

    def __init__(self, params: MilpStepParams | None = None) -> None:
        self.params: MilpStepParams = params or MilpStepParams()
        super().__init__(self.params)

    def _decide(self, instance: StepInstance) -> IntArray | None:
        p = self.params
        return _decision(
            _guarded(
                lambda: solve_step(
                    instance, p.objective, backend=p.backend, time_limit_s=p.time_limit_s
                )
            )
        )


class LpRound(_StepRouter):
    """Route every step by rounding the linear relaxation of its objective.

    Whole parts are assigned as they are; the rest go by descending fraction where they still
    fit, and the local search's descent fills what is left.
    """

    Params: ClassVar[type] = LpRoundParams
    source = "[BR] arXiv:2605.06113, [BFIO] arXiv:2601.17855, relaxed and rounded"

    def __init__(self, params: LpRoundParams | None = None) -> None:
        self.params: LpRoundParams = params or LpRoundParams()
        super().__init__(self.params)
        # Each relaxation starts from the lengths that the one before it used.
        self._relaxer = StepRelaxer(self.params.objective)

    def _decide(self, instance: StepInstance) -> IntArray | None:
        p = self.params
        relaxed = _guarded(lambda: self._relaxer.solve(instance, time_limit_s=p.time_limit_s))
        if relaxed is None or relaxed.solution is None:
            return None
        rounded = round_fractions(instance, relaxed.solution.astype(np.float64))
        return _decision(local_search(instance, p.objective, start=rounded, kicks=0))


class LocalSearch(_StepRouter):
    """Route every step by local search from the heuristic's decision; needs no solver."""

    Params: ClassVar[type] = LocalSearchParams
    source = "[BR] arXiv:2605.06113, [BFIO] arXiv:2601.17855, by local search"

    def __init__(self, params: LocalSearchParams | None = None) -> None:
        self.params: LocalSearchParams = params or LocalSearchParams()
        super().__init__(self.params)

    def _decide(self, instance: StepInstance) -> IntArray | None:
        return _decision(local_search(instance, self.params.objective, kicks=self.params.kicks))


def round_fractions(instance: StepInstance, fractions: FloatArray) -> IntArray:
    """Round ``x_{j,k}`` to a decision that keeps within slots, requests, tokens and `admit`.

    Parameters
    ----------
    instance : StepInstance
    fractions : ndarray of float64, shape (J, K)

    Returns
    -------
    ndarray of int64, shape (n,)
        A worker or -1 per request.
    """
    counts = np.zeros(fractions.shape, np.int64)
    room, left = instance.most.copy(), instance.counts.copy()
    tokens = instance.token_limit.copy()
    admit = int(instance.most.sum()) if instance.admit is None else instance.admit
    whole = np.floor(fractions + 1e-6)
    for part in (whole, fractions - whole):
        workers, kinds = np.nonzero(part > 1e-6)
        for at in np.argsort(-part[workers, kinds], kind="stable"):
            j, kind = workers[at], kinds[at]
            size = instance.kv_sizes[kind]
            fits = min(room[j], left[kind], tokens[j] // size, admit)
            given = min(math.ceil(part[j, kind] - 1e-6), int(fits))
            counts[j, kind] += given
            room[j] -= given
            left[kind] -= given
            tokens[j] -= given * size
            admit -= given
    return to_assignment(instance, counts)


def _guarded(run: Callable[[], SolveResult]) -> SolveResult | None:
    """Solve; None if the solver fails. A missing solver is the user's to know, at once."""
    try:
        return run()
    except (MissingExtraError, SolverLoadError):
        raise
    except SolverError:
        return None


def _decision(result: SolveResult | None) -> IntArray | None:
    if result is None or result.solution is None:
        return None
    return result.solution.astype(np.int64)
