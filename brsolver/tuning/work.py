"""What is carried out away from the search: simulations of parts of the trace, and the gap.

Functions here run in other processes, maybe on other machines.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.errors import BrsolverError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from brsolver.registry import PolicySpec
    from brsolver.simulator.params import SimulationParams
    from brsolver.traces.trace import Trace

TUNING, VALIDATION = "tuning", "validation"
"""Names of the shared traces."""
PREDICTOR = "predictor"
"""Name of the shared predictor's specification, None being each policy's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTask:
    """A simulation of some requests.

    Attributes
    ----------
    policy : PolicySpec
    params : SimulationParams
    part : str
        `TUNING` or `VALIDATION`.
    first, end : int
        Rows of that part.
    """

    policy: PolicySpec
    params: SimulationParams
    part: str
    first: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GapTask:
    """The certified gap of a setting.

    Attributes
    ----------
    policy : PolicySpec
    params : SimulationParams
    first, end : int
        Rows of the later part.
    budget_s : float
        Seconds for the bound.
    """

    policy: PolicySpec
    params: SimulationParams
    first: int
    end: int
    budget_s: float


def carry(task: RunTask | GapTask, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Carry out a task."""
    if isinstance(task, GapTask):
        return _gap(task, shared)
    return _run(task, shared)


def _piece(trace: Trace, first: int, end: int) -> Trace:
    if (first, end) == (0, len(trace)):
        return trace
    return trace.take(np.arange(first, end))


def _run(task: RunTask, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Simulate; returns figures by name, and ``task_s``, the seconds it took."""
    from brsolver.simulator import simulate
    from brsolver.tuning.goals import figures_of

    began = time.perf_counter()
    trace = _piece(shared[task.part], task.first, task.end)
    result = simulate(trace, task.policy, task.params, predictor=shared[PREDICTOR])
    if unfinished := result.requests.unfinished():
        reasons = ", ".join(f"{count} {reason}" for reason, count in unfinished.items())
        raise BrsolverError(f"{sum(unfinished.values())} requests did not finish: {reasons}")
    figures = figures_of(result, trace)
    # Without what is compiled the first time.
    return {**figures, "engine_s": result.metrics.wall_s, "task_s": time.perf_counter() - began}


def _gap(task: GapTask, shared: Mapping[str, Any]) -> dict[str, Any]:
    from brsolver.oracles.gap_time import time_gap

    report = time_gap(
        _piece(shared[VALIDATION], task.first, task.end),
        [task.policy],
        workers=task.params.workers,
        slots=task.params.slots,
        budget_s=task.budget_s,
        params=replace(task.params),
        predictor=shared[PREDICTOR],
        seed=task.params.seed,
    )
    (row,) = report.policies
    return {
        "gap": row.gap,
        "seconds": row.seconds,
        "lower_bound_s": report.lower_bound_s,
        "valid_for": report.valid_for,
        "origin": report.origin,
        "certified": row.certified,
        "requests": report.requests,
    }
