"""The hazard model: as a scikit-learn estimator, against its plain evaluation, on bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from brsolver import Trace
from brsolver.errors import ParameterError
from brsolver.predictors import ForecastQuery
from classifiers import features, person_period
from classifiers.baseline import Baseline
from classifiers.calibration import BASELINE, Outputs, beats, calibrate, time_ordered
from classifiers.hazard import HazardClassifier
from classifiers.survival import SurvivalPredictor

HORIZON = 20
LABELS = "y holds remaining lengths, not class labels, and classes_ are False and True"

EXPECTED_FAILURES = {
    "check_classifiers_classes": LABELS,
    "check_classifiers_one_label": LABELS,
    "check_classifiers_train": LABELS,
    "check_classifiers_regression_target": "real remaining lengths are what it takes",
    "check_classifier_not_supporting_multiclass": LABELS,
}


def expected_failures(_: HazardClassifier) -> dict[str, str]:
    return EXPECTED_FAILURES


@parametrize_with_checks(
    [HazardClassifier(kind, horizon=1, features=None, rounds=5) for kind in ("gb", "lr")],
    expected_failed_checks=expected_failures,
)
def test_it_keeps_scikit_learns_conventions(estimator: HazardClassifier, check: Any) -> None:
    check(estimator)


def two_classes(n: int, seed: int, share: float = 0.5) -> Trace:
    """Return a trace in which the prompt tells short outputs from long ones."""
    rng = np.random.default_rng(seed)
    short = rng.random(n) < share
    outputs = np.where(short, rng.integers(5, 15, n), rng.integers(60, 90, n))
    prompts = np.where(short, rng.integers(10, 100, n), rng.integers(200, 400, n))
    return Trace(
        prompt_tokens=prompts,
        output_tokens=outputs,
        arrival_s=np.sort(rng.uniform(0, n / 5, n)),
        name="two classes",
    )


def noise(n: int, seed: int) -> Trace:
    """Return a trace in which nothing tells anything."""
    rng = np.random.default_rng(seed)
    return Trace(
        prompt_tokens=rng.integers(10, 400, n),
        output_tokens=rng.geometric(0.03, n),
        arrival_s=np.sort(rng.uniform(0, n / 5, n)),
        name="noise",
    )


def samples(trace: Trace, seed: int = 9) -> tuple[np.ndarray, person_period.PersonPeriods]:
    periods = person_period.sample(trace, HORIZON, random_state=seed)
    return features.build(trace, periods), periods


def brier(p: np.ndarray, periods: person_period.PersonPeriods) -> float:
    return float(np.mean((p - periods.ends) ** 2))


@pytest.fixture(scope="module", params=["gb", "lr"])
def model(request: pytest.FixtureRequest) -> HazardClassifier:
    return HazardClassifier(request.param, horizon=HORIZON, random_state=0).fit_trace(
        two_classes(600, 0)
    )


def with_holes(X: np.ndarray) -> np.ndarray:
    """Return features with values far out and missing ones among them."""
    rng = np.random.default_rng(0)
    X = X.copy()
    X[::5, 0] *= 50
    X[1::5, 1] *= 100
    for column in range(2, X.shape[1]):
        X[rng.random(len(X)) < 0.3, column] = np.nan
    return X


def test_what_runs_compiled_is_what_scikit_learn_evaluates(model: HazardClassifier) -> None:
    assert model.evaluator_ is not None
    X = with_holes(samples(two_classes(200, 1))[0])
    for compiled, plain in zip(model.forecast(X), model.forecast_plainly(X), strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-9)


def test_isotonic_levels_too_are_compiled_alike() -> None:
    model = HazardClassifier("gb", horizon=HORIZON, calibration="isotonic", random_state=0)
    model.fit_trace(two_classes(400, 0))
    assert len(model.calibration_.knots) > 0
    X, _ = samples(two_classes(200, 1))
    np.testing.assert_allclose(model.forecast(X)[0], model.forecast_plainly(X)[0], atol=1e-12)


@pytest.mark.parametrize("kind", ["gb", "lr"])
def test_the_distilled_model_forecasts_much_like_the_one_it_imitates(kind: str) -> None:
    trace = two_classes(600, 0)
    X, periods = samples(two_classes(300, 1))
    distilled, whole = (
        HazardClassifier(kind, horizon=HORIZON, distil=distil, random_state=0).fit_trace(trace)
        for distil in (True, False)
    )
    gap = abs(distilled.predict_proba(X) - whole.predict_proba(X)).mean()
    assert gap < 0.01
    assert brier(distilled.predict_proba(X)[:, 1], periods) < 0.05


def test_it_learns_what_the_prompt_says(model: HazardClassifier) -> None:
    later = two_classes(300, 1)
    X, periods = samples(later)
    p, mu = model.forecast(X)
    survival = model.design_.baseline.p_finish[model.design_.baseline.at(X[:, 0])]
    assert brier(p, periods) < 0.5 * brier(survival, periods)
    ends = periods.ends
    assert abs(mu - periods.remaining)[ends].mean() < 5
    assert ((mu >= 1) & (mu <= HORIZON)).all()
    assert model.score(X, periods.remaining) > 0.9


@pytest.mark.parametrize("kind", ["gb", "lr"])
def test_where_features_say_nothing_it_is_the_baseline(kind: str) -> None:
    model = HazardClassifier(kind, horizon=HORIZON, random_state=0).fit_trace(noise(400, 0))
    X, _ = samples(noise(200, 1))
    assert model.calibration_.weights[:2].tolist() == [1.0, 0.0]
    base = model.design_.baseline
    np.testing.assert_allclose(model.forecast(X)[0], base.p_finish[base.at(X[:, 0])], atol=2e-4)


def test_the_survival_curve_meets_the_forecast_at_the_horizon(model: HazardClassifier) -> None:
    X, _ = samples(two_classes(100, 1))
    curves = model.survival(X)
    assert curves.shape == (len(X), HORIZON + 1)
    assert (curves[:, 0] == 1).all()
    assert (np.diff(curves, axis=1) <= 0).all()
    np.testing.assert_allclose(curves[:, -1], 1 - model.forecast(X)[0], atol=2e-4)


def test_training_twice_with_one_seed_gives_one_model() -> None:
    X, _ = samples(two_classes(100, 1))
    first = HazardClassifier("gb", horizon=HORIZON, random_state=3).fit_trace(two_classes(300, 0))
    again = clone(first).fit_trace(two_classes(300, 0))
    np.testing.assert_array_equal(first.predict_proba(X), again.predict_proba(X))


@pytest.mark.parametrize(("length", "p", "mu"), [(5, 1.0, 5.0), (500, 0.0, HORIZON)])
def test_constant_outputs_give_what_they_show(length: int, p: float, mu: float) -> None:
    rng = np.random.default_rng(0)
    trace = Trace(
        prompt_tokens=rng.integers(1, 99, 300), output_tokens=np.full(300, length), name="same"
    )
    model = HazardClassifier("gb", horizon=HORIZON, random_state=0).fit_trace(trace)
    X, periods = samples(trace)
    fresh = X[periods.age == 0]
    assert model.forecast(fresh)[0] == pytest.approx([p] * len(fresh), abs=2e-4)
    assert model.forecast(fresh)[1] == pytest.approx([mu] * len(fresh))
    assert np.isfinite(model.survival(X)).all()


def test_too_few_and_only_cut_requests_are_refused_in_one_line() -> None:
    model = HazardClassifier(horizon=HORIZON)
    with pytest.raises(ParameterError, match=r"30 of 30 requests .* training needs 100") as few:
        model.fit_trace(two_classes(30, 0))
    assert "\n" not in str(few.value)
    trace = two_classes(300, 0)
    cut = Trace(
        prompt_tokens=trace.prompt_tokens,
        output_tokens=np.minimum(trace.output_tokens, 10),
        columns={"max_tokens": np.full(300, 10)},
        name="cut",
    )
    with pytest.raises(ParameterError, match="cut: 0 of 300 requests"):
        model.fit_trace(cut)


def test_a_missing_age_or_prompt_is_refused_and_other_holes_are_not(
    model: HazardClassifier,
) -> None:
    X, _ = samples(two_classes(20, 1))
    for column in range(2, X.shape[1]):
        X[0, column] = np.nan
    assert np.isfinite(model.forecast(X)[0]).all()
    for column, name in enumerate(features.REQUIRED):
        bad = X.copy()
        bad[3, column] = np.nan
        with pytest.raises(ParameterError, match=f"row 3: {name} is NaN"):
            model.forecast(bad)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "svm"}, "kind is 'svm'"),
        ({"calibration": "platt"}, "calibration is 'platt'"),
        ({"recent": "maybe"}, "recent is 'maybe'"),
        ({"horizon": 0}, "horizon is 0"),
        ({"leaves": 0}, "leaves is 0"),
        ({"features": ("age",)}, "7 columns for the 1 features"),
    ],
)
def test_bad_parameters_are_refused_when_fitting(change: dict[str, Any], message: str) -> None:
    X, periods = samples(two_classes(50, 0))
    with pytest.raises(ParameterError, match=message):
        HazardClassifier(**change).fit(X, periods.remaining)


@pytest.mark.parametrize("bad", [0, -3, np.nan])
def test_remaining_lengths_below_one_step_are_refused(bad: float) -> None:
    X, periods = samples(two_classes(50, 0))
    y = periods.remaining.astype(float)
    y[7] = bad
    with pytest.raises(ValueError, match=r"remaining length|NaN"):
        HazardClassifier().fit(X, y)


def test_groups_must_be_in_order() -> None:
    X, periods = samples(two_classes(50, 0))
    with pytest.raises(ParameterError, match="non-decreasing"):
        HazardClassifier().fit(X, periods.remaining, groups=periods.row[::-1])


def test_folds_are_ordered_in_time_and_split_no_request() -> None:
    group = np.repeat(np.arange(50), np.random.default_rng(0).integers(1, 9, 50))
    tested = []
    for past, later in time_ordered(group):
        assert group[past].max() < group[later].min()
        tested.extend(later.tolist())
    assert tested == list(range(tested[0], len(group)))


@pytest.mark.parametrize("seed", range(3))
def test_the_baseline_is_the_kaplan_meier_estimate_of_whole_lengths(seed: int) -> None:
    trace = noise(300, seed)
    periods = person_period.sample(trace, HORIZON, refresh_steps=7, random_state=seed)
    shuffled = np.random.default_rng(seed).permutation(len(periods))
    # Past the horizon nothing is looked at.
    coded = np.where(periods.ends, periods.remaining, 10**6)[shuffled]
    baseline = Baseline(periods.age[shuffled], coded, HORIZON, periods.row[shuffled])
    reference = SurvivalPredictor().fit(trace)
    np.testing.assert_allclose(baseline.table[: len(reference.table)], reference.table, atol=1e-12)
    ages = np.arange(30)
    query = ForecastQuery(request=ages, age=ages, prompt_tokens=np.ones(30, np.int64))
    forecast = reference.predict(query, HORIZON)
    np.testing.assert_allclose(baseline.p_finish[ages], forecast.p_finish, atol=1e-9)
    np.testing.assert_allclose(baseline.mu_remaining[ages], forecast.mu_remaining, atol=1e-6)
    np.testing.assert_allclose(baseline.curve(ages), reference.survival(query, HORIZON), atol=1e-9)


def test_the_baseline_of_few_windows_is_right_on_average() -> None:
    trace = noise(20_000, 0)
    periods = person_period.sample(trace, HORIZON, max_samples=20_000, random_state=0)
    baseline = Baseline(periods.age, periods.remaining, HORIZON, periods.row)
    reference = SurvivalPredictor().fit(trace)
    np.testing.assert_allclose(baseline.table[:80], reference.table[:80], atol=0.02)


def outputs_of(raw_logit: np.ndarray, ends: np.ndarray) -> Outputs:
    n = len(ends)
    return Outputs(
        base_logit=np.zeros(n),
        raw_logit=raw_logit,
        base_mu=np.full(n, 10.0),
        raw_mu=np.full(n, 11.0),
        ends=ends,
        remaining=np.where(ends, 12.0, 99.0),
        group=np.arange(n),
    )


def test_a_model_too_sure_of_itself_is_toned_down_and_never_sharpened() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=4000)
    ends = rng.random(4000) < 1 / (1 + np.exp(-logits))
    assert calibrate(outputs_of(3 * logits, ends), isotonic=False).weights[1] == pytest.approx(
        1 / 3, abs=0.04
    )
    assert calibrate(outputs_of(logits / 3, ends), isotonic=False).weights[1] == 1.0


def test_a_model_that_adds_nothing_gives_way_to_the_baseline() -> None:
    rng = np.random.default_rng(0)
    ends = rng.random(500) < 0.5
    found = calibrate(outputs_of(rng.normal(size=500), ends), isotonic=True)
    assert found.weights[:2].tolist() == BASELINE.weights[:2].tolist()
    assert len(found.knots) == 0
    assert calibrate(outputs_of(np.zeros(9), np.ones(9, bool)), isotonic=True) is BASELINE


def test_samples_of_one_request_count_as_one_in_comparisons() -> None:
    # Of three requests two gain and one loses.
    better, worse = np.repeat([0.0, 1.0, 0.0], 100), np.repeat([0.8, 0.0, 0.8], 100)
    assert beats(better, worse, np.arange(300))
    assert not beats(better, worse, np.repeat(np.arange(3), 100))
