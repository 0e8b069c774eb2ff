from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from brsolver import SimulationParams, Trace, simulate
from brsolver.hardware.step_time import StepTime
from brsolver.results.barrier import netted, stacked, time_lost
from brsolver.results.curves import bands_of
from brsolver.results.logs import StepLog

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALL = slice(0, None)
LOST = arrays(np.float64, (4, 7), elements=st.floats(-1, 1))


def log_of(**given: list[float]) -> StepLog:
    """Make a log of steps of which nothing is known but what is given."""
    steps = len(given["duration_s"])
    unknown: dict[str, Any] = {field.name: np.zeros(steps) for field in fields(StepLog)}
    return StepLog(**unknown | {name: np.array(values) for name, values in given.items()})


def by_hand() -> StepLog:
    return log_of(
        duration_s=[0.1, 0.3, 0.6],
        lost_prefill_s=[0.0, 0.2, 0.1],
        lost_sequences_s=[0.01, 0.0, 0.04],
        lost_kv_s=[0.02, -0.1, -0.02],
        lost_padding_s=[0.0, 0.0, 0.02],
    )


@st.composite
def step_times(draw: st.DrawFn) -> StepTime:
    each = st.floats(0, 1e-3)
    return StepTime(
        model="loads",
        base=draw(st.floats(1e-3, 0.1)),
        per_sequence=draw(each),
        per_token=draw(each) / 1000,
        per_mean_sequence=draw(each),
        per_mean_token=draw(each) / 1000,
        graph_sizes=draw(st.sampled_from([(), (2,), (1, 2, 4, 8)])),
    )


def test_shares_by_hand() -> None:
    found = time_lost(by_hand(), ALL)
    assert found.prefill == pytest.approx(0.3)
    assert found.sequences == pytest.approx(0.05)
    assert found.kv == pytest.approx(-0.1)
    assert found.padding == pytest.approx(0.02)
    assert found.total == pytest.approx(0.27)


def test_only_the_window_counts() -> None:
    found = time_lost(by_hand(), slice(1, 2))
    assert (found.prefill, found.kv) == pytest.approx((2 / 3, -1 / 3))


def test_no_steps_have_no_shares() -> None:
    assert math.isnan(time_lost(by_hand(), slice(1, 1)).total)


@given(LOST)
def test_netted_parts_add_up_and_none_is_negative(lost: NDArray[np.float64]) -> None:
    found = netted(lost)
    assert (found >= 0).all()
    assert found.sum(axis=0) == pytest.approx(np.maximum(lost.sum(axis=0), 0), abs=1e-12)
    assert not found[lost <= 0].any()


@given(LOST)
def test_what_is_not_negative_is_left_alone(lost: NDArray[np.float64]) -> None:
    assert netted(np.abs(lost)) == pytest.approx(np.abs(lost))


def test_negative_parts_are_paid_for_in_proportion() -> None:
    assert netted(np.array([3.0, 1.0, -2.0, 0.0])) == pytest.approx([1.5, 0.5, 0.0, 0.0])


@given(LOST, st.floats(0, 2), st.floats(0, 1))
def test_a_stack_is_as_high_as_its_steps(
    lost: NDArray[np.float64], even: float, base: float
) -> None:
    steps = np.maximum(lost.sum(axis=0), 0.0) + even
    found = stacked(steps, lost, base)
    assert (found >= 0).all()
    assert found.sum(axis=0) == pytest.approx(steps, abs=1e-12)
    assert (found[0] <= base).all()


@settings(max_examples=40, deadline=None)
@given(
    step_times(),
    st.lists(st.tuples(st.integers(1, 900), st.integers(1, 12)), min_size=1, max_size=25),
    st.integers(1, 4),
    st.sampled_from(["fcfs", "jsq-load", "round-robin"]),
)
def test_parts_of_a_run_add_up(
    step_time: StepTime, requests: list[tuple[int, int]], workers: int, policy: str
) -> None:
    prompts, outputs = zip(*requests, strict=True)
    trace = Trace(prompt_tokens=np.array(prompts), output_tokens=np.array(outputs), name="drawn")
    params = SimulationParams(workers=workers, slots=3, step_time=step_time, drain="include")
    result = simulate(trace, policy, params)
    found, steps = result.metrics, result.steps
    parts = (
        found.time_lost_prefill_share, found.time_lost_sequences_share,
        found.time_lost_kv_share, found.time_lost_padding_share,
    )  # fmt: skip
    assert sum(parts) == pytest.approx(found.time_lost_share, abs=1e-12)
    lost = steps.lost_s().sum() / steps.duration_s.sum()
    assert found.time_lost_share == pytest.approx(lost, abs=1e-12)
    # Coefficients are not negative, so the slowest worker is never faster than the mean one.
    assert -1e-12 <= found.time_lost_share < 1
    assert found.time_lost_prefill_share == 0
    assert found.step_mean_s == pytest.approx(steps.duration_s.mean())
    assert found.step_p50_s <= found.step_p95_s <= found.step_p99_s <= steps.duration_s.max()
    bands = bands_of(result)
    assert bands.mean_stack().sum() == pytest.approx(found.step_mean_s)
    assert bands.stack().sum(axis=0) == pytest.approx(bands.step_s)
    assert bands.edges_s[-1] == found.makespan_s


@given(step_times(), st.integers(1, 500), st.integers(1, 9), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_equal_workers_lose_nothing_but_padding(
    step_time: StepTime, prompt: int, output: int, workers: int
) -> None:
    each = np.ones(3 * workers, np.int64)
    trace = Trace(prompt_tokens=prompt * each, output_tokens=output * each, name="equal")
    params = SimulationParams(workers=workers, slots=3, step_time=step_time)
    found = simulate(trace, "round-robin", params).metrics
    assert found.time_lost_prefill_share == 0
    assert found.time_lost_sequences_share == pytest.approx(0, abs=1e-12)
    assert found.time_lost_kv_share == pytest.approx(0, abs=1e-12)
    assert found.time_lost_share == pytest.approx(found.time_lost_padding_share, abs=1e-12)
