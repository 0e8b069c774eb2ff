"""OR-Tools GLOP: simplex for relaxations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver.oracles.backends import _linear

if TYPE_CHECKING:
    from brsolver.oracles.backends._base import Answer, Job
    from brsolver.oracles.linear_model import LinearModel


def solve(model: LinearModel, job: Job) -> Answer:
    """Solve with GLOP; see `brsolver.oracles.backends.solve`."""
    return _linear.solve(model, job, "glop")
