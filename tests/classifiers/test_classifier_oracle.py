"""The oracle."""

from __future__ import annotations

import numpy as np
import pytest
from finished import running
from hypothesis import given
from hypothesis import strategies as st

from brsolver.errors import ParameterError
from brsolver.predictors import ForecastQuery, Predictor
from brsolver.traces import Trace
from classifiers.oracle import OracleParams, OraclePredictor


def query_of(
    request: list[int], age: list[int], max_tokens: list[int] | None = None
) -> ForecastQuery:
    return running(age, max_tokens, request=request)


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


def noisy(lengths: np.ndarray, **params: float) -> OraclePredictor:  # type: ignore[type-arg] # of lengths
    rng = np.random.default_rng(3)
    return OraclePredictor(OracleParams(**params), output_tokens=lengths, rng=rng)


def test_noise_is_lognormal_with_the_deviation_asked_for() -> None:
    lengths = np.full(20_000, 100_000)
    logs = np.log(noisy(lengths, noise=0.5).lengths / lengths)
    assert logs.mean() == pytest.approx(0.0, abs=0.02)
    assert logs.std() == pytest.approx(0.5, rel=0.02)


def test_dropped_requests_get_no_forecast_and_the_others_keep_theirs() -> None:
    lengths = np.full(10_000, 5)
    oracle = noisy(lengths, dropout=0.25)
    stays = oracle.predict(query_of(list(range(10_000)), [0] * 10_000), 80).contribution == 80
    assert stays.mean() == pytest.approx(0.25, abs=0.02)
    assert set(oracle.lengths[~stays].tolist()) == {5}


def test_more_dropout_leaves_the_noise_as_it_was() -> None:
    lengths = np.arange(1, 500)
    some, more = noisy(lengths, noise=1.0), noisy(lengths, noise=1.0, dropout=0.5)
    kept = more.lengths < 1 << 60
    assert 0 < kept.sum() < 499
    assert (some.lengths == more.lengths)[kept].all()


def test_a_request_that_outlives_its_forecast_is_about_to_end() -> None:
    oracle = noisy(np.full(50, 100), noise=0.3)
    forecast = oracle.predict(query_of(list(range(50)), (oracle.lengths + 7).tolist()), 80)
    assert set(forecast.contribution.tolist()) == {1.0}
    assert set(forecast.p_finish.tolist()) == {1.0}


def test_no_forecast_goes_beyond_a_requests_own_limit() -> None:
    lengths, limits = np.full(300, 100), np.full(300, 120)
    trace = Trace(prompt_tokens=lengths, output_tokens=lengths, columns={"max_tokens": limits})
    oracle = OraclePredictor(
        OracleParams(noise=1.0, dropout=0.3),
        output_tokens=lengths,
        rng=np.random.default_rng(0),
        trace=trace,
    )
    assert oracle.lengths.max() == 120
    rows = list(range(300))
    forecast = oracle.predict(query_of(rows, [110] * 300, limits.tolist()), 80)
    assert forecast.contribution.max() == 10.0
    # The limits of the query count, whether or not there was a trace to take them from.
    free = noisy(lengths, noise=1.0, dropout=0.3)
    limited = free.predict(query_of(rows, [110] * 300, limits.tolist()), 80)
    assert limited.contribution.max() == 10.0
    assert set(limited.p_finish.tolist()) == {1.0}


@given(st.integers(1, 50), st.integers(0, 40), st.integers(1, 60))
def test_the_curve_is_a_step(length: int, age: int, horizon: int) -> None:
    oracle = OraclePredictor(output_tokens=np.array([length]))
    query = query_of([0], [age])
    curve = oracle.survival(query, horizon)[0]
    assert set(curve.tolist()) <= {0.0, 1.0}
    assert curve[:-1].sum() == oracle.predict(query, horizon).contribution[0]
    assert curve[-1] == 1.0 - oracle.predict(query, horizon).p_finish[0]


def test_draws_without_a_generator_are_refused() -> None:
    with pytest.raises(ParameterError, match="generator"):
        OraclePredictor(OracleParams(noise=0.1), output_tokens=np.array([1]))


@pytest.mark.parametrize(
    "wrong", [{"noise": -0.1}, {"noise": float("nan")}, {"dropout": 1.1}, {"dropout": -0.1}]
)
def test_errors_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match=f"{next(iter(wrong))} = "):
        OracleParams(**wrong)
