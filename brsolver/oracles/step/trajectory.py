"""Relaxations of one decision after another: what the last one used starts the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.oracles.step.sifting import sift
from brsolver.oracles.step.solve import trivial

if TYPE_CHECKING:
    from brsolver.oracles.result import SolveResult
    from brsolver.oracles.step.evaluate import Objective
    from brsolver.oracles.step.instance import StepInstance

IntArray = NDArray[np.int64]


class StepRelaxer:
    """Solves the relaxations of a trajectory's decisions by sifting, each from the one before.

    Consecutive decisions share most of their waiting requests and use similar lengths; a start
    from them needs no local search. Results do not depend on what was solved before.

    Parameters
    ----------
    objective : {"score", "imbalance"}
    """

    def __init__(self, objective: Objective = "score") -> None:
        self.objective = objective
        self._lengths: IntArray | None = None

    def solve(self, instance: StepInstance, *, time_limit_s: float | None = None) -> SolveResult:
        """Return what ``solve_step(…, backend="sifting", relax=True)`` does, sooner."""
        if known := trivial(instance, self.objective, relax=True):
            return known
        result = sift(instance, self.objective, time_limit_s=time_limit_s, lengths=self._lengths)
        if result.solution is not None:
            used = np.asarray(result.solution).sum(axis=0) > 0
            self._lengths = instance.sizes[used]
        return result
