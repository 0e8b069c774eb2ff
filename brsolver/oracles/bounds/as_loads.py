"""Any step time, from below, by coefficients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.hardware.reference import measured
from brsolver.hardware.step_time import AXES, StepTime

if TYPE_CHECKING:
    from collections.abc import Sequence

FloatArray = NDArray[np.float64]

ROUNDING = 1e-12
"""Relative slack that a certified figure gives away: far more than sums of floats lose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What all ranks compute over a whole run: the same for every run.

    Attributes
    ----------
    sequences : int
        O, decode steps of all requests.
    kv_tokens : int
        W, KV tokens that they read.
    prefill_tokens, prefill_context : int
        S and X, what prefill computes on the ranks; 0 where it is done elsewhere.
    """

    sequences: int
    kv_tokens: int
    prefill_tokens: int = 0
    prefill_context: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RankLimits:
    """Most that one rank may have in a step: sequences, their KV tokens, prefill tokens."""

    sequences: int
    kv_tokens: int
    prefill_tokens: int = 0


def as_loads(
    model: StepTime, totals: Totals, limits: RankLimits, *, workers: int, steps: int
) -> StepTime:
    """Return coefficients by which no step lasts longer than it does by `model`.

    Affine and max-mean models are those of the three loads already. Of a measured grid it is the
    affine function below its surface, with coefficients of at least 0, that makes the most of
    the totals: a linear programme over the corners of the cells, between which interpolation
    has no other minima.

    Parameters
    ----------
    model : StepTime
    totals : Totals
    limits : RankLimits
        Where the function has to lie below the surface.
    workers, steps : int
        G, and a lower bound of the number of steps, by which totals and base are weighed.

    Returns
    -------
    StepTime
        Of model ``"loads"``.
    """
    if model.model != "table":
        return replace(model, model="loads")
    return _below_grid(model, totals, limits, workers, steps)


def _below_grid(
    model: StepTime, totals: Totals, limits: RankLimits, workers: int, steps: int
) -> StepTime:
    corners, seconds = _corners(model, limits)
    weigh = np.array([totals.sequences, totals.kv_tokens, totals.prefill_tokens]) / workers
    slopes = _best_slopes(corners, seconds, weigh, steps)
    # What the solver says of the base is not relied on.
    base = float((seconds - corners @ slopes).min()) * (1 - ROUNDING)
    if base < 0:
        slopes, base = np.zeros(3), float(seconds.min())
    return StepTime(
        model="loads",
        base=base,
        per_sequence=float(slopes[0]),
        per_token=float(slopes[1]),
        per_prefill_token=float(slopes[2]),
        hardware=model.hardware,
    )


def _best_slopes(
    corners: FloatArray, seconds: FloatArray, weigh: FloatArray, steps: int
) -> FloatArray:
    """Maximise ``steps·base + weigh·slopes`` with ``base + corner·slopes <= seconds`` at each."""
    from scipy.optimize import linprog

    scale = np.maximum(corners.max(axis=0), 1.0)
    found = linprog(
        -np.append(weigh / scale, steps),
        A_ub=np.column_stack((corners / scale, np.ones(len(corners)))),
        b_ub=seconds,
        bounds=(0, None),
    )
    return np.zeros(3) if found.x is None else np.maximum(found.x[:3], 0.0) / scale


def _corners(model: StepTime, limits: RankLimits) -> tuple[FloatArray, FloatArray]:
    """Return the corners of the cells within the limits, shape (m, 3), and durations there.

    Beyond the last point of an axis a duration is no shorter than at that point; of a table with
    one axis it is linear there.
    """
    axes = [getattr(model, name) for name in AXES]
    most = (limits.sequences, limits.kv_tokens, limits.prefill_tokens)
    clamps = sum(bool(axis) for axis in axes) > 1
    points = [_points(axis, end) for axis, end in zip(axes, most, strict=True)]
    corners = np.array(list(product(*points)), np.float64)
    inside = [
        [min(x, axis[-1]) if clamps and axis else x for x, axis in zip(row, axes, strict=True)]
        for row in corners.tolist()
    ]
    return corners, np.array([measured(model, *row) for row in inside])


def _points(axis: Sequence[float], most: float) -> list[float]:
    if not axis:
        return [0.0]
    return sorted({0.0, *(min(max(x, 0.0), float(most)) for x in axis), float(most)})
