"""How fast what is held grows: whether holding on would still gather requests."""

from __future__ import annotations

import math

_MEMORY_STEPS = 64.0
_LONG_STEPS = 1024.0


class Growth:
    """Rate at which requests come while others are held, none of them short of a slot.

    Seen from decisions that placed nobody to the next: what came in between came by itself.
    After a placement that cannot be told: where a queue is kept at some length, requests come
    because others went. Held requests then do not grow in number, and nothing is gained by
    holding on. What was seen is weighed against one request of the rate at which requests went
    lately, and forgotten over about 64 steps, so that slow arrivals are not taken for none.
    """

    __slots__ = ("_came", "_count", "_seconds", "_watched_s", "_went")

    def __init__(self) -> None:
        self._came = self._watched_s = 0.0
        self._went = self._seconds = 0.0
        self._count = -1

    @property
    def per_s(self) -> float:
        """Requests per second; infinite before any are known to have gone."""
        if self._went <= 0 or self._seconds <= 0:
            return math.inf
        return (1.0 + self._came) / (self._seconds / self._went + self._watched_s)

    def passed(self, seconds: float, steps: int) -> None:
        """Take in that time has passed since the last decision."""
        keep, keep_long = math.exp(-steps / _MEMORY_STEPS), math.exp(-steps / _LONG_STEPS)
        self._came *= keep
        self._watched_s *= keep
        self._went *= keep_long
        self._seconds = self._seconds * keep_long + seconds
        if self._count >= 0:
            self._watched_s += seconds

    def grown(self, count: int, *, alone: bool) -> None:
        """Take in how many are held before a decision.

        Parameters
        ----------
        count : int
        alone : bool
            Whether nothing but the router keeps requests waiting: all have a place.
        """
        if alone and self._count >= 0:
            self._came += max(count - self._count, 0)
        self._count = count if alone else -1

    def placed(self, count: int) -> None:
        """Take in how many a decision has placed."""
        if count:
            self._went += count
            self._count = -1
