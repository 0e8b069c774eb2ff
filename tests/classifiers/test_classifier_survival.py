"""The survival predictor against a plain Kaplan-Meier estimate."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from finished import finished
from finished import running as query_of
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.errors import ParameterError
from brsolver.predictors import Predictor
from brsolver.registry import make_predictor
from brsolver.traces import Trace
from classifiers.survival import SurvivalParams, SurvivalPredictor

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=12)
AGES = st.lists(st.integers(0, 15), max_size=8)


def kaplan_meier(
    ended: list[int], running: list[int], cut: list[int] | None = None
) -> list[Fraction]:
    survival = [Fraction(1)]
    still = running + (cut or [])
    for t in range(1, max(ended, default=0) + 1):
        at_risk = sum(o >= t for o in ended) + sum(a >= t for a in still)
        hazard = Fraction(ended.count(t), at_risk) if at_risk else Fraction(0)
        survival.append(survival[-1] * (1 - hazard))
    return survival


def fitted(
    ended: list[int],
    running: list[int] | None = None,
    growth: float = 0.0,
    cut: list[int] | None = None,
) -> SurvivalPredictor:
    predictor = SurvivalPredictor(SurvivalParams(growth=growth))
    predictor.set_running(query_of(running or []))
    cut = cut or []
    predictor.observe(finished(ended + cut, [False] * len(ended) + [True] * len(cut)))
    return predictor


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
    predictor.set_running(query_of([3, 9]))
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
    predictor.set_running(query_of([8, 8]))
    predictor.set_running(query_of([]))
    predictor.observe(finished([2, 2]))
    assert predictor.table.tolist() == [1.0, 1.0, 0.0]


def test_observations_add_up_over_calls_of_growing_length() -> None:
    predictor = fitted([1])
    predictor.observe(finished([5, 900]))
    predictor.observe(finished([]))
    predictor.observe(finished([5]))
    assert predictor.table[[0, 1, 4, 5, 899, 900]].tolist() == pytest.approx(
        [1.0, 0.75, 0.75, 0.25, 0.25, 0.0]
    )


def test_the_estimate_is_renewed_once_observations_have_grown_enough() -> None:
    predictor = fitted([3] * 4, growth=0.5)
    first = predictor.table
    predictor.observe(finished([9]))
    assert predictor.table is first
    assert predictor.predict(query_of([3]), 9).p_finish.tolist() == [0.0]
    predictor.observe(finished([9]))
    assert predictor.table[3] == pytest.approx(1 / 3)
    assert predictor.predict(query_of([3]), 9).p_finish.tolist() == [1.0]


def test_forecasts_at_different_horizons_do_not_mix() -> None:
    predictor = fitted([4])
    assert predictor.predict(query_of([0]), 3).contribution.tolist() == [3.0]
    assert predictor.predict(query_of([0]), 9).contribution.tolist() == [4.0]


def test_an_output_of_no_tokens_is_refused() -> None:
    with pytest.raises(ParameterError, match="output length is 0"):
        fitted([2, 0])


@pytest.mark.parametrize("growth", [-0.1, float("nan"), float("inf")])
def test_a_growth_that_is_no_share_is_refused(growth: float) -> None:
    with pytest.raises(ParameterError, match="growth"):
        SurvivalParams(growth=growth)


def test_it_is_a_predictor_that_does_not_see_the_future() -> None:
    predictor = SurvivalPredictor()
    assert isinstance(predictor, Predictor)
    assert not predictor.sees_future


CUT = st.lists(st.integers(1, 20), max_size=8)


@given(st.lists(st.integers(1, 12), max_size=12), AGES, CUT)
@settings(deadline=None)
def test_requests_cut_short_count_as_censored(
    ended: list[int], running: list[int], cut: list[int]
) -> None:
    expected = [float(p) for p in kaplan_meier(ended, running, cut)]
    assert fitted(ended, running, cut=cut).table.tolist() == pytest.approx(expected, abs=1e-12)


@given(LENGTHS, CUT)
@settings(deadline=None)
def test_the_table_is_that_of_scikit_survival(ended: list[int], cut: list[int]) -> None:
    nonparametric = pytest.importorskip("sksurv.nonparametric")
    event = np.array([True] * len(ended) + [False] * len(cut))
    times, expected = nonparametric.kaplan_meier_estimator(event, np.array(ended + cut, float))
    table = fitted(ended, cut=cut).table
    at = np.minimum(times.astype(int), len(table) - 1)
    np.testing.assert_allclose(table[at], expected, atol=1e-12)


@given(LENGTHS, AGES, st.lists(st.tuples(st.integers(0, 20), st.integers(0, 30))), CUT)
@settings(deadline=None)
def test_no_forecast_goes_beyond_a_requests_own_limit(
    ended: list[int], running: list[int], queried: list[tuple[int, int]], cut: list[int]
) -> None:
    horizon = 10
    predictor = fitted(ended, running, cut=cut)
    ages = [age for age, _ in queried]
    query = query_of(ages, [age + left for age, left in queried])
    forecast, curves = predictor.predict(query, horizon), predictor.survival(query, horizon)
    free = predictor.survival(query_of(ages), horizon)
    for i, (_, limit) in enumerate(queried):
        left = max(limit, 1)
        expected = free[i, : min(left, horizon)].sum()
        assert forecast.contribution[i] == pytest.approx(expected, abs=1e-9)
        assert curves[i].tolist() == [p if h < left else 0.0 for h, p in enumerate(free[i])]
        if left <= horizon:
            assert forecast.p_finish[i] == 1.0
            assert forecast.mu_remaining[i] <= left


def test_a_request_with_ten_tokens_left_never_runs_eighty() -> None:
    forecast = fitted([5000]).predict(query_of([990], [1000]), 80)
    assert (forecast.p_finish[0], forecast.mu_remaining[0]) == (1.0, 10.0)


def test_censored_requests_alone_are_no_evidence_of_an_end() -> None:
    predictor = fitted([], cut=[50, 900])
    assert predictor.table.tolist() == [1.0]
    assert predictor.predict(query_of([0, 950]), 80).contribution.tolist() == [80.0, 80.0]


def test_constant_outputs_end_exactly_there() -> None:
    forecast = fitted([100] * 30).predict(query_of([0, 19, 20, 99, 100]), 80)
    assert forecast.p_finish.tolist() == [0.0, 0.0, 1.0, 1.0, 0.0]
    assert forecast.mu_remaining.tolist() == [80.0, 80.0, 80.0, 1.0, 80.0]


@given(st.lists(LENGTHS, min_size=1, max_size=5), st.integers(1, 8))
@settings(deadline=None)
def test_an_observation_weighs_half_after_every_half_life(
    batches: list[list[int]], memory: int
) -> None:
    predictor = SurvivalPredictor(SurvivalParams(growth=0.0, memory=memory))
    for batch in batches:
        predictor.observe(finished(batch))
    lengths = [length for batch in batches for length in batch]
    weights = [2.0 ** (-back / memory) for back in reversed(range(len(lengths)))]
    # Beyond thirty half-lives nothing counts; too little to matter here.
    shares = [
        sum(w for o, w in zip(lengths, weights, strict=True) if o > age) / sum(weights)
        for age in range(max(lengths) + 1)
    ]
    table = predictor.table
    padded = np.append(table, [0.0] * (len(shares) - len(table)))
    assert padded.tolist() == pytest.approx(shares, abs=1e-6)


def test_what_is_long_past_is_forgotten_altogether() -> None:
    predictor = SurvivalPredictor(SurvivalParams(growth=0.0, memory=2.0))
    predictor.observe(finished([700]))
    for _ in range(10):
        predictor.observe(finished([5] * 100))
    assert len(predictor.table) == 6
    assert predictor.table[5] == 0.0
    assert np.isfinite(predictor._weights).all()


def test_without_memory_set_nothing_is_forgotten() -> None:
    predictor = fitted([700])
    predictor.observe(finished([5] * 999))
    assert predictor.table[5] == pytest.approx(1 / 1000)


def test_it_learns_from_a_traces_history_and_says_from_how_much() -> None:
    lengths = np.arange(1, 101)
    trace = Trace(
        prompt_tokens=lengths,
        output_tokens=lengths,
        columns={"max_tokens": np.full(100, 20)},
    )
    warm = make_predictor("survival", {"train": 0.3}, trace=trace)
    by_hand = fitted(list(range(1, 20)), cut=list(range(20, 31)))
    assert isinstance(warm, SurvivalPredictor)
    assert warm.table.tolist() == pytest.approx(by_hand.table.tolist())
    assert warm.training_rows(trace) == 30
    assert warm.training_rows(trace.after(1)) == 0
    assert warm.training_rows(trace.head(20)) == 0
    assert SurvivalPredictor().fit(trace, 5).training_rows(trace) == 5
    assert SurvivalPredictor().training_rows(trace) == 0


def test_training_without_a_trace_is_refused() -> None:
    with pytest.raises(ParameterError, match="needs a trace"):
        make_predictor("survival", {"train": 0.5})


@pytest.mark.parametrize("wrong", [{"memory": 0.5}, {"memory": float("nan")}, {"train": 1.0}])
def test_parameters_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match=f"{next(iter(wrong))} is "):
        SurvivalParams(**wrong)


def test_ages_below_zero_and_lengths_no_trace_may_hold_are_refused() -> None:
    predictor = fitted([3])
    for ask in (predictor.predict, predictor.survival):
        with pytest.raises(ParameterError, match="age is -1"):
            ask(query_of([2, -1]), 5)
    with pytest.raises(ParameterError, match="age is -2"):
        predictor.set_running(query_of([-2]))
    with pytest.raises(ParameterError, match="output length is 16777217"):
        predictor.observe(finished([2**24 + 1]))
