"""What routers need to know of a step time: seconds per unit of load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brsolver.cluster.costs import StepCosts

if TYPE_CHECKING:
    from brsolver.hardware.step_time import StepTime

AXES = {
    "sequences": "per_sequence_s",
    "loads": "per_kv_token_s",
    "prefill_tokens": "per_prefill_token_s",
}
"""Axes of a table, in the order in which its durations lie, and what a unit along each costs."""


def step_costs(step_time: StepTime, *, budget: int = 0) -> StepCosts:
    """Return what a unit of load costs by a step time.

    What the formulas of `StepTime` leave linear is taken as it is. Reading experts, padding and
    attention over the context before a prompt's tokens are left out: routers weigh loads against
    each other, and these three differ least between ranks. Of a table the secants between first
    and last measurement along each axis count, the others at their first; what falls costs 0.

    Parameters
    ----------
    step_time : StepTime
    budget : int
        Tokens that a rank computes in a step; 0 where prompts are computed elsewhere.
    """
    if step_time.model == "table":
        return _of_table(step_time, budget)
    return StepCosts(
        base_s=step_time.base,
        per_sequence_s=step_time.per_sequence,
        per_kv_token_s=step_time.per_token,
        per_prefill_token_s=step_time.per_prefill_token,
        per_mean_sequence_s=step_time.per_mean_sequence,
        per_mean_kv_token_s=step_time.per_mean_token,
        per_mean_prefill_token_s=step_time.per_mean_prefill_token,
        budget=budget,
    )


def _of_table(step_time: StepTime, budget: int) -> StepCosts:
    axes = [(name, getattr(step_time, name)) for name in AXES]
    varied = [(name, axis) for name, axis in axes if axis]
    seconds = np.reshape(step_time.seconds, [len(axis) for _, axis in varied])
    found = {"base_s": float(seconds.flat[0])}
    for at, (name, axis) in enumerate(varied):
        along = seconds[tuple(slice(None) if each == at else 0 for each in range(len(varied)))]
        slope = float(along[-1] - along[0]) / (axis[-1] - axis[0])
        found[AXES[name]] = max(slope, 0.0)
    return StepCosts(budget=budget, **found)
