"""Figures of the throughput: readable ticks, whole markers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from brsolver.report.style import styled
from brsolver.report.throughput import RATIO_SPAN, against_workers, by_policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.results.comparison import Comparison


@pytest.mark.parametrize("workers", [(2,), (2, 4)])
def test_equal_policies_have_an_axis_without_an_offset(
    comparison_maker: Callable[..., Comparison], workers: tuple[int, ...]
) -> None:
    made = comparison_maker(("fcfs", "fcfs2"), workers, 2)
    runs = [
        replace(run, metrics=replace(run.metrics, throughput_tok_s=1000.0 * (1 + 1e-7 * run.seed)))
        for run in made.runs
    ]
    same = replace(made, runs=tuple(runs))
    with styled():
        drawn = by_policy(same) if len(workers) == 1 else against_workers(same)
        drawn.canvas.draw()
        _, ratios = drawn.axes
        axis = ratios.xaxis if len(workers) == 1 else ratios.yaxis
        assert axis.get_offset_text().get_text() == ""
        low, high = axis.get_view_interval()
    assert low <= 1 - RATIO_SPAN
    assert high >= 1 + RATIO_SPAN


@pytest.mark.parametrize("workers", [(2,), (2, 4)])
def test_markers_are_whole(comparison: Comparison, workers: tuple[int, ...]) -> None:
    made = replace(comparison, workers=workers)
    with styled():
        drawn = by_policy(made) if len(workers) == 1 else against_workers(made)
        drawn.canvas.draw()
        width, height = drawn.canvas.get_width_height()
        for axes in drawn.axes:
            for line in axes.lines:
                if (
                    line.get_marker() in {"None", "", None}
                    or line.get_transform() != axes.transData
                ):
                    continue
                assert not line.get_clip_on()
                for x, y in axes.transData.transform(line.get_xydata()):
                    assert 5 <= x <= width - 5
                    assert 5 <= y <= height - 5
