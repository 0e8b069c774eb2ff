"""Step logs, figures, arms and statistics of the vLLM bench."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from brsolver.errors import BrsolverError, ParameterError, TraceError
from integration.bench.arms import parse_arm, parse_arms
from integration.bench.client import Outcome
from integration.bench.figures import throughput
from integration.bench.session import SessionParams, rotated
from integration.bench.simulated import fit_step_time, predicted_imbalance
from integration.bench.skew import placements
from integration.bench.statistics import interval, relative_difference
from integration.bench.steps import COLUMNS, Steps, read_steps
from integration.bench.workload import WorkloadParams, workloads

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, rank: int, rows: list[tuple[float, ...]], tail: str = "") -> None:
    columns = COLUMNS[: len(rows[0])]
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    (folder / f"rank-{rank}.csv").write_text("\n".join(lines) + "\n" + tail, encoding="utf-8")


def made_steps(n: int = 200, seed: int = 0) -> Steps:
    rng = np.random.default_rng(seed)
    kv = rng.integers(1000, 9000, size=(n, 2))
    running = rng.integers(4, 17, size=(n, 2))
    duration = 0.02 + 3e-6 * kv.max(axis=1) + 1e-3 * running.max(axis=1)
    return Steps(
        run=np.zeros(n, dtype=np.int64),
        end_s=duration.cumsum(),
        duration_s=duration,
        kv_tokens=kv,
        running=running,
        waiting=np.zeros_like(kv),
        scheduled=running.copy(),
        decoding=running,
        decode_kv=kv,
        prefill_tokens=np.zeros_like(kv),
        prefill_context=np.zeros_like(kv),
    )


def test_ranks_are_put_side_by_side_by_wave_and_step(tmp_path: Path) -> None:
    write(
        tmp_path, 0, [(0, 0, 1.0, 10, 1, 0, 10), (0, 1, 1.5, 11, 1, 2, 1), (1, 0, 9.0, 5, 1, 0, 5)]
    )
    write(
        tmp_path,
        1,
        [(0, 0, 1.1, 30, 2, 0, 30), (0, 1, 1.4, 32, 2, 0, 2), (1, 0, 9.0, 0, 0, 0, 0)],
        tail="1,1,9.",
    )
    steps = read_steps(tmp_path)
    assert steps.kv_tokens.tolist() == [[10, 30], [11, 32], [5, 0]]
    assert steps.waiting[1].tolist() == [2, 0]
    assert steps.end_s.tolist() == [1.1, 1.5, 9.0]
    assert steps.duration_s[1] == pytest.approx(0.4)
    assert np.isnan(steps.duration_s[[0, 2]]).all()
    assert steps.imbalance() == pytest.approx((30 + 32 + 5) / (20 + 21.5 + 2.5))
    assert len(steps.between(1.2, 2.0)) == 1


def test_a_step_that_one_rank_lacks_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, 0, [(0, 0, 1.0, 10, 1, 0, 1), (0, 1, 2.0, 11, 1, 0, 1)])
    write(tmp_path, 1, [(0, 1, 2.0, 12, 1, 0, 1)])
    assert read_steps(tmp_path).kv_tokens.tolist() == [[11, 12]]


def test_missing_and_foreign_logs_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"holds no rank-R\.csv"):
        read_steps(tmp_path)
    (tmp_path / "rank-0.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ParameterError, match=r"rank-0\.csv: column step is missing"):
        read_steps(tmp_path)


def test_ranks_without_a_common_step_are_refused(tmp_path: Path) -> None:
    write(tmp_path, 0, [(0, 0, 1.0, 10, 1, 0, 1)])
    write(tmp_path, 1, [(1, 0, 1.0, 10, 1, 0, 1)])
    with pytest.raises(ParameterError, match="all 2 ranks"):
        read_steps(tmp_path)


def test_the_fit_finds_the_model_that_made_the_steps() -> None:
    fit = fit_step_time(made_steps())
    assert fit.base_s == pytest.approx(0.02, rel=1e-3)
    assert fit.per_token_s == pytest.approx(3e-6, rel=1e-3)
    assert fit.per_sequence_s == pytest.approx(1e-3, rel=1e-3)
    assert fit.error < 1e-3
    assert fit.step_time(16).base == pytest.approx(0.02 + 1e-3 * 16, rel=1e-3)
    assert fit.step_time(16).per_token == fit.per_token_s


def test_the_fit_withstands_steps_that_something_else_held_up() -> None:
    steps = made_steps()
    steps.duration_s[::10] += 2.0
    fit = fit_step_time(steps)
    assert fit.base_s == pytest.approx(0.02, rel=0.05)
    assert fit.per_token_s == pytest.approx(3e-6, rel=0.05)


def test_steps_with_prompts_are_not_fitted() -> None:
    steps = made_steps()
    steps.scheduled[:180] += 500
    with pytest.raises(TraceError, match="20 decode steps"):
        fit_step_time(steps)


def test_the_simulated_imbalance_is_that_of_the_window_and_orders_the_policies() -> None:
    (load,) = workloads(WorkloadParams(requests=200), 1)
    fit = fit_step_time(made_steps())
    size = {"ranks": 2, "slots": 16, "waiting": 8}
    by_arm = {
        name: predicted_imbalance(parse_arm(name), load, fit, **size)
        for name in ("default", "br-0@pooled")
    }
    assert 1 <= by_arm["br-0@pooled"] < by_arm["default"] < 2


def test_arms_name_policy_and_mode() -> None:
    default, off, held = parse_arms(["default", "off", "br-h:horizon=40"])
    assert default.environment == {"BRSOLVER_ROUTER": "vllm", "BRSOLVER_MODE": "observe"}
    assert off.environment == {}
    assert held.environment == {"BRSOLVER_ROUTER": "br-h:horizon=40", "BRSOLVER_MODE": "pooled"}
    assert parse_arm("jsq-load@immediate").routing == "immediate"
    assert held.routing == "pooled"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["br-0@sometimes"], "mode is 'sometimes', must be one of immediate, pooled"),
        (["no-such-policy"], "unknown policy 'no-such-policy'"),
        (["br-0", "br-0@pooled"], "must name each once"),
        ([" "], "policies is empty"),
    ],
)
def test_bad_arms_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(BrsolverError, match=message):
        parse_arms(texts)


def test_every_arm_leads_once_in_as_many_rounds() -> None:
    arms = parse_arms(["default", "br-0", "br-h"])
    orders = [[arm.name for arm in rotated(arms, at)] for at in range(3)]
    assert [order[0] for order in orders] == [arm.name for arm in arms]
    assert all(sorted(order) == sorted(orders[0]) for order in orders)


def test_the_interval_is_students() -> None:
    values = [3.0, 5.0, 4.0, 8.0]
    low, high = stats.t.interval(0.9, 3, loc=5.0, scale=stats.sem(values))
    found = interval(values, 0.9)
    assert (found.mean, found.low, found.high) == pytest.approx((5.0, low, high))
    assert math.isnan(interval([2.0]).low)
    assert math.isnan(interval([math.nan]).mean)
    with pytest.raises(ParameterError, match="confidence is 95"):
        interval(values, 95)


@given(st.lists(st.floats(1, 1e6), min_size=3, max_size=9), st.floats(0.5, 2))
def test_a_constant_factor_is_a_difference_without_spread(
    values: list[float], factor: float
) -> None:
    found = relative_difference([factor * value for value in values], values)
    assert found.mean == pytest.approx(factor - 1, abs=1e-9)
    assert found.high - found.low == pytest.approx(0, abs=1e-9)


def test_verdicts_need_an_interval_that_leaves_out_zero() -> None:
    reference = [1.0, 1.0, 1.0]
    assert relative_difference([1.1, 1.2, 1.15], reference).verdict() == "higher"
    assert relative_difference([0.9, 0.8, 0.85], reference).verdict() == "lower"
    assert relative_difference([0.9, 1.2, 1.0], reference).verdict() == "no difference shown"
    with pytest.raises(ParameterError, match="to be paired"):
        relative_difference([1.0], reference)


def test_throughput_spreads_tokens_between_first_and_last() -> None:
    outcome = Outcome(sent_s=0.0, first_s=1.0, last_s=3.0, tokens=21)
    assert throughput([outcome], (2.0, 3.0)) == pytest.approx(10.0)
    assert throughput([outcome], (0.0, 4.0)) == pytest.approx(21 / 4)
    for empty in ((5.0, 6.0), (1.0, 1.0)):
        assert math.isnan(throughput([outcome], empty))


@pytest.mark.parametrize(("ranks", "slots"), [(2, 2), (2, 16), (4, 8)])
def test_both_placements_fill_all_ranks_and_differ_in_what_is_long(ranks: int, slots: int) -> None:
    long = np.arange(ranks * slots) % 2 == 0
    for name, spread in (("balanced", {slots // 2}), ("skewed", {0, slots})):
        placed = np.array(placements(ranks, slots)[name])
        assert np.bincount(placed, minlength=ranks).tolist() == [slots] * ranks
        counts = np.bincount(placed[long], minlength=ranks)
        assert set(counts.tolist()) == spread


def test_workloads_are_consecutive_parts_with_reproducible_prompts() -> None:
    params = WorkloadParams(trace="preset:uniform:n=50,s_high=300,o_high=90", requests=20, seed=3)
    first, second = workloads(params, 2)
    again, _ = workloads(params, 2)
    assert first.prompts == again.prompts != second.prompts
    assert [len(prompt) for prompt in first.prompts] == first.trace.prompt_tokens.tolist()
    assert first.output_tokens.tolist() == first.trace.output_tokens.tolist()
    with pytest.raises(ParameterError, match="is 50, must be at least 60 for 3 rounds of 20"):
        workloads(params, 3)


@settings(deadline=None, max_examples=25)  # the first draw loads the trace readers
@given(st.floats(0.01, 10), st.integers(8, 200))
def test_scaled_requests_fit_and_keep_a_token_of_both(scale: float, longest: int) -> None:
    params = WorkloadParams(
        trace="preset:uniform:n=30,s_high=500,o_high=300",
        requests=30,
        scale=scale,
        max_tokens=longest,
    )
    (load,) = workloads(params, 1)
    total = load.trace.prompt_tokens + load.output_tokens
    assert total.max() <= longest
    assert min(load.trace.prompt_tokens.min(), load.output_tokens.min()) >= 1


@pytest.mark.parametrize("values", [{"requests": 0}, {"scale": 0.0}, {"max_tokens": 1}])
def test_impossible_loads_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match=f"{next(iter(values))} is"):
        WorkloadParams(**values)  # type: ignore[arg-type] # one name at a time


def test_requests_in_flight_fill_the_slots_and_keep_some_waiting() -> None:
    assert SessionParams().concurrency(ranks=2, slots=16) == 40
    assert SessionParams(waiting=0).concurrency(ranks=2, slots=16) == 32
    with pytest.raises(ParameterError, match="waiting is -1"):
        SessionParams(waiting=-1)
