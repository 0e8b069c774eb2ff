"""Swaps that improve an assignment under FCFS admission."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.oracles.hindsight import _schedule_kernels as sk
from brsolver.oracles.hindsight import _search_kernels as nk

if TYPE_CHECKING:
    from brsolver.oracles.hindsight.schedule import Schedule

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
        self._end = schedule.end
        self._state = np.array([0x2545F4914F6CDD1D ^ (seed + 1)], np.int64)
        self._first = np.searchsorted(schedule.start, schedule.start, side="left")
        self._last = np.searchsorted(schedule.start, schedule.start, side="right")
        self._eligible = np.flatnonzero(self._last - self._first > 1)
        self._difference = np.zeros(schedule.steps, np.int64)
        self._top = np.zeros((3, schedule.steps), np.int64)
        self._who = np.zeros((3, schedule.steps), np.int64)
        self.restart(worker)

    def restart(self, worker: IntArray) -> None:
        """Go on from another assignment."""
        self.worker = worker.copy()
        self._after, self._before = nk.link_lanes(
            self.schedule.start, self._end, worker, self.schedule.workers, self.schedule.slots
        )
        self._loads = self.schedule.loads(worker)
        nk.find_leaders(self._loads, 0, self.schedule.steps, self._top, self._who)
        self.value = int(self._top[0].sum())
        self.best, self.best_value = worker.copy(), self.value

    def run(self, trials: int, temperature: float = 0.0) -> int:
        """Try some swaps; return the barrier time saved, negative if it grew.

        Parameters
        ----------
        trials : int
        temperature : float
            A swap that costs c more is accepted with probability ``exp(-c/temperature)``.
        """
        if not self._eligible.size or self.schedule.workers == 1:
            return 0
        saved = nk.swap_search(
            self.schedule.prompt, self.schedule.start, self._end, self._first, self._last,
            self._eligible, self.worker, self._after, self._before, self._loads, self._top,
            self._who, self._difference, self._state, trials, float(temperature),
        )  # fmt: skip
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
