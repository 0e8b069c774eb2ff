"""Step time identified online: what it finds, and what must not move it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.hardware import _online_kernels as kernels
from brsolver.hardware.online import (
    COLLECTED,
    LOADS,
    RUN,
    TUNING,
    OnlineStepTime,
    non_negative,
    robust_fit,
)
from brsolver.hardware.online_reference import Plain, learn

RANKS, SLOTS = 8, 128
H200 = np.array([0.0256, 63e-6, 41.6e-9, 65e-6])


class Serving:
    """Ranks whose loads wander, and steps that last as coefficients say, with noise."""

    def __init__(self, seed: int, coefficients=H200, noise: float = 0.02, outliers: float = 0.05):
        self.rng = np.random.default_rng(seed)
        self.coefficients = np.array(coefficients)
        self.noise, self.outliers = noise, outliers
        self.sequences = np.full(RANKS, SLOTS * 0.75)
        self.lengths = np.full(RANKS, 2000.0)
        self.prefill = np.zeros(RANKS)

    def wander(self) -> None:
        rng = self.rng
        back = 0.03 * (SLOTS * 0.75 - self.sequences)
        drawn = np.round(self.sequences + back + rng.normal(0, 4, RANKS))
        self.sequences = drawn.clip(1, SLOTS)
        self.lengths += 0.02 * (2000 - self.lengths) + rng.normal(0, 50, RANKS)
        chunks = rng.integers(50, 2048, RANKS)
        self.prefill = np.where(rng.random(RANKS) < 0.05, chunks, 0.0)

    def loads(self) -> np.ndarray:
        kv = self.sequences * self.lengths.clip(100)
        return np.stack([self.sequences, kv, self.prefill], axis=1)

    def step(self, fit: OnlineStepTime) -> None:
        loads = self.loads()
        seconds = self.coefficients[0] + (loads @ self.coefficients[1:]).max()
        seconds *= 1 + self.noise * self.rng.normal()
        fit.observe(loads, seconds * (10 if self.rng.random() < self.outliers else 1))

    def run(self, fit: OnlineStepTime, steps: int, *, constant: bool = False) -> None:
        for _ in range(steps):
            if not constant:
                self.wander()
            self.step(fit)


def found(fit: OnlineStepTime) -> np.ndarray:
    e = fit.estimate()
    return np.array([e.base, e.per_sequence, e.per_token, e.per_prefill_token])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    factors=st.tuples(*[st.floats(0.5, 2.0)] * 4),
    noise=st.floats(0.0, 0.03),
)
def test_coefficients_are_recovered_though_one_step_in_twenty_is_ten_times_as_long(
    seed, factors, noise
):
    serving = Serving(seed, H200 * factors, noise)
    fit = OnlineStepTime()
    serving.run(fit, 3000)
    assert found(fit) == pytest.approx(serving.coefficients, rel=0.35)
    # What weighs together is told apart the worst; what steps last is told well.
    serving.wander()
    loads = serving.loads()
    predicted = found(fit)[0] + (loads @ found(fit)[1:]).max()
    true = serving.coefficients[0] + (loads @ serving.coefficients[1:]).max()
    assert predicted == pytest.approx(true, rel=0.03)
    assert fit.estimate().identified[1:] == (True, True)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), level=st.floats(0.5, 2.0))
def test_loads_that_stay_the_same_leave_the_ratio_as_it_was(seed, level):
    serving = Serving(seed)
    fit = OnlineStepTime()
    serving.run(fit, 2000)
    before = found(fit)
    # The running mean takes a few hundred steps to come to rest; then nothing moves at all.
    serving.run(fit, 2000, constant=True)
    rested = found(fit)
    assert rested[1:] == pytest.approx(before[1:], rel=0.1)
    serving.coefficients = serving.coefficients * np.array([level, 1, 1, 1])
    serving.run(fit, 3000, constant=True)
    estimate = fit.estimate()
    assert found(fit)[1:] == pytest.approx(rested[1:], rel=0.01)
    assert estimate.moving == (False, False, False)
    if estimate.changes == 0:
        assert estimate.request_tokens == pytest.approx(rested[1] / rested[2], rel=0.01)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), factor=st.sampled_from([0.4, 0.6, 1.6, 2.5]))
def test_other_hardware_is_followed(seed, factor):
    serving = Serving(seed)
    fit = OnlineStepTime()
    serving.run(fit, 2000)
    serving.coefficients = serving.coefficients * factor
    serving.run(fit, 2 * (RUN + COLLECTED) + 1000)
    assert fit.estimate().changes >= 1
    loads = serving.loads()
    predicted = found(fit)[0] + (loads @ found(fit)[1:]).max()
    true = serving.coefficients[0] + (loads @ serving.coefficients[1:]).max()
    assert predicted == pytest.approx(true, rel=0.03)
    assert found(fit)[3] == pytest.approx(serving.coefficients[3], rel=0.1)


def test_what_never_varied_is_not_told():
    serving = Serving(0)
    fit = OnlineStepTime()
    for _ in range(1500):
        serving.wander()
        serving.sequences[:] = SLOTS
        serving.prefill[:] = 0
        serving.step(fit)
    estimate = fit.estimate()
    assert estimate.identified == (False, True, False)
    assert estimate.moving[0] is estimate.moving[2] is False
    assert estimate.request_tokens is None
    assert estimate.per_token == pytest.approx(H200[2], rel=0.25)
    # What the sequences cost stands in the base, where it belongs as long as they do not vary.
    assert estimate.base == pytest.approx(H200[0] + SLOTS * H200[1], rel=0.1)


def test_sequences_and_tokens_that_go_together_are_not_told_apart():
    serving = Serving(1)
    fit = OnlineStepTime()
    for _ in range(1500):
        serving.wander()
        serving.lengths[:] = 2000
        serving.step(fit)
    assert fit.estimate().request_tokens is None


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([0.0, 1.0, 64.0, 1e6, math.nan, math.inf, -1.0]),
            st.sampled_from([0.0, 1.0, 1e5, 1e12, math.nan]),
            st.sampled_from([0.0, 1.0, 8192.0]),
            st.sampled_from([0.0, 1e-9, 0.03, 1.0, 1e5, math.nan, math.inf, -1.0]),
        ),
        max_size=30,
    ),
    repeat=st.integers(1, 40),
)
def test_whatever_comes_nothing_becomes_nan_or_negative(steps, repeat):
    fit = OnlineStepTime()
    for _ in range(repeat):
        for n, kv, prefill, seconds in steps:
            fit.observe(np.array([[n, kv, prefill], [1.0, 10.0, 0.0]]), seconds)
    assert np.isfinite(found(fit)).all()
    assert (found(fit) >= 0).all()
    ratio = fit.estimate().request_tokens
    assert ratio is None or ratio >= 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -5.0])
@pytest.mark.parametrize("at", [(g, i) for g in range(3) for i in range(3)])
def test_a_step_with_a_bad_load_on_any_rank_is_passed_over(at, bad):
    loads = np.array([[10.0, 1000.0, 0.0], [1.0, 5.0, 0.0], [2.0, 5.0, 0.0]])
    fit = OnlineStepTime()
    fit.observe(loads, 0.03)
    loads[at] = bad
    fit.observe(loads, 0.03)
    assert fit.estimate().steps == 1


def test_nothing_is_told_before_enough_steps_have_come():
    fit = OnlineStepTime()
    assert fit.estimate().request_tokens is None
    assert math.isnan(fit.estimate().error)
    Serving(0).run(fit, COLLECTED - 1)
    assert fit.estimate().steps == COLLECTED - 1
    assert fit.estimate().identified == (False, False, False)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 60))
def test_the_kernel_does_what_the_plain_version_says(seed, steps):
    rng = np.random.default_rng(seed)
    d = len(LOADS)
    root = rng.normal(size=(d, d))
    plain = Plain(
        slopes=rng.random(d) * 0.01,
        information=root @ root.T * 100 + np.eye(d),
        mean=rng.random(d),
        spread=rng.random(d),
        seconds=0.05,
        steps=float(rng.integers(1, 500)),
        error=0.02,
        streak=float(rng.integers(-3, 4)),
    )
    arrays = [a.copy() for a in (plain.slopes, plain.information, plain.mean, plain.spread)]
    level = np.array([plain.seconds, plain.steps, plain.error, plain.streak])
    keep, keep_level, huber, pace, least = TUNING.tolist()
    for _ in range(steps):
        x = plain.mean.copy() if rng.random() < 0.1 else rng.random(d) * 3
        seconds = float(0.05 * np.exp(rng.normal(0, 0.3)))
        kernels.learn(x, seconds, *arrays, level, TUNING)
        learn(
            plain,
            x,
            seconds,
            keep=keep,
            keep_level=keep_level,
            huber=huber,
            pace=pace,
            least_error=least,
        )
    expected = (plain.slopes, plain.information, plain.mean, plain.spread)
    for array, other in zip(arrays, expected, strict=True):
        assert array == pytest.approx(other, rel=1e-6, abs=1e-9)
    assert level == pytest.approx([plain.seconds, plain.steps, plain.error, plain.streak])


@given(seed=st.integers(0, 2**32 - 1))
def test_the_critical_rank_is_the_first_with_the_largest_sum(seed):
    rng = np.random.default_rng(seed)
    loads, weights = rng.integers(0, 4, (5, 3)).astype(float), rng.integers(0, 3, 3).astype(float)
    assert kernels.critical(loads, weights) == int(np.argmax(loads @ weights))


@given(seed=st.integers(0, 2**32 - 1))
def test_small_systems_are_solved(seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(3, 3))
    matrix, right = root @ root.T + 0.1 * np.eye(3), rng.normal(size=3)
    assert kernels.solve(matrix, right) == pytest.approx(np.linalg.solve(matrix, right))


@given(seed=st.integers(0, 2**32 - 1))
def test_the_nearest_non_negative_slopes_are_the_nearest(seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(3, 3))
    information, slopes = root @ root.T + 0.1 * np.eye(3), rng.normal(size=3)
    best = non_negative(slopes, information)
    assert (best >= 0).all()

    def off(tried: np.ndarray) -> float:
        return float((tried - slopes) @ information @ (tried - slopes))

    for _ in range(50):
        assert off(best) <= off(np.abs(best + rng.normal(0, 0.3, 3))) + 1e-9


def test_the_first_fit_withstands_outliers():
    rng = np.random.default_rng(0)
    x = rng.random((64, 3)) * 4
    seconds = 0.03 + x @ [0.001, 0.002, 0.03]
    seconds[::12] *= 10
    fitted = robust_fit(x, seconds, np.zeros(3))
    assert fitted.slopes == pytest.approx([0.001, 0.002, 0.03], rel=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_a_slope_that_is_told_to_be_negative_does_not_drive_the_others_away(seed):
    """As on a real server: ranks fill up, then are full of shorter requests, faster than told."""
    rng = np.random.default_rng(seed)
    fit = OnlineStepTime()
    for at in range(COLLECTED + 100):
        full = at >= COLLECTED
        sequences = 16 if full else 1 + at // 4
        length = rng.uniform(690, 740) if full else rng.uniform(800, 900)
        loads = np.array([[sequences, sequences * length, 0.0]])
        seconds = (0.02 + 5.8e-6 * loads[0, 1]) * np.exp(0.12 * rng.normal())
        fit.observe(loads, (0.85 if full else 1.0) * seconds)
    told = fit.estimate()
    held = np.array([16, 16 * 715.0, 0.0])
    costs = np.array([told.per_sequence, told.per_token, told.per_prefill_token])
    assert told.base + costs @ held == pytest.approx(0.85 * (0.02 + 5.8e-6 * held[1]), rel=0.15)
    assert told.per_token < 8e-6
