from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from brsolver.results import curves as module
from brsolver.results.curves import assign_lanes, curves_of, gantt_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.results.curves import Curves
    from brsolver.results.result import SimulationResult
    from brsolver.traces.trace import Trace


@pytest.fixture
def trace(trace_maker: Callable[..., Trace]) -> Trace:
    return trace_maker()


@pytest.fixture
def result(result_maker: Callable[..., SimulationResult]) -> SimulationResult:
    return result_maker()


@pytest.fixture
def curves(result: SimulationResult, trace: Trace) -> Curves:
    return curves_of(result, trace.prompt_tokens, trace.output_tokens)


def test_lanes_are_reused_once_free() -> None:
    lanes = assign_lanes([0.0, 0.0, 1.0, 2.0, 2.0], [2.0, 5.0, 3.0, 4.0, 4.0])
    assert lanes.tolist() == [0, 1, 2, 0, 3]


def test_no_lanes_without_intervals() -> None:
    assert assign_lanes([], []).size == 0


def test_distributions_cover_all_requests(curves: Curves, result: SimulationResult) -> None:
    ttft = result.requests.first_token_s - result.requests.arrival_s
    assert curves.ttft_q_s[[0, 500, 1000]] == pytest.approx(np.quantile(ttft, [0, 0.5, 1]))
    assert curves.tpot_q_s.mean() == pytest.approx(result.metrics.tpot_mean_s, rel=0.01)


def test_imbalance_distribution_covers_the_window(curves: Curves, result: SimulationResult) -> None:
    inside = result.steps.imbalance_sum()[: result.metrics.window_end]
    assert curves.imbalance_q[-1] == inside.max()


def test_nothing_measured_gives_empty_quantiles(result: SimulationResult, trace: Trace) -> None:
    silent = replace(result, dispatch_us=np.empty(0))
    assert curves_of(silent, trace.prompt_tokens, trace.output_tokens).dispatch_q_us.size == 0


def test_curves_are_thinned(
    monkeypatch: pytest.MonkeyPatch, result: SimulationResult, trace: Trace
) -> None:
    monkeypatch.setattr(module, "LOAD_POINTS", 10)
    monkeypatch.setattr(module, "IMBALANCE_POINTS", 7)
    curves = curves_of(result, trace.prompt_tokens, trace.output_tokens)
    assert curves.load.shape == (10, 4)
    assert curves.imbalance.size == curves.imbalance_time_s.size == 7
    widths = np.diff(np.linspace(0, len(result.steps), 8).astype(int))
    total = result.steps.imbalance_sum().sum()
    assert (curves.imbalance * widths).sum() == pytest.approx(total)


def test_gantt_bars_do_not_overlap_and_fit_the_slots(
    result: SimulationResult, trace: Trace
) -> None:
    chart = gantt_of(result, trace.prompt_tokens)
    assert chart.start_s.size > 4
    assert chart.lanes.max() <= 4
    for worker, lane in set(zip(chart.worker, chart.lane, strict=True)):
        mine = (chart.worker == worker) & (chart.lane == lane)
        order = np.argsort(chart.start_s[mine])
        assert (chart.start_s[mine][order][1:] >= chart.end_s[mine][order][:-1]).all()


def test_gantt_shows_what_touches_its_window(result: SimulationResult, trace: Trace) -> None:
    chart = gantt_of(result, trace.prompt_tokens)
    assert (chart.start_s < chart.last_s).all()
    assert (chart.end_s > chart.first_s).all()


def test_gantt_window_shrinks_for_many_requests(
    monkeypatch: pytest.MonkeyPatch, result: SimulationResult, trace: Trace
) -> None:
    monkeypatch.setattr(module, "GANTT_REQUESTS", 25)
    assert gantt_of(result, trace.prompt_tokens).start_s.size <= 25


def test_gantt_leaves_workers_out_beyond_its_lanes(
    monkeypatch: pytest.MonkeyPatch, result: SimulationResult, trace: Trace
) -> None:
    monkeypatch.setattr(module, "GANTT_LANES", 9)
    chart = gantt_of(result, trace.prompt_tokens)
    assert chart.lanes.size == 2
    assert chart.worker.max() == 1


def test_gantt_leaves_preempted_requests_out(result: SimulationResult, trace: Trace) -> None:
    ones = np.ones_like(result.requests.preemptions)
    preempted = replace(result, requests=replace(result.requests, preemptions=ones))
    assert gantt_of(preempted, trace.prompt_tokens).start_s.size == 0
