"""Kernels of the online identification; `online_reference` says plainly what they compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brsolver._jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

SECONDS, STEPS, ERROR, STREAK = range(4)
"""Of `level`: mean seconds, steps behind it, typical relative error, run of outliers (signed)."""
LEVELS = 4
KEEP, KEEP_LEVEL, HUBER, PACE, LEAST_ERROR = range(5)
"""Of `tuning`: see `online`."""
NORMAL = 1.4826
"""Standard deviation of a normal error whose median size is 1."""
NOBODY = -1
"""In place of a rank."""
LEAST_SHARE = 1 / 3
"""Of the mean step: what a step is predicted to last at least."""


@kernel
def critical(loads: FloatArray, weights: FloatArray) -> int:
    """Return the first rank with the largest weighted sum of its loads.

    `NOBODY` if any load of any rank is no number, infinite or negative.
    """
    best, at = -1.0, NOBODY
    for g in range(loads.shape[0]):
        total = 0.0
        for i in range(weights.size):
            load = loads[g, i]
            if not 0.0 <= load < np.inf:
                return NOBODY
            total += weights[i] * load
        if total > best:
            best, at = total, g
    return at


@kernel
def learn(
    x: FloatArray,
    seconds: float,
    slopes: FloatArray,
    information: FloatArray,
    mean: FloatArray,
    spread: FloatArray,
    level: FloatArray,
    tuning: FloatArray,
) -> None:
    """Take in a step of a rank with loads `x`; see `online_reference.learn`."""
    u = x - mean
    size = predicted = 0.0
    for i in range(u.size):
        size += u[i] * u[i]
        predicted += slopes[i] * u[i]
    predicted = max(level[SECONDS] + predicted, LEAST_SHARE * level[SECONDS])
    weight = 1.0 / (predicted * predicted)
    gain = solve(information, u)
    leverage = weight * _dot(u, gain)
    error = _clipped(seconds / predicted - 1.0, leverage, level, tuning)
    if size > 0.0:
        _exchange(information, u, size, weight, tuning[KEEP])
        gain = solve(information, u)
        for i in range(u.size):
            slopes[i] += weight * gain[i] * error * predicted
    level[STEPS] += 1.0
    pace = max(1.0 / level[STEPS], 1.0 - tuning[KEEP_LEVEL])
    level[SECONDS] += pace * (predicted * (1.0 + error) - level[SECONDS])
    for i in range(u.size):
        mean[i] += pace * u[i]
        spread[i] += pace * (u[i] * u[i] - spread[i])


@kernel
def _exchange(
    information: FloatArray, u: FloatArray, size: float, weight: float, keep: float
) -> None:
    """Add what a step tells, and forget as much at most, in its own direction alone."""
    known = np.zeros(u.size)
    for i in range(u.size):
        known[i] = _dot(information[i], u)
    total = _dot(known, u)
    forgotten = min(1.0 - keep, weight * size * size / total) / total
    for i in range(u.size):
        for j in range(u.size):
            information[i, j] += weight * u[i] * u[j] - forgotten * known[i] * known[j]


@kernel
def _clipped(error: float, leverage: float, level: FloatArray, tuning: FloatArray) -> float:
    """Return a relative error, bounded by what is typical; note what is typical."""
    limit = tuning[HUBER] * NORMAL * level[ERROR] * np.sqrt(1.0 + leverage)
    if leverage < 1.0:
        # Of directions that nothing is known of, errors say nothing of the noise.
        pace = np.exp(tuning[PACE] if abs(error) > level[ERROR] else -tuning[PACE])
        level[ERROR] = min(max(level[ERROR] * pace, tuning[LEAST_ERROR]), 1.0)
    if abs(error) <= limit:
        level[STREAK] = 0.0
        return error
    sign = 1.0 if error > 0.0 else -1.0
    level[STREAK] = sign + (level[STREAK] if level[STREAK] * sign > 0.0 else 0.0)
    return float(sign * limit)


@kernel
def _dot(a: FloatArray, b: FloatArray) -> float:
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return float(total)


@kernel
def solve(matrix: FloatArray, right: FloatArray) -> FloatArray:
    """Solve a small symmetric positive definite system, by Cholesky."""
    n = right.size
    lower = np.zeros((n, n))
    x = right.copy()
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            if i == j:
                # Rounding may take the last digits of what is barely known.
                lower[i, i] = np.sqrt(max(total, 1e-12 * matrix[i, i]))
            else:
                lower[i, j] = total / lower[j, j]
    for i in range(n):
        for k in range(i):
            x[i] -= lower[i, k] * x[k]
        x[i] /= lower[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            x[i] -= lower[k, i] * x[k]
        x[i] /= lower[i, i]
    return x
