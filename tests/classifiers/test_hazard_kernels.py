"""Compiled parts of hazard models against plain ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import PPoly

from classifiers._hazard_kernels import (
    ROLES,
    SHRINKAGE,
    additive_values,
    design_columns,
    interpolate,
)

if TYPE_CHECKING:
    from brsolver.predictors import FloatArray, IntArray

SEEDS = st.integers(0, 2**32 - 1)


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=200, unique=True).map(sorted),
    st.lists(st.floats(-0.1, 1.1), min_size=1, max_size=20),
    SEEDS,
)
@settings(deadline=None)
def test_interpolation_is_that_of_numpy(knots: list[int], between: list[float], seed: int) -> None:
    ascending = np.array(knots) / 1000
    levels = np.random.default_rng(seed).random(len(knots))
    at = np.concatenate([ascending, np.nextafter(ascending, 0), between])
    found = [interpolate(x, ascending, levels) for x in at]
    np.testing.assert_allclose(found, np.interp(at, ascending, levels), rtol=0, atol=1e-12)


def plain_additive(
    design: FloatArray,
    columns: IntArray,
    breaks: list[FloatArray],
    coefficients: FloatArray,
    missing: FloatArray,
) -> FloatArray:
    """Sum scipy's piecewise polynomials, whose powers descend."""
    out = np.zeros((design.shape[1], coefficients.shape[2]))
    for j, own in enumerate(breaks):
        x = design[columns[j]]
        inside = np.clip(x, own[0], own[-1])
        for stage in range(out.shape[1]):
            pieces = coefficients[j, : len(own) - 1, stage, ::-1].T
            part = PPoly(pieces, own)(inside)
            out[:, stage] += np.where(np.isnan(x), missing[j, stage], part)
    return out


@given(st.integers(0, 5), st.integers(1, 12), st.integers(0, 30), SEEDS)
@settings(deadline=None)
def test_sums_of_cubics_are_scipys(used: int, most: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = rng.permutation(7)[:used]
    breaks = [np.cumsum(0.1 + rng.random(rng.integers(2, most + 2))) for _ in range(used)]
    table = np.full((used, most + 1), np.inf)
    for j, own in enumerate(breaks):
        table[j, : len(own)] = own
    design = rng.uniform(-1, most + 2, (7, n))
    design[rng.random(design.shape) < 0.2] = np.nan
    if n and used:
        design[columns[0], 0] = breaks[0][-1]
    coefficients, missing = rng.normal(size=(used, most, 2, 4)), rng.normal(size=(used, 2))
    pieces = np.array([len(own) - 1 for own in breaks], np.int64)
    found = additive_values(design, columns, pieces, table, coefficients, missing)
    expected = plain_additive(design, columns, breaks, coefficients, missing)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def plain_row(
    x: dict[str, float], p_logit: FloatArray, mu: FloatArray, fill: FloatArray, plain: list[float]
) -> list[float]:
    """Return a design row from the features that there are, by definition."""
    age, recent = x.get("age", 0.0), x.get("recent_mean", math.nan)
    at = min(max(int(age), 0), len(mu) - 1)
    left = math.nan
    if x.get("key_count", 0.0) > 0 and "key_mean" in x:
        count, weight = x["key_count"], 0.0 if math.isnan(recent) else SHRINKAGE
        extra = weight * recent if weight else 0.0
        left = (count * x["key_mean"] + extra) / (count + weight) - age
    ordered = [x.get(name, math.nan) for name in ("age", "prompt", "max", "key_count")]
    row = [p_logit[at], mu[at], *ordered, left, recent, x.get("hour", math.nan), *plain]
    return [
        instead if math.isnan(value) else value for value, instead in zip(row, fill, strict=True)
    ]


NAMES = ("age", "prompt", "max", "key_count", "key_mean", "recent_mean", "hour")


@given(st.sets(st.sampled_from(NAMES)), st.integers(0, 2), st.integers(0, 20), SEEDS)
@settings(deadline=None)
def test_the_design_is_the_definitions_row_by_row(
    there: set[str], extra: int, n: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    places = rng.permutation(len(there) + extra)
    named = dict(zip(sorted(there), places.tolist(), strict=False))
    column = np.array([named.get(name, -1) for name in NAMES])
    plain = np.array([at for at in range(len(places)) if at not in named.values()], np.int64)
    X = np.floor(rng.uniform(-1, 60, (n, len(places))))
    X[rng.random(X.shape) < 0.2] = np.nan
    if "age" in named:
        X[:, named["age"]] = rng.integers(0, 60, n)
    p_logit, mu = rng.normal(size=(2, 40))
    fill = np.where(rng.random(ROLES + len(plain)) < 0.5, np.nan, -7.0)
    found = design_columns(X, column, plain, p_logit, mu, fill)
    assert found.shape == (ROLES + len(plain), n)
    for i, x in enumerate(X):
        own = {name: float(x[at]) for name, at in named.items()}
        expected = plain_row(own, p_logit, mu, fill, x[plain].tolist())
        assert found[:, i].tolist() == pytest.approx(expected, nan_ok=True, abs=1e-12)
