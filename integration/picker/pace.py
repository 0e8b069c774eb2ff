"""What is learned of steps while serving: how long they last, and whether prompts are in them."""

from __future__ import annotations

import math

LEAST, MOST = 1e-3, 1e3
NOTICED = 0.05
"""By how much it must change for what a step costs to be told anew: a new view for policies."""
_MEMORY_STEPS = 256.0
_MOST_AT_ONCE = 0.5
"""Of the way to what was seen last, at most, once enough has been seen."""
_TAKEN_FOR_GRANTED = 1.0
"""Steps that the hardware's own word counts as, against the first that are seen."""
_APART, _TOGETHER = 0.5, 0.8
"""Of a step: prompts that take less are not computed in it, and are again if they take more."""
_ENOUGH_PROMPTS = 8


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
        self._steps = 0.0

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
        # A mean of all at first, then one that forgets: a single odd step is never believed alone.
        new = steps / (steps + self._steps + _TAKEN_FOR_GRANTED)
        share = max(new, min(1 - math.exp(-steps / _MEMORY_STEPS), _MOST_AT_ONCE))
        self._steps = min(self._steps + steps, _MEMORY_STEPS)
        self.scale *= (wanted / self.scale) ** share


class Prompts:
    """Whether engines compute prompts in the steps that others wait for.

    Then each prompt takes a step at least. Where they say that prompts take far less, nobody waits
    for any, and nothing is gained by holding requests to have prompts computed together.

    Attributes
    ----------
    apart : bool
        Whether they are computed without anybody waiting.
    """

    def __init__(self) -> None:
        self.apart = False
        self._marks: dict[int, tuple[int, float]] = {}

    def told(
        self, worker: int, prefills: int | None, prefill_s: float | None, step_s: float
    ) -> None:
        """Take in what an engine says.

        Parameters
        ----------
        worker : int
        prefills, prefill_s : int or None, float or None
            Prompts so far, and seconds that they took.
        step_s : float
            How long a step lasts at least.
        """
        if prefills is None or prefill_s is None:
            return
        count, seconds = self._marks.setdefault(worker, (prefills, prefill_s))
        more = prefills - count
        if more < 0:
            self._marks[worker] = prefills, prefill_s
        elif more >= _ENOUGH_PROMPTS and step_s > 0:
            self._marks[worker] = prefills, prefill_s
            limit = _APART if not self.apart else _TOGETHER
            self.apart = (prefill_s - seconds) / more < limit * step_s

    def forget(self, worker: int) -> None:
        """Begin anew with an engine."""
        self._marks.pop(worker, None)
