"""What a solver may answer, in one vocabulary for all back ends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import BrsolverError

Solution = NDArray[np.int64] | NDArray[np.float64]
Number = int | float


class SolverError(BrsolverError, RuntimeError):
    """A solver crashed, cannot be loaded, or answered something that is not so."""


class SolverLoadError(SolverError):
    """A solver is installed and cannot be loaded."""


class Status(Enum):
    """What is known when a solver has returned.

    The first three say that there is something to use, and what its certificate covers; none of
    the others comes with a solution.
    """

    OPTIMAL = "optimal"
    """A solution, proven optimal."""
    FEASIBLE = "feasible"
    """A solution, and perhaps a dual bound that has not met it."""
    BOUND = "bound"
    """A dual bound and no solution."""
    INFEASIBLE = "infeasible"
    """Proven: there is no solution."""
    LIMIT = "limit"
    """A limit was reached, or the run interrupted, with neither solution nor bound."""
    UNBOUNDED = "unbounded"
    """The model is wrong: its objective has no limit."""
    ERROR = "error"
    """The solver failed; `SolveResult.message` says how."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SolveResult:
    """A solution, a bound, or the reason why there is neither.

    Attributes
    ----------
    status : Status
        What is known.
    solution : ndarray or None
        One value per column of the model: int64 for integer models, float64 for relaxations.
    objective : int, float or None
        Objective of `solution`, as re-evaluated on the model's own integers; int for integer
        models.
    dual_bound : int, float or None
        No solution is better than this: an upper bound when maximising, else a lower bound.
    duals : ndarray of float64 or None
        Of a relaxation: a multiplier per row, so that ``c - Aᵀy`` are the reduced costs.
    build_s, solve_s : float
        Seconds spent on forming the model (where the caller says) and on solving it.
    nodes, iterations : int
        Branch-and-bound nodes; simplex, interior-point or first-order iterations.
    origin : str
        Who vouches for the bound, e.g. ``"highs-mip 1.14.0"``.
    message : str
        One line on anything out of the ordinary; empty otherwise.
    """

    status: Status
    solution: Solution | None = None
    objective: Number | None = None
    dual_bound: Number | None = None
    duals: NDArray[np.float64] | None = None
    build_s: float = 0.0
    solve_s: float = 0.0
    nodes: int = 0
    iterations: int = 0
    origin: str = ""
    message: str = ""

    @property
    def gap(self) -> float | None:
        """``|dual_bound - objective| / max(1, |objective|)``; None if either is missing."""
        if self.objective is None or self.dual_bound is None:
            return None
        return abs(self.dual_bound - self.objective) / max(1.0, abs(self.objective))

    @property
    def proven(self) -> bool:
        """Whether the solution is proven optimal."""
        return self.status is Status.OPTIMAL

    @property
    def found(self) -> bool:
        """Whether there is a solution."""
        return self.solution is not None
