"""Compiled evaluation of hazard models: design row, trees or splines, calibration."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Tree = tuple[NDArray[np.uint32], NDArray[np.float32], FloatArray, int]
Tables = tuple[IntArray, IntArray, FloatArray, FloatArray, FloatArray, FloatArray]

# Columns of the design matrix; features without a role of their own follow them.
(
    D_LOGIT,
    D_MU,
    D_AGE,
    D_PROMPT,
    D_LIMIT,
    D_COUNT,
    D_KEY_LEFT,
    D_RECENT,
    D_HOUR,
) = range(9)
ROLES = 9

SHRINKAGE = 4.0
MISSING = -1e6


@kernel
def design_row(
    x: FloatArray,
    column: IntArray,
    plain: IntArray,
    p_logit: FloatArray,
    mu: FloatArray,
    fill: FloatArray,
    out: FloatArray,
) -> None:
    """Derive one row of the design matrix from one row of features.

    ``column[i]`` is where the i-th of `classifiers.features.FEATURES` lies in ``x``, or -1;
    ``plain`` lists the columns handed on as they are, ``fill`` what to take missing values for.
    """
    out[:] = np.nan
    age = x[column[0]] if column[0] >= 0 else 0.0
    at = min(max(int(age), 0), p_logit.shape[0] - 1)
    out[D_LOGIT] = p_logit[at]
    out[D_MU] = mu[at]
    if column[0] >= 0:
        out[D_AGE] = age
    for i in range(1, 4):
        if column[i] >= 0:
            out[D_AGE + i] = x[column[i]]
    recent = x[column[5]] if column[5] >= 0 else np.nan
    out[D_RECENT] = recent
    if column[6] >= 0:
        out[D_HOUR] = x[column[6]]
    if column[3] >= 0 and column[4] >= 0 and x[column[3]] > 0:
        # Few lengths say little: the recent mean stands in for SHRINKAGE more.
        weight = 0.0 if math.isnan(recent) else SHRINKAGE
        count = x[column[3]]
        total = count * x[column[4]] + (weight * recent if weight > 0 else 0.0)
        out[D_KEY_LEFT] = total / (count + weight) - age
    for i in range(plain.shape[0]):
        out[ROLES + i] = x[plain[i]]
    for j in range(out.shape[0]):
        if math.isnan(out[j]):
            out[j] = fill[j]


@kernel
def design_matrix(
    X: FloatArray,
    column: IntArray,
    plain: IntArray,
    p_logit: FloatArray,
    mu: FloatArray,
    fill: FloatArray,
) -> FloatArray:
    """Derive the design matrix, shape (n, ROLES + plain columns)."""
    out = np.empty((X.shape[0], ROLES + plain.shape[0]))
    for i in range(X.shape[0]):
        design_row(X[i], column, plain, p_logit, mu, fill, out[i])
    return out


@kernel
def tree_values(
    rows: NDArray[np.float32],
    links: NDArray[np.uint32],
    bounds: NDArray[np.float32],
    values: FloatArray,
    depth: int,
) -> FloatArray:
    """Return the values of the leaves that rows fall into, shape (n,).

    Node i sends a row to node ``links[i, 1]`` if its column ``links[i, 0]`` is at most
    ``bounds[i]``, else to the one after; leaves send rows to themselves. All rows step down
    together, without branches: their steps do not wait for one another.
    """
    # Unsigned, which spares the test whether an index counts from the end.
    at = np.zeros(rows.shape[0], np.uint32)
    for _ in range(depth):
        for i in range(rows.shape[0]):
            node = at[i]
            at[i] = links[node, 1] + np.uint32(rows[i, links[node, 0]] > bounds[node])
    out = np.empty(rows.shape[0])
    for i in range(rows.shape[0]):
        out[i] = values[at[i]]
    return out


@kernel
def additive_value(
    row: FloatArray,
    columns: IntArray,
    pieces: IntArray,
    breaks: FloatArray,
    coefficients: FloatArray,
    missing: FloatArray,
    out: FloatArray,
) -> None:
    """Write the sums of per-column piecewise cubics, one per stage.

    The ``pieces[j] + 1`` breaks of column j ascend; its piece k covers
    ``breaks[j, k] ≤ x < breaks[j, k + 1]`` with powers of ``x - breaks[j, k]``. Beyond either
    end the function keeps its value there.
    """
    out[:] = 0.0
    for j in range(columns.shape[0]):
        x = row[columns[j]]
        if math.isnan(x):
            for stage in range(out.shape[0]):
                out[stage] += missing[j, stage]
            continue
        last = pieces[j]
        x = min(max(x, breaks[j, 0]), breaks[j, last])
        # A dozen breaks are counted sooner than they are searched.
        low = 0
        for k in range(1, last):
            low += breaks[j, k] <= x
        step = x - breaks[j, low]
        for stage in range(out.shape[0]):
            high = coefficients[j, low, stage, 2] + step * coefficients[j, low, stage, 3]
            slope = coefficients[j, low, stage, 1] + step * high
            out[stage] += coefficients[j, low, stage, 0] + step * slope


@kernel
def interpolate(x: float, knots: FloatArray, levels: FloatArray) -> float:
    """Return what `numpy.interp` does, for one value."""
    last = knots.shape[0] - 1
    if x <= knots[0]:
        return float(levels[0])
    if x >= knots[last]:
        return float(levels[last])
    low, high = 0, last
    while high - low > 1:
        middle = (low + high) >> 1
        if knots[middle] <= x:
            low = middle
        else:
            high = middle
    share = (x - knots[low]) / (knots[low + 1] - knots[low])
    return float(levels[low] + share * (levels[low + 1] - levels[low]))


@kernel
def settle(
    raw_logit: float,
    raw_mu: float,
    base_logit: float,
    base_mu: float,
    weights: FloatArray,
    horizon: float,
    knots: FloatArray,
    levels: FloatArray,
) -> tuple[float, float]:
    """Return p and μ from a model's raw outputs, the baseline's and the calibration."""
    z = weights[0] * base_logit + weights[1] * (raw_logit - base_logit)
    p = 1.0 / (1.0 + math.exp(-z))
    if knots.shape[0] > 0:
        p = interpolate(p, knots, levels)
    mu = base_mu + weights[2] * (raw_mu - base_mu)
    return p, min(max(mu, min(1.0, horizon)), horizon)


@kernel
def forecast_trees(
    X: FloatArray,
    column: IntArray,
    plain: IntArray,
    p_logit: FloatArray,
    mu: FloatArray,
    fill: FloatArray,
    trees: tuple[Tree, Tree],
    weights: FloatArray,
    horizon: float,
    knots: FloatArray,
    levels: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Forecast with one tree per stage, side by side in `trees`."""
    n = X.shape[0]
    p_out, mu_out = np.empty(n), np.empty(n)
    base = np.empty((n, 2))
    row = np.empty(ROLES + plain.shape[0])
    # Single precision, as scikit-learn's trees were grown.
    rows = np.empty((n, row.shape[0]), np.float32)
    for i in range(n):
        design_row(X[i], column, plain, p_logit, mu, fill, row)
        base[i, 0], base[i, 1] = row[D_LOGIT], row[D_MU]
        for j in range(row.shape[0]):
            rows[i, j] = MISSING if math.isnan(row[j]) else row[j]
    first, second = trees
    ends = tree_values(rows, first[0], first[1], first[2], first[3])
    means = tree_values(rows, second[0], second[1], second[2], second[3])
    for i in range(n):
        p_out[i], mu_out[i] = settle(
            ends[i], means[i], base[i, 0], base[i, 1], weights, horizon, knots, levels
        )
    return p_out, mu_out


@kernel
def forecast_additive(
    X: FloatArray,
    column: IntArray,
    plain: IntArray,
    p_logit: FloatArray,
    mu: FloatArray,
    fill: FloatArray,
    tables: Tables,
    weights: FloatArray,
    horizon: float,
    knots: FloatArray,
    levels: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Forecast with sums of one-dimensional tables."""
    columns, pieces, breaks, coefficients, missing, constant = tables
    n = X.shape[0]
    p_out, mu_out = np.empty(n), np.empty(n)
    row = np.empty(ROLES + plain.shape[0])
    raw = np.empty(2)
    for i in range(n):
        design_row(X[i], column, plain, p_logit, mu, fill, row)
        additive_value(row, columns, pieces, breaks, coefficients, missing, raw)
        p_out[i], mu_out[i] = settle(
            raw[0] + constant[0],
            raw[1] + constant[1],
            row[D_LOGIT],
            row[D_MU],
            weights,
            horizon,
            knots,
            levels,
        )
    return p_out, mu_out
