"""The cells of bench_waves: what is bound to a rank, traces that begin again, steady phases."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import bench_waves
from benchmarks._waves_ablations import VARIANTS, FirstComeFirst
from benchmarks._waves_cells import BRT, VLLM, Cell, bound_by, repeated, run, steady, steady_window
from brsolver import Trace, load_trace, simulate
from brsolver.hardware.model import step_time_of
from brsolver.routers import waves

CELL = Cell(workers=2, slots=6, budget=512)


def small():
    return repeated(load_trace("preset:uniform:n=150,s_high=900,o_high=40"), 150)


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("context", ["shared", "bound"])
def test_a_step_with_equal_ranks_lasts_as_long_whatever_is_bound(share, context):
    whole, found = (step_time_of("minimax-m2.7-h200-dp4"),) * 2
    found = bound_by(whole, share, context)
    for name in ("token", "context"):
        rank, mean = f"per_prefill_{name}", f"per_mean_prefill_{name}"
        assert getattr(found, rank) + getattr(found, mean) == pytest.approx(
            getattr(whole, rank) + getattr(whole, mean)
        )
    assert found.per_prefill_token == pytest.approx(share * 2 * whole.per_prefill_token)
    assert (found.per_mean_prefill_context == 0) == (context == "bound" or share == 1)


def test_a_trace_too_short_begins_again_a_mean_gap_later():
    trace = Trace(
        prompt_tokens=np.array([5, 6, 7]),
        output_tokens=np.array([1, 2, 3]),
        arrival_s=np.array([0.0, 1.0, 4.0]),
    )
    found = repeated(trace, 7)
    assert found.prompt_tokens.tolist() == [5, 6, 7, 5, 6, 7, 5]
    assert found.arrival_s.tolist() == [0.0, 1.0, 4.0, 6.0, 7.0, 10.0, 12.0]
    assert repeated(trace, 2).output_tokens.tolist() == [1, 2]


@pytest.mark.parametrize("rule", [VLLM, BRT])
def test_parts_of_a_gap_add_up_and_the_rest_is_ranks_at_the_mean(rule):
    result = run(small(), CELL, rule)
    found = steady(result, CELL)
    assert found.gap_steps + found.gap_prefill + found.gap_kv == pytest.approx(found.gap)
    window = steady_window(result, 12)
    steps, base = result.steps, result.params.step_time.base
    seconds = float(steps.duration_s[window].sum())
    decoded = int(steps.active[window].sum())
    assert found.tokens_s == pytest.approx(decoded / seconds)
    # No step is shorter than one at zero load, and there are no fewer than fill all slots.
    assert seconds / (1 + found.gap) >= base * decoded / 12
    assert 0 < window.start < window.stop < len(steps)


def test_first_come_first_differs_from_longest_first_in_its_order_only():
    trace = small()
    ordered = simulate(trace, FirstComeFirst(), CELL.params(BRT)).requests
    longest = simulate(trace, waves.BRT(), CELL.params(BRT)).requests
    assert (ordered.finish_s != longest.finish_s).any()
    equal = Trace(prompt_tokens=np.full(60, 300), output_tokens=np.arange(60) % 9 + 2)
    ordered = simulate(equal, FirstComeFirst(), CELL.params(BRT)).requests
    longest = simulate(equal, waves.BRT(), CELL.params(BRT)).requests
    np.testing.assert_array_equal(ordered.finish_s, longest.finish_s)


def test_all_parts_are_measured_and_printed_again_from_their_rows(tmp_path, capsys):
    path = tmp_path / "rows.json"
    bench_waves.main(
        [
            *("preset:uniform:n=90,s_high=400,o_high=30", "--presets", "none"),
            *("--hardware", "H200"),
            *("--workers", "2", "--slots", "4", "--budget", "512", "--bound", "0.5"),
            *("--shares", "0.5", "--generations", "6", "--pools", "slots", "--out", str(path)),
        ]
    )
    printed = capsys.readouterr().out
    rows = json.loads(path.read_text())
    assert {row["part"] for row in rows} == set(bench_waves.PARTS)
    assert {row["variant"] for row in rows if row["part"] == "ablations"} == set(VARIANTS)
    bench_waves.main(["--read", str(path)])
    assert capsys.readouterr().out == printed
    for heading in ("Throughput", "By arrivals", "Requests that meet", "Ablations"):
        assert f"### {heading}" in printed
