"""Scores against scikit-learn, brute force and what must hold of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve as sklearn_curve
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    log_loss,
    roc_auc_score,
)

from classifiers.evaluation.calibration import (
    Bins,
    calibration_curve,
    calibration_error,
    decompose,
)
from classifiers.evaluation.samples import Samples, Told
from classifiers.evaluation.scores import LOG_CLIP, Scored, crps_each, judge

H = 4
FORECASTS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0]), st.integers(1, 2 * H)),
    min_size=2,
    max_size=40,
)


def told_of(p: np.ndarray, mu: float = 2.0) -> Told:
    curve = 1.0 - p[:, None] * np.arange(H + 1) / H
    return Told(p_finish=p, mu_remaining=np.full(p.size, mu), survival=curve.astype(np.float32))


def samples_of(rows: list[tuple[float, int]], **others: Told) -> Samples:
    p = np.array([p for p, _ in rows])
    remaining = np.array([r for _, r in rows])
    return Samples(
        horizon=H,
        request=np.arange(len(rows)) // 2,
        age=np.zeros(len(rows), np.int64),
        remaining=remaining,
        told={"own": told_of(p), **others},
        unknown=0,
        requests=(len(rows) + 1) // 2,
    )


@given(FORECASTS, st.data())
def test_weighted_scores_are_those_of_scikit_learn(
    rows: list[tuple[float, int]], data: st.DataObject
) -> None:
    samples = samples_of(rows)
    drawn = data.draw(
        st.lists(st.integers(0, 3), min_size=samples.requests, max_size=samples.requests)
    )
    weights = np.array(drawn)[samples.request].astype(float)
    ends, p = samples.ends, samples.told["own"].p_finish
    found = Scored(samples.told["own"], samples).weighted(np.array(drawn))
    if not weights.any():
        assert np.isnan(found.brier)
        return
    assert found.brier == pytest.approx(brier_score_loss(ends, p, sample_weight=weights))
    clipped = np.clip(p, LOG_CLIP, 1 - LOG_CLIP)
    expected = log_loss(ends, clipped, sample_weight=weights, labels=[False, True])
    assert found.log_loss == pytest.approx(expected)
    held = weights > 0
    if 0 < ends[held].mean() < 1:
        assert found.auc == pytest.approx(roc_auc_score(ends, p, sample_weight=weights))
        expected = average_precision_score(ends, p, sample_weight=weights)
        assert found.average_precision == pytest.approx(expected)
    else:
        assert np.isnan(found.auc)


@given(FORECASTS)
def test_every_sample_counting_once_is_what_weights_of_one_give(
    rows: list[tuple[float, int]],
) -> None:
    samples = samples_of(rows)
    scored = Scored(samples.told["own"], samples)
    plain, weighted = scored.scores(), scored.weighted(np.ones(samples.requests, np.int64))
    for name in ("auc", "average_precision", "brier", "log_loss", "ece", "mae", "crps"):
        assert getattr(plain, name) == pytest.approx(getattr(weighted, name), nan_ok=True)


@given(FORECASTS)
def test_errors_of_both_stages_against_plain_sums(rows: list[tuple[float, int]]) -> None:
    samples = samples_of(rows)
    found = Scored(samples.told["own"], samples).scores()
    misses = [abs(2.0 - r) for _, r in rows if r <= H]
    assert found.mae == pytest.approx(np.mean(misses) if misses else np.nan, nan_ok=True)
    contribution = [abs((1 - p) * H + p * 2.0 - min(r, H)) for p, r in rows]
    assert found.contribution_mae == pytest.approx(np.mean(contribution))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
@settings(max_examples=200)
def test_the_decomposition_adds_up_to_the_brier_score(rows: list[tuple[float, bool]]) -> None:
    p = np.array([p for p, _ in rows])
    ends = np.array([y for _, y in rows])
    bins = Bins.of(p)
    curve = calibration_curve(p, ends, bins)
    brier = float(((p - ends) ** 2).mean())
    parts = decompose(curve, brier, float(ends.mean()))
    assert brier == pytest.approx(
        parts.reliability - parts.resolution + parts.uncertainty + parts.within_bin
    )
    inside = 0.0
    for b in range(bins.count):
        own_p, own_y = p[bins.index == b], ends[bins.index == b]
        spread, together = own_p.var(), ((own_p - own_p.mean()) * (own_y - own_y.mean())).mean()
        inside += own_p.size / p.size * (spread - 2 * together)
    assert parts.within_bin == pytest.approx(inside, abs=1e-12)


def test_few_distinct_forecasts_leave_nothing_within_bins() -> None:
    p = np.repeat([0.1, 0.4, 0.8], 20)
    ends = np.arange(60) % 3 == 0
    curve = calibration_curve(p, ends, Bins.of(p))
    parts = decompose(curve, float(((p - ends) ** 2).mean()), float(ends.mean()))
    assert curve.forecast == pytest.approx([0.1, 0.4, 0.8])
    assert parts.within_bin == pytest.approx(0.0, abs=1e-15)


def test_bins_hold_equal_mass_and_equal_forecasts_share_one() -> None:
    p = np.random.default_rng(0).random(1000)
    assert np.bincount(Bins.of(p).index).tolist() == pytest.approx([100] * 10, abs=1)
    p[:500] = 0.5
    bins = Bins.of(p)
    assert len(set(bins.index[:500].tolist())) == 1
    assert Bins.of(np.full(7, 0.3)).count == 1


def test_the_calibration_curve_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(2000)
    ends = rng.random(2000) < p**2
    curve = calibration_curve(p, ends, Bins.of(p))
    observed, forecast = sklearn_curve(ends, p, n_bins=10, strategy="quantile")
    # scikit-learn interpolates between quantiles, so a sample or two may change bins.
    assert curve.observed == pytest.approx(observed, abs=0.01)
    assert curve.forecast == pytest.approx(forecast, abs=0.01)
    assert calibration_error(curve) == pytest.approx(np.abs(observed - forecast).mean(), abs=0.01)


@given(st.lists(st.integers(1, 2 * H), min_size=1, max_size=20), st.data())
def test_crps_against_the_sum_over_steps(remaining: list[int], data: st.DataObject) -> None:
    steps = st.lists(st.floats(0, 1), min_size=H + 1, max_size=H + 1)
    curves = np.array([data.draw(steps) for _ in remaining])
    found = crps_each(curves, np.array(remaining))
    for each, curve, r in zip(found, curves, remaining, strict=True):
        assert each == pytest.approx(sum((curve[h] - (r > h)) ** 2 for h in range(H)))


@given(st.integers(1, 2 * H), st.integers(1, 2 * H))
def test_crps_of_a_certain_forecast_is_its_error_in_steps(end: int, remaining: int) -> None:
    curve = (end > np.arange(H + 1)).astype(float)[None]
    assert crps_each(curve, np.array([remaining]))[0] == abs(min(end, H) - min(remaining, H))


def test_a_constant_forecast_ranks_nothing_and_costs_its_squared_error() -> None:
    rows = [(0.25, r) for r in (1, 9, 9, 9, 2, 9, 9, 9)]
    found = Scored(samples_of(rows).told["own"], samples_of(rows)).scores()
    assert (found.auc, found.brier, found.resolution) == (0.5, pytest.approx(0.1875), 0.0)
    assert found.ece == pytest.approx(0.0)


def test_differences_to_the_reference_are_paired() -> None:
    rng = np.random.default_rng(0)
    rows = [
        (float(p), int(r)) for p, r in zip(rng.random(400), rng.integers(1, 9, 400), strict=True)
    ]
    ends = np.array([r <= H for _, r in rows])
    knows = told_of(np.where(ends, 0.9, 0.1))
    samples = samples_of(rows, knows=knows, copy=told_of(np.array([p for p, _ in rows])))
    found = {
        each.kind: each
        for each in judge(samples, reference="own", rng=np.random.default_rng(0), replicates=50)
    }
    assert found["copy"].against["brier"] == (0.0, 0.0)
    better = found["knows"].against["brier"]
    assert better is not None
    assert better.high < 0
    assert found["own"].against == {}
    interval = found["own"].intervals["brier"]
    assert interval is not None
    assert interval.low < found["own"].scores.brier < interval.high
