"""Least squares for durations: relative errors, no negative coefficient, outliers held down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls

if TYPE_CHECKING:
    from brsolver.hardware.measurements import FloatArray

HUBER = 1.345
"""Residuals beyond so many standard deviations count linearly: 95 % efficient for normal noise."""
NORMAL_MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
ROUNDS = 60
SETTLED = 1e-9


def fit_relative(design: FloatArray, seconds: FloatArray, known: FloatArray) -> FloatArray:
    """Fit non-negative coefficients to durations by their relative errors.

    Minimises ``Σ_k ρ((known_k + (Xc)_k - t_k)/t_k)`` over ``c ≥ 0``, ρ Huber's function whose
    width follows from the median absolute error: iteratively reweighted non-negative least
    squares.

    Parameters
    ----------
    design : ndarray of float64, shape (K, R)
        X, a column per coefficient.
    seconds : ndarray of float64, shape (K,)
        t, positive.
    known : ndarray of float64, shape (K,)
        What is already accounted for.

    Returns
    -------
    ndarray of float64, shape (R,)
    """
    weights = np.ones_like(seconds)
    found = np.zeros(design.shape[1])
    for _ in range(ROUNDS):
        before = found
        found = _weighted(design, seconds, known, weights)
        if np.allclose(found, before, rtol=SETTLED, atol=0):
            break
        weights = huber_weights((known + design @ found - seconds) / seconds)
    return found


def huber_weights(errors: FloatArray) -> FloatArray:
    """Return ``min(1, k·σ/|e|)`` with σ from the median absolute error, shape as `errors`."""
    size = np.abs(errors)
    width = HUBER * NORMAL_MAD * float(np.median(size))
    if not width:
        return np.asarray(size == 0, dtype=np.float64)
    return np.asarray(width / np.maximum(size, width), dtype=np.float64)


def _weighted(
    design: FloatArray, seconds: FloatArray, known: FloatArray, weights: FloatArray
) -> FloatArray:
    scale = np.sqrt(weights) / seconds
    scaled = design * scale[:, None]
    # Columns differ by ten orders of magnitude.
    size = np.linalg.norm(scaled, axis=0)
    size[size == 0] = 1.0
    found, _ = nnls(scaled / size, (seconds - known) * scale)
    return np.asarray(found / size, dtype=np.float64)
