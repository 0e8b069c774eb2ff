"""Incumbent down, bound up, for as long as there is time."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.oracles.hindsight.chains import build_assignment, crossings, find_chains
from brsolver.oracles.hindsight.cp_sat import SHORTEST_S, hindsight_cp_sat, solve_model
from brsolver.oracles.hindsight.local_search import SwapSearch
from brsolver.oracles.hindsight.result import CurvePoint, Outcome

if TYPE_CHECKING:
    from brsolver.oracles.hindsight.schedule import Schedule

IntArray = NDArray[np.int64]

TRIALS = 2_000
"""Swaps tried between two looks at the clock."""

WINDOW_CELLS = 6_000
"""Largest window handed to the solver, in (request, interval) pairs times workers."""

SOLVE_S = 0.5
"""Longest solve of one window at first; doubles whenever all windows have had their turn."""


def hindsight_anytime(
    schedule: Schedule,
    *,
    budget_s: float,
    warm_start: IntArray,
    bound: int = 0,
    threads: int = 1,
    backend: str = "cp-sat",
    seed: int = 0,
) -> Outcome:
    """Improve an assignment and its lower bound until they meet or time is over.

    The incumbent falls by large-neighbourhood search: swaps between slots (`SwapSearch`), and
    exact re-optimisation, by the interval model, of all chains that start within a window of
    time, of a suffix, or of the chains of two workers there. The bound rises by windows: time
    is cut into windows, and the least cost of each by itself, its requests free to be anywhere
    at its beginning, adds up to a lower bound of ``Σ_k M(k)``. Windows whose model is solved
    are joined with a neighbour, where the gap is largest first.

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
    threads : int
    backend : str
    seed : int
        Of the random choices; results also depend on the speed of the machine.
    """
    began = perf_counter()
    search = _Anytime(schedule, warm_start, bound, began, budget_s, threads, backend, seed)
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
        self.edges = schedule.edges()
        self.low = schedule.interval_bounds(self.edges)
        self.width = _cell_counts(schedule, self.edges) * schedule.workers
        self.windows = self._initial_windows()
        self.bound, self.origin = max(bound, int(self.low.sum())), "interval bounds"
        self.build_s = 0.0
        self.solve_s = SOLVE_S
        self.message = "time limit"
        self.curve: list[CurvePoint] = []
        self.chains = find_chains(schedule)
        self._note("start")

    def run(self) -> None:
        """Alternate between swaps, windows for the incumbent and windows for the bound."""
        self._swap(min(0.5, 0.1 * (self.deadline - perf_counter())))
        if int(self.width.sum()) <= WINDOW_CELLS:
            self._solve_whole(0.4 * (self.deadline - perf_counter()))
        while self._time_left() and self.value > self.bound:
            self._swap(min(0.5, (self.deadline - perf_counter()) * 0.2))
            self._improve_window()
            self._raise_bound()

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

    def _time_left(self) -> bool:
        return self.deadline - perf_counter() > SHORTEST_S

    def _note(self, by: str) -> None:
        now = perf_counter() - self.began
        self.curve.append(CurvePoint(time_s=now, incumbent=self.value, bound=self.bound, by=by))

    def _keep(self, worker: IntArray, by: str) -> None:
        value = self.schedule.barrier_time(worker)
        if value < self.value:
            self.best, self.value = worker.copy(), value
            self._note(by)

    def _swap(self, seconds: float) -> None:
        until = perf_counter() + seconds
        while perf_counter() < until and self._time_left():
            self.swaps.run(TRIALS)
        self._keep(self.swaps.worker, "swaps")

    def _improve_window(self) -> None:
        """Re-optimise the chains that start in a window, or those of two workers there."""
        if not self._time_left() or not self._reaches_solver():
            return
        chosen = self._neighbourhood()
        if chosen.size < 2:
            return
        last = int(self.chains.end[chosen].max())
        first = int(self.chains.start[chosen].min())
        edges = self.edges[(self.edges >= first) & (self.edges <= last)]
        of_chain = np.zeros(len(self.chains), np.int64)
        of_chain[self.chains.of] = self.best
        edges = crossings(self.schedule, self.best, edges)
        moved = self._solve(chosen, of_chain, edges, of_chain)[1]
        if moved is not None:
            self._keep(moved[self.chains.of], "window")
            self.swaps.restart(self.best)

    def _reaches_solver(self) -> bool:
        return self.schedule.workers > 1 and len(self.chains) > 1

    def _neighbourhood(self) -> IntArray:
        """Return chains to re-optimise together, small enough for the solver."""
        order = np.argsort(self.chains.start, kind="stable")
        if self.rng.random() < 0.3:
            pair = self.rng.choice(self.schedule.workers, 2, replace=False)
            of_chain = np.zeros(len(self.chains), np.int64)
            of_chain[self.chains.of] = self.best
            order = order[np.isin(of_chain[order], pair)]
        first = int(self.rng.integers(0, max(1, order.size)))
        if self.rng.random() < 0.2:
            first = max(0, order.size - int(self.rng.integers(2, 60)))
        taken = 0
        chosen: list[int] = []
        for chain in order[first : first + 200].tolist():
            spans = np.searchsorted(self.edges, (self.chains.start[chain], self.chains.end[chain]))
            taken += int(spans[1] - spans[0]) * self.schedule.workers
            if taken > WINDOW_CELLS and len(chosen) >= 2:
                break
            chosen.append(chain)
        return np.array(chosen, np.int64) if taken <= 10 * WINDOW_CELLS else np.zeros(0, np.int64)

    def _solve(
        self, movable: IntArray, fixed: IntArray, edges: IntArray, current: IntArray
    ) -> tuple[int | None, IntArray | None, bool]:
        started = perf_counter()
        made = build_assignment(self.schedule, self.chains, movable, fixed, edges)
        self.build_s += perf_counter() - started
        seconds = min(self.solve_s, self.deadline - perf_counter() - SHORTEST_S)
        if seconds < SHORTEST_S:
            return None, None, False
        solved = solve_model(
            made, self.schedule, self.chains, current, seconds, self.threads, self.backend
        )
        found = solved.answer.dual_bound
        bound = None if found is None else int(found)
        return bound, solved.worker_of_chain, solved.answer.proven

    def _initial_windows(self) -> list[_Window]:
        return [
            _Window(first, first + 1, int(self.low[first]), False) for first in range(self.low.size)
        ]

    def _raise_bound(self) -> None:
        """Solve the unsolved window with the largest gap; join solved ones when there is none."""
        if not self._time_left() or not self._reaches_solver():
            return
        cost = self._incumbent_costs()
        gaps = [
            (cost[w.last] - cost[w.first] - w.bound, number)
            for number, w in enumerate(self.windows)
            if not w.solved and self._cells(w) <= 4 * WINDOW_CELLS
        ]
        gap, number = max(gaps, default=(0, -1))
        if gap <= 0:
            self._join_windows(cost)
            return
        window = self.windows[number]
        raised = self._window_bound(window)
        self.windows[number] = _Window(window.first, window.last, max(window.bound, raised), True)
        total = sum(w.bound for w in self.windows)
        if total > self.bound:
            self.bound = total
            self.origin = f"{self.backend}, optima of {len(self.windows)} windows"
            self._note("bound")

    def _incumbent_costs(self) -> IntArray:
        """Return the incumbent's barrier time before each edge."""
        heaviest = self.schedule.loads(self.best).max(axis=0)
        return np.concatenate(([0], np.cumsum(heaviest)))[self.edges]

    def _cells(self, window: _Window) -> int:
        return int(self.width[window.first : window.last].sum())

    def _window_bound(self, window: _Window) -> int:
        edges = self.edges[window.first : window.last + 1]
        inside = np.flatnonzero((self.chains.start < edges[-1]) & (self.chains.end > edges[0]))
        nowhere = np.full(len(self.chains), -1, np.int64)
        of_chain = np.zeros(len(self.chains), np.int64)
        of_chain[self.chains.of] = self.best
        edges = crossings(self.schedule, self.best, edges)
        return self._solve(inside, nowhere, edges, of_chain)[0] or 0

    def _join_windows(self, cost: IntArray) -> None:
        """Join neighbours pairwise; give the solver twice the time when none can be joined."""
        joined: list[_Window] = []
        for window in self.windows:
            if joined and self._worth_joining(joined[-1], window, cost):
                before = joined.pop()
                window = _Window(  # noqa: PLW2901 - the joined window takes its place
                    before.first, window.last, before.bound + window.bound, False
                )
            joined.append(window)
        if len(joined) == len(self.windows):
            self.solve_s *= 2
            joined = [_Window(w.first, w.last, w.bound, False) for w in joined]
        self.windows = joined

    def _worth_joining(self, a: _Window, b: _Window, cost: IntArray) -> bool:
        if not a.solved and not b.solved and a.last - a.first > 1:
            return False
        gap = cost[b.last] - cost[a.first] - a.bound - b.bound
        return bool(gap > 0) and self._cells(a) + self._cells(b) <= 4 * WINDOW_CELLS


class _Window:
    __slots__ = ("bound", "first", "last", "solved")

    def __init__(self, first: int, last: int, bound: int, solved: bool) -> None:
        self.first, self.last, self.bound, self.solved = first, last, bound, solved


def _cell_counts(schedule: Schedule, edges: IntArray) -> IntArray:
    """Return the number of active requests in every interval."""
    ends = np.sort(schedule.end)
    started = np.searchsorted(schedule.start, edges[:-1], side="right")
    return np.asarray(started - np.searchsorted(ends, edges[:-1], side="right"), np.int64)
