"""The step clock: the model of the ranks, moved on with time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from integration.picker.pace import Pace, Prompts

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.simulator.live import LiveRanks, LiveStep

MOST_STEPS = 2_000
"""In one call: who has slept for longer than that lets the rest go."""
_SHORTEST_S = 1e-3
"""Of a step: no engine is faster, and one that says so would have the model do nothing else."""
_GAIN = 0.25
"""Of the way to where a step seemed to end, at which the next one begins by the model."""

Mark = tuple[float, float, int, int]
"""Time, the hardware's seconds and steps so far, and how often nothing ran until then."""


class StepClock:
    """Does steps of the ranks as time passes.

    Parameters
    ----------
    ranks : LiveRanks

    Attributes
    ----------
    ranks : LiveRanks
    pace : Pace
    prompts : Prompts
    next_s : float or None
        When the next step begins; None while nothing runs.
    last_s : float
        How long the last one lasts.
    """

    def __init__(self, ranks: LiveRanks) -> None:
        self.ranks = ranks
        self.pace = Pace()
        self.prompts = Prompts()
        self.next_s: float | None = None
        self.last_s = 0.0
        self._model_s = 0.0
        self._steps = 0
        self._idles = 0

    @property
    def step(self) -> int:
        """Steps done so far."""
        return self._steps

    def wake(self, now: float) -> None:
        """Begin steps, if none are done and there is something to do."""
        if self.next_s is None and self.ranks.busy:
            self.next_s = now

    def due(self, now: float) -> bool:
        """Tell whether a step is to begin."""
        return self.next_s is not None and self.next_s <= now

    def current(self, now: float) -> bool:
        """Tell whether the step that is to begin is the latest that is due, as far as one knows."""
        return self.next_s is not None and now - self.next_s <= self.last_s

    def run(self, done: Callable[[LiveStep, float], None]) -> None:
        """Do the step that is due.

        Parameters
        ----------
        done : callable
            Told the step, its durations as the engines' own, and when it ends.
        """
        assert self.next_s is not None  # noqa: S101 # it is due
        step = self.ranks.step()
        scale = self.pace.scale
        self._model_s += step.duration_s
        self._steps += 1
        self.last_s = max(scale * step.duration_s, _SHORTEST_S)
        self.next_s += self.last_s
        prefill, sequences, kv, padding = (scale * each for each in step.lost_s)
        lost = prefill, sequences, kv, padding
        done(step._replace(duration_s=scale * step.duration_s, lost_s=lost), self.next_s)
        if not self.ranks.busy:
            self.next_s = None
            self._idles += 1

    def stop_if_idle(self) -> None:
        """Take in that requests have left: without any, no step is under way."""
        if self.next_s is not None and not self.ranks.busy:
            self.next_s = None
            self._idles += 1

    def skip_to(self, now: float) -> None:
        """Let steps go that are long overdue."""
        self.next_s = now

    def saw_end(self, now: float) -> None:
        """Take in that a step of the engines seems to have ended: tokens have just come of one.

        Steps of the model then begin with theirs, as far as that can be told from outside: what is
        released as one set must not come to the engines around the beginning of a step, since some
        of it would join that step and some the next.
        """
        if self.next_s is None:
            return
        late = now - self.next_s
        if late < -self.last_s / 2:
            late += self.last_s
        if abs(late) <= self.last_s / 2:
            self.next_s += _GAIN * late

    def restart(self, now: float) -> None:
        """Begin anew with other ranks; nothing is learned from what was before."""
        self._idles += 1
        self.next_s = now + self.last_s if self.ranks.busy else None

    def mark(self, now: float) -> Mark:
        """Return how the clock stands, to learn from it later."""
        return now, self._model_s, self._steps, self._idles

    def learn(self, since: Mark, now: float, steps: float, *, real_s: float | None = None) -> None:
        """Take in how many steps the engines did since a mark, if something ran throughout.

        Parameters
        ----------
        since : Mark
        now : float
        steps : float
        real_s : float, optional
            How long these took; by default all the time since the mark.
        """
        then, model_s, model_steps, idles = since
        if idles == self._idles:
            self.pace.learn(
                now - then if real_s is None else real_s,
                steps,
                model_s=self._model_s - model_s,
                model_steps=self._steps - model_steps,
            )
