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

# Features that the design takes as they are, by their place in `classifiers.features.FEATURES`.
_COPIED = ((0, D_AGE), (1, D_PROMPT), (2, D_LIMIT), (3, D_COUNT), (5, D_RECENT), (6, D_HOUR))

SHRINKAGE = 4.0
MISSING = -1e6


@kernel
def design_columns(
    X: FloatArray,
    column: IntArray,
    plain: IntArray,
    p_logit: FloatArray,
    mu: FloatArray,
    fill: FloatArray,
) -> FloatArray:
    """Derive the design matrix column by column, shape (ROLES + plain columns, n).

    ``column[i]`` is where the i-th of `classifiers.features.FEATURES` lies in ``X``, or -1;
    ``plain`` lists the columns handed on as they are, ``fill`` what to take missing values for.
    """
    out = np.full((ROLES + plain.shape[0], X.shape[0]), np.nan)
    age = np.zeros(X.shape[0])
    if column[0] >= 0:
        age[:] = X[:, column[0]]
    for i in range(age.shape[0]):
        at = min(max(int(age[i]), 0), p_logit.shape[0] - 1)
        out[D_LOGIT, i] = p_logit[at]
        out[D_MU, i] = mu[at]
    for feature, role in _COPIED:
        if column[feature] >= 0:
            out[role] = X[:, column[feature]]
    for j in range(plain.shape[0]):
        out[ROLES + j] = X[:, plain[j]]
    if column[3] >= 0 and column[4] >= 0:
        _write_key_left(age, X[:, column[3]], X[:, column[4]], out[D_RECENT], out[D_KEY_LEFT])
    for j in range(out.shape[0]):
        _fill_missing(out[j], fill[j])
    return out


@kernel
def _write_key_left(
    age: FloatArray, count: FloatArray, mean: FloatArray, recent: FloatArray, out: FloatArray
) -> None:
    for i in range(out.shape[0]):
        if count[i] > 0:
            # Few lengths say little: the recent mean stands in for SHRINKAGE more.
            weight = 0.0 if math.isnan(recent[i]) else SHRINKAGE
            total = count[i] * mean[i] + (weight * recent[i] if weight > 0 else 0.0)
            out[i] = total / (count[i] + weight) - age[i]


@kernel
def _fill_missing(values: FloatArray, fill: float) -> None:
    for i in range(values.shape[0]):
        values[i] = fill if math.isnan(values[i]) else values[i]


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
def additive_values(
    design: FloatArray,
    columns: IntArray,
    pieces: IntArray,
    breaks: FloatArray,
    coefficients: FloatArray,
    missing: FloatArray,
) -> FloatArray:
    """Return the sums of per-column piecewise cubics, shape (n, stages).

    The ``pieces[j] + 1`` breaks of column j ascend; its piece k covers
    ``breaks[j, k] ≤ x < breaks[j, k + 1]`` with powers of ``x - breaks[j, k]``. Beyond either
    end the function keeps its value there.
    """
    out = np.zeros((design.shape[1], coefficients.shape[2]))
    x, piece = np.empty(out.shape[0]), np.empty(out.shape[0], np.int64)
    for j in range(columns.shape[0]):
        own = breaks[j, : pieces[j] + 1]
        _locate(design[columns[j]], own, x, piece)
        for i in range(out.shape[0]):
            if math.isnan(design[columns[j], i]):
                for stage in range(out.shape[1]):
                    out[i, stage] += missing[j, stage]
                continue
            step = x[i] - own[piece[i]]
            for stage in range(out.shape[1]):
                cubic = coefficients[j, piece[i], stage]
                out[i, stage] += cubic[0] + step * (cubic[1] + step * (cubic[2] + step * cubic[3]))
    return out


@kernel
def _locate(values: FloatArray, breaks: FloatArray, x: FloatArray, piece: IntArray) -> None:
    """Write values clipped to the breaks, and the piece between breaks that each is in."""
    last = breaks.shape[0] - 1
    for i in range(values.shape[0]):
        x[i] = min(max(values[i], breaks[0]), breaks[last])
    piece[:] = 0
    # A dozen breaks are counted sooner than they are searched: for many rows at a time.
    for k in range(1, last):
        for i in range(values.shape[0]):
            piece[i] += breaks[k] <= x[i]


@kernel
def interpolate(x: float, knots: FloatArray, levels: FloatArray) -> float:
    """Return what `numpy.interp` does, for one value."""
    last = knots.shape[0] - 1
    if x <= knots[0]:
        return float(levels[0])
    if x >= knots[last]:
        return float(levels[last])
    low, size = 0, last
    while size > 1:
        half = size >> 1
        # No branch: which half it is, nobody could guess.
        low += half * (knots[low + half] <= x)
        size -= half
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
def _settle_all(
    raw: FloatArray,
    design: FloatArray,
    weights: FloatArray,
    horizon: float,
    knots: FloatArray,
    levels: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    p, mu = np.empty(raw.shape[0]), np.empty(raw.shape[0])
    for i in range(raw.shape[0]):
        base_logit, base_mu = design[D_LOGIT, i], design[D_MU, i]
        p[i], mu[i] = settle(
            raw[i, 0], raw[i, 1], base_logit, base_mu, weights, horizon, knots, levels
        )
    return p, mu


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
    design = design_columns(X, column, plain, p_logit, mu, fill)
    # Single precision, as scikit-learn's trees were grown.
    rows = np.empty((X.shape[0], design.shape[0]), np.float32)
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            rows[i, j] = MISSING if math.isnan(design[j, i]) else design[j, i]
    raw = np.empty((X.shape[0], 2))
    for stage in range(2):
        tree = trees[stage]
        raw[:, stage] = tree_values(rows, tree[0], tree[1], tree[2], tree[3])
    return _settle_all(raw, design, weights, horizon, knots, levels)


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
    design = design_columns(X, column, plain, p_logit, mu, fill)
    raw = additive_values(design, columns, pieces, breaks, coefficients, missing) + constant
    return _settle_all(raw, design, weights, horizon, knots, levels)
