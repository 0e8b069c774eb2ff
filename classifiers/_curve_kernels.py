"""Kernels over survival curves; `classifiers.survival` gives them their meaning.

A curve is two arrays of one length: ``table[a] = P(O > a)``, which keeps its last value beyond
its end, and ``tail[a] = Σ_{t=a}^{last-1} table[t]``. Summing from the end keeps the small values
there exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def tail_of(table: FloatArray) -> FloatArray:
    """Sum a table from each age to its end, the last value left out, shape (n,)."""
    tail: FloatArray = np.zeros_like(table)
    tail[:-1] = np.cumsum(table[-2::-1])[::-1]
    return tail


@kernel
def alive(table: FloatArray, age: int) -> float:
    """Return ``P(O > age)``."""
    value: float = table[min(age, table.shape[0] - 1)]
    return value


@kernel
def lived(table: FloatArray, tail: FloatArray, age: int, steps: int) -> float:
    """Return ``Σ_{h<steps} P(O > age + h)``."""
    last = table.shape[0] - 1
    beyond = max(0, age + steps - max(age, last))
    inside: float = tail[min(age, last)] - tail[min(age + steps, last)]
    outside: float = beyond * table[last]
    return inside + outside


@kernel
def settle(
    p_finish: FloatArray,
    mu_remaining: FloatArray,
    at: int,
    now: float,
    then: float,
    area: float,
    left: int,
    horizon: int,
) -> None:
    """Write a forecast from ``S(a)``, ``S(a + H)`` and ``Σ_{h<min(L,H)} S(a + h)``, all unscaled.

    `left` is L, the steps that the request's own limit leaves it, H + 1 or more if that is no
    matter. Without evidence of an end, ``S(a) = 0``, the request stays.
    """
    steps = float(min(left, horizon))
    expected = steps if now <= 0.0 else min(max(area / now, min(1.0, steps)), steps)
    if left <= horizon:
        p_finish[at], mu_remaining[at] = 1.0, expected
        return
    p = 0.0 if now <= 0.0 else min(max((now - then) / now, 0.0), 1.0)
    mu = float(horizon)
    if p > 0.0:
        mu = min(max((expected - (1.0 - p) * horizon) / p, 1.0), float(horizon))
    p_finish[at], mu_remaining[at] = p, mu


@kernel
def forecast_by_age(
    table: FloatArray,
    tail: FloatArray,
    age: IntArray,
    left: IntArray,
    horizon: int,
    p_finish: FloatArray,
    mu_remaining: FloatArray,
) -> None:
    """Write the forecasts of requests of which only the age and the limit are known."""
    for i in range(age.shape[0]):
        now, then = alive(table, age[i]), alive(table, age[i] + horizon)
        area = lived(table, tail, age[i], min(left[i], horizon))
        settle(p_finish, mu_remaining, i, now, then, area, left[i], horizon)


@kernel
def curves_by_age(
    table: FloatArray, age: IntArray, left: IntArray, horizon: int, out: FloatArray
) -> None:
    """Write ``P(O > a + h | O > a)`` for h = 0..horizon, shape (n, horizon + 1)."""
    for i in range(age.shape[0]):
        now = alive(table, age[i])
        for h in range(horizon + 1):
            ahead = 1.0 if now <= 0.0 else alive(table, age[i] + h) / now
            out[i, h] = ahead if h < left[i] else 0.0
