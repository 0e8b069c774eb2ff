"""A lower bound made of windows of time, which rises as windows are solved."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.oracles.bounds.result import BoundResult
    from brsolver.oracles.schedule import Schedule

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """Intervals ``first:last``, and by how much they cost more together than one by one."""

    first: int
    last: int
    gain: int


class RisingBound:
    """Bounds of windows of time, which add up where the windows are disjoint.

    The least cost of a window by itself, its requests free to be anywhere at its beginning, is
    a lower bound of what it costs in any run. What windows are known to cost beyond the bounds
    of their single intervals is added up over the best choice of disjoint ones.

    Which window to solve next: one that was solved grows towards the side where more is to be
    gained; when it has grown beyond the solver's reach, a new one starts where the gap is
    largest for the size of the model.

    Parameters
    ----------
    schedule : Schedule
    known : BoundResult, optional
        Bounds per step and joint bounds of windows to start from.
    max_cells : int
        Largest window to solve, in (request, interval) pairs times workers.

    Attributes
    ----------
    edges : ndarray of int64, shape (intervals + 1,)
        Where the active set changes.
    floor : ndarray of int64, shape (K,)
        Lower bounds of ``M(k)``; zeros where none are known.
    windows : list of TimeWindow
        All that gain something.
    """

    def __init__(self, schedule: Schedule, known: BoundResult | None, max_cells: int) -> None:
        self.edges = schedule.edges()
        self.floor = np.zeros(schedule.steps, np.int64) if known is None else known.per_step
        per_interval = np.add.reduceat(np.append(self.floor, 0), self.edges)[:-1]
        self.low = np.maximum(schedule.interval_bounds(self.edges), per_interval)
        self.width = cell_counts(schedule, self.edges) * schedule.workers
        self.max_cells = max_cells
        self.windows: list[TimeWindow] = []
        self._tried = np.zeros(self.low.size, np.bool_)
        self._growing: tuple[int, int] | None = None
        for joint in () if known is None else known.joint:
            first, last = np.searchsorted(self.edges, (joint.first, joint.end)).tolist()
            apart = int(self.low[first:last].sum() - per_interval[first:last].sum())
            self.add(first, last, int(self.low[first:last].sum()) + joint.gain - apart)

    @property
    def total(self) -> int:
        """The bound of the whole run."""
        return int(self.low.sum()) + best_disjoint(self.windows)

    def add(self, first: int, last: int, bound: int) -> None:
        """Note that intervals ``first:last`` cost at least `bound`."""
        gain = bound - int(self.low[first:last].sum())
        if gain > 0:
            self.windows.append(TimeWindow(first, last, gain))

    def settle(self, window: tuple[int, int], proven: bool) -> None:
        """Note that the solver had its turn with a window, and whether it found its optimum."""
        self._tried[slice(*window)] = True
        self._growing = window if proven else None

    def retry(self) -> None:
        """Begin again everywhere, with more time."""
        self._tried[:] = False
        self._growing = None

    def next(self, cost: IntArray) -> tuple[int, int] | None:
        """Return the window to solve next; None when all had their turn.

        Parameters
        ----------
        cost : ndarray of int64, shape (intervals,)
            Barrier time of the best run known in every interval.
        """
        gap = np.maximum(cost - self.low, 0)
        if self._growing is not None:
            grown = self._grow(*self._growing, gap)
            if grown is not None:
                return grown
            self._growing = None
        # A window needs two intervals: single steps are bounded well already.
        fits = (self.width > 0) & (2 * self.width <= self.max_cells) & ~self._tried
        score = np.where(fits, gap / np.maximum(self.width, 1), 0.0)
        seed = int(score.argmax())
        if score[seed] <= 0:
            return None
        return self._grow(seed, seed + 1, gap) or (seed, seed + 1)

    def _grow(self, first: int, last: int, gap: IntArray) -> tuple[int, int] | None:
        """Add a quarter as many intervals on the better side; None if the model gets too big."""
        more = max(1, (last - first) // 4)
        sides = ((max(0, first - more), last), (first, min(self.low.size, last + more)))
        held = int(gap[first:last].sum())
        best, most = None, 0
        for a, b in sides:
            gained = int(gap[a:b].sum()) - held
            if gained > most and int(self.width[a:b].sum()) <= self.max_cells:
                best, most = (a, b), gained
        return best


def best_disjoint(windows: Sequence[TimeWindow]) -> int:
    """Return the largest total gain of disjoint windows."""
    ends: list[int] = [0]
    totals: list[int] = [0]
    for window in sorted(windows, key=lambda w: w.last):
        value = totals[bisect_right(ends, window.first) - 1] + window.gain
        if value > totals[-1]:
            ends.append(window.last)
            totals.append(value)
    return totals[-1]


def cell_counts(schedule: Schedule, edges: IntArray) -> IntArray:
    """Return the number of active requests in every interval."""
    ends = np.sort(schedule.end)
    started = np.searchsorted(schedule.start, edges[:-1], side="right")
    return np.asarray(started - np.searchsorted(ends, edges[:-1], side="right"), np.int64)
