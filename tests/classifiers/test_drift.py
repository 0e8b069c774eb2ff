"""The population stability of lengths."""

from __future__ import annotations

import numpy as np
import pytest

from classifiers.drift import AgeDrift, stability_index


def test_index_is_the_formula() -> None:
    expected, actual = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    by_hand = -0.3 * np.log(0.4) + 0.3 * np.log(2.5)
    assert stability_index(expected, actual) == pytest.approx(by_hand)
    assert stability_index(expected, expected) == 0


def test_empty_bins_are_finite() -> None:
    assert np.isfinite(stability_index(np.array([1.0, 0.0]), np.array([0.0, 1.0])))


def test_the_same_lengths_do_not_drift_and_doubled_ones_do() -> None:
    rng = np.random.default_rng(0)
    drift = AgeDrift()
    for _ in range(60):
        drift.observe(rng.gamma(3, 60, 50).astype(np.int64) + 1)
    assert drift.index < 0.1
    for _ in range(20):
        drift.observe(2 * rng.gamma(3, 60, 50).astype(np.int64) + 1)
    assert drift.drifted


def test_constant_lengths_are_stable() -> None:
    drift = AgeDrift()
    for _ in range(30):
        drift.observe(np.full(50, 7))
    assert drift.index == pytest.approx(0, abs=1e-3)


def test_nothing_is_said_before_the_warm_up() -> None:
    drift = AgeDrift(warm_up=100)
    drift.observe(np.arange(1, 50))
    assert np.isnan(drift.index)
    assert not drift.drifted
