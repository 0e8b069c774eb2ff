from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from brsolver.results.comparison import Comparison, mean_and_half_width


def test_interval_is_students_t() -> None:
    values = [3.0, 4.5, 5.0, 9.0]
    mean, half_width, count = mean_and_half_width(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half_width, mean + half_width) == pytest.approx((low, high))
    assert count == 4


def test_interval_by_hand() -> None:
    # mean 2, standard deviation √2, t(0.975, 1) = 12.7062
    mean, half_width, _ = mean_and_half_width([1.0, 3.0])
    assert mean == 2.0
    assert half_width == pytest.approx(12.7062 * math.sqrt(2) / math.sqrt(2), rel=1e-5)


def test_one_value_has_no_interval() -> None:
    mean, half_width, count = mean_and_half_width([7.0, math.nan])
    assert (mean, count) == (7.0, 1)
    assert math.isnan(half_width)


def test_nothing_measured_is_nan() -> None:
    mean, half_width, count = mean_and_half_width([math.nan, math.nan])
    assert math.isnan(mean)
    assert math.isnan(half_width)
    assert count == 0


def test_equal_values_have_a_zero_interval() -> None:
    assert mean_and_half_width([0.1, 0.1, 0.1]) == (0.1, 0.0, 3)


def test_ratio_is_paired_by_seed(comparison: Comparison) -> None:
    def per_seed(policy: str) -> list[float]:
        return [run.metrics.avg_imbalance_sum for run in comparison.cell(policy, 4)]

    pairs = zip(per_seed("jsq-load"), per_seed("fcfs"), strict=True)
    ratios = [ours / base for ours, base in pairs]
    estimate = comparison.estimate("jsq-load", 4, "avg_imbalance_sum")
    assert estimate.ratio == pytest.approx(np.mean(ratios))
    half_width = stats.t.ppf(0.975, 2) * stats.sem(ratios)
    assert estimate.ratio_half_width == pytest.approx(half_width)


def test_baseline_has_ratio_one(comparison: Comparison) -> None:
    estimate = comparison.estimate("fcfs", 2, "makespan_s")
    assert (estimate.ratio, estimate.ratio_half_width) == (1.0, 0.0)


def test_ratio_to_zero_is_not_a_number(comparison: Comparison) -> None:
    assert math.isnan(comparison.estimate("jsq-load", 2, "preemptions").ratio)


def test_curves_are_kept_for_the_first_seed_only(comparison: Comparison) -> None:
    kept = [(run.seed, run.curves is not None) for run in comparison.runs]
    assert all(has_curves == (seed == 0) for seed, has_curves in kept)
    assert list(comparison.pictured(2)) == ["fcfs", "jsq-load"]


def test_common_notes_come_once(comparison: Comparison) -> None:
    assert comparison.notes() == ("surrogate trace",)


def test_other_notes_say_where_they_hold(comparison: Comparison) -> None:
    first, *others = comparison.runs
    marked = replace(comparison, runs=(replace(first, notes=("odd",)), *others))
    assert "fcfs at G = 2: odd" in marked.notes()
