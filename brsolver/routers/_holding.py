"""When held requests are released: holding costs, weighed against the wave that ends it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from brsolver.routers._growth import Growth
from brsolver.routers.wave_params import MAX_KAPPA

_MEMORY_STEPS = 64.0
_LEAST = 0.02
"""Of κ: as far as a kept promise lowers it."""
_IN_DANGER = 0.5
"""Of the promised time per token: mean steps beyond this, and short requests may well miss it."""


@dataclass(slots=True)
class Tally:
    """What holding has come to, over a run.

    Attributes
    ----------
    waves, released, filled : int
        Releases of held requests, requests released by them, requests that went while others
        prefilled.
    held_s : float
        Seconds for which requests that could run were held, summed over these.
    stalled_s : float
        Seconds by which waves were to keep the ranks waiting for the slowest of them.
    """

    waves: int = 0
    released: int = 0
    filled: int = 0
    held_s: float = 0.0
    stalled_s: float = 0.0


class Holding:
    """Ski rental over requests that could run: hold until that has cost as much as the wave.

    A wave that makes every running request wait for o seconds, R of them, delays them by ``R·o``
    together; r requests held for Δ seconds are delayed by ``r·Δ``. It is due once what was held
    reaches what it costs now, ``Σ r·Δ ≥ κ·R·o``.
    """

    __slots__ = (
        "_began_s",
        "_began_step_s",
        "_clock_s",
        "_running",
        "_step",
        "_step_s",
        "_waiting",
        "growth",
        "spent",
        "tally",
    )

    def __init__(self) -> None:
        self.spent = 0.0
        self.tally = Tally()
        self.growth = Growth()
        self._clock_s = self._began_s = self._began_step_s = math.nan
        self._step, self._step_s = 0, math.nan
        self._waiting = self._running = 0

    @property
    def step_s(self) -> float:
        """How long steps have lasted lately, in seconds; NaN before there were two decisions."""
        return self._step_s

    def held_s(self, clock_s: float) -> float:
        """Return for how long those that are held have been, in seconds."""
        return clock_s - self._began_s if self._waiting else 0.0

    def look(self, step: int, clock_s: float, *, idle: bool = False) -> None:
        """Take in that time has passed, and whether nothing runs by now."""
        passed = clock_s - self._clock_s
        if self._waiting:
            self.spent += self._waiting * passed / max(self._running, 1)
            self.tally.held_s += self._waiting * passed
        self._clock_s = clock_s
        # Who serves asks several times within a step.
        if step != self._step or math.isnan(self._began_step_s):
            if not idle:
                self._time_steps(step - self._step, clock_s - self._began_step_s)
            self._step, self._began_step_s = step, clock_s

    def _time_steps(self, steps: int, passed: float) -> None:
        if steps > 0 and passed >= 0:
            self.growth.passed(passed, steps)
            each = passed / steps
            keep = math.exp(-steps / _MEMORY_STEPS)
            known = not math.isnan(self._step_s)
            self._step_s = keep * self._step_s + (1 - keep) * each if known else each

    def stalled(self, count: int, running: int, stall_s: float) -> bool:
        """Tell whether to hold on would cost each of those held more than it gathers others.

        With n held, ``S = Σ r·Δ`` spent and a wave at o seconds for each of R running, a request
        has cost ``(R·o + S)/n`` so far. To hold on for Δ costs ``n·Δ`` and gathers ``ṅ·Δ`` more:
        the mean falls as long as ``n² < ṅ·(R·o + S)``. Where n grows evenly that says ``S < R·o``.
        """
        return count * count >= self.growth.per_s * running * (stall_s + self.spent)

    def hold(self, count: int, running: int) -> None:
        """Hold so many that could run, for so many that do."""
        if count and not self._waiting:
            self._began_s = self._clock_s
        if not count:
            self.spent = 0.0
        self._waiting, self._running = count, running

    def release(self, count: int, stalls_s: float) -> None:
        """Release them."""
        self.tally.waves += 1
        self.tally.released += count
        self.tally.stalled_s += stalls_s
        self.spent, self._waiting = 0.0, 0


def lowered(kappa: float, ceiling: float, tpot_s: float, promised_s: float) -> float:
    """Return κ after a wave: as high as keeping the promised time per token asks for.

    A promise kept with room to spare lowers it, one broken raises it, in proportion.
    """
    if math.isnan(tpot_s):
        return kappa
    return _moved(kappa, tpot_s / promised_s, _LEAST * ceiling, ceiling)


def balanced(
    kappa: float,
    floor: float,
    tpot_s: float,
    promised_s: float,
    *,
    missed: float,
    decided: bool,
) -> float:
    """Return κ after a wave, where first tokens are promised as well as the time per token.

    It rises while the time per token is in danger and falls as holding costs first tokens, in
    proportion: with mean steps of s and τ promised it rests where ``2s/τ·(1 - missed) = 1``. A
    wave that went for another reason would have gone no later with a larger κ, so that none
    follows from it. First tokens that come earlier than they must are worth nothing, so that κ
    never falls below what it is without promises.

    Parameters
    ----------
    kappa, floor : float
    tpot_s, promised_s : float
        Mean step, and what is promised. Before any was timed κ stays as it is.
    missed : float
        Of those released: the share whom holding cost its first token in time.
    decided : bool
        Whether κ ended holding.
    """
    if math.isnan(tpot_s):
        return kappa
    ratio = tpot_s / (_IN_DANGER * promised_s) * (1.0 - missed)
    return _moved(kappa, ratio if decided else min(ratio, 1.0), floor, MAX_KAPPA)


def _moved(kappa: float, ratio: float, least: float, most: float) -> float:
    return min(max(kappa * min(max(ratio, 0.8), 1.25), least), most)


def slowdown(steps: float) -> float:
    """Return what a second before a request begins weighs, over one while requests run.

    Where slots are free, delays are felt by how long a request would have taken: the mean of
    delay over duration T counts a second of one that waits ``E[1/T]``, and a second of all that
    run ``1/E[T]`` each, as long ones are met there more often. Where requests of ō steps end
    without memory, as geometric lengths do, ``E[T]·E[1/T] = ln(ō)·ō/(ō - 1)``: about ln ō.

    Parameters
    ----------
    steps : float
        ō, which a request runs on average.
    """
    return math.log(steps) * steps / (steps - 1.0) if steps > 1.0 else 1.0
