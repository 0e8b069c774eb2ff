"""Incumbent down, bound up, for as long as there is time."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.oracles.hindsight.chains import build_assignment, crossings, find_chains
from brsolver.oracles.hindsight.cp_sat import SHORTEST_S, hindsight_cp_sat, solve_model
from brsolver.oracles.hindsight.local_search import SwapSearch
from brsolver.oracles.hindsight.neighbourhoods import draw
from brsolver.oracles.hindsight.result import CurvePoint, Outcome
from brsolver.oracles.hindsight.rising import RisingBound, cell_counts

if TYPE_CHECKING:
    from brsolver.oracles.bounds.result import BoundResult
    from brsolver.oracles.hindsight.chains import AssignmentModel
    from brsolver.oracles.result import SolveResult
    from brsolver.oracles.schedule import Schedule

IntArray = NDArray[np.int64]

TRIALS = 1_000
"""Swaps tried between two looks at the clock."""

WINDOW_CELLS = 6_000
"""Largest window handed to the solver, in (request, interval) pairs times workers."""

SOLVE_S = 0.5
"""Longest solve of one window at first; doubles whenever all windows have had their turn."""

ANNEALED = 0.7
"""Part of the budget over which swaps cool down; solvers improve what they leave."""

RISE_SHARE = 0.25
"""Part of the time that goes into raising the bound."""


def hindsight_anytime(
    schedule: Schedule,
    *,
    budget_s: float,
    warm_start: IntArray,
    bound: int = 0,
    known: BoundResult | None = None,
    threads: int = 1,
    backend: str = "cp-sat",
    seed: int = 0,
) -> Outcome:
    """Improve an assignment and its lower bound until they meet or time is over.

    The incumbent falls by annealed swaps between slots (`SwapSearch`), then by exact
    re-optimisation, with the interval model, of all chains that start within a window of time,
    of a suffix, or of those of two workers. The bound rises by windows of time (`RisingBound`),
    which are solved exactly where the gap is largest for their size, and grow.

    Parameters
    ----------
    schedule : Schedule
        See `fcfs_schedule`.
    budget_s : float
        Wall-clock seconds, honoured to within 10 %.
    warm_start : ndarray of int64, shape (n,)
        Worker of every request.
    bound : int
        A lower bound that is known already.
    known : BoundResult, optional
        Bounds per step and per window to rise from, as `fcfs_bound` gives them.
    threads : int
    backend : str
    seed : int
        Of the random choices; results also depend on the speed of the machine.
    """
    began = perf_counter()
    search = _Anytime(schedule, warm_start, bound, known, began, budget_s, threads, backend, seed)
    try:
        search.run()
    except KeyboardInterrupt:
        search.message = "interrupted"
    return Outcome(
        value=search.value,
        bound=search.bound,
        worker=search.best,
        build_s=search.build_s,
        solve_s=perf_counter() - began - search.build_s,
        origin=search.origin,
        curve=tuple(search.curve),
        message=search.message if search.value > search.bound else "",
    )


class _Anytime:
    def __init__(
        self,
        schedule: Schedule,
        warm_start: IntArray,
        bound: int,
        known: BoundResult | None,
        began: float,
        budget_s: float,
        threads: int,
        backend: str,
        seed: int,
    ) -> None:
        self.schedule, self.threads, self.backend = schedule, threads, backend
        self.began, self.deadline = began, began + budget_s
        self.rng = np.random.default_rng(seed)
        self.best, self.value = warm_start, schedule.barrier_time(warm_start)
        self.swaps = SwapSearch(schedule, warm_start, seed)
        self.rising = RisingBound(schedule, known, WINDOW_CELLS)
        self.edges = self.rising.edges
        self.bound, self.origin = self.rising.total, "interval bounds"
        if known is not None:
            self.origin = known.origin
        if bound > self.bound:
            self.bound, self.origin = bound, "given"
        self.build_s = self.bound_s = 0.0
        self.solve_s = SOLVE_S
        self.message = "time limit"
        self.curve: list[CurvePoint] = []
        self.chains = find_chains(schedule)
        # What one request adds to the distance from the bound: swaps that cost about as much
        # are accepted at first.
        self.heat = max(0, self.value - self.bound) / len(schedule)
        self._note("start")

    def run(self) -> None:
        """Alternate between swaps, neighbourhoods for the incumbent and windows for the bound."""
        self._swap(min(0.5, 0.1 * self._left()), 0.0)
        cells = int(cell_counts(self.schedule, self.edges).sum()) * self.schedule.workers
        if cells <= WINDOW_CELLS:
            self._solve_whole(0.4 * self._left())
        started, span = perf_counter(), ANNEALED * self._left()
        while self._left() > SHORTEST_S and self.value > self.bound:
            cooled = (perf_counter() - started) / span
            if cooled < 1.0:
                self._swap(min(0.5, 0.1 * span), self.heat * (1.0 - cooled) ** 2)
            else:
                self._swap(min(0.2, 0.2 * self._left()), 0.0)
                self._improve()
            if self.bound_s < RISE_SHARE * (perf_counter() - self.began):
                self._raise_bound()

    def _left(self) -> float:
        return self.deadline - perf_counter()

    def _solve_whole(self, seconds: float) -> None:
        """Give the interval model of the whole run, if it is small, a share of the time."""
        if seconds < SHORTEST_S or self.value <= self.bound:
            return
        found = hindsight_cp_sat(
            self.schedule,
            budget_s=seconds,
            warm_start=self.best,
            threads=self.threads,
            backend=self.backend,
        )
        self.build_s += found.build_s
        if found.bound is not None and found.bound > self.bound:
            self.bound, self.origin = found.bound, found.origin
            self._note("bound")
        if found.worker is not None:
            self._keep(found.worker, "whole run")
            self.swaps.restart(self.best)

    def _note(self, by: str) -> None:
        now = perf_counter() - self.began
        self.curve.append(CurvePoint(time_s=now, incumbent=self.value, bound=self.bound, by=by))

    def _keep(self, worker: IntArray, by: str) -> None:
        value = self.schedule.barrier_time(worker)
        if value < self.value:
            self.best, self.value = worker.copy(), value
            self._note(by)

    def _swap(self, seconds: float, temperature: float) -> None:
        until = min(perf_counter() + seconds, self.deadline - SHORTEST_S)
        while perf_counter() < until:
            self.swaps.run(TRIALS, temperature)
        if temperature == 0.0 and self.swaps.value > self.swaps.best_value:
            self.swaps.restart(self.swaps.best)
        self._keep(self.swaps.best, "swaps")

    def _improve(self) -> None:
        """Re-optimise the chains that start in a window, or those of two workers there."""
        if self._left() < SHORTEST_S or not self._reaches_solver():
            return
        of_chain = self._workers_of_chains()
        loads = self.schedule.loads(self.best)
        chosen = draw(self.chains, of_chain, loads, self.edges, WINDOW_CELLS, self.rng)
        if chosen.chains.size < 2:
            return
        first = int(self.chains.start[chosen.chains].min())
        last = int(self.chains.end[chosen.chains].max())
        edges = self.edges[(self.edges >= first) & (self.edges <= last)]
        started = perf_counter()
        made = build_assignment(
            self.schedule,
            self.chains,
            chosen.chains,
            of_chain,
            crossings(self.schedule, self.best, edges),
            chosen.among,
        )
        self.build_s += perf_counter() - started
        answer = self._solve(made, of_chain)
        if answer is not None and answer.solution is not None:
            moved = made.assignment(answer.solution.astype(np.int64), of_chain)
            self._keep(moved[self.chains.of], chosen.kind)
            self.swaps.restart(self.best)

    def _workers_of_chains(self) -> IntArray:
        of_chain = np.zeros(len(self.chains), np.int64)
        of_chain[self.chains.of] = self.best
        return of_chain

    def _reaches_solver(self) -> bool:
        return self.schedule.workers > 1 and len(self.chains) > 1

    def _solve(self, made: AssignmentModel, current: IntArray) -> SolveResult | None:
        seconds = min(self.solve_s, self._left() - SHORTEST_S)
        if seconds < SHORTEST_S:
            return None
        return solve_model(
            made, self.schedule, self.chains, current, seconds, self.threads, self.backend
        ).answer

    def _raise_bound(self) -> None:
        """Solve the window in which most is to be gained, for longer when all had their turn."""
        if self._left() < SHORTEST_S or not self._reaches_solver():
            return
        started = perf_counter()
        window = self.rising.next(self._incumbent_costs())
        if window is None:
            self.solve_s *= 2
            self.rising.retry()
        else:
            self._solve_window(*window)
            if self.rising.total > self.bound:
                self.bound = self.rising.total
                self.origin = f"{self.backend}, windows of time"
                self._note("bound")
        self.bound_s += perf_counter() - started

    def _incumbent_costs(self) -> IntArray:
        """Return the incumbent's barrier time in each interval."""
        envelope = self.schedule.loads(self.best).max(axis=0)
        costs: IntArray = np.add.reduceat(np.append(envelope, 0), self.edges)[:-1]
        return costs

    def _solve_window(self, first: int, last: int) -> None:
        edges = self.edges[first : last + 1]
        inside = np.flatnonzero((self.chains.start < edges[-1]) & (self.chains.end > edges[0]))
        started = perf_counter()
        made = build_assignment(
            self.schedule,
            self.chains,
            inside,
            np.full(len(self.chains), -1, np.int64),
            crossings(self.schedule, self.best, edges),
            floor=self.rising.floor,
        )
        self.build_s += perf_counter() - started
        answer = self._solve(made, self._workers_of_chains())
        if answer is None:
            return
        self.rising.settle((first, last), answer.proven)
        if answer.dual_bound is not None:
            self.rising.add(first, last, int(answer.dual_bound))
