"""Pictures of what came out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.studies.plan import POLICIES
from brsolver.report.style import MARKERS, figure, line_style, styled

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes

    from benchmarks.studies.tables import Results

_PANELS = (
    ("imbalance", "Imbalance, KV tokens", 1.0, "log"),
    ("lost_share", "Time lost at the barrier, %", 100.0, "linear"),
    ("gain", "Tokens per second over vLLM's rule, %", 100.0, "linear"),
    ("decision_us_p50", "Decision, ms: P50, and P99 (faint)", 1e-3, "log"),
)


def draw_growth(results: Results, setting: Mapping[str, Any], path: Path) -> None:
    """Draw how four figures grow with the number of workers, into a PNG file.

    Parameters
    ----------
    results : Results
    setting : mapping
        One of `Results.settings`.
    path : Path
    """
    sizes = results.sizes(**setting)
    with styled():
        drawing = figure(6.0)
        for at, (name, title, unit, scale) in enumerate(_PANELS):
            axes = drawing.add_subplot(2, 2, at + 1)
            for row, policy in enumerate(POLICIES[setting["prefill"]]):
                _draw(axes, results, {**setting, "policy": policy}, (name, unit), row)
            axes.set_title(title)
            axes.set_xscale("log", base=2)
            axes.set_yscale(scale)
            axes.set_xticks(sizes, [f"{g:,}" for g in sizes])
            axes.minorticks_off()
        for axes in drawing.axes[2:]:
            axes.set_xlabel("workers G")
        drawing.axes[0].legend()
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing.savefig(path, dpi=110)


def _draw(
    axes: Axes, results: Results, what: Mapping[str, Any], figure_of: tuple[str, float], row: int
) -> None:
    name, unit = figure_of
    sizes, (colour, dash) = results.sizes(**what), line_style(row)

    def line(figure_name: str) -> list[float]:
        return [unit * results.mean(figure_name, **what, workers=g) for g in sizes]

    look = {"color": colour, "marker": MARKERS[row], "markersize": 4.0}
    axes.plot(sizes, line(name), linestyle=dash, label=what["policy"], **look)
    if name == "decision_us_p50":
        axes.plot(sizes, line("decision_us_p99"), linestyle=":", alpha=0.6, **look)
