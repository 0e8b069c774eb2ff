"""How much longer steps last in truth than the hardware says, learned while serving."""

from __future__ import annotations

import math

LEAST, MOST = 1e-3, 1e3
NOTICED = 0.05
"""By how much it must change for what a step costs to be told anew: a new view for policies."""
_MEMORY_STEPS = 256.0
_MOST_AT_ONCE = 0.5
"""Of the way to what was seen last, at most."""


class Pace:
    """A factor on all steps.

    What is seen is compared with the hardware's own durations, never with those of an earlier
    factor: streams that all began under a wrong one would else correct it once each.

    Attributes
    ----------
    scale : float
    """

    def __init__(self) -> None:
        self.scale = 1.0
        self._seen = False

    def learn(self, real_s: float, steps: float, *, model_s: float, model_steps: int) -> None:
        """Take in what some steps have lasted.

        Parameters
        ----------
        real_s, steps : float
            Seconds that the engines took for so many steps.
        model_s : float
            Seconds that the hardware says for those of the same time.
        model_steps : int
            How many these were.
        """
        if min(real_s, steps, model_s, model_steps) <= 0:
            return
        wanted = real_s / steps / (model_s / model_steps)
        if not LEAST <= wanted <= MOST:
            return
        share = 1.0 if not self._seen else min(1 - math.exp(-steps / _MEMORY_STEPS), _MOST_AT_ONCE)
        self._seen = True
        self.scale *= (wanted / self.scale) ** share
