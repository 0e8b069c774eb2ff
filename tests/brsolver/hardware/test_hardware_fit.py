"""Fits find the coefficients that steps were made with, or say why they cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import COSTS, grid, lasting, uneven
from scipy.optimize import least_squares

from brsolver.errors import ParameterError
from brsolver.hardware.fit import SHARED, Fit, Limits, fit_steps
from brsolver.hardware.from_fit import hardware_of
from brsolver.hardware.reference import step_parts
from brsolver.hardware.residuals import bins_of, doubts, picture, quantiles
from brsolver.hardware.robust import HUBER, NORMAL_MAD, fit_relative, huber_weights

PREFILL = ("per_prefill_token", "per_prefill_context")


def with_seconds(measured: Any, seconds: Any) -> Any:
    from dataclasses import replace

    return replace(measured, seconds=np.asarray(seconds))


def assert_found(fit: Fit, costs: dict[str, float], within: float) -> None:
    for name, cost in costs.items():
        assert getattr(fit, name) == pytest.approx(cost, rel=within, abs=1e-15), name


def test_exact_steps_give_their_coefficients() -> None:
    fit = fit_steps(lasting(grid()))
    assert_found(fit, COSTS, 1e-6)
    assert fit.shared == SHARED
    assert not fit.shared_known
    assert fit.request_tokens == round(63e-6 / 41.6e-9)
    assert quantiles(fit.decode_errors) == pytest.approx((0, 0), abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(
    base=st.floats(1e-3, 0.1),
    per_sequence=st.floats(5e-6, 5e-4),
    per_kv_token=st.floats(1e-8, 2e-7),
    per_prefill_token=st.floats(1e-5, 2e-4),
    per_prefill_context=st.floats(5e-10, 1e-8),
    seed=st.integers(0, 1000),
)
def test_noise_and_outliers_hardly_move_them(seed: int, **costs: float) -> None:
    steps = lasting(np.repeat(grid(), 20, axis=1), **costs)
    rng = np.random.default_rng(seed)
    noise = rng.normal(1, 0.01, len(steps))
    noise[rng.random(len(steps)) < 0.03] *= 8
    fit = fit_steps(with_seconds(steps, steps.seconds * noise))
    told = with_seconds(steps, fit.seconds(steps)).seconds
    assert np.abs(told / steps.seconds - 1).max() < 0.05
    biggest = costs["per_kv_token"] * 512 * 1024
    assert abs(fit.per_kv_token - costs["per_kv_token"]) * 512 * 1024 < 0.05 * (
        biggest + costs["base"] + costs["per_sequence"] * 512
    )


@settings(deadline=None, max_examples=20)
@given(shared=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), seed=st.integers(0, 1000))
def test_ranks_that_differ_tell_what_all_share(shared: float, seed: int) -> None:
    fit = fit_steps(lasting(uneven(400, 4, seed), shared, dp=4))
    assert fit.shared_known
    assert fit.shared == shared
    assert_found(fit, COSTS, 0.02)


def test_a_share_that_is_given_is_kept() -> None:
    fit = fit_steps(lasting(uneven(300, 4, 1), 0.25), Limits(shared=0.75))
    assert fit.shared == 0.75
    assert fit.shared_known
    best = min(fit.sensitivity, key=lambda each: each.median_error)
    assert best.shared == 0.25


def test_equal_ranks_fit_alike_whatever_is_shared() -> None:
    fit = fit_steps(lasting(grid()))
    assert [each.shared for each in fit.sensitivity] == [0.0, 0.25, 0.5, 0.75, 1.0]
    costs = [each.per_prefill_token for each in fit.sensitivity]
    assert costs == pytest.approx([60e-6] * 5)
    context = 3e-9 * 2048 * 2049 / 2
    assert [each.chunk_s - context for each in fit.sensitivity] == pytest.approx(
        [2048 * 60e-6 * (1 - share + share / 4) for share in (0, 0.25, 0.5, 0.75, 1)]
    )


def test_one_rank_shares_with_nobody() -> None:
    fit = fit_steps(lasting(grid(), 0.0, dp=1))
    assert fit.shared == 0
    assert not fit.sensitivity


def test_the_golden_fit_of_a_grid_made_by_hand() -> None:
    """Steps of a server that the model does not quite describe, with one sample gone wrong."""
    loads = grid()
    steps = lasting(loads)
    bent = steps.seconds * (1 + 0.02 * np.sin(np.arange(len(steps))))
    bent[5] = 0.4389
    fit = fit_steps(with_seconds(steps, bent), Limits(sequences=(64, 512)))
    found = [getattr(fit, name) for name in COSTS]
    assert found == pytest.approx(
        [0.0256508, 6.29749e-05, 4.0514e-08, 5.99067e-05, 3.00992e-09], rel=1e-4
    )
    assert quantiles(fit.decode_errors)[0] == pytest.approx(0.012, abs=0.004)
    (told,) = [line for line in doubts(fit) if "decode steps are more than" in line]
    assert "1 of 24" in told
    assert "took 438.9 ms" in told


def test_a_range_of_sequences_leaves_out_the_rest() -> None:
    steps = lasting(grid())
    wild = np.where(steps.sequences[:, 0] == 512, steps.seconds * 3, steps.seconds)
    fit = fit_steps(with_seconds(steps, wild), Limits(sequences=(64, 384)))
    assert len(fit.decode) == 20
    assert_found(fit, COSTS, 1e-6)


def test_steps_without_prefill_cost_none() -> None:
    fit = fit_steps(lasting(grid()[:, :24]))
    assert [getattr(fit, name) for name in PREFILL] == [None, None]
    assert any("no steps with prefill" in line for line in doubts(fit))
    assert hardware_of(fit).step_time.per_prefill_token == 0


def test_context_in_proportion_to_prefill_is_not_told() -> None:
    loads = grid()
    loads[3] = loads[2] * 100
    fit = fit_steps(lasting(loads))
    assert fit.per_prefill_context is None
    assert fit.per_prefill_token == pytest.approx(60e-6 + 100 * 3e-9, rel=1e-6)
    assert any("context of prefill does not vary" in line for line in doubts(fit))


def test_hardware_of_a_fit_splits_what_is_shared() -> None:
    hardware = hardware_of(fit_steps(lasting(grid()), Limits(shared=0.25)), name="mine")
    step_time = hardware.step_time
    assert step_time.per_prefill_token == pytest.approx(45e-6)
    assert step_time.per_mean_prefill_token == pytest.approx(15e-6)
    assert step_time.per_prefill_context == pytest.approx(3e-9)
    assert step_time.hardware == "mine"
    assert hardware.fit.rows == 24
    assert hardware.fit.prefill_rows == 12
    assert hardware.fit.sequences == (64, 512)
    assert hardware.fit.kv_tokens == (1024, 512 * 1024)


def test_the_step_time_of_a_fit_lasts_what_the_fit_says() -> None:
    steps = lasting(uneven(60, 4, 3), 0.25)
    fit = fit_steps(steps)
    step_time = hardware_of(fit).step_time
    told = [
        step_parts(step_time, *(row.astype(int).tolist() for row in loads)).seconds
        for loads in steps.loads.swapaxes(0, 1)
    ]
    assert told == pytest.approx(fit.seconds(steps), rel=1e-4)
    assert step_time.request_tokens == pytest.approx(fit.request_tokens, abs=1)


EXPERTS = {"base": 0.008, "all_experts": 0.017}


def test_small_batches_tell_what_reading_experts_takes() -> None:
    loads = grid()
    loads[:2, :24] /= 64
    made = lasting(loads, experts=1 / 32, **EXPERTS)
    fit = fit_steps(made, Limits(experts=1 / 32))
    assert_found(fit, COSTS | EXPERTS, 1e-5)
    assert fit.expert_share == 1 / 32
    plain = fit_steps(made)
    assert quantiles(plain.decode_errors)[0] > 0.01


def test_the_step_time_of_a_fit_with_experts_reads_them_for_all_ranks() -> None:
    steps = lasting(uneven(90, 4, 3) // 8, 0.25, experts=1 / 32, **EXPERTS)
    fit = fit_steps(steps, Limits(experts=1 / 32, shared=0.25, prefill_tokens=(1, 1e9)))
    step_time = hardware_of(fit).step_time
    assert step_time.all_experts == pytest.approx(0.017, rel=1e-2)
    told = [
        step_parts(step_time, *(row.astype(int).tolist() for row in loads)).seconds
        for loads in steps.loads.swapaxes(0, 1)
    ]
    assert told == pytest.approx(fit.seconds(steps), rel=1e-4)


def test_steps_that_read_all_experts_do_not_tell_it() -> None:
    with pytest.raises(ParameterError, match=r"experts is 0.03125, must be 0 where every step"):
        fit_steps(lasting(grid()), Limits(experts=1 / 32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:, d[0, :, 0] == 64], "sequences is 64 in every decode step, must vary"),
        (lambda d: d[:, [0, 9, 20]], "decode steps are 3, must be at least 6"),
        (lambda d: d[:, d[1, :, 0] == d[0, :, 0] * 128], "kv_tokens is about 128 per sequence"),
        (lambda d: np.where(np.arange(4)[:, None, None] == 1, 65536, d), "kv_tokens is 65,536 in"),
        (lambda d: np.where(np.arange(4)[:, None, None] == 0, 100 + d % 7, d), "must vary more"),
        (lambda d: d[:, :0], "decode steps are 0, must be some"),
    ],
)
def test_what_cannot_be_told_is_refused(change: Any, message: str) -> None:
    decode = np.repeat(grid()[:, :24], 2, axis=1)
    with pytest.raises(ParameterError) as caught:
        fit_steps(lasting(change(decode)))
    text = str(caught.value)
    assert text.startswith("made.parquet: ")
    assert message in text
    assert "\n" not in text


def test_a_range_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"sequences 1:4 holds no decode step, .*64:512"):
        fit_steps(lasting(grid()), Limits(sequences=(1, 4)))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"shared": 1.5}, "shared is 1.5, must be from 0 to 1"),
        ({"shared": float("nan")}, "shared is nan, must be from 0 to 1"),
        ({"experts": 1}, "experts is 1, must be from 0 to below 1"),
        ({"sequences": (5, 2)}, "sequences is 5:2, must be LOW:HIGH"),
        ({"prefill_tokens": (-1, 2)}, "prefill_tokens is -1:2"),
    ],
)
def test_limits_are_checked(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        Limits(**limits)
    assert message in str(caught.value)


def test_pictures_show_where_a_fit_is_off() -> None:
    steps = lasting(np.repeat(grid(), 5, axis=1))
    longer = np.where(steps.prefill_tokens[:, 0] == 512, 1.3, 1.0)
    fit = fit_steps(with_seconds(steps, steps.seconds * longer))
    bins = bins_of(fit)
    assert sum(each.rows for each in bins if each.load == "sequences") == len(fit.decode)
    lines = picture(bins)
    assert any("#|" in line for line in lines)
    assert any("prefill, by prefill tokens 512 to" in line for line in doubts(fit))


def test_durations_that_fall_with_kv_are_told() -> None:
    steps = lasting(grid())
    seconds = steps.seconds.copy()
    seconds[1] = seconds[0] * 0.9
    fit = fit_steps(with_seconds(steps, seconds))
    assert any("not monotone: 1 of 18" in line for line in doubts(fit))


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=50))
def test_weights_are_of_the_size_of_errors(errors: list[float]) -> None:
    found = huber_weights(np.array(errors))
    assert ((found >= 0) & (found <= 1)).all()
    size = np.abs(np.array(errors))
    order = np.argsort(size)
    assert (np.diff(found[order]) <= 1e-12).all()


@pytest.mark.parametrize("seed", range(5))
def test_fits_are_the_minimum_of_hubers_function(seed: int) -> None:
    """A solver that knows nothing of weights finds the same, given the same width."""
    rng = np.random.default_rng(seed)
    design = np.stack([np.ones(200), rng.integers(1, 500, 200)], axis=1) * [0.02, 5e-5]
    seconds = design.sum(axis=1) * rng.normal(1, 0.03, 200)
    seconds[::17] *= 2
    known = np.full(200, 0.001)
    found = fit_relative(design, seconds, known)

    def errors(costs: Any) -> Any:
        return (known + design @ costs - seconds) / seconds

    width = HUBER * NORMAL_MAD * float(np.median(np.abs(errors(found))))
    other = least_squares(errors, [1.0, 1.0], bounds=(0, np.inf), loss="huber", f_scale=width)
    assert found == pytest.approx(other.x, rel=1e-4)


def test_no_coefficient_is_negative() -> None:
    loads = np.linspace(1, 2, 20)
    design = np.stack([np.ones(20), loads], axis=1)
    found = fit_relative(design, 3 - loads, np.zeros(20))
    assert found[1] == 0
    assert found[0] > 0
