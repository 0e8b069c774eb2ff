"""Ring of the last minutes: what every second of them was spent on, and what stood where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.results.barrier import PARTS, netted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from integration.admin.params import WindowParams

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SPENT = ("useful", *PARTS, "idle")
"""What time goes to, in the order in which pictures stack it."""
COUNTS = ("steps", "arrived", "ended", "refused", "tokens")
(N_STEPS, N_ARRIVED, N_ENDED, N_REFUSED, N_TOKENS) = range(len(COUNTS))


class Buckets:
    """Sums and levels by time.

    Parameters
    ----------
    start_s : float
        When the first bucket begins, on the core's clock.
    workers : int
        Workers at the start.
    params : WindowParams

    Attributes
    ----------
    newest : int
        Number of the bucket that is being filled; the first one is 0.
    """

    def __init__(self, start_s: float, workers: int, params: WindowParams) -> None:
        self._start_s, self._width_s, self._size = start_s, params.bucket_s, params.buckets
        self.newest = 0
        self._step_s: FloatArray = np.zeros(self._size)
        self._lost_s: FloatArray = np.zeros((len(PARTS), self._size))
        self._counts: IntArray = np.zeros((len(COUNTS), self._size), np.int64)
        self._held: IntArray = np.zeros(self._size, np.int64)
        self._kv: IntArray = np.zeros((workers, self._size), np.int64)

    @property
    def width_s(self) -> float:
        """Seconds per bucket."""
        return self._width_s

    def widen(self, workers: int) -> None:
        """Make room for workers that have joined."""
        more = workers - self._kv.shape[0]
        if more > 0:
            self._kv = np.pad(self._kv, ((0, more), (0, 0)))

    def move(self, at_s: float) -> int:
        """Let time go on to `at_s`; return the column of its bucket.

        Levels stay what they were in buckets in which nobody says otherwise.
        """
        number = int((at_s - self._start_s) / self._width_s)
        if number > self.newest:
            fresh = np.arange(max(self.newest + 1, number + 1 - self._size), number + 1)
            columns = fresh % self._size
            last = self.newest % self._size
            self._step_s[columns] = 0.0
            self._lost_s[:, columns] = 0.0
            self._counts[:, columns] = 0
            self._held[columns] = self._held[last]
            self._kv[:, columns] = self._kv[:, [last]]
            self.newest = number
        return max(number, self.newest + 1 - self._size, 0) % self._size

    def count(self, what: int, at_s: float, number: int = 1) -> None:
        """Count something, a row of `COUNTS`."""
        self._counts[what, self.move(at_s)] += number

    def step(self, end_s: float, duration_s: float, lost_s: Sequence[float]) -> None:
        """Enter a step, split where it runs over the end of a bucket."""
        self.count(N_STEPS, end_s)
        if duration_s <= 0:
            return
        lost = np.asarray(lost_s)
        begin_s = max(end_s - duration_s, self._start_s, end_s - self._width_s * self._size)
        while begin_s < end_s:
            number = int((begin_s - self._start_s) / self._width_s)
            until_s = min(end_s, self._start_s + (number + 1) * self._width_s)
            # A bucket's end may round to where the part begins.
            until_s = until_s if until_s > begin_s else end_s
            column = number % self._size
            self._step_s[column] += until_s - begin_s
            self._lost_s[:, column] += lost * ((until_s - begin_s) / duration_s)
            begin_s = until_s

    def levels(self, at_s: float, held: int, kv_tokens: IntArray) -> None:
        """Enter how many are held, and KV tokens per worker, shape (G,)."""
        column = self.move(at_s)
        self._held[column] = held
        self._kv[: len(kv_tokens), column] = kv_tokens

    def numbers(self, after: int) -> range:
        """Return the numbers of buckets that are over, kept, and later than `after`."""
        return range(max(after + 1, self.newest + 1 - self._size, 0), self.newest)

    def spent(self, numbers: range) -> FloatArray:
        """Return what buckets were spent on, in seconds by `SPENT`, shape (6, n)."""
        columns = np.asarray(numbers, np.int64) % self._size
        lost = netted(self._lost_s[:, columns])
        step = np.maximum(self._step_s[columns], lost.sum(axis=0))
        idle = np.maximum(self._width_s - step, 0.0)
        return np.vstack(([step - lost.sum(axis=0)], lost, [idle]))

    def counts(self, numbers: range) -> IntArray:
        """Return what was counted, by `COUNTS`, shape (5, n)."""
        return self._counts[:, np.asarray(numbers, np.int64) % self._size]

    def held(self, numbers: range) -> IntArray:
        """Return how many were held, shape (n,)."""
        return self._held[np.asarray(numbers, np.int64) % self._size]

    def kv_tokens(self, numbers: range) -> IntArray:
        """Return KV tokens per worker, shape (G, n)."""
        return self._kv[:, np.asarray(numbers, np.int64) % self._size]
