"""Hindsight assignment as an integer programme over intervals of constant active sets."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import ParameterError
from brsolver.oracles.backends import solve
from brsolver.oracles.hindsight.chains import (
    AssignmentModel,
    Chains,
    build_assignment,
    crossings,
    find_chains,
)
from brsolver.oracles.hindsight.result import CurvePoint, Outcome

if TYPE_CHECKING:
    from brsolver.oracles.result import SolveResult
    from brsolver.oracles.schedule import Schedule

IntArray = NDArray[np.int64]

SHORTEST_S = 0.02
"""No solver is started with less time than this."""


def hindsight_cp_sat(
    schedule: Schedule,
    *,
    budget_s: float = 60.0,
    warm_start: IntArray | None = None,
    threads: int = 1,
    backend: str = "cp-sat",
) -> Outcome:
    """Minimise ``Σ_k M(k)`` over all assignments under FCFS admission, by branch and bound.

    Solves the interval model of `build_assignment`, whose optimum is a lower bound; splits the
    intervals in which the leading worker of its solution changes, and solves again, until the
    bound meets the cost of the best assignment seen. Every solution is charged its true
    ``Σ_k M(k)``. Symmetry between workers is left to the solver.

    Parameters
    ----------
    schedule : Schedule
        See `fcfs_schedule`.
    budget_s : float
        Wall-clock seconds; the best so far is returned when they are over.
    warm_start : ndarray of int64, shape (n,), optional
        Worker of every request, to start from.
    threads : int
        Threads of the solver.
    backend : str
        An integer back end of the seam: ``"cp-sat"`` or ``"highs"``.

    Raises
    ------
    ParameterError
        If the warm start breaks the slots or the chains of forced admissions.
    """
    began = perf_counter()
    search = _Search(schedule, warm_start, began + budget_s, threads, backend)
    search.run(began)
    return Outcome(
        value=search.value,
        bound=search.bound,
        worker=None if search.best is None else search.best[search.chains.of],
        build_s=search.build_s,
        solve_s=search.solve_s,
        origin=search.origin,
        curve=tuple(search.curve),
        message=search.message,
    )


@dataclass(slots=True, kw_only=True)
class Solved:
    """A solved interval model, with the assignment it gives and what that truly costs."""

    answer: SolveResult
    worker_of_chain: IntArray | None


def solve_model(
    made: AssignmentModel,
    schedule: Schedule,
    chains: Chains,
    current: IntArray | None,
    seconds: float,
    threads: int,
    backend: str,
) -> Solved:
    """Solve an interval model from the current assignment of chains, if there is one."""
    hint = None if current is None else made.hint(current, schedule, chains)
    answer = solve(made.model, backend, time_limit_s=seconds, threads=threads, warm_start=hint)
    if answer.solution is None:
        return Solved(answer=answer, worker_of_chain=None)
    base = np.zeros(len(chains), np.int64) if current is None else current
    moved = made.assignment(answer.solution.astype(np.int64), base)
    return Solved(answer=answer, worker_of_chain=moved)


class _Search:
    def __init__(
        self,
        schedule: Schedule,
        warm_start: IntArray | None,
        deadline: float,
        threads: int,
        backend: str,
    ) -> None:
        self.schedule, self.deadline = schedule, deadline
        self.threads, self.backend = threads, backend
        self.chains = find_chains(schedule)
        self.edges = schedule.edges()
        self.bound = int(schedule.interval_bounds(self.edges).sum())
        self.origin = "interval bounds"
        self.message = ""
        self.best: IntArray | None = None
        self.value: int | None = None
        self.build_s = self.solve_s = 0.0
        self.curve: list[CurvePoint] = []
        if warm_start is not None:
            self._keep(chain_workers(schedule, self.chains, warm_start))

    def run(self, began: float) -> None:
        self._note(began, "start")
        while self.value is None or self.bound < self.value:
            if self.deadline - perf_counter() < SHORTEST_S:
                self.message = "time limit"
                return
            if not self._round():
                return
            self._note(began, self.origin)

    def _round(self) -> bool:
        """Solve once and refine; return whether it is worth going on."""
        built = perf_counter()
        every = np.arange(len(self.chains))
        nowhere = np.full(len(self.chains), -1, np.int64)
        made = build_assignment(self.schedule, self.chains, every, nowhere, self.edges)
        started = perf_counter()
        self.build_s += started - built
        seconds = self.deadline - started
        if seconds < SHORTEST_S:
            self.message = "time limit"
            return False
        solved = solve_model(
            made, self.schedule, self.chains, self.best, seconds, self.threads, self.backend
        )
        self.solve_s += perf_counter() - started
        answer = solved.answer
        if answer.dual_bound is not None and answer.dual_bound >= self.bound:
            self.bound, self.origin = int(answer.dual_bound), f"{answer.origin}, interval model"
        if solved.worker_of_chain is not None:
            self._keep(solved.worker_of_chain)
            worker = solved.worker_of_chain[self.chains.of]
            self.edges = crossings(self.schedule, worker, self.edges)
        if not answer.proven:
            self.message = answer.message or "time limit"
        return answer.proven and self.edges.size > made.edges.size

    def _keep(self, worker_of_chain: IntArray) -> None:
        value = self.schedule.barrier_time(worker_of_chain[self.chains.of])
        if self.value is None or value < self.value:
            self.best, self.value = worker_of_chain, value

    def _note(self, began: float, by: str) -> None:
        now = perf_counter() - began
        point = CurvePoint(time_s=now, incumbent=self.value, bound=self.bound, by=by)
        self.curve.append(point)


def chain_workers(schedule: Schedule, chains: Chains, worker: IntArray) -> IntArray:
    """Return the worker of every chain under an assignment of requests.

    Raises
    ------
    ParameterError
        If the assignment breaks the slots, or splits a chain of forced admissions.
    """
    of_chain = np.zeros(len(chains), np.int64)
    of_chain[chains.of] = worker
    if not schedule.fits(worker) or not np.array_equal(of_chain[chains.of], worker):
        raise ParameterError(
            "warm_start is no assignment of this run, must keep each worker within "
            f"{schedule.slots} requests"
        )
    return of_chain
