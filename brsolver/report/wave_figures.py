"""Figures of prefill on the decode ranks: when each has prompts to compute, and who is held.

Call them inside `brsolver.report.style.styled`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator

from brsolver.report.labels import format_number
from brsolver.report.style import INK, SEQUENTIAL, figure, token_axis

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

    from brsolver.results.curves import Curves, Waves

TITLE_LETTERS = 60


def backlog_over_time(curves: Mapping[str, Curves]) -> Figure:
    """Draw every worker's prefill backlog as colour over time, and the requests held above it."""
    kept = {policy: each.waves for policy, each in curves.items() if each.waves is not None}
    drawn = figure(0.7 + 1.75 * len(kept))
    panels = drawn.subplots(
        2 * len(kept), 1, squeeze=False, gridspec_kw={"height_ratios": [1, 2] * len(kept)}
    )[:, 0]
    norm = PowerNorm(0.5, 0.0, max(1.0, *(float(waves.backlog.max()) for waves in kept.values())))
    for at, (policy, waves) in enumerate(kept.items()):
        _held(panels[2 * at], policy, waves)
        mesh = _backlogs(panels[2 * at + 1], waves, norm)
    panels[-1].set_xlabel("time (s)")
    bar = drawn.colorbar(
        mesh, ax=list(panels), label="prompt tokens to prefill", shrink=0.9, pad=0.01, aspect=40
    )
    token_axis(bar.ax)
    bar.outline.set_visible(False)
    return drawn


def told(curves: Mapping[str, Curves]) -> tuple[str, ...]:
    """Say in words how far the workers prefilled together."""
    return tuple(_sentence(name, each.waves) for name, each in curves.items() if each.waves)


def _sentence(policy: str, waves: Waves) -> str:
    busy = waves.backlog > 0
    steps = busy.any(axis=1)
    if not steps.any():
        return f"{policy}: no worker prefilled in the steps shown."
    workers = waves.backlog.shape[1]
    together = float(busy[steps].sum(axis=1).mean())
    return (
        f"{policy}: where any worker had prompts to prefill, {np.mean(steps):.0%} of what is "
        f"shown, {format_number(together)} of {workers} workers had on average; up to "
        f"{format_number(float(waves.held.max()))} requests waited beside free slots."
    )


def _held(axes: Axes, policy: str, waves: Waves) -> None:
    axes.fill_between(waves.time_s, waves.held, step="post", color=INK, alpha=0.35, lw=0)
    axes.set_title(policy[:TITLE_LETTERS])
    axes.set_ylabel("held", rotation=0, ha="right", va="center")
    axes.set_ylim(0, max(1.0, 1.05 * float(waves.held.max())))
    axes.set_xlim(*_ends(waves))
    axes.tick_params(labelbottom=False)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=2))


def _backlogs(axes: Axes, waves: Waves, norm: PowerNorm) -> QuadMesh:
    first, last = _ends(waves)
    edges = np.append(waves.time_s, last)
    rows = np.arange(waves.backlog.shape[1] + 1) - 0.5
    mesh = axes.pcolormesh(
        edges, rows, waves.backlog.T, cmap=SEQUENTIAL, norm=norm, rasterized=True, shading="flat"
    )
    axes.grid(visible=False)
    axes.set_ylabel("worker")
    axes.set_xlim(first, last)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    return mesh


def _ends(waves: Waves) -> tuple[float, float]:
    """Return the time shown; the last step is taken to last as long as the one before it."""
    time_s = waves.time_s
    lasts = time_s[-1] - time_s[-2] if time_s.size > 1 else 1.0
    return float(time_s[0]), float(time_s[-1] + max(lasts, 1e-9))
