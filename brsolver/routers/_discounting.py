"""How far ahead a decision matters: the discount per step, from the cluster's own turnover."""

from __future__ import annotations

import math

_OPPORTUNITIES = 1.5
_PRIOR_STEPS = 512.0
_MEMORY_STEPS = 4096.0


class Turnover:
    """Departures per worker and step, seen from one decision to the next.

    The imbalance that a placement leaves behind lasts until a slot comes free that can be filled
    to correct it, on that worker or on the leading one. With λ departures per worker and step,
    ``γ = exp(-ω·λ)`` is the chance that a step passes without such an opportunity, and counts
    every future step by the chance that today's decision still shapes it. ω would be 1 if only
    the worker's own slots mattered and 2 if the leader's mattered as much; both ends and what lies
    between are measured in docs/formulation.md. Where B slots run requests of mean output length
    ō, ``λ = B/ō``.

    The estimate starts from γ = 0.86 with the weight of 512 steps, so that a run's start,
    when nothing ends yet, does not look like long outputs; it forgets over about 4,000.

    Parameters
    ----------
    gamma : float
        What the estimate starts from, in (0, 1].
    opportunities : float
        ω, positive.
    prior_steps : float
        Worker steps that this start weighs as much as; 0 starts from nothing.

    Attributes
    ----------
    departures : int
        Departures seen so far, none forgotten.
    """

    __slots__ = (
        "_departed",
        "_expected",
        "_live",
        "_opportunities",
        "_step",
        "_worker_steps",
        "departures",
    )

    def __init__(
        self,
        gamma: float = 0.86,
        opportunities: float = _OPPORTUNITIES,
        prior_steps: float = _PRIOR_STEPS,
    ) -> None:
        self._opportunities = opportunities
        self._departed = -math.log(gamma) / opportunities * prior_steps
        self._worker_steps = prior_steps
        self.departures = 0
        self._expected = self._live = 0
        self._step: int | None = None

    @property
    def gamma(self) -> float:
        """The discount per step, in (0, 1]."""
        return math.exp(-self._opportunities * self._departed / self._worker_steps)

    @property
    def steps_between(self) -> float:
        """Steps from one departure of a worker to its next, on average."""
        return self._worker_steps / max(self._departed, 1.0)

    @property
    def rate(self) -> float:
        """Departures λ per worker and step; 0 while there is nothing to tell it from."""
        return self._departed / self._worker_steps if self._worker_steps else 0.0

    def steps_of(self, running: int) -> float:
        """Return for how many steps a request runs on average where so many do: Little's law."""
        return running / max(self._live, 1) * self.steps_between

    def look(self, step: int, live: int, present: int) -> None:
        """Count what has departed since the last decision.

        Parameters
        ----------
        step : int
            Decode steps done so far.
        live, present : int
            Workers that are there, and requests that run or queue at them.
        """
        if self._step is not None and step > self._step:
            keep = math.exp(-(step - self._step) / _MEMORY_STEPS)
            passed = (step - self._step) * live
            gone = max(self._expected - present, 0)
            self.departures += gone
            self._departed = keep * self._departed + gone
            self._worker_steps = keep * self._worker_steps + passed
            self._expected = present
        elif self._step is None or present > self._expected:
            self._expected = present
        self._step, self._live = step, live

    def placed(self, count: int) -> None:
        """Count what the decision just taken adds."""
        self._expected += count
