"""The figures of a tuning report, as matplotlib figures without pyplot.

Call them inside `brsolver.report.style.styled`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import PercentFormatter

from brsolver.report.style import FAINT, INK, PALETTE, figure, legend_beside
from brsolver.specs import parse_policy
from brsolver.tuning.goals import THROUGHPUT
from brsolver.tuning.importance import pareto

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from brsolver.tuning import Tried, TuneResult

SHOWN = 14
"""Parameters of the importance plot at most."""
WIDE = 5.0
"""Ratio of the largest to the least value from which on an axis is logarithmic."""
_BAR_IN = 0.3
_FRONTS = (
    ("ttft_mean_s", "mean time to the first token (s)", 1.0),
    ("tpot_mean_s", "mean time per output token (ms)", 1e3),
)
_CALLED = {"published": "published default", "project": "this project's default"}


def history(result: TuneResult) -> Figure:
    """Draw what every trial came to, and the best until then."""
    drawn = figure(3.6)
    axes = drawn.subplots()
    names = _policies(result.tried)
    for index, name in enumerate(names):
        mine = [each for each in _valued(result.tried) if _name(each) == name]
        whole = [each for each in mine if each.state == "complete"]
        cut = [each for each in mine if each.state != "complete"]
        colour = PALETTE[index % len(PALETTE)]
        _points(axes, whole, colour, name, hollow=False)
        _points(axes, cut, colour, "", hollow=True)
    _best_so_far(axes, result)
    _spread(axes.set_yscale, [each.value for each in _valued(result.tried)])
    axes.set_xlabel("trial (hollow: given up on a prefix)")
    axes.set_ylabel(f"{result.goal.label} ({result.goal.unit})")
    legend_beside(axes, names)
    return drawn


def _points(axes: Axes, tried: Sequence[Tried], colour: str, label: str, *, hollow: bool) -> None:
    axes.scatter(
        [each.number for each in tried],
        [each.value or 0.0 for each in tried],
        s=22,
        facecolors="none" if hollow else colour,
        edgecolors=colour,
        linewidths=0.9,
        label=label or None,
    )


def _best_so_far(axes: Axes, result: TuneResult) -> None:
    whole = [each for each in _valued(result.tried) if each.state == "complete"]
    values = np.array([each.value for each in whole], dtype=np.float64)
    best = np.maximum.accumulate(values) if result.goal.maximise else np.minimum.accumulate(values)
    axes.step([each.number for each in whole], best, where="post", color=INK, lw=1.0, label="best")


def _spread(scale: Callable[[str], None], values: Sequence[float | None]) -> None:
    """Make an axis logarithmic where one value would squeeze all others to the edge."""
    known = [value for value in values if value is not None]
    if known and min(known) > 0 and max(known) > WIDE * min(known):
        scale("log")


def importance(result: TuneResult) -> Figure:
    """Draw each parameter's share of what mattered."""
    shown = list(result.importance.items())[:SHOWN]
    drawn = figure(1.1 + _BAR_IN * max(len(shown), 3))
    axes = drawn.subplots()
    shares = [share for _, share in shown]
    axes.barh(range(len(shown)), shares, height=0.62, color=PALETTE[0])
    for y, share in enumerate(shares):
        axes.text(share, y, f"  {100 * share:.0f} %", va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [name for name, _ in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * max(shares, default=1.0))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("share of what mattered (PED-ANOVA over trials in full)")
    return drawn


def fronts(result: TuneResult) -> Figure:
    """Draw throughput against times to the first token and per token, and what no trial beats."""
    drawn = figure(3.8)
    panels = drawn.subplots(1, len(_FRONTS), sharey=True)
    names = _policies([each for each in result.tried if each.state == "complete"])
    for axes, (metric, label, factor) in zip(panels, _FRONTS, strict=True):
        for index, name in enumerate(names):
            mine = [each for each in _whole(result, metric) if _name(each) == name]
            axes.scatter(
                [factor * (each.figures[metric] or 0.0) for each in mine],
                [each.figures[THROUGHPUT] or 0.0 for each in mine],
                s=20,
                color=PALETTE[index % len(PALETTE)],
                label=name,
            )
        _front(axes, result, metric, factor)
        _spread(axes.set_xscale, [each.figures[metric] for each in _whole(result, metric)])
        _defaults(axes, result, metric, factor)
        axes.set_xlabel(label)
    panels[0].set_ylabel("throughput (tok/s)")
    legend_beside(panels[-1], names)
    return drawn


def _front(axes: Axes, result: TuneResult, metric: str, factor: float) -> None:
    best = pareto(result.tried, THROUGHPUT, metric)
    axes.plot(
        [factor * (each.figures[metric] or 0.0) for each in best],
        [each.figures[THROUGHPUT] or 0.0 for each in best],
        color=FAINT,
        lw=1.0,
        zorder=0,
    )


def _defaults(axes: Axes, result: TuneResult, metric: str, factor: float) -> None:
    middle = sum(axes.transAxes.transform([(0, 0), (1, 1)])[:, 0]) / 2
    for each in _whole(result, metric):
        if each.role not in _CALLED:
            continue
        at = (factor * (each.figures[metric] or 0.0), each.figures[THROUGHPUT] or 0.0)
        axes.scatter(*at, s=70, facecolors="none", edgecolors=INK, linewidths=1.1)
        left = axes.transData.transform(at)[0] > middle
        axes.annotate(
            _CALLED[each.role],
            at,
            xytext=(-8 if left else 8, -12),
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0},
            ha="right" if left else "left",
            textcoords="offset points",
            fontsize=7.5,
            color=INK,
        )


def _whole(result: TuneResult, metric: str) -> list[Tried]:
    return [
        each
        for each in result.tried
        if each.state == "complete"
        and each.figures.get(metric) is not None
        and each.figures.get(THROUGHPUT) is not None
    ]


def _valued(tried: Sequence[Tried]) -> list[Tried]:
    return [each for each in tried if each.value is not None]


def _name(tried: Tried) -> str:
    return parse_policy(tried.policy)[0]


def _policies(tried: Sequence[Tried]) -> list[str]:
    return list(dict.fromkeys(_name(each) for each in _valued(tried)))
