"""Kernels of the Lagrangian bounds; see `brsolver.oracles.step.lagrangian`.

Multipliers are integers in units of 1/`SCALE` of an objective's unit, so every bound is exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.oracles.step._shapes import NONE

if TYPE_CHECKING:
    from brsolver.oracles.step._shapes import Reach, Terms

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

SCALE = 1024
"""Units of a multiplier per unit of the objective."""


@kernel
def match(
    price: IntArray,
    bonus: IntArray,
    most: IntArray,
    ordered: IntArray,
    admit: int,
    tokens: IntArray,
    requests: IntArray,
) -> int:
    """Return a bound on ``Σ_j price_j·S_j + bonus_j·n_j`` over all decisions.

    By the rearrangement inequality the slots of highest price take the longest requests and those
    of negative price the shortest. The bonuses are maximised apart, which is exact when every
    slot is filled. Writes the matching's sums to `tokens` and `requests`; the others are those of
    `Reach`.
    """
    tokens[:] = 0
    requests[:] = 0
    open_slots = most.sum()
    limit = min(open_slots, ordered.shape[0]) if admit == NONE else admit
    order = np.argsort(-price)
    value = 0
    used = 0
    for j in order:
        for _ in range(most[j]):
            if used == limit or (admit == NONE and price[j] <= 0):
                break
            requests[j] += 1
            used += 1
    _fill(order, price, requests, ordered, tokens)
    for j in range(price.shape[0]):
        value += price[j] * tokens[j]
    return value + _bonuses(bonus, most, admit)


@kernel
def _fill(
    order: IntArray, price: IntArray, requests: IntArray, ordered: IntArray, tokens: IntArray
) -> None:
    """Give slots in `order` of falling price the longest requests, those below 0 the shortest."""
    large, small = ordered.shape[0] - 1, 0
    for j in order:
        if price[j] <= 0:
            break
        for _ in range(requests[j]):
            tokens[j] += ordered[large]
            large -= 1
    for j in order[::-1]:
        if price[j] > 0:
            break
        for _ in range(requests[j]):
            tokens[j] += ordered[small]
            small += 1


@kernel
def _bonuses(bonus: IntArray, most: IntArray, admit: int) -> int:
    value = 0
    left = admit
    for j in np.argsort(-bonus):
        if admit == NONE:
            value += most[j] * max(bonus[j], 0)
        else:
            taken = min(left, most[j])
            value += taken * bonus[j]
            left -= taken
    return value


@kernel
def conjugate(
    j: int, price: int, low: int, high: int, count: int, order: IntArray, terms: Terms
) -> tuple[int, int]:
    """Return ``max_S (SCALE·F(S) - price·S)`` of worker j over [low, high], and where it is.

    F has a breakpoint at each margin, less what `count` growing requests add; `order` sorts
    the breakpoints.
    """
    margins, weights, steps = terms.margins[j], terms.weights, terms.steps
    alpha_d, beta = terms.alpha_d, terms.beta
    slope = SCALE * alpha_d - price
    best = low
    weight = 0
    for r in range(order.shape[0]):
        if slope - SCALE * beta * weight <= 0:
            break
        h = order[r]
        best = margins[h] - steps[h] * count
        weight += weights[h]
    else:
        if slope - SCALE * beta * weight > 0:
            best = high
    best = min(max(best, low), high)
    value = alpha_d * best + terms.alpha_r * count
    for h in range(margins.shape[0]):
        over = best + steps[h] * count - margins[h]
        if over > 0:
            value -= beta * weights[h] * over
    return SCALE * value - price * best, best


@kernel
def respond(price: IntArray, orders: IntArray, reach: Reach, terms: Terms, wanted: IntArray) -> int:
    """Return ``Σ_j max_S (SCALE·F_j(S) - price_j·S)``; write the maximisers to `wanted`.

    `orders`, shape (J, P), sorts each worker's margins.
    """
    value = 0
    for j in range(price.shape[0]):
        best = -(1 << 62)
        low, high = reach.low[j], reach.high[j]
        fewest = reach.least[j] if terms.grows else reach.most[j]
        for n in range(fewest, reach.most[j] + 1):
            order = np.argsort(terms.margins[j] - terms.steps * n) if terms.grows else orders[j]
            part, at = conjugate(j, price[j], low, high, n, order, terms)
            if part > best:
                best = part
                wanted[j] = at
        value += best
    return value


@kernel
def score_bound(
    reach: Reach, terms: Terms, start: FloatArray, achieved: int, turns: int
) -> tuple[int, IntArray]:
    """Return the least ``Σ_j max_S (F_j(S) - θ_j·S) + max_x Σ_j θ_j·S_j`` found, and its θ.

    A subgradient method with Polyak's step towards `achieved`, the value of some decision.
    """
    count, most, ordered = terms.margins.shape[0], reach.most, reach.ordered
    theta = start.copy()
    price = np.empty(count, np.int64)
    bonus = np.zeros(count, np.int64)
    tokens = np.empty(count, np.int64)
    requests = np.empty(count, np.int64)
    wanted = np.empty(count, np.int64)
    best = 1 << 62
    best_price = np.zeros(count, np.int64)
    orders = np.empty(terms.margins.shape, np.int64)
    for j in range(count):
        orders[j] = np.argsort(terms.margins[j])
    pace, stale = 1.0, 0
    for _ in range(turns):
        price[:] = np.rint(theta).astype(np.int64)
        value = match(price, bonus, most, ordered, reach.admit, tokens, requests)
        value += respond(price, orders, reach, terms, wanted)
        if value < best:
            best, stale = value, 0
            best_price[:] = price
        else:
            stale += 1
            if stale >= 10:
                pace *= 0.5
                stale = 0
        norm = 0.0
        for j in range(count):
            norm += float(tokens[j] - wanted[j]) ** 2
        excess = float(value - SCALE * achieved)
        if norm == 0.0 or excess <= 0.0 or pace < 1e-4:
            break
        for j in range(count):
            theta[j] -= pace * excess / norm * float(tokens[j] - wanted[j])
    return best, best_price


@kernel
def project_simplex(column: FloatArray, total: float, scratch: FloatArray) -> None:
    """Replace a vector by the nearest one of non-negative entries that sum to `total` at most."""
    kept = 0.0
    for j in range(column.shape[0]):
        column[j] = max(column[j], 0.0)
        kept += column[j]
    if kept <= total:
        return
    scratch[:] = np.sort(column)[::-1]
    running, shift = 0.0, 0.0
    for r in range(scratch.shape[0]):
        running += scratch[r]
        trial = (running - total) / (r + 1)
        if scratch[r] > trial:
            shift = trial
    for j in range(column.shape[0]):
        column[j] = max(column[j] - shift, 0.0)


@kernel
def project_columns(mu: FloatArray, limits: FloatArray) -> None:
    """Project every column of `mu` as `project_simplex` does, each to its own limit."""
    column = np.empty(mu.shape[0])
    scratch = np.empty(mu.shape[0])
    for h in range(mu.shape[1]):
        column[:] = mu[:, h]
        project_simplex(column, limits[h], scratch)
        mu[:, h] = column


@kernel
def quote(
    mu: FloatArray,
    sum_d: int,
    sum_r: int,
    margins: IntArray,
    steps: IntArray,
    price: IntArray,
    bonus: IntArray,
) -> int:
    """Write the prices per token and per request of the multipliers; return ``Σ μ·m``.

    Multipliers are rounded down, which keeps each step's sum within its limit.
    """
    value = 0
    for j in range(mu.shape[0]):
        price[j] = SCALE * sum_d
        bonus[j] = SCALE * sum_r
        for h in range(mu.shape[1]):
            whole = int(mu[j, h])
            price[j] -= whole
            bonus[j] -= steps[h] * whole
            value += whole * margins[j, h]
    return value


@kernel
def excess_norm(
    mu: FloatArray, tokens: IntArray, requests: IntArray, margins: IntArray, steps: IntArray
) -> float:
    """Return the squared length of the subgradient, where a step along it is possible."""
    norm = 0.0
    for j in range(mu.shape[0]):
        for h in range(mu.shape[1]):
            over = tokens[j] + steps[h] * requests[j] - margins[j, h]
            if over > 0 or mu[j, h] > 0.0:
                norm += float(over) ** 2
    return norm


@kernel
def imbalance_bound(
    reach: Reach, terms: Terms, start: FloatArray, achieved: int, turns: int
) -> tuple[int, FloatArray]:
    """Return the least upper bound found on ``D·ΣS + R·N - G·Σ_h d_h·E_h``, and its μ.

    For ``μ_{j,h} ≥ 0`` with ``Σ_j μ_{j,h} ≤ G·d_h`` the bound is
    ``Σ μ_{j,h}·m_{j,h} + max_x Σ_j (D - Σ_h μ_{j,h})·S_j + (R - Σ_h h·μ_{j,h})·n_j``.
    """
    margins, weights, steps = terms.margins, terms.weights, terms.steps
    count, horizon = margins.shape
    most, ordered = reach.most, reach.ordered
    mu = start.copy()
    price = np.empty(count, np.int64)
    bonus = np.empty(count, np.int64)
    tokens = np.empty(count, np.int64)
    requests = np.empty(count, np.int64)
    scratch = np.empty(count, np.float64)
    column = np.empty(count, np.float64)
    best = 1 << 62
    best_mu = mu.copy()
    pace, stale = 1.0, 0
    for _ in range(turns):
        value = quote(mu, terms.sum_d, terms.sum_r, margins, steps, price, bonus)
        value += match(price, bonus, most, ordered, reach.admit, tokens, requests)
        if value < best:
            best, stale = value, 0
            best_mu[:, :] = mu
        else:
            stale += 1
            if stale >= 10:
                pace *= 0.5
                stale = 0
        norm = excess_norm(mu, tokens, requests, margins, steps)
        distance = float(value - SCALE * achieved)
        if norm == 0.0 or distance <= 0.0 or pace < 1e-4:
            break
        length = pace * distance / norm
        for h in range(horizon):
            for j in range(count):
                over = tokens[j] + steps[h] * requests[j] - margins[j, h]
                column[j] = mu[j, h]
                if over > 0 or mu[j, h] > 0.0:
                    column[j] += length * float(over)
            project_simplex(column, float(SCALE * terms.workers * weights[h]), scratch)
            mu[:, h] = column
    return best, best_mu
