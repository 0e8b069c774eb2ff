"""Which promises are kept lately: what a first token in time is worth, and a second of all."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_REQUESTS = 50.0
"""First tokens after which what was seen before counts e times less."""
_STEPS = 64.0
"""The same of steps, for times per token; or as many as a request takes, if these are more."""
_SEEN = 30.0
"""Steps, or as many as a request takes, before which no time per token is known."""
_LONGEST = 4000.0
_LEAST = 0.02
"""Share below which neither is taken to be: it could not be told from none."""


class Kept:
    """Shares of first tokens and of times per token that are in time.

    A request counts only if both are. So a first token that is saved is worth no more than the
    chance that its time per token is kept, and a promise per token that is used up no more than
    the chance that the first token was in time.

    Attributes
    ----------
    first, token : float
        The shares, of those released lately and by the steps of late; 1 at first.
    """

    __slots__ = ("_past", "first", "token")

    def __init__(self) -> None:
        self.first = self.token = 1.0
        self._past: deque[tuple[int, float]] = deque()

    @property
    def exchange(self) -> float:
        """What a promise per token is worth, over a first token."""
        return max(self.first, _LEAST) / max(self.token, _LEAST)

    def look(
        self, step: int, clock_s: float, *, length: float, promised_s: float, idle: bool
    ) -> None:
        """Take in that time has passed.

        Parameters
        ----------
        step : int
        clock_s, promised_s : float
            When it is, and what is promised per token, in seconds.
        length : float
            Steps that a request takes: one that ends now began so many ago.
        idle : bool
            Nothing runs: the time passed was no step.
        """
        past, window = self._past, min(max(length, 1.0), _LONGEST)
        if idle:
            past.clear()
        before = past[-1][0] if past else step
        past.append((step, clock_s))
        while past[0][0] < step - window:
            past.popleft()
        steps = step - past[0][0]
        if steps >= min(window, _SEEN):
            share = 1.0 - math.exp((before - step) / max(window, _STEPS))
            kept = (clock_s - past[0][1]) / steps <= promised_s
            self.token += share * (kept - self.token)

    def release(self, late: NDArray[np.bool_]) -> None:
        """Take in whose first token comes late of those released."""
        share = 1.0 - math.exp(-late.size / _REQUESTS)
        self.first += share * (1.0 - float(late.mean()) - self.first)
