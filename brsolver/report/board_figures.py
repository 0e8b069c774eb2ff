"""Pictures of a board."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.ticker import LogLocator, NullLocator

from brsolver.board.standings import geometric
from brsolver.report.style import FAINT, INK, MARKERS, PALETTE, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from brsolver.board.result import Board

ROW_IN = 0.3
"""Height of a policy's row in inches."""
LEAST_PERCENT = 0.01
"""Where the logarithmic axis ends."""


def gaps(board: Board) -> Figure:
    """Draw every saturated cell's gap to the bound, a row per policy."""
    rows = [row for row in board.scored() if row["kind"] == "saturated"]
    labels = [one.label for one in board.standings]
    ways = list(dict.fromkeys(str(row["prefill"]) for row in rows))
    drawn = figure(1.4 + ROW_IN * len(labels))
    axes = drawn.add_subplot()
    for at, way in enumerate(ways):
        shift = 0.6 * ((at + 0.5) / len(ways) - 0.5)
        by_policy = {
            labels.index(label) + shift: values
            for label in labels
            if (values := _percents(rows, way, label))
        }
        _draw(axes, by_policy, way, at)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("Seconds beyond the certified lower bound of all runs, per cent")
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(ways))
    return drawn


def _percents(rows: list[dict[str, Any]], way: str, label: str) -> list[float]:
    return [
        max(LEAST_PERCENT, 100 * row["gap"])
        for row in rows
        if row["prefill"] == way and f"{row['policy']}@{row['routing']}" == label
    ]


def _draw(axes: Axes, by_policy: dict[float, list[float]], way: str, at: int) -> None:
    colour, marker = PALETTE[at % len(PALETTE)], MARKERS[at % len(MARKERS)]
    points = [(value, place) for place, values in by_policy.items() for value in values]
    axes.plot(
        *zip(*points, strict=True),
        linestyle="", marker=marker, markersize=4, color=colour, alpha=0.75, label=way,
    )  # fmt: skip
    for place, values in by_policy.items():
        mean = 100 * (geometric(1 + value / 100 for value in values) - 1)
        axes.plot([mean], [place], marker="|", markersize=11, color=INK, linestyle="")
        axes.plot([min(values), max(values)], [place] * 2, color=FAINT, linewidth=0.8, zorder=0)
