"""Pictures: published beside ours, sweeps, and a map of two parameters.

Call them inside `brsolver.report.style.styled`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import LogLocator

from brsolver.report.style import FAINT, INK, MARKERS, PALETTE, SEQUENTIAL, figure, token_axis

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from benchmarks.reproduce._tables import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A published figure, if there is one, and ours."""

    label: str
    ours: Interval
    published: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A line of a sweep; `published` ones are dotted, hollow, and in the colour of `label`."""

    label: str
    x: Sequence[float]
    y: Sequence[Interval]
    published: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes; `log` names those axes whose scale is logarithmic."""

    title: str
    xlabel: str
    ylabel: str
    curves: Sequence[Curve]
    log: str = ""


def beside(panels: Mapping[str, Sequence[Beside]], xlabel: str, *, log: bool = False) -> Figure:
    """Draw published figures as hollow marks and ours as full ones, a row per method."""
    drawn = figure(1.1 + 0.27 * max(len(rows) for rows in panels.values()))
    for axes, (title, rows) in zip(_axes(drawn, len(panels)), panels.items(), strict=True):
        at = np.arange(len(rows))[::-1]
        for y, row in zip(at, rows, strict=True):
            axes.errorbar(row.ours.mean, y, xerr=_half(row.ours), fmt="o", color=PALETTE[0], ms=5)
            if row.published is not None:
                axes.plot(row.published, y, "D", mfc="none", mec=PALETTE[1], ms=6)
        axes.set_yticks(at, [row.label.replace("`", "") for row in rows])
        axes.set(title=title, xlabel=xlabel)
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.minorticks_off()
        token_axis(axes, which="x")
    axes.plot([], [], "o", color=PALETTE[0], label="ours")
    axes.plot([], [], "D", mfc="none", mec=PALETTE[1], label="published")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return drawn


def sweeps(panels: Sequence[Panel]) -> Figure:
    """Draw lines with their 95 % intervals, one pair of axes per panel."""
    drawn = figure(2.9)
    named = (curve.label for panel in panels for curve in panel.curves)
    colours = list(dict.fromkeys(named))
    for axes, panel in zip(_axes(drawn, len(panels)), panels, strict=True):
        for curve in panel.curves:
            _line(axes, curve, colours.index(curve.label))
        axes.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
        if "x" in panel.log:
            axes.set_xscale("log", base=2)
            ticks = sorted({x for curve in panel.curves for x in curve.x})
            axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
            axes.minorticks_off()
        if "y" in panel.log:
            axes.set_yscale("log")
        if "tokens" in panel.ylabel:
            token_axis(axes)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return drawn


def _line(axes: Axes, curve: Curve, index: int) -> None:
    colour, marker = PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]
    means = [y.mean for y in curve.y]
    if curve.published:
        axes.plot(
            curve.x,
            means,
            ":",
            color=colour,
            marker=marker,
            mfc="none",
            lw=1.0,
            label=f"{curve.label}, published",
        )
        return
    spread = [_half(y) for y in curve.y]
    axes.errorbar(
        curve.x,
        means,
        yerr=spread,
        color=colour,
        marker=marker,
        ms=4,
        capsize=2,
        label=curve.label.replace("`", ""),
    )


def heat(
    values: Sequence[Sequence[float]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    ylabel: str,
    xlabel: str,
    title: str,
    form: str = "{:.1f}",
) -> Figure:
    """Draw a map of two parameters, each cell with its value."""
    drawn = figure(0.9 + 0.36 * len(rows))
    axes, grid = drawn.subplots(), np.asarray(values, dtype=float)
    axes.imshow(grid, cmap=SEQUENTIAL, aspect="auto")
    axes.grid(visible=False)
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
    for (y, x), value in np.ndenumerate(grid):
        colour = INK if value > middle else "white"
        axes.text(x, y, form.format(value), ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.tick_params(length=0, color=FAINT)
    return drawn


def _axes(drawn: Figure, count: int) -> list[Axes]:
    return list(drawn.subplots(1, count, squeeze=False).flat)


def _half(value: Interval) -> float:
    return value.half if np.isfinite(value.half) else 0.0
