"""Swaps that improve an assignment under FCFS admission."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.oracles import _schedule_kernels as sk
from brsolver.oracles.hindsight import _search_kernels as nk
from brsolver.oracles.hindsight._shapes import Lanes, Leaders, Partners, Runs

if TYPE_CHECKING:
    from brsolver.oracles.schedule import Schedule

IntArray = NDArray[np.int64]

DISCOUNTS = (1.0, 0.999, 0.97)
"""Per step, of the future that `smoothest` looks at: later arrivals can still correct it."""


class SwapSearch:
    """Random swaps between slots, accepted by annealing; deterministic by seed.

    Parameters
    ----------
    schedule : Schedule
    worker : ndarray of int64, shape (n,)
        Where to begin.
    seed : int

    Attributes
    ----------
    worker : ndarray of int64, shape (n,)
        The assignment searched from.
    value : int
        Its ``Σ_k M(k)``.
    best, best_value
        The cheapest since the last restart, looked at after each `run`.
    """

    def __init__(self, schedule: Schedule, worker: IntArray, seed: int = 0) -> None:
        self.schedule = schedule
        self._runs = Runs(prompt=schedule.prompt, start=schedule.start, end=schedule.end)
        first = np.searchsorted(schedule.start, schedule.start, side="left")
        last = np.searchsorted(schedule.start, schedule.start, side="right")
        eligible = np.flatnonzero(last - first > 1)
        self._partners = Partners(first=first, last=last, eligible=eligible)
        self._state = np.array([0x2545F4914F6CDD1D ^ (seed + 1)], np.int64)
        self._difference = np.zeros(schedule.steps, np.int64)
        self.restart(worker)

    @property
    def worker(self) -> IntArray:
        """The assignment searched from."""
        return self._lanes.worker

    def restart(self, worker: IntArray) -> None:
        """Go on from another assignment."""
        schedule, runs = self.schedule, self._runs
        after, before = nk.link_lanes(
            runs.start, runs.end, worker, schedule.workers, schedule.slots
        )
        self._lanes = Lanes(worker=worker.copy(), after=after, before=before)
        heaviest, who = (np.zeros((3, schedule.steps), np.int64) for _ in range(2))
        self._leaders = Leaders(loads=schedule.loads(worker), heaviest=heaviest, who=who)
        nk.find_leaders(self._leaders.loads, 0, schedule.steps, heaviest, who)
        self.value = int(heaviest[0].sum())
        self.best, self.best_value = worker.copy(), self.value

    def run(self, trials: int, temperature: float = 0.0) -> int:
        """Try some swaps; return the barrier time saved, negative if it grew.

        Parameters
        ----------
        trials : int
        temperature : float
            A swap that costs c more is accepted with probability ``exp(-c/temperature)``.
        """
        if not self._partners.eligible.size or self.schedule.workers == 1:
            return 0
        saved = nk.swap_search(
            self._runs,
            self._partners,
            self._lanes,
            self._leaders,
            self._difference,
            self._state,
            trials,
            float(temperature),
        )
        self.value -= saved
        if self.value < self.best_value:
            self.best, self.best_value = self.worker.copy(), self.value
        return saved


def smoothest(schedule: Schedule) -> IntArray:
    """Return the cheapest of some assignments that look ahead, and that of JSQ-Load.

    Every request goes where it adds least to ``Σ_g Σ_k L_g(k)²``, lengths being known; see
    `assign_smoothest` for the order.
    """
    at = (schedule.prompt, schedule.start, schedule.end, schedule.workers, schedule.slots)
    plans = [sk.assign_least_loaded(*at)]
    plans += [sk.assign_smoothest(*at, schedule.steps, discount) for discount in DISCOUNTS]
    return min(plans, key=schedule.barrier_time)
