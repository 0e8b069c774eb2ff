"""What a hindsight oracle answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from brsolver.oracles.result import Status

IntArray = NDArray[np.int64]
RunObjective = Literal["barrier", "makespan", "imbalance"]
Admission = Literal["fcfs", "free"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One moment of an anytime run: what was known by then.

    Attributes
    ----------
    time_s : float
        Seconds since the oracle was called.
    incumbent : int or None
        Best barrier time so far (scaled objective under free admission).
    bound : int
        Best lower bound so far.
    by : str
        What improved either.
    """

    time_s: float
    incumbent: int | None
    bound: int
    by: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What one method found; plain integers, before anything is replayed.

    Attributes
    ----------
    value : int or None
        Cost of the plan: ``Σ_k M(k)``, or the scaled objective of `FreeWeights`.
    bound : int or None
        Certified lower bound of the cost of any plan.
    worker, start : ndarray of int64, shape (n,), or None
        The plan; `start` is None under FCFS admission, which fixes it.
    infeasible : bool
        Whether it is proven that there is no plan.
    build_s, solve_s : float
        Seconds for models or tables, and for solving.
    memory_bytes : int
        Bytes of the arrays the method allocated, 0 where a solver keeps its own.
    origin : str
        Who vouches for the bound.
    curve : tuple of CurvePoint
        What was known when.
    message : str
        One line on anything out of the ordinary.
    """

    value: int | None
    bound: int | None
    worker: IntArray | None = None
    start: IntArray | None = None
    infeasible: bool = False
    build_s: float = 0.0
    solve_s: float = 0.0
    memory_bytes: int = 0
    origin: str = ""
    curve: tuple[CurvePoint, ...] = ()
    message: str = ""

    @property
    def proven(self) -> bool:
        """Whether the plan is proven optimal."""
        return self.value is not None and self.value == self.bound


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HindsightResult:
    """The best possible run, or how far it is known.

    Total work ``W = Σ_i Σ_j w_i(j)`` is the same for every plan, so ``Σ_k I(k) =
    G·Σ_k M(k) - W``, and with the number of steps K fixed, as it is under FCFS admission, the
    affine makespan is ``C·K + t·Σ_k M(k)``: one optimum serves all three objectives. All
    figures below without a unit in their name are of `objective`.

    Attributes
    ----------
    status : Status
        `OPTIMAL`, `FEASIBLE` (incumbent and bound that have not met), `BOUND`, `INFEASIBLE` or
        `LIMIT`.
    objective, admission : str
        What was minimised, and over which runs.
    lower_bound, best_known : float or None
        Certified lower bound and value of `worker`; KV-token steps (barrier, imbalance) or
        seconds (makespan).
    barrier_bound, barrier_best : int or None
        The same as integers, ``Σ_k M(k)``. A makespan optimum under free admission trades
        steps for barrier time: there `barrier_bound` is None.
    worker, start : ndarray of int64, shape (n,), or None
        The best plan: worker and admission step of every request.
    steps : int or None
        Decode steps of the plan.
    curve : tuple of CurvePoint
        What was known when.
    build_s, solve_s, wall_s : float
        Seconds spent on models, in solvers, and altogether, re-evaluation included.
    memory_bytes : int
        Estimated size of the arrays that the method allocated itself.
    origin : str
        Who vouches for the lower bound.
    method : str
        What was run.
    message : str
        One line on anything out of the ordinary; empty otherwise.
    request_tokens : int
        KV tokens that a request weighs besides those it holds: where it is not 0, figures in
        KV-token steps are in effective ones.
    """

    status: Status
    objective: RunObjective = "barrier"
    admission: Admission = "fcfs"
    lower_bound: float | None = None
    best_known: float | None = None
    barrier_bound: int | None = None
    barrier_best: int | None = None
    worker: IntArray | None = None
    start: IntArray | None = None
    steps: int | None = None
    curve: tuple[CurvePoint, ...] = ()
    build_s: float = 0.0
    solve_s: float = 0.0
    wall_s: float = 0.0
    memory_bytes: int = 0
    origin: str = ""
    method: str = ""
    message: str = ""
    request_tokens: int = 0

    @property
    def proven(self) -> bool:
        """Whether the plan is proven optimal."""
        return self.status.value == "optimal"

    @property
    def gap(self) -> float | None:
        """``(best_known - lower_bound)/best_known``; None if either is missing."""
        if self.best_known is None or self.lower_bound is None:
            return None
        if self.best_known == self.lower_bound:
            return 0.0
        return (self.best_known - self.lower_bound) / self.best_known
