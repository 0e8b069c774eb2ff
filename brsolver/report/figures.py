"""The figures of a report, one function each, as matplotlib figures without pyplot.

Call them inside `brsolver.report.style.styled`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from brsolver.report.style import (
    FAINT,
    INK,
    SEQUENTIAL,
    figure,
    legend_beside,
    line_style,
    token_axis,
)
from brsolver.results.curves import PROBABILITIES, Curves, Gantt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

HEAT_COLUMNS = 400
LANE_IN = 0.024
PANEL_COLUMNS = 2


def load_over_time(curves: Mapping[str, Curves]) -> Figure:
    """Draw the load of every worker over time, one panel per policy."""
    drawn, panels = _panels(len(curves), height_in=2.1)
    for axes, (policy, kept) in zip(panels, curves.items(), strict=True):
        axes.plot(kept.load_time_s, kept.load, color="#56B4E9", lw=0.5, alpha=0.6, rasterized=True)
        axes.plot(
            kept.load_time_s, kept.load.max(axis=1, initial=0), color=INK, lw=0.8, rasterized=True
        )
        axes.set_title(policy)
        token_axis(axes)
    _label_outer(panels, "time (s)", "load (KV tokens)")
    _share_limits(panels)
    return drawn


def worker_heat_map(curves: Mapping[str, Curves]) -> Figure:
    """Draw the load of every worker as colour over time, one panel per policy."""
    workers = max(kept.load.shape[1] for kept in curves.values())
    drawn, panels = _panels(len(curves), height_in=min(5.0, 1.1 + 0.09 * workers))
    grids = [_heat_grid(kept) for kept in curves.values()]
    top = max(float(np.nanmax(grid, initial=1.0)) for _, grid in grids)
    norm = Normalize(0.0, top)
    for axes, policy, (edges_s, grid) in zip(panels, curves, grids, strict=True):
        rows = np.arange(grid.shape[1] + 1) - 0.5
        mesh = axes.pcolormesh(
            edges_s, rows, grid.T, cmap=SEQUENTIAL, norm=norm, rasterized=True, shading="flat"
        )
        axes.set_title(policy)
        axes.grid(visible=False)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    _label_outer(panels, "time (s)", "worker")
    bar = drawn.colorbar(mesh, ax=panels, label="load (KV tokens)", shrink=0.9, pad=0.01, aspect=40)
    token_axis(bar.ax)
    bar.outline.set_visible(False)
    return drawn


def imbalance_over_time(curves: Mapping[str, Curves]) -> Figure:
    """Draw the imbalance of all policies over time, on a logarithmic scale."""
    drawn = figure(3.4)
    axes = drawn.subplots()
    for index, (policy, kept) in enumerate(curves.items()):
        colour, dash = line_style(index)
        positive = np.where(kept.imbalance > 0, kept.imbalance, np.nan)
        axes.plot(kept.imbalance_time_s, positive, dash, color=colour, lw=1.1, label=policy)
    if any((kept.imbalance > 0).any() for kept in curves.values()):
        axes.set_yscale("log")
        token_axis(axes)
    axes.margins(x=0)
    axes.set(xlabel="time (s)", ylabel="imbalance, sum form (tokens)")
    legend_beside(axes, list(curves))
    return drawn


def imbalance_distribution(curves: Mapping[str, Curves]) -> Figure:
    """Draw which share of the steps has at most that imbalance."""
    quantiles = {policy: kept.imbalance_q for policy, kept in curves.items()}
    drawn = _distribution(quantiles, "imbalance of a step, sum form (tokens)", "steps")
    token_axis(drawn.axes[0], which="x")
    return drawn


def tpot_distribution(curves: Mapping[str, Curves]) -> Figure:
    """Draw which share of the requests has at most that time per output token."""
    quantiles = {policy: kept.tpot_q_s * 1e3 for policy, kept in curves.items()}
    return _distribution(quantiles, "time per output token (ms)", "requests")


def ttft_distribution(curves: Mapping[str, Curves]) -> Figure:
    """Draw which share of the requests has at most that time to first token."""
    quantiles = {policy: kept.ttft_q_s for policy, kept in curves.items()}
    return _distribution(quantiles, "time to first token (s)", "requests")


def dispatch_latency(curves: Mapping[str, Curves]) -> Figure:
    """Draw which share of the routing calls took at most that long, on a logarithmic scale.

    The slowest tenth of a percent is left out: one call that found the machine busy would
    squeeze all others to the edge.
    """
    quantiles = {policy: kept.dispatch_q_us[:-1] for policy, kept in curves.items()}
    drawn = _distribution(quantiles, "duration of a routing call (µs)", "routing calls")
    if any(q.size and q[0] > 0 for q in quantiles.values()):
        drawn.axes[0].set_xscale("log")
        drawn.axes[0].xaxis.set_major_formatter("{x:g}")
    return drawn


def gantt_chart(policy: str, chart: Gantt) -> Figure:
    """Draw requests as bars on the slots of their workers, coloured by prompt length."""
    offsets = np.concatenate(([0], np.cumsum(chart.lanes + 1)))
    drawn = figure(float(np.clip(1.2 + LANE_IN * offsets[-1], 2.4, 9.0)))
    axes = drawn.subplots()
    top = np.quantile(chart.prompt_tokens, 0.98) if chart.prompt_tokens.size else 1.0
    bars = PolyCollection(
        list(_bar_corners(chart, offsets)),
        array=chart.prompt_tokens,
        cmap=SEQUENTIAL,
        norm=Normalize(0.0, float(top)),
        edgecolors="white",
        linewidths=0.2,
        rasterized=True,
    )
    axes.add_collection(bars)
    axes.set(xlim=(chart.first_s, chart.last_s), ylim=(offsets[-1] - 1, -1))
    _name_workers(axes, offsets)
    axes.set(xlabel="time (s)", ylabel="worker", title=policy)
    bar = drawn.colorbar(bars, ax=axes, label="prompt (tokens)", extend="max", pad=0.01, aspect=40)
    token_axis(bar.ax)
    bar.outline.set_visible(False)
    return drawn


def _distribution(quantiles: Mapping[str, FloatArray], label: str, what: str) -> Figure:
    drawn = figure(3.2)
    axes = drawn.subplots()
    for index, (policy, values) in enumerate(quantiles.items()):
        colour, dash = line_style(index)
        if values.size:
            axes.plot(values, PROBABILITIES[: values.size], dash, color=colour, label=policy)
        else:
            axes.plot([], [], dash, color=colour, label=f"{policy} (nothing measured)")
    axes.set(xlabel=label, ylabel=f"share of {what}", ylim=(0, 1.005))
    axes.axhline(0.95, color=FAINT, lw=0.8, ls=(0, (2, 2)), zorder=0)
    axes.text(1.0, 0.945, "P95", transform=axes.get_yaxis_transform(), ha="right", va="top",
              color=FAINT, fontsize=7.5)  # fmt: skip
    legend_beside(axes, list(quantiles))
    return drawn


def _panels(count: int, *, height_in: float) -> tuple[Figure, list[Axes]]:
    columns = min(count, PANEL_COLUMNS)
    rows = -(-count // columns)
    drawn = figure(max(2.4, rows * height_in))
    grid = drawn.subplots(rows, columns, squeeze=False, sharey=True)
    panels = list(grid.flat)
    for unused in panels[count:]:
        unused.remove()
    return drawn, panels[:count]


def _label_outer(panels: Sequence[Axes], xlabel: str, ylabel: str) -> None:
    columns = min(len(panels), PANEL_COLUMNS)
    for index, axes in enumerate(panels):
        if index % columns == 0:
            axes.set_ylabel(ylabel)
        if index + columns >= len(panels):
            axes.set_xlabel(xlabel)


def _share_limits(panels: Sequence[Axes]) -> None:
    right = max(axes.get_xlim()[1] for axes in panels)
    top = max(axes.get_ylim()[1] for axes in panels)
    for axes in panels:
        axes.set(xlim=(0, right), ylim=(0, top))


def _heat_grid(kept: Curves) -> tuple[FloatArray, FloatArray]:
    time_s = kept.load_time_s
    if time_s.size < 2:
        return np.array([0.0, 1.0]), np.zeros((1, kept.load.shape[1]))
    columns = min(HEAT_COLUMNS, time_s.size)
    edges_s = np.linspace(time_s[0], time_s[-1], columns + 1)
    nearest = np.searchsorted(time_s, (edges_s[:-1] + edges_s[1:]) / 2).clip(0, time_s.size - 1)
    column = np.clip(np.searchsorted(edges_s, time_s, side="right") - 1, 0, columns - 1)
    counts = np.bincount(column, minlength=columns)
    sums = np.zeros((columns, kept.load.shape[1]))
    np.add.at(sums, column, kept.load)
    # Columns that no sample fell into show the next sample instead of a gap.
    means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], kept.load[nearest])
    return edges_s, means


def _bar_corners(chart: Gantt, offsets: NDArray[np.int64]) -> FloatArray:
    low = (offsets[chart.worker] + chart.lane).astype(np.float64) - 0.5
    high = low + 0.96
    left, right = chart.start_s, chart.end_s
    corners = [(left, low), (left, high), (right, high), (right, low)]
    return np.stack([np.stack(corner, axis=-1) for corner in corners], axis=1)


def _name_workers(axes: Axes, offsets: NDArray[np.int64]) -> None:
    middles = (offsets[:-1] + offsets[1:] - 2) / 2
    axes.set_yticks(middles, [str(worker) for worker in range(middles.size)])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    for border in offsets[1:-1]:
        axes.axhline(border - 1, color=FAINT, lw=0.5)
