"""A gap report in seconds as one HTML page that needs nothing else, with figures and JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from brsolver.report import gap_time_figures
from brsolver.report.gap_page import FIGURES
from brsolver.report.html import embed
from brsolver.report.page import draw_plans, gap_parameters, percent, render_page, write_page
from brsolver.report.write import PNG_DPI

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from brsolver.oracles.gap_time import TimeGapReport
    from brsolver.report.html import Picture
    from brsolver.report.page import Drawn

SHOWN_S = 0.005
"""Seconds from which on a part is not written as 0.00 s."""

_BEYOND = (
    "Each bar splits a run's seconds beyond the lower bound: steps beyond the least number, and "
    "what every load cost at the barrier, where all ranks wait for the slowest. A load that the "
    "slowest ranks had less of than the mean counts to the left, and so does what the bound "
    "proves that no run avoids."
)
_LEAST = (
    "Above, what the least number of steps and all work cost if every rank were always at the "
    "mean; below, what the runs took. The dotted line is the lower bound."
)


def write_time_gap(
    report: TimeGapReport,
    out_dir: str | Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write ``gap.html``, ``gap.json`` and ``gap-figures/``.

    As `brsolver.report.gap_page.write_gap`, of a report in seconds.

    Parameters
    ----------
    report : TimeGapReport
    out_dir : str or Path
    progress : callable, optional
        Called with (figures drawn, all figures).

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    OutputError
        The folder cannot be written; nothing is left behind then.
    """
    return write_page(
        out_dir,
        FIGURES,
        draw_pictures(report, dpi=PNG_DPI),
        lambda pictures: {
            "gap.json": json.dumps(report.to_dict(), indent=2, allow_nan=False),
            "gap.html": render(report, pictures),
        },
        progress,
    )


def draw_pictures(report: TimeGapReport, *, dpi: int) -> Iterator[Drawn]:
    """Draw every figure of the report; yields its number, how many there are, and itself."""
    plans: list[tuple[str, str, str, Callable[[TimeGapReport], Figure]]] = [
        ("beyond_bound", "Where the time beyond the bound went", _BEYOND,
         gap_time_figures.beyond_bound),
        ("least_time", "What the time had to be", _LEAST, gap_time_figures.least_time),
    ]  # fmt: skip
    return draw_plans(report, plans, dpi=dpi)


def render(report: TimeGapReport, pictures: Sequence[Picture]) -> str:
    """Fill the page template; pictures are embedded, nothing is fetched when it is opened."""
    return render_page(
        "gap_time.html.jinja",
        {"percent": percent, "seconds": _seconds, "part": getattr},
        report=report,
        # A column of zeros says nothing, and pushes others off the page.
        parts=[part for part in gap_time_figures.PARTS if _costs(report, part[0])],
        embedded=[embed(picture) for picture in pictures],
        parameters=list(gap_parameters(report, "bound rests on")),
    )


def _costs(report: TimeGapReport, part: str) -> bool:
    return any(abs(getattr(row.beyond, part)) >= SHOWN_S for row in report.policies)


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f} s"
