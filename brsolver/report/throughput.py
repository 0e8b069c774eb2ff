"""The figure of the throughput, and of its ratio to the baseline's.

Call them inside `brsolver.report.style.styled`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brsolver.report.style import (
    FAINT,
    MARKERS,
    figure,
    legend_beside,
    line_style,
    token_axis,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from brsolver.results.comparison import Comparison

METRIC = "throughput_tok_s"
RATIO_SPAN = 0.02
"""Least distance of the ratio axis' ends from 1: differences below a per mille look like none."""
ROOM = 0.08
"""Of an axis' length, beyond the outermost marker or whisker."""
NAME_LETTERS = 34


def by_policy(comparison: Comparison) -> Figure:
    """Draw the throughput of every policy on the one number of workers, and its ratio."""
    (workers,) = comparison.workers
    policies = comparison.policies
    drawn = figure(1.1 + 0.32 * len(policies))
    left, right = drawn.subplots(1, 2, sharey=True)
    estimates = [comparison.estimate(policy, workers, METRIC) for policy in policies]
    for row, estimate in enumerate(estimates):
        _point(left, row, estimate.mean, estimate.half_width)
        _point(right, row, estimate.ratio, estimate.ratio_half_width)
    left.set_yticks(range(len(policies)), [_shortened(policy) for policy in policies])
    left.set_ylim(len(policies) - 0.5, -0.5)
    for axes in (left, right):
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
    left.set_xlim(0, _high([(e.mean, e.half_width) for e in estimates]) * (1 + ROOM))
    left.set_xlabel("throughput (tokens/s)")
    token_axis(left, which="x")
    right.set_xlim(*_around_one([(e.ratio, e.ratio_half_width) for e in estimates]))
    right.set_xlabel(f"throughput / that of {_shortened(comparison.baseline)}")
    right.axvline(1.0, color=FAINT, lw=0.8, zorder=0)
    return drawn


def against_workers(comparison: Comparison) -> Figure:
    """Draw the throughput against the number of workers, and its ratio to the baseline's."""
    drawn = figure(3.4)
    left, right = drawn.subplots(1, 2)
    order = sorted(comparison.workers)
    ratios = []
    for index, policy in enumerate(comparison.policies):
        estimates = [comparison.estimate(policy, g, METRIC) for g in order]
        # Beside each other, or equal policies' markers would hide one another.
        shift = 1 + 0.016 * (index - (len(comparison.policies) - 1) / 2)
        beside = [g * shift for g in order]
        _whiskers(left, beside, [(e.mean, e.half_width) for e in estimates], index, policy)
        _whiskers(right, beside, [(e.ratio, e.ratio_half_width) for e in estimates], index, policy)
        ratios += [(e.ratio, e.ratio_half_width) for e in estimates]
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(order, [str(g) for g in order])
        axes.minorticks_off()
        axes.set_xlim(order[0] / 1.35, order[-1] * 1.35)
        axes.set_xlabel("workers G")
    left.margins(y=ROOM)
    left.set(ylabel="throughput (tokens/s)", ylim=(0, None))
    token_axis(left)
    right.set_ylim(*_around_one(ratios))
    right.set_ylabel(f"throughput / that of {_shortened(comparison.baseline)}")
    legend_beside(right, [_shortened(policy) for policy in comparison.policies])
    return drawn


def _point(axes: Axes, row: int, value: float, half_width: float) -> None:
    colour, _ = line_style(row)
    axes.errorbar(
        [value],
        [row],
        xerr=np.nan_to_num([half_width]),
        color=colour,
        marker=MARKERS[row % len(MARKERS)],
        markersize=5.0,
        capsize=2.5,
        lw=1.1,
        # A marker on an axis' end is drawn whole.
        clip_on=False,
    )


def _whiskers(
    axes: Axes,
    workers: Sequence[float],
    estimates: Sequence[tuple[float, float]],
    index: int,
    policy: str,
) -> None:
    colour, dash = line_style(index)
    axes.errorbar(
        workers,
        [mean for mean, _ in estimates],
        yerr=np.nan_to_num([half_width for _, half_width in estimates]),
        color=colour,
        linestyle=dash,
        marker=MARKERS[index % len(MARKERS)],
        markersize=4.0,
        capsize=2.5,
        lw=1.1,
        label=_shortened(policy),
        clip_on=False,
    )


def _high(estimates: Sequence[tuple[float, float]]) -> float:
    ends = [mean + (np.nan_to_num(half)) for mean, half in estimates if np.isfinite(mean)]
    return float(max(ends, default=1.0)) or 1.0


def _around_one(ratios: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return an axis' ends that hold 1 and all whiskers, with room."""
    known = [(ratio, float(np.nan_to_num(half))) for ratio, half in ratios if np.isfinite(ratio)]
    low = min((ratio - half for ratio, half in known), default=1.0)
    high = max((ratio + half for ratio, half in known), default=1.0)
    low, high = min(low, 1.0 - RATIO_SPAN), max(high, 1.0 + RATIO_SPAN)
    room = ROOM * (high - low)
    return low - room, high + room


def _shortened(policy: str) -> str:
    return policy if len(policy) <= NAME_LETTERS else f"{policy[: NAME_LETTERS - 1]}…"
