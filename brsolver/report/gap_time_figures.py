"""The figures of a gap report in seconds, as matplotlib figures without pyplot.

Call them inside `brsolver.report.style.styled`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import PercentFormatter

from brsolver.report.style import INK, figure, legend_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from brsolver.oracles.gap_time import TimeGapReport

PARTS = (
    ("more_steps_s", "more steps", "#999999"),
    ("prefill_s", "prefill", "#D55E00"),
    ("sequences_s", "sequences", "#56B4E9"),
    ("kv_s", "KV tokens", "#0072B2"),
    ("padding_s", "padding", "#CC79A7"),
    ("unavoidable_s", "proven unavoidable", "#009E73"),
)
LEAST = (
    ("base_s", "steps", "#999999"),
    ("experts_s", "experts", "#E69F00"),
    ("prefill_s", "prefill", "#D55E00"),
    ("sequences_s", "sequences", "#56B4E9"),
    ("kv_s", "KV tokens", "#0072B2"),
)
_BAR_IN = 0.42


def beyond_bound(report: TimeGapReport) -> Figure:
    """Draw where each policy's seconds beyond the bound went, in parts of the bound."""
    rows = report.policies
    drawn = figure(1.3 + _BAR_IN * max(len(rows), 3))
    axes = drawn.subplots()
    above, below = np.zeros(len(rows)), np.zeros(len(rows))
    for name, label, colour in PARTS:
        share = np.array([getattr(row.beyond, name) for row in rows]) / report.lower_bound_s
        left = np.where(share >= 0, above, below)
        axes.barh(range(len(rows)), share, left=left, height=0.62, color=colour, label=label)
        above += np.maximum(share, 0)
        below += np.minimum(share, 0)
    for y, row in enumerate(rows):
        axes.plot([row.gap], [y], "D", color=INK, ms=4)
        axes.text(max(above[y], row.gap), y, f"  {100 * row.gap:.2f} %", va="center", fontsize=8)
    _dress(axes, report)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_xlim(min(0.0, 1.05 * float(below.min())), 1.16 * max(float(above.max()), 1e-6))
    axes.set_xlabel("seconds beyond the bound, parts of the bound (diamond: all of them)")
    legend_beside(axes, [label for _, label, _ in PARTS])
    return drawn


def least_time(report: TimeGapReport) -> Figure:
    """Draw what the least number of steps and the totals cost, and what runs took."""
    bound = report.bound
    drawn = figure(1.3 + _BAR_IN * (len(report.policies) + 1))
    axes = drawn.subplots()
    begin = 0.0
    for name, label, colour in LEAST:
        seconds = getattr(bound, name)
        axes.barh([0], [seconds], left=begin, height=0.62, color=colour, label=label)
        begin += seconds
    names = ["total work", *(row.policy for row in report.policies)]
    for y, row in enumerate(report.policies, start=1):
        axes.barh([y], [row.seconds], height=0.62, color="#cbd2d9")
        axes.text(row.seconds, y, f"  {row.seconds:,.1f} s", va="center", fontsize=8)
    axes.axvline(report.lower_bound_s, color=INK, lw=1.1, ls=":", label="lower bound")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1.14 * max(report.lower_bound_s, *(row.seconds for row in report.policies)))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("seconds")
    legend_beside(axes, [label for _, label, _ in LEAST])
    return drawn


def _dress(axes: Axes, report: TimeGapReport) -> None:
    axes.set_yticks(range(len(report.policies)), [row.policy for row in report.policies])
    axes.set_ylim(len(report.policies) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
