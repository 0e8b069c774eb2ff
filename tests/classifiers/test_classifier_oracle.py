"""The oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brsolver.errors import ParameterError
from brsolver.predictors import ForecastQuery, Predictor
from classifiers.oracle import OraclePredictor


def query_of(request: list[int], age: list[int]) -> ForecastQuery:
    return ForecastQuery(
        request=np.array(request, np.int64),
        age=np.array(age, np.int64),
        prompt_tokens=np.ones(len(age), np.int64),
    )


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 49)), min_size=1), st.integers(1, 60))
def test_the_contribution_is_the_remaining_length_up_to_the_horizon(
    requests: list[tuple[int, int]], horizon: int
) -> None:
    lengths = [age + remaining for remaining, age in requests]
    # Queried in reverse, so that identities and positions differ.
    rows = list(range(len(requests)))[::-1]
    query = query_of(rows, [requests[row][1] for row in rows])
    forecast = OraclePredictor(output_tokens=np.array(lengths)).predict(query, horizon)
    remaining = [requests[row][0] for row in rows]
    assert forecast.contribution.tolist() == [min(r, horizon) for r in remaining]
    assert forecast.p_finish.tolist() == [float(r <= horizon) for r in remaining]
    assert forecast.mu_remaining.max() <= horizon
    assert forecast.horizon == horizon


def test_a_request_that_ends_with_the_last_step_of_the_horizon_ends_within_it() -> None:
    oracle = OraclePredictor(output_tokens=np.array([10, 11]))
    assert oracle.predict(query_of([0, 1], [5, 5]), 5).p_finish.tolist() == [1.0, 0.0]


def test_it_is_a_predictor_and_owns_up_to_seeing_the_future() -> None:
    oracle = OraclePredictor(output_tokens=np.array([1]))
    assert isinstance(oracle, Predictor)
    assert oracle.sees_future


def test_no_lengths_no_oracle() -> None:
    with pytest.raises(ParameterError, match="needs the output lengths"):
        OraclePredictor()


def test_the_table_is_the_traces_own_distribution():
    oracle = OraclePredictor(output_tokens=np.array([1, 3, 3, 5]))
    assert oracle.table.tolist() == [1.0, 0.75, 0.75, 0.25, 0.25, 0.0]
