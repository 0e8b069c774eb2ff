"""How far one decision was from the best one: exactly where that is quick, bounded otherwise."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import MissingExtraError
from brsolver.oracles.backends._base import INTERRUPTED
from brsolver.oracles.result import SolverError
from brsolver.oracles.step.evaluate import Objective, objective_value, violation
from brsolver.oracles.step.lagrangian import lagrangian_bound
from brsolver.oracles.step.search import local_search
from brsolver.oracles.step.sifting import SIFTING
from brsolver.oracles.step.solve import solve_step

if TYPE_CHECKING:
    from brsolver.oracles.result import SolveResult
    from brsolver.oracles.step.instance import StepInstance

IntArray = NDArray[np.int64]

SHORTEST_S = 0.01
"""Less than this is not worth a solver's start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A decision beside the best known one and the bound of all.

    Attributes
    ----------
    objective : {"score", "imbalance"}
    value : int
        Objective of the decision.
    best : int
        Best objective known, at least as good as `value`.
    bound : int
        No decision is better than this.
    origin : str
        Who vouches for `bound`.
    """

    objective: Objective
    value: int
    best: int
    bound: int
    origin: str

    @property
    def regret(self) -> int:
        """What the decision missed at most, in units of the objective."""
        return abs(self.bound - self.value)

    @property
    def surely(self) -> int:
        """What it missed at least: a better decision is known."""
        return abs(self.best - self.value)

    @property
    def proven(self) -> bool:
        """Whether the best decision is known, and so the regret."""
        return self.best == self.bound


def judge(
    instance: StepInstance,
    assignment: IntArray,
    objective: Objective = "score",
    *,
    time_limit_s: float = 1.0,
) -> Judgement:
    """Hold a decision against the best one.

    Tries, until bound and best known decision meet: local search and Lagrangian bound, the
    relaxation, and the integer model within what is left of the time. Without HiGHS the first
    two are all there is.

    Parameters
    ----------
    instance : StepInstance
    assignment : ndarray of int64, shape (n,)
        The decision: a worker or -1 per request.
    objective : {"score", "imbalance"}
    time_limit_s : float

    Raises
    ------
    SolverError
        The decision is none, or nothing bounds the best one.
    """
    if broken := violation(instance, assignment.tolist()):
        raise SolverError(f"the decision to judge is none: {broken}")
    ends = time.perf_counter() + time_limit_s
    case = _Case(instance, objective, objective_value(instance, assignment.tolist(), objective))
    searched = local_search(instance, objective)
    known = assignment
    if searched.solution is not None and case.improve(searched):
        known = searched.solution.astype(np.int64)
    case.tighten(lagrangian_bound(instance, objective, incumbent=known))
    # What is known without a solver stands, and `origin` says whose it is.
    with contextlib.suppress(MissingExtraError, SolverError):
        _ask_highs(case, ends)
    if case.bound is None:
        raise SolverError("no bound of the best decision is known")
    return Judgement(
        objective=objective,
        value=case.value,
        best=case.best,
        bound=case.bound,
        origin=case.origin,
    )


class _Case:
    """What is known of one decision so far."""

    def __init__(self, instance: StepInstance, objective: Objective, value: int) -> None:
        self.instance, self.objective = instance, objective
        self.value = self.best = value
        self.bound: int | None = None
        self.origin = ""
        self._sign = 1 if objective == "score" else -1

    @property
    def open(self) -> bool:
        return self.bound != self.best

    def improve(self, found: SolveResult) -> bool:
        if found.objective is None or self._sign * (int(found.objective) - self.best) <= 0:
            return False
        self.best = int(found.objective)
        return True

    def tighten(self, found: SolveResult) -> None:
        """Take over a bound, rounded to the integer that it implies."""
        if found.dual_bound is None:
            return
        bound = self._sign * math.floor(_outwards(self._sign * found.dual_bound))
        if self.bound is None or self._sign * (self.bound - bound) > 0:
            self.bound, self.origin = bound, found.origin


def _outwards(bound: float) -> float:
    # A relaxation's bound is safe up to the rounding of its last sum.
    return bound if isinstance(bound, int) else bound + 1e-12 * max(1.0, abs(bound))


def _ask_highs(case: _Case, ends: float) -> None:
    for relax in (True, False):
        left = ends - time.perf_counter()
        if not case.open or left < SHORTEST_S:
            return
        found = solve_step(
            case.instance,
            case.objective,
            backend=SIFTING if relax else "highs",
            relax=relax,
            time_limit_s=left,
        )
        if found.message == INTERRUPTED:
            # What it has by now is not what its time would have given.
            raise KeyboardInterrupt
        case.tighten(found)
        if not relax:
            case.improve(found)
