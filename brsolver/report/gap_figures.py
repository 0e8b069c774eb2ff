"""The figures of a gap report, one function each, as matplotlib figures without pyplot.

Call them inside `brsolver.report.style.styled`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from brsolver.report.style import (
    FAINT,
    INK,
    figure,
    legend_beside,
    line_style,
    token_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from brsolver.oracles.bounds.result import BoundResult
    from brsolver.oracles.gap import GapReport, PolicyGap
    from brsolver.results.result import SimulationResult

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

POINTS = 1500
PHASES = ("fill", "steady", "drain")
PHASE_COLOURS = ("#CC79A7", "#56B4E9", "#E69F00")
_BAR_IN = 0.3


def anytime_curve(report: GapReport) -> Figure:
    """Draw what hindsight knew when: the best run so far, and the certified bound below it."""
    drawn = figure(3.2)
    axes = drawn.subplots()
    points = report.curve
    # The last state lasts until the oracle returned; a single point would not show as a line.
    end_s = max(1.04 * points[-1].time_s, 1e-3)
    time_s = np.array([point.time_s for point in points] + [end_s])
    bound = _held([point.bound for point in points])
    best = _held([np.nan if p.incumbent is None else p.incumbent for p in points])
    axes.fill_between(time_s, bound, best, step="post", color="#0072B2", alpha=0.08, lw=0)
    axes.step(time_s, best, where="post", color="#D55E00", label="best run known")
    axes.step(time_s, bound, where="post", color="#0072B2", label="lower bound")
    axes.plot(time_s[:-1], best[:-1], "o", color="#D55E00", ms=3)
    axes.plot(time_s[:-1], bound[:-1], "o", color="#0072B2", ms=3)
    known = max(report.lower_bound or 0, points[-1].bound)
    if known > points[-1].bound:
        # What the report goes by may be proven by other means than the oracle's own.
        axes.axhline(known, color="#0072B2", ls=":", lw=1.1, label="stronger bound used here")
    _name_ends(axes, end_s, best[-1], known)
    axes.set(xlabel="time since the oracle began (s)", ylabel=f"Σ M(k) (steps of {report.unit})")
    axes.set_xlim(0, end_s)
    axes.margins(y=0.12)
    token_axis(axes)
    legend_beside(axes, ["best run known", "lower bound"])
    return drawn


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _held(values: list[float]) -> FloatArray:
    return np.array([*values, values[-1]], np.float64)


def _name_ends(axes: Axes, end_s: float, best: float, bound: float) -> None:
    if not np.isfinite(best):
        return
    text = (
        "proven optimal" if best == bound else f"gap {_percent(best / bound - 1)}" if bound else ""
    )
    axes.annotate(text, (end_s, (best + bound) / 2), xytext=(8, 0), textcoords="offset points",
                  va="center", color=INK, fontsize=8.5, annotation_clip=False)  # fmt: skip


def excess_along_run(report: GapReport) -> Figure:
    """Draw how the distance of every run from its bound adds up, step by step."""
    drawn = figure(3.8)
    axes = drawn.subplots()
    rows = list(zip(report.policies, report.results, strict=True))
    for index, (row, run) in enumerate(rows):
        colour, dash = line_style(index)
        total = cumulative_excess(run, row.bound)
        shown = _spread(total.size)
        label = f"{row.policy}  ({_percent(row.routing.total.gap)})"
        axes.plot(shown, total[shown], dash, color=colour, lw=1.3, label=label)
        cuts = [row.bound.fill_end, row.bound.drain_start]
        for cut, marker in zip(cuts, ("|", "D"), strict=True):
            at = min(cut, total.size - 1)
            size = 10 if marker == "|" else 4.5
            axes.plot([at], [total[at]], marker, color=colour, ms=size, mec=colour)
    _shade_phases(axes, [row.bound for row, _ in rows])
    axes.set(xlabel="step k", ylabel=f"Σ (M(k) - bound) so far\n(steps of {report.unit})")
    axes.margins(x=0)
    axes.set_ylim(0, None)
    token_axis(axes)
    legend_beside(axes, [row.policy for row, _ in rows])
    return drawn


def cumulative_excess(run: SimulationResult, bound: BoundResult) -> FloatArray:
    """Return ``Σ_{j<k} (M(j) - LB_j)``, shape (K + 1,); its last entry is the whole distance.

    What a window of steps proves jointly is spread evenly over its steps, so that the sum is
    exact where windows end and does not jump there.
    """
    excess = run.steps.load_max.astype(np.float64)
    excess[: bound.per_step.size] -= bound.per_step
    for window in bound.windows:
        excess[window.first : window.end] -= window.gain / (window.end - window.first)
    return np.concatenate((np.zeros(1), np.cumsum(excess)))


def _spread(size: int) -> IntArray:
    return np.unique(np.linspace(0, size - 1, min(size, POINTS)).astype(np.int64))


def _shade_phases(axes: Axes, bounds: list[BoundResult]) -> None:
    """Shade fill and drain, as the first policy's bound cuts them; markers show the others'."""
    cuts = (0, bounds[0].fill_end, bounds[0].drain_start, max(b.steps for b in bounds))
    for name, colour, first, end in zip(PHASES, PHASE_COLOURS, cuts, cuts[1:], strict=False):
        if end <= first:
            continue
        if name != "steady":
            axes.axvspan(first, end, color=colour, alpha=0.13, lw=0, zorder=0)
        # A phase of three steps in ten thousand has no room for its name.
        if end - first > 0.04 * cuts[-1]:
            axes.text((first + end) / 2, 0.985, name, transform=axes.get_xaxis_transform(),
                      ha="center", va="top", color=FAINT, fontsize=8.5)  # fmt: skip


def gap_by_phase(report: GapReport) -> Figure:
    """Draw where the gap arises: by phase, in parts of the whole bound, and within each phase."""
    rows = report.policies
    drawn = figure(1.3 + _BAR_IN * max(len(rows), 3) * 1.6)
    left, right = drawn.subplots(1, 2, sharey=True, width_ratios=(1.15, 1.0))
    _stack_shares(left, rows)
    _group_gaps(right, rows)
    left.set_yticks(range(len(rows)), [row.policy for row in rows])
    left.set_ylim(len(rows) - 0.4, -0.6)
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    left.set_xlabel("part of the whole bound")
    right.set_xlabel("part of the phase's own bound")
    left.set_title("Excess by phase, adding up to the gap")
    right.set_title("Gap within each phase")
    legend_beside(right, PHASES)
    return drawn


def _stack_shares(axes: Axes, rows: tuple[PolicyGap, ...]) -> None:
    begin = np.zeros(len(rows))
    for at, (name, colour) in enumerate(zip(PHASES, PHASE_COLOURS, strict=True)):
        share = np.array([_share(row, at) for row in rows])
        axes.barh(range(len(rows)), share, left=begin, height=0.62, color=colour, label=name)
        begin += share
    for y, row in enumerate(rows):
        axes.text(begin[y], y, f" {_percent(row.routing.total.gap)}", va="center", fontsize=8)
    axes.set_xlim(0, 1.16 * max(float(begin.max()), 1e-6))


def _share(row: PolicyGap, at: int) -> float:
    part, total = row.routing.phases[at], row.routing.total.lower_bound
    return (part.barrier_time - part.lower_bound) / total if total else 0.0


def _group_gaps(axes: Axes, rows: tuple[PolicyGap, ...]) -> None:
    height = 0.25
    most = 1e-6
    for at, (name, colour) in enumerate(zip(PHASES, PHASE_COLOURS, strict=True)):
        gaps = [row.routing.phases[at].gap for row in rows]
        places = np.arange(len(rows)) + (at - 1) * height
        axes.barh(places, gaps, height=0.88 * height, color=colour, label=name)
        for place, gap in zip(places, gaps, strict=True):
            axes.text(gap, place, f" {_percent(gap)}", va="center", fontsize=7)
        most = max(most, *gaps)
    axes.set_xlim(0, 1.2 * most)
