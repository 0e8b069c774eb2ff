"""Figures of where each millisecond of a step went, and what they show in words.

Call them inside `brsolver.report.style.styled`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.report.labels import format_number
from brsolver.report.style import INK, figure
from brsolver.results.barrier import PARTS, StepBands

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from brsolver.results.curves import Curves

FloatArray = NDArray[np.float64]

# Grey is what no routing can change, colour is what waits at the barrier.
BANDS = {
    "base": ("#dfe3e8", "at zero load"),
    "even": ("#b3bcc7", "work at the mean load"),
    "prefill": ("#D55E00", "lost to prefill"),
    "sequences": ("#E69F00", "lost to sequences"),
    "kv": ("#0072B2", "lost to KV tokens"),
    "padding": ("#CC79A7", "lost to padding"),
}
WORDS = {
    "prefill": "prefill",
    "sequences": "sequences",
    "kv": "KV tokens",
    "padding": "padding",
}
COLUMNS = 2
TITLE_LETTERS = 36
"""Longest name of a policy beside which a panel's heading has room for its share."""


def time_over_time(curves: Mapping[str, Curves]) -> Figure:
    """Draw what the mean step was made of over time, stacked, one panel per policy."""
    kept = {policy: each.bands for policy, each in curves.items()}
    columns = min(len(kept), COLUMNS)
    rows = -(-len(kept) // columns)
    drawn = figure(0.5 + max(2.4, 1.9 * rows))
    panels = list(drawn.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for unused in panels[len(kept) :]:
        unused.remove()
    shown = _that_count(bands.stack() for bands in kept.values())
    for axes, (policy, bands) in zip(panels, kept.items(), strict=False):
        _stack(axes, bands, shown)
        _entitle(axes, policy, bands)
    _label_outer(panels[: len(kept)], columns)
    _name_bands(drawn, panels[0])
    return drawn


def time_by_policy(curves: Mapping[str, Curves]) -> Figure:
    """Draw what the mean step of the averaging window was made of, one bar per policy."""
    kept = {policy: each.bands for policy, each in curves.items()}
    drawn = figure(1.3 + 0.34 * len(kept))
    axes = drawn.subplots()
    ends = _bars(axes, kept)
    for row, (end, bands) in enumerate(zip(ends, kept.values(), strict=True)):
        axes.annotate(
            f"{format_number(end)} ms, {_percent(bands.share.total)} lost",
            (end, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )
    axes.set_yticks(range(len(kept)), list(kept))
    axes.set_ylim(len(kept) - 0.5, -0.5)
    axes.set_xlim(0, 1.3 * max(float(ends.max(initial=0.0)), 1e-9))
    axes.set_xlabel("mean step (ms)")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    _name_bands(drawn, axes)
    return drawn


def told(curves: Mapping[str, Curves]) -> tuple[str, ...]:
    """Say in words how much of each policy's time was lost, and to what."""
    return tuple(_sentence(policy, each.bands) for policy, each in curves.items())


def _sentence(policy: str, bands: StepBands) -> str:
    share = bands.share
    if math.isnan(share.total):
        return f"{policy}: no step to average."
    said = f"{policy}: a step took {format_number(bands.mean_step_s * 1e3)} ms on average, "
    parts = {part: float(getattr(share, part)) for part in PARTS}
    # Below half of a tenth of a percent a share is written as 0.0.
    named = sorted((p for p in parts if abs(parts[p]) >= 5e-4), key=lambda p: -parts[p])
    if not named:
        return said + "and next to none of it was lost at the barrier."
    lost = [f"{_percent(parts[p])} to {WORDS[p]}" for p in named if parts[p] > 0]
    fewer = [f"{_percent(-parts[p])} of {WORDS[p]}" for p in named if parts[p] < 0]
    said += f"and {_percent(share.total)} of the time was lost at the barrier"
    if len(named) == 1 and lost:
        return f"{said}, to {WORDS[named[0]]}."
    said += f": {_listed(lost)}" if lost else ""
    if fewer:
        said += f", less {_listed(fewer)}, which the slowest worker had fewer of than the mean"
    return said + "."


def _listed(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.1f} %"


def _bars(axes: Axes, kept: Mapping[str, StepBands]) -> FloatArray:
    """Draw the bars, one below the other, and return where they end, in milliseconds."""
    parts = np.column_stack([bands.mean_stack() for bands in kept.values()]) * 1e3
    left = np.zeros(len(kept))
    shown = _that_count([parts])
    for name, widths in zip(BANDS, parts, strict=True):
        if name in shown:
            colour, label = BANDS[name]
            axes.barh(range(len(kept)), widths, left=left, height=0.66, color=colour, label=label)
        left = left + widths
    return left


def _that_count(stacks: Iterable[FloatArray]) -> list[str]:
    """Leave out what is nowhere more than a thousandth of a step, as padding without graphs."""
    top = np.zeros(len(BANDS))
    for stack in stacks:
        step = stack.sum(axis=0)
        relative = np.divide(stack, step, out=np.zeros_like(stack), where=step > 0)
        top = np.maximum(top, relative.max(axis=1, initial=0.0))
    return [name for name, share in zip(BANDS, top, strict=True) if share > 1e-3]


def _stack(axes: Axes, bands: StepBands, shown: list[str]) -> None:
    heights = bands.stack() * 1e3
    below = np.zeros(heights.shape[1])
    for name, height in zip(BANDS, heights, strict=True):
        if name in shown and height.size:
            axes.stairs(
                below + height, bands.edges_s, baseline=below, fill=True,
                color=BANDS[name][0], lw=0, label=BANDS[name][1],
            )  # fmt: skip
        below = below + height
    begin, over = bands.window_s
    for moment in (begin, over):
        if bands.edges_s[0] < moment < bands.edges_s[-1]:
            axes.axvline(moment, color=INK, lw=0.8, ls=(0, (2, 2)))
    axes.margins(x=0)
    axes.set_ylim(bottom=0)


def _label_outer(panels: Sequence[Axes], columns: int) -> None:
    for index, axes in enumerate(panels):
        lowest = index + columns >= len(panels)
        axes.tick_params(labelbottom=lowest)
        axes.set_xlabel("time (s)" if lowest else "")
        axes.set_ylabel("step (ms)" if index % columns == 0 else "")


def _entitle(axes: Axes, policy: str, bands: StepBands) -> None:
    axes.set_title(policy)
    if len(policy) <= TITLE_LETTERS:
        lost = f"{_percent(bands.share.total)} lost"
        axes.set_title(lost, loc="right", fontweight="normal", fontsize=8.5)


def _name_bands(drawn: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    drawn.legend(
        handles, labels, loc="outside upper left", ncols=len(BANDS),
        handlelength=1.1, handleheight=0.9, handletextpad=0.5, columnspacing=1.4,
    )  # fmt: skip
