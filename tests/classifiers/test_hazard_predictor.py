"""The hazard model at work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("sklearn")

from brsolver import Trace
from brsolver.cluster.forecasting import Forecaster
from brsolver.errors import ParameterError
from brsolver.predictors import FinishedRequests, ForecastQuery, Predictor, limited
from classifiers.features import of_query
from classifiers.hazard import HazardClassifier
from classifiers.hazard_predictor import (
    HazardParams,
    HazardPredictor,
    ModelParams,
    ModelPredictor,
    TrainedHazardPredictor,
)
from classifiers.history import finished_rows
from classifiers.key_history import KeyHistory
from classifiers.model_file import save
from classifiers.survival import SurvivalPredictor

if TYPE_CHECKING:
    from pathlib import Path

HORIZON = 20


def made_trace(n: int = 800, seed: int = 0) -> Trace:
    """Return a trace in which a session's outputs are alike and nothing else tells anything."""
    rng = np.random.default_rng(seed)
    session = rng.integers(0, 30, n)
    return Trace(
        prompt_tokens=rng.integers(1, 400, n),
        output_tokens=4 * session + rng.integers(1, 4, n),
        arrival_s=np.arange(n) * 1.0,
        columns={"session": session},
        name="made",
    )


TRACE = made_trace()


@pytest.fixture(scope="module")
def classifier() -> HazardClassifier:
    return HazardClassifier("gb", horizon=HORIZON, random_state=0).fit_trace(TRACE)


def query_of(
    ages: list[int], sessions: list[int] | None = None, limits: list[int] | None = None
) -> ForecastQuery:
    return ForecastQuery(
        request=np.arange(len(ages)),
        age=np.array(ages),
        prompt_tokens=np.full(len(ages), 100),
        max_tokens=None if limits is None else np.array(limits),
        keys={} if sessions is None else {"session": np.array(sessions)},
    )


def test_it_is_a_predictor_that_does_not_see_the_future(classifier: HazardClassifier) -> None:
    predictor = HazardPredictor(classifier)
    assert isinstance(predictor, Predictor)
    assert not predictor.sees_future


def test_forecasts_are_the_models_own_on_the_querys_features(classifier: HazardClassifier) -> None:
    history = KeyHistory()
    predictor = HazardPredictor(classifier, history=history)
    predictor.observe(finished_rows(TRACE))
    query = query_of([0, 30, 60], [2, 20, 29])
    p, mu = classifier.forecast(of_query(query, history))
    forecast = predictor.predict(query, HORIZON)
    assert forecast.p_finish.tolist() == p.tolist()
    assert forecast.mu_remaining.tolist() == mu.tolist()
    assert forecast.horizon == HORIZON


def test_what_sessions_did_before_tells_when_they_end(classifier: HazardClassifier) -> None:
    predictor = HazardPredictor(classifier)
    ages, sessions = [0, 0, 60, 60], [2, 29, 29, 16]
    predictor.observe(finished_rows(TRACE))
    p = predictor.predict(query_of(ages, sessions), HORIZON).p_finish
    assert p[0] > 0.9
    assert p[1] < 0.1
    assert p[2] < 0.2
    assert p[3] > 0.8


def test_it_learns_keys_from_finished_requests_while_it_runs(classifier: HazardClassifier) -> None:
    predictor = HazardPredictor(classifier)
    predictor.observe(finished_rows(TRACE))
    # A session that nobody has seen, first asked about without and then with a history.
    before = predictor.predict(query_of([0], [777]), HORIZON).p_finish[0]
    for _ in range(10):
        predictor.observe(
            FinishedRequests(
                request=np.array([0]),
                prompt_tokens=np.array([100]),
                output_tokens=np.array([6]),
                censored=np.array([False]),
                keys={"session": np.array([777])},
            )
        )
    after = predictor.predict(query_of([0], [777]), HORIZON).p_finish[0]
    assert after > before
    assert after > 0.8


def test_limits_cut_forecasts_and_curves(classifier: HazardClassifier) -> None:
    predictor = HazardPredictor(classifier)
    predictor.observe(finished_rows(TRACE))
    ages, sessions, limits = [0, 0, 50, 50], [29, 2, 29, 29], [5, 500, 50, 55]
    free = predictor.predict(query_of(ages, sessions), HORIZON)
    query = query_of(ages, sessions, limits)
    cut = predictor.predict(query, HORIZON)
    expected = limited(free, query)
    assert cut.p_finish.tolist() == expected.p_finish.tolist()
    assert cut.contribution.tolist() == expected.contribution.tolist()
    assert cut.p_finish[[0, 2, 3]].tolist() == [1, 1, 1]
    assert (cut.contribution <= query.steps_left(HORIZON) + 1e-9).all()
    curves = predictor.survival(query, HORIZON)
    assert curves[0, 5:].max() == 0 < curves[0, 4]
    assert curves[2, 1:].max() == 0 < curves[2, 0]
    assert (curves[1] == predictor.survival(query_of(ages, sessions), HORIZON)[1]).all()


def test_another_horizon_is_refused_and_curves_of_any_length_agree(
    classifier: HazardClassifier,
) -> None:
    predictor = HazardPredictor(classifier)
    with pytest.raises(ParameterError, match="horizon is 40, must be 20"):
        predictor.predict(query_of([0]), 40)
    with pytest.raises(ParameterError, match="horizon is 40, must be 20"):
        Forecaster(predictor, horizon=40, refresh_steps=8)
    Forecaster(predictor, horizon=HORIZON, refresh_steps=8)
    longer = predictor.survival(query_of([0, 9]), 40)
    np.testing.assert_array_equal(
        longer[:, : HORIZON + 1], predictor.survival(query_of([0, 9]), HORIZON)
    )
    assert (np.diff(longer, axis=1) <= 0).all()
    shorter = predictor.survival(query_of([0, 9]), 7)
    np.testing.assert_array_equal(shorter, predictor.survival(query_of([0, 9]), HORIZON)[:, :8])


def test_models_of_other_features_and_unfitted_ones_are_refused() -> None:
    with pytest.raises(ParameterError, match="not fitted"):
        HazardPredictor(HazardClassifier())
    rng = np.random.default_rng(0)
    other = HazardClassifier(features=None, horizon=5, random_state=0)
    other.fit(rng.random((300, 3)), rng.integers(1, 9, 300))
    with pytest.raises(ParameterError, match="3 columns"):
        HazardPredictor(other)


def test_by_name_it_trains_on_the_earliest_share_and_says_which() -> None:
    predictor = TrainedHazardPredictor(HazardParams(train=0.6, horizon=HORIZON), trace=TRACE)
    assert predictor.training_rows(TRACE) == 480
    assert predictor.training_rows(made_trace(seed=1)) == 0
    head = HazardClassifier("gb", horizon=HORIZON, random_state=0).fit_trace(TRACE.head(480))
    same = HazardPredictor(head)
    same.observe(finished_rows(TRACE.head(480)))
    query = query_of([0, 10, 40], [1, 9, 25])
    np.testing.assert_array_equal(
        predictor.predict(query, HORIZON).p_finish, same.predict(query, HORIZON).p_finish
    )


def test_without_a_trace_or_a_share_there_is_nothing_to_train_on() -> None:
    with pytest.raises(ParameterError, match="needs a trace"):
        TrainedHazardPredictor(HazardParams())
    with pytest.raises(ParameterError, match="of 40 requests"):
        TrainedHazardPredictor(HazardParams(), trace=TRACE.head(80))
    for bad in ({"train": 0.0}, {"train": 1.0}, {"horizon": 0}):
        with pytest.raises(ParameterError):
            HazardParams(**bad)  # type: ignore[arg-type]  # values of either type


def test_from_a_file_it_knows_the_trace_that_trained_it(
    classifier: HazardClassifier, tmp_path: Path
) -> None:
    path = tmp_path / "m.skops"
    save(path, classifier, TRACE, len(TRACE))
    longer = Trace(
        prompt_tokens=np.append(TRACE.prompt_tokens, 5),
        output_tokens=np.append(TRACE.output_tokens, 5),
        arrival_s=np.append(TRACE.arrival_s, 900.0),
        columns={"session": np.append(TRACE.columns["session"], 1)},
    )
    predictor = ModelPredictor(ModelParams(path=str(path)), trace=longer)
    assert predictor.training_rows(longer) == len(TRACE)
    warmed = HazardPredictor(classifier)
    warmed.observe(finished_rows(TRACE))
    query = query_of([0, 10, 40], [1, 9, 25])
    np.testing.assert_array_equal(
        predictor.predict(query, HORIZON).p_finish, warmed.predict(query, HORIZON).p_finish
    )
    stranger = ModelPredictor(ModelParams(path=str(path)), trace=made_trace(seed=1))
    assert stranger.training_rows(made_trace(seed=1)) == 0


def test_a_model_that_finds_nothing_is_survival_that_goes_on_learning() -> None:
    rng = np.random.default_rng(3)
    outputs = rng.integers(1, 60, 1600)
    trace = Trace(prompt_tokens=rng.integers(1, 900, 1600), output_tokens=outputs)
    past = trace.head(800)
    classifier = HazardClassifier(kind="lr", horizon=HORIZON, random_state=0).fit_trace(past)
    assert not classifier.finds_more_than_age
    predictor, survival = HazardPredictor(classifier), SurvivalPredictor()
    early = predictor.predict(query_of([0, 9]), HORIZON)
    assert (
        early.p_finish.tolist()
        == classifier.forecast(predictor._features(query_of([0, 9])))[0].tolist()
    )
    predictor.warm(past)
    survival.fit(past)
    for source in (predictor, survival):
        source.observe(finished_rows(trace.after(800)))
        source.set_running(query_of([3, 4]))
    ages = query_of([0, 9, 30])
    assert (
        predictor.predict(ages, HORIZON).p_finish.tolist()
        == survival.predict(ages, HORIZON).p_finish.tolist()
    )
    assert (predictor.survival(ages, 30) == survival.survival(ages, 30)).all()
    assert "nothing beyond age" in predictor.notes()[0]
