"""Models as arrays, and the checks on what comes back for them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brsolver.errors import ParameterError
from brsolver.oracles import verify
from brsolver.oracles.linear_model import (
    INFINITE,
    FloatModel,
    Kind,
    LinearModel,
    ModelBuilder,
    Sense,
)


def build(sense: Sense = Sense.MAX) -> LinearModel:
    builder = ModelBuilder(sense, offset=5)
    x = builder.add_columns("x", (2, 2), upper=3, cost=[[1, 2], [3, 4]], kind=Kind.INTEGER)
    y = builder.add_columns("y", (1,), lower=-9, upper=9, cost=1, kind=Kind.IMPLIED, unit=10.0)
    rows = builder.add_rows("cap", (2,), upper=[4, INFINITE], lower=[-INFINITE, 1])
    builder.add_entries(rows[0], x, 1)
    builder.add_entries(rows[1], x[0], [2, 2])
    builder.add_entries(rows[0], x[0, 0], 1)
    below = builder.add_rows("below", (1,), upper=7, unit=2.0)
    builder.add_entries(below, y, 2)
    builder.add_entries(below, x[1], 1)
    return builder.build()


def dense(model: LinearModel) -> np.ndarray:
    out = np.zeros((model.num_rows, model.num_columns), np.int64)
    out[np.repeat(np.arange(model.num_rows), np.diff(model.row_start)), model.row_column] = (
        model.row_value
    )
    return out


def test_blocks_rows_and_repeats() -> None:
    model = build()
    assert model.column("x").tolist() == [[0, 1], [2, 3]]
    assert model.row("below").tolist() == [2]
    assert dense(model).tolist() == [[2, 1, 1, 1, 0], [2, 2, 0, 0, 0], [0, 0, 1, 1, 2]]
    assert model.is_integral
    with pytest.raises(ParameterError, match="block is 'z', must be one of x, y"):
        model.column("z")


def test_units_change_the_view_not_the_model() -> None:
    scaled = FloatModel.of(build())
    assert scaled.upper[4] == pytest.approx(0.9)
    assert scaled.row_upper[2] == pytest.approx(3.5)
    assert scaled.value[-1] in {0.5, 10.0}
    assert np.isinf(scaled.row_upper[1])


def test_data_are_integers_and_bounds_ordered() -> None:
    builder = ModelBuilder(Sense.MIN)
    with pytest.raises(ParameterError, match="integers"):
        builder.add_columns("x", (1,), cost=0.5)
    builder.add_columns("x", (1,), lower=2, upper=1)
    with pytest.raises(ParameterError, match="above its upper"):
        builder.build()


@given(x=st.lists(st.integers(-1, 4), min_size=5, max_size=5))
def test_violations_are_found(x: list[int]) -> None:
    model = build()
    point = np.array(x)
    sums = dense(model) @ point
    inside = ((point >= model.lower) & (point <= model.upper)).all()
    inside &= ((sums >= model.row_lower) & (sums <= model.row_upper)).all()
    assert (verify.violation(model, point) == "") == bool(inside)


def test_implied_columns_are_recomputed_exactly() -> None:
    model = build()
    settled = verify.settle(model, np.array([1e-9, 1.0, 2.0000001, 0.0, 2.4]))
    assert settled.tolist() == [0, 1, 2, 0, 2]
    least = build(Sense.MIN)  # no row holds y from below, so it stays where it was
    assert verify.settle(least, np.array([0, 1, 2, 0, 2])).tolist() == [0, 1, 2, 0, 2]


def test_sums_beyond_64_bits_are_exact() -> None:
    builder = ModelBuilder(Sense.MIN)
    x = builder.add_columns("x", (3,), upper=1 << 40, cost=1 << 40)
    row = builder.add_rows("r", (1,), upper=1)
    builder.add_entries(row[0], x, 1 << 40)
    model = builder.build()
    point = np.full(3, 1 << 40)
    assert verify.objective(model, point) == 3 << 80
    assert int(verify.activities(model, point)[0]) == 3 << 80
    assert "row 0" in verify.violation(model, point)


@given(
    duals=st.lists(st.floats(-50, 50), min_size=3, max_size=3),
    sense=st.sampled_from(list(Sense)),
)
def test_any_multipliers_give_a_valid_bound(duals: list[float], sense: Sense) -> None:
    model = build(sense)
    bound = verify.safe_dual_bound(model, np.array(duals))
    if bound is None:
        return
    sign = 1 if sense is Sense.MAX else -1
    for x in np.ndindex(4, 4, 4, 4):
        for y in (-9, 0, 3):
            point = np.array([*x, y])
            if not verify.violation(model, point):
                assert sign * Fraction(verify.objective(model, point)) <= sign * Fraction(bound)
