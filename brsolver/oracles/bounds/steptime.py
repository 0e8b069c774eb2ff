"""From barrier time to seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.simulator.params import StepTime

if TYPE_CHECKING:
    from brsolver.oracles.hindsight.schedule import IntArray

FloatArray = NDArray[np.float64]


def makespan(
    step_time: StepTime | None,
    steps: int,
    barrier_time: int,
    total_work: int,
    workers: int,
    per_step: IntArray,
) -> float:
    """Return ``C·K + t·Σ_k M(k) + b·W/G`` in seconds, or what a table proves.

    Parameters
    ----------
    step_time : StepTime or None
        ``C = base``, ``t = per_token``, ``b = per_mean_token``; None is the simulator's default.
    steps, barrier_time : int
        K and ``Σ_k M(k)``, or lower bounds of them.
    total_work, workers : int
        W and G; the mean load summed over the steps is W/G whatever the routing.
    per_step : ndarray of int64
        ``LB_k <= M(k)`` of the first steps. A table need not increase with the load, so each of
        these steps counts with the shortest duration of any load from ``LB_k`` on, the others
        with the shortest of all.
    """
    model = step_time or StepTime()
    if model.model == "table":
        known = least_duration(model, per_step).sum()
        unknown = least_duration(model, np.zeros(1, np.int64))[0]
        return float(known + max(0, steps - per_step.size) * unknown)
    mean = model.per_mean_token * total_work / workers if model.model == "max-mean" else 0.0
    return model.base * steps + model.per_token * barrier_time + mean


def least_duration(model: StepTime, loads: IntArray) -> FloatArray:
    """Return the shortest step that a table gives any load of at least `loads`.

    It is piecewise linear, so it is least at the load itself or at a measured one beyond. If it
    falls beyond the last one nothing is proven, and the result is 0.
    """
    at, seconds = np.array(model.loads), np.array(model.seconds)
    slopes = np.diff(seconds) / np.diff(at)
    if slopes[-1] < 0:
        return np.zeros(loads.shape)
    below, above = np.minimum(loads - at[0], 0), np.maximum(loads - at[-1], 0)
    here = np.interp(loads, at, seconds) + slopes[0] * below + slopes[-1] * above
    later = np.append(np.minimum.accumulate(seconds[::-1])[::-1], np.inf)
    least: FloatArray = np.minimum(here, later[np.searchsorted(at, loads)])
    return np.maximum(least, 0.0)
