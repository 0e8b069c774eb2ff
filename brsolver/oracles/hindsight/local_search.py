"""Swaps that improve an assignment under FCFS admission."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.oracles.hindsight import _search_kernels as nk

if TYPE_CHECKING:
    from brsolver.oracles.hindsight.schedule import Schedule

IntArray = NDArray[np.int64]


class SwapSearch:
    """Random swaps between slots, none of which costs anything; deterministic by seed.

    Parameters
    ----------
    schedule : Schedule
    worker : ndarray of int64, shape (n,)
        Where to begin.
    seed : int
    """

    def __init__(self, schedule: Schedule, worker: IntArray, seed: int = 0) -> None:
        self.schedule = schedule
        self._end = schedule.end
        self._state = np.array([0x2545F4914F6CDD1D ^ (seed + 1)], np.int64)
        self._first = np.searchsorted(schedule.start, schedule.start, side="left")
        self._last = np.searchsorted(schedule.start, schedule.start, side="right")
        self._eligible = np.flatnonzero(self._last - self._first > 1)
        self._difference = np.zeros(schedule.steps, np.int64)
        self.restart(worker)

    def restart(self, worker: IntArray) -> None:
        """Go on from another assignment."""
        self.worker = worker.copy()
        self._after, self._before = nk.link_lanes(
            self.schedule.start, self._end, worker, self.schedule.workers, self.schedule.slots
        )
        self._loads = self.schedule.loads(worker)

    def run(self, trials: int) -> int:
        """Try some swaps; return the barrier time saved."""
        if not self._eligible.size or self.schedule.workers == 1:
            return 0
        return nk.swap_search(
            self.schedule.prompt, self.schedule.start, self._end, self._first, self._last,
            self._eligible, self.worker, self._after, self._before, self._loads,
            self._difference, self._state, trials,
        )  # fmt: skip
