"""The survival predictor against a plain Kaplan-Meier estimate."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.errors import ParameterError
from brsolver.predictors import ForecastQuery, Predictor
from classifiers.survival import SurvivalParams, SurvivalPredictor

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=12)
AGES = st.lists(st.integers(0, 15), max_size=8)


def kaplan_meier(ended: list[int], running: list[int]) -> list[Fraction]:
    survival = [Fraction(1)]
    for t in range(1, max(ended) + 1):
        at_risk = sum(o >= t for o in ended) + sum(a >= t for a in running)
        hazard = Fraction(ended.count(t), at_risk) if at_risk else Fraction(0)
        survival.append(survival[-1] * (1 - hazard))
    return survival


def fitted(
    ended: list[int], running: list[int] | None = None, growth: float = 0.0
) -> SurvivalPredictor:
    predictor = SurvivalPredictor(SurvivalParams(growth=growth))
    predictor.set_running(np.array(running or [], np.int64))
    predictor.observe(np.ones(len(ended), np.int64), np.array(ended, np.int64))
    return predictor


def query_of(ages: list[int]) -> ForecastQuery:
    age = np.array(ages, np.int64)
    return ForecastQuery(request=np.arange(len(ages)), age=age, prompt_tokens=np.ones_like(age))


@given(LENGTHS, AGES)
@settings(deadline=None)
def test_the_table_is_the_kaplan_meier_estimate(ended: list[int], running: list[int]) -> None:
    expected = [float(p) for p in kaplan_meier(ended, running)]
    assert fitted(ended, running).table.tolist() == pytest.approx(expected, abs=1e-12)


@given(LENGTHS)
@settings(deadline=None)
def test_without_running_requests_the_table_is_the_empirical_distribution(
    ended: list[int],
) -> None:
    shares = [sum(o > a for o in ended) / len(ended) for a in range(max(ended) + 1)]
    assert fitted(ended).table.tolist() == pytest.approx(shares, abs=1e-12)


@given(LENGTHS, AGES, st.lists(st.integers(0, 20), min_size=1, max_size=6), st.integers(1, 20))
@settings(deadline=None)
def test_forecasts_follow_from_the_estimate(
    ended: list[int], running: list[int], ages: list[int], horizon: int
) -> None:
    survival = kaplan_meier(ended, running)
    survival += [survival[-1]] * 60
    forecast = fitted(ended, running).predict(query_of(ages), horizon)
    for i, a in enumerate(ages):
        now, then = survival[a], survival[a + horizon]
        p = (now - then) / now if now else Fraction(0)
        window = range(a + 1, a + horizon + 1)
        steps = sum((t - a) * (survival[t - 1] - survival[t]) for t in window)
        mu = steps / (now - then) if p else Fraction(horizon)
        assert forecast.p_finish[i] == pytest.approx(float(p), abs=1e-9)
        assert forecast.mu_remaining[i] == pytest.approx(float(mu), abs=1e-6)


@given(LENGTHS, AGES, st.integers(0, 20), st.integers(1, 20))
@settings(deadline=None)
def test_the_survival_curve_adds_up_to_the_contribution(
    ended: list[int], running: list[int], age: int, horizon: int
) -> None:
    predictor = fitted(ended, running)
    curve = predictor.survival(query_of([age]), horizon)[0]
    forecast = predictor.predict(query_of([age]), horizon)
    assert curve[0] == 1.0
    assert curve[-1] == pytest.approx(1 - forecast.p_finish[0], abs=1e-9)
    assert curve[:-1].sum() == pytest.approx(forecast.contribution[0], abs=1e-6)


def test_before_any_observation_nothing_is_forecast_to_end() -> None:
    predictor = SurvivalPredictor()
    predictor.set_running(np.array([3, 9]))
    forecast = predictor.predict(query_of([0, 7]), 5)
    assert predictor.table.tolist() == [1.0]
    assert forecast.p_finish.tolist() == [0.0, 0.0]
    assert forecast.contribution.tolist() == [5.0, 5.0]


def test_a_request_older_than_all_that_ended_is_forecast_to_stay() -> None:
    forecast = fitted([4, 6]).predict(query_of([5, 6, 100]), 3)
    assert forecast.p_finish.tolist() == [1.0, 0.0, 0.0]
    assert forecast.contribution.tolist() == [1.0, 3.0, 3.0]


def test_running_requests_lengthen_the_forecast() -> None:
    alone = fitted([2, 2]).predict(query_of([0]), 10)
    accompanied = fitted([2, 2], running=[8, 8]).predict(query_of([0]), 10)
    assert alone.contribution.tolist() == [2.0]
    assert accompanied.contribution.tolist() == [pytest.approx(6.0)]


def test_the_running_requests_stated_last_replace_those_before() -> None:
    predictor = SurvivalPredictor()
    predictor.set_running(np.array([8, 8]))
    predictor.set_running(np.array([], np.int64))
    predictor.observe(np.ones(2, np.int64), np.array([2, 2]))
    assert predictor.table.tolist() == [1.0, 1.0, 0.0]


def test_observations_add_up_over_calls_of_growing_length() -> None:
    predictor = fitted([1])
    predictor.observe(np.ones(2, np.int64), np.array([5, 900]))
    predictor.observe(np.ones(0, np.int64), np.array([], np.int64))
    predictor.observe(np.ones(1, np.int64), np.array([5]))
    assert predictor.table[[0, 1, 4, 5, 899, 900]].tolist() == pytest.approx(
        [1.0, 0.75, 0.75, 0.25, 0.25, 0.0]
    )


def test_the_estimate_is_renewed_once_observations_have_grown_enough() -> None:
    predictor = fitted([3] * 4, growth=0.5)
    first = predictor.table
    predictor.observe(np.ones(1, np.int64), np.array([9]))
    assert predictor.table is first
    assert predictor.predict(query_of([3]), 9).p_finish.tolist() == [0.0]
    predictor.observe(np.ones(1, np.int64), np.array([9]))
    assert predictor.table[3] == pytest.approx(1 / 3)
    assert predictor.predict(query_of([3]), 9).p_finish.tolist() == [1.0]


def test_forecasts_at_different_horizons_do_not_mix() -> None:
    predictor = fitted([4])
    assert predictor.predict(query_of([0]), 3).contribution.tolist() == [3.0]
    assert predictor.predict(query_of([0]), 9).contribution.tolist() == [4.0]


def test_an_output_of_no_tokens_is_refused() -> None:
    with pytest.raises(ParameterError, match="output length 0"):
        fitted([2, 0])


@pytest.mark.parametrize("growth", [-0.1, float("nan"), float("inf")])
def test_a_growth_that_is_no_share_is_refused(growth: float) -> None:
    with pytest.raises(ParameterError, match="growth"):
        SurvivalParams(growth=growth)


def test_it_is_a_predictor_that_does_not_see_the_future() -> None:
    predictor = SurvivalPredictor()
    assert isinstance(predictor, Predictor)
    assert not predictor.sees_future
