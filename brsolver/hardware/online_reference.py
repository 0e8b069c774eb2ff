"""The online identification in plain numpy: what its kernel is held to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]


@dataclass(kw_only=True)
class Plain:
    """State of the identification, loads in their units; see `online`.

    Attributes
    ----------
    slopes : ndarray of float64, shape (D,)
        θ, seconds per load.
    information : ndarray of float64, shape (D, D)
        R, whose inverse times the squared relative error is the covariance of θ.
    mean, spread : ndarray of float64, shape (D,)
        Running means of the loads x̄ and of their squared deviations.
    seconds, steps, error, streak : float
        Running mean of durations t̄, steps behind it, median relative error, run of outliers.
    """

    slopes: FloatArray
    information: FloatArray
    mean: FloatArray
    spread: FloatArray
    seconds: float
    steps: float
    error: float
    streak: float


def learn(
    s: Plain,
    x: FloatArray,
    seconds: float,
    *,
    keep: float,
    keep_level: float,
    huber: float,
    pace: float,
    least_error: float,
) -> None:
    """Take in a step of the critical rank with loads `x`.

    With ``u = x − x̄``, prediction ``t̂ = t̄ + θ·u``, weight ``w = t̂⁻²`` and the relative error
    ``e = t/t̂ − 1`` bounded at `huber` standard deviations times ``√(1 + w·u'R⁻¹u)``:

    - ``R ← R − m·R u u'R/(u'R u) + w·u u'``, ``m = min(1 − keep, w·(u'u)²/(u'R u))``: in its own
      direction alone, and never more than the step brings;
    - ``θ ← θ + R⁻¹u·w·e·t̂``, below 0 as well: with one slope cut off there, the others would keep
      their part of a correction that was made for all, and errors of one sign drive them away;
    - t̄ and x̄ follow the bounded duration and the loads at ``max(1/k, 1 − keep_level)``.
    """
    u = x - s.mean
    predicted = max(s.seconds + float(s.slopes @ u), s.seconds / 3)
    weight = predicted**-2
    leverage = weight * float(u @ np.linalg.solve(s.information, u))
    raw = seconds / predicted - 1
    limit = huber * 1.4826 * s.error * np.sqrt(1 + leverage)
    error = float(np.clip(raw, -limit, limit))
    if leverage < 1:
        grown = s.error * np.exp(pace if abs(raw) > s.error else -pace)
        s.error = float(np.clip(grown, least_error, 1))
    s.streak = _streak(s.streak, raw, limit)
    if (u != 0).any():
        known = s.information @ u
        share = min(1 - keep, weight * float(u @ u) ** 2 / float(u @ known))
        s.information += weight * np.outer(u, u) - share * np.outer(known, known) / (u @ known)
        gain = np.linalg.solve(s.information, u) * weight
        s.slopes = s.slopes + gain * error * predicted
    s.steps += 1
    follow = max(1 / s.steps, 1 - keep_level)
    s.seconds += follow * (predicted * (1 + error) - s.seconds)
    s.mean = s.mean + follow * u
    s.spread = s.spread + follow * (u**2 - s.spread)


def _streak(before: float, error: float, limit: float) -> float:
    if abs(error) <= limit:
        return 0.0
    sign = 1.0 if error > 0 else -1.0
    return sign + (before if before * sign > 0 else 0.0)
