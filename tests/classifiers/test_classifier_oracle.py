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


@pytest.mark.parametrize("spoilt", ["lengths", "told", "table"])
def test_what_is_written_into_the_oracle_does_not_reach_the_trace(spoilt: str) -> None:
    lengths = np.array([3, 5, 8])
    oracle = OraclePredictor(output_tokens=lengths)
    getattr(oracle, spoilt)[:] = 1
    assert lengths.tolist() == [3, 5, 8]


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
    logs = np.log(noisy(lengths, noise=0.5).told / lengths)
    assert logs.mean() == pytest.approx(0.0, abs=0.02)
    assert logs.std() == pytest.approx(0.5, rel=0.02)


def test_dropped_requests_get_no_forecast_and_the_others_keep_theirs() -> None:
    lengths = np.full(10_000, 5)
    oracle = noisy(lengths, dropout=0.25)
    stays = oracle.predict(query_of(list(range(10_000)), [0] * 10_000), 80).contribution == 80
    assert stays.mean() == pytest.approx(0.25, abs=0.02)
    assert set(oracle.told[~stays].tolist()) == {5}


def test_more_dropout_leaves_the_noise_as_it_was() -> None:
    lengths = np.arange(1, 500)
    some, more = noisy(lengths, noise=1.0), noisy(lengths, noise=1.0, dropout=0.5)
    kept = more.told < 1 << 60
    assert 0 < kept.sum() < 499
    assert (some.told == more.told)[kept].all()


def test_noisy_forecasts_are_calibrated() -> None:
    """To one who expects nothing beforehand: lengths log-uniform over a wide range."""
    rng = np.random.default_rng(11)
    lengths = np.exp(rng.uniform(np.log(2), np.log(2e5), 60_000)).astype(np.int64)
    oracle = noisy(lengths, noise=0.4)
    age = rng.integers(20, 2000, lengths.shape[0])
    # Away from the ends of the range, where there is no expectation to be had.
    inside = np.flatnonzero((oracle.told > 50) & (oracle.told < 5000) & (age < lengths))
    forecast = oracle.predict(query_of(inside.tolist(), age[inside].tolist()), 80)
    ended = lengths[inside] - age[inside] <= 80
    for low in np.arange(0, 1, 0.2):
        some = (forecast.p_finish >= low) & (forecast.p_finish < low + 0.2)
        assert ended[some].mean() == pytest.approx(forecast.p_finish[some].mean(), abs=0.04)


def test_the_noisier_the_less_certain_and_never_broken() -> None:
    lengths = np.full(50, 100)
    for noise in (0.01, 0.3, 3.0):
        oracle = noisy(lengths, noise=noise)
        query = query_of(list(range(50)), (oracle.told * 5 + 7).tolist())
        curves = oracle.survival(query, 80)
        assert np.isfinite(curves).all()
        assert (np.diff(curves, axis=1) <= 1e-12).all()
        assert (curves[:, 0] == 1).all()
    assert oracle.lengths is None
    assert oracle.table is None


def test_little_noise_approaches_the_truth() -> None:
    lengths = np.arange(40, 400)
    query = query_of(list(range(360)), [20] * 360)
    exact = OraclePredictor(output_tokens=lengths).predict(query, 80).contribution
    near = noisy(lengths, noise=0.001).predict(query, 80).contribution
    assert np.abs(exact - near).max() <= 1.0


def test_no_forecast_goes_beyond_a_requests_own_limit() -> None:
    lengths, limits = np.full(300, 100), np.full(300, 120)
    trace = Trace(prompt_tokens=lengths, output_tokens=lengths, columns={"max_tokens": limits})
    oracle = OraclePredictor(
        OracleParams(noise=1.0, dropout=0.3),
        output_tokens=lengths,
        rng=np.random.default_rng(0),
        trace=trace,
    )
    certain = OraclePredictor(output_tokens=lengths * 2, trace=trace)
    assert set(certain.told.tolist()) == {120}
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
    with pytest.raises(ParameterError, match=f"{next(iter(wrong))} is "):
        OracleParams(**wrong)
