"""From barrier time to seconds."""

from __future__ import annotations

from brsolver.errors import ParameterError
from brsolver.simulator.params import StepTime


def makespan(
    step_time: StepTime | None, steps: int, barrier_time: int, total_work: int, workers: int
) -> float:
    """Return ``C·K + t·Σ_k M(k) + b·W/G`` in seconds.

    Parameters
    ----------
    step_time : StepTime or None
        ``C = base``, ``t = per_token``, ``b = per_mean_token``; None is the simulator's default.
    steps, barrier_time : int
        K and ``Σ_k M(k)``, or lower bounds of them.
    total_work, workers : int
        W and G; the mean load summed over the steps is W/G whatever the routing.

    Raises
    ------
    ParameterError
        The step time is a table, which need not increase with the load.
    """
    model = step_time or StepTime()
    if model.model == "table":
        raise ParameterError(
            "step-time model 'table' has no makespan bound; use affine or max-mean"
        )
    mean = model.per_mean_token * total_work / workers if model.model == "max-mean" else 0.0
    return model.base * steps + model.per_token * barrier_time + mean
