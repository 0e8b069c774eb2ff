"""How far ahead a decision matters: the discount per step, from the cluster's own turnover."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from brsolver.routers._br_kernels import census

if TYPE_CHECKING:
    from brsolver.policy import ClusterView

_OPPORTUNITIES = 1.5
_PRIOR_STEPS = 512.0
_MEMORY_STEPS = 4096.0


class Turnover:
    """Departures per worker and step, seen from one decision to the next.

    The imbalance that a placement leaves behind lasts until a slot comes free that can be filled
    to correct it, on that worker or on the leading one. With λ departures per worker and step,
    ``γ = exp(-κ·λ)`` is the chance that a step passes without such an opportunity, and counts
    every future step by the chance that today's decision still shapes it. κ would be 1 if only
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
        κ, positive.
    """

    def __init__(self, gamma: float = 0.86, opportunities: float = _OPPORTUNITIES) -> None:
        self._opportunities = opportunities
        self._departed = -math.log(gamma) / opportunities * _PRIOR_STEPS
        self._worker_steps = _PRIOR_STEPS
        self._expected = 0
        self._step: int | None = None

    @property
    def gamma(self) -> float:
        """The discount per step, in (0, 1]."""
        return math.exp(-self._opportunities * self._departed / self._worker_steps)

    def look(self, cluster: ClusterView) -> None:
        """Count what has departed since the last decision."""
        live, present = census(cluster.table)
        if self._step is not None and cluster.step > self._step:
            keep = math.exp(-(cluster.step - self._step) / _MEMORY_STEPS)
            passed = (cluster.step - self._step) * live
            self._departed = keep * self._departed + max(self._expected - present, 0)
            self._worker_steps = keep * self._worker_steps + passed
            self._expected = present
        elif self._step is None or present > self._expected:
            self._expected = present
        self._step = cluster.step

    def placed(self, count: int) -> None:
        """Count what the decision just taken adds."""
        self._expected += count
