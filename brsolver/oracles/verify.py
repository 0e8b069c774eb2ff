"""Re-evaluation of what solvers answer, on the model's own integers.

Nothing a solver says is believed before it went through here: solutions are checked against
every row, objectives recomputed, and dual bounds of relaxations rebuilt from the multipliers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brsolver.oracles.linear_model import (
    INFINITE,
    FloatArray,
    FloatModel,
    IntArray,
    Kind,
    LinearModel,
    Sense,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE = 1e-6
"""Relative error granted to floating-point solvers: feasibility and bounds."""

SAFE = 1 << 62
"""Magnitude from which int64 sums could overflow and Python's integers take over."""

EPSILON = 2.0**-52


def activities(model: LinearModel, x: IntArray) -> IntArray:
    """Return ``A x`` exactly, shape (m,)."""
    values, taken = model.row_value, x[model.row_column]
    # In floating point, which does not wrap around: whether int64 would.
    if float(np.abs(values.astype(np.float64)) @ np.abs(taken.astype(np.float64))) < SAFE:
        products = values * taken
    else:
        products = _exact(values) * _exact(taken)
    sums = np.concatenate((np.zeros(1, products.dtype), np.cumsum(products)))
    return np.diff(sums[model.row_start])


def objective(model: LinearModel, x: IntArray) -> int:
    """Return ``c·x + offset`` exactly."""
    costs = model.costs
    if float(np.abs(costs.astype(np.float64)) @ np.abs(x.astype(np.float64))) < SAFE:
        return int(costs @ x) + model.offset
    return int(np.dot(_exact(costs), _exact(x))) + model.offset


def violation(model: LinearModel, x: IntArray) -> str:
    """Name the first bound or row that an integer solution breaks; empty if there is none."""
    bad = np.flatnonzero((x < model.lower) | (x > model.upper))
    if bad.size:
        return f"column {bad[0]} is {x[bad[0]]}, outside {_interval(model, 'columns', bad[0])}"
    sums = activities(model, x)
    bad = np.flatnonzero((sums < model.row_lower) | (sums > model.row_upper))
    if bad.size:
        return f"row {bad[0]} sums to {sums[bad[0]]}, outside {_interval(model, 'rows', bad[0])}"
    return ""


def settle(model: LinearModel, x: NDArray[np.float64] | NDArray[np.int64]) -> IntArray:
    """Round a solver's solution; recompute the implied columns exactly.

    Each `Kind.IMPLIED` column moves as far as its cost wants and the rows allow that hold no
    other implied column; those of other rows keep their rounded values.
    """
    whole = np.rint(x).astype(np.int64)
    sign = 1 if model.sense is Sense.MAX else -1
    implied = (model.kind == Kind.IMPLIED) & (model.costs != 0)
    entries = np.flatnonzero(implied[model.row_column])
    rows = np.searchsorted(model.row_start, entries, side="right") - 1
    alone = np.bincount(rows, minlength=model.num_rows) == 1
    keep = alone[rows]
    entries, rows = entries[keep], rows[keep]
    if not entries.size:
        return whole
    columns, values = model.row_column[entries], model.row_value[entries]
    rest = activities(model, np.where(implied, 0, whole))[rows]
    rising = np.sign(model.costs[columns]) * sign > 0
    uses_upper = rising == (values > 0)
    side = np.where(uses_upper, model.row_upper[rows], model.row_lower[rows])
    bounded = np.abs(side) < INFINITE
    columns, values, rest = columns[bounded], values[bounded], rest[bounded]
    rising, side = rising[bounded], side[bounded]
    limit = np.where(rising, (side - rest) // values, -((rest - side) // values))
    high, low = model.upper.copy(), model.lower.copy()
    np.minimum.at(high, columns[rising], limit[rising])
    np.maximum.at(low, columns[~rising], limit[~rising])
    wants = np.where(np.sign(model.costs) * sign > 0, high, low)
    moved = np.zeros_like(implied)
    moved[columns] = True
    return np.where(moved, wants, whole)


def float_objective(model: LinearModel, x: FloatArray) -> float:
    """Return ``c·x + offset`` of a relaxation's solution."""
    return float(model.costs @ x) + model.offset


def float_violation(model: LinearModel, x: FloatArray) -> str:
    """Name the first row that a fractional solution breaks beyond `TOLERANCE`."""
    scaled = FloatModel.of(model)
    hat = x / model.column_unit
    bad = np.flatnonzero(_outside(hat, scaled.lower, scaled.upper))
    if bad.size:
        return f"column {bad[0]} is {x[bad[0]]:.9g}, outside {_interval(model, 'columns', bad[0])}"
    products = scaled.value * hat[model.row_column]
    sums = np.add.reduceat(np.append(products, 0.0), model.row_start[:-1])
    sums[np.diff(model.row_start) == 0] = 0.0
    bad = np.flatnonzero(_outside(sums, scaled.row_lower, scaled.row_upper))
    if bad.size:
        return f"row {bad[0]} sums to {sums[bad[0]]:.9g}, outside its bounds"
    return ""


def safe_dual_bound(model: LinearModel, duals: FloatArray) -> float | None:
    """Return a bound that holds whatever the solver's errors, from its multipliers.

    For any y, ``c·x = y·(Ax) + (c - Aᵀy)·x``, so the best of each term over its own bounds
    bounds the objective; an a-priori bound of the rounding error is added (Neumaier &
    Shcherbina, Math. Programming 99, 2004). Multipliers that would meet an infinite bound are
    set to zero.

    Parameters
    ----------
    model : LinearModel
    duals : ndarray of float64, shape (m,)

    Returns
    -------
    float or None
        None if a column without a bound has a reduced cost of the wrong sign.
    """
    sign = 1.0 if model.sense is Sense.MAX else -1.0
    y = sign * duals
    y[(y > 0) & (model.row_upper >= INFINITE)] = 0.0
    y[(y < 0) & (model.row_lower <= -INFINITE)] = 0.0
    rows = np.repeat(y, np.diff(model.row_start)) * model.row_value
    reduced = sign * model.costs - np.bincount(
        model.row_column, weights=rows, minlength=model.num_columns
    )
    absolute = np.abs(model.costs) + np.bincount(
        model.row_column, weights=np.abs(rows), minlength=model.num_columns
    )
    ends = np.where(reduced > 0, model.upper, model.lower).astype(np.float64)
    if ((np.abs(ends) >= INFINITE) & (reduced != 0)).any():
        return None
    sides = np.where(y > 0, model.row_upper, model.row_lower).astype(np.float64)
    sides[y == 0] = 0.0
    ends[reduced == 0] = 0.0
    reach = np.maximum(np.abs(model.lower), np.abs(model.upper)).astype(np.float64)
    total = float(y @ sides) + float(reduced @ ends)
    terms = model.num_columns + model.num_rows + 4
    error = float(np.abs(y) @ np.abs(sides)) * terms + float(np.abs(reduced) @ np.abs(ends)) * terms
    finite = reach < INFINITE
    error += float(absolute[finite] @ reach[finite]) * (model.num_rows + 4)
    return sign * (total + EPSILON * error) + model.offset


def _outside(values: FloatArray, lower: FloatArray, upper: FloatArray) -> NDArray[np.bool_]:
    low = np.where(np.isfinite(lower), lower, 0.0)
    high = np.where(np.isfinite(upper), upper, 0.0)
    slack = TOLERANCE * np.maximum(1.0, np.maximum(np.abs(low), np.abs(high)))
    return (values < lower - slack) | (values > upper + slack)


def _exact(values: IntArray) -> IntArray:
    """Return the values as Python integers if sums of products of them could overflow."""
    return values.astype(object) if values.size and np.abs(values).max() >= 1 << 30 else values


def _interval(model: LinearModel, what: str, index: int) -> str:
    blocks = model.columns if what == "columns" else model.rows
    lower = model.lower if what == "columns" else model.row_lower
    upper = model.upper if what == "columns" else model.row_upper
    block = next(b for b in reversed(blocks) if b.start <= index)
    return f"[{lower[index]}, {upper[index]}] (block {block.name!r})"
