"""An explanation as one page that needs nothing else: words, numbers, one picture."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from brsolver.report.html import embed
from brsolver.report.page import draw_plans, render_page, write_page
from brsolver.report.parameters import parameter_rows
from brsolver.report.style import INK, figure
from brsolver.report.write import PNG_DPI
from brsolver.results.plain import finite_only

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from matplotlib.figure import Figure

    from brsolver.oracles.explain import Explanation
    from brsolver.report.html import Picture
    from brsolver.report.page import Drawn

FIGURES = "explain-figures"
PROOF = "Its dark part no policy could have avoided, by proof. "
NO_PROOF = "What of it no policy could have avoided is not proven here. "
READING = (
    "Each bar below is what the run would have saved without that one thing, measured by running "
    "it so; they overlap, so they need not add up to what better routing could save. A bar to the "
    "left of the line is a thing that helped."
)
PROVEN, AVOIDABLE, CAUSE = "#0072B2", "#A8CBE3", "#D55E00"
_BAR_IN = 0.34


def write_explanation(found: Explanation, out_dir: str | Path) -> Path:
    """Write ``explain.html``, ``explain.json`` and the picture into a folder.

    Files of these names are replaced, all others stay.

    Raises
    ------
    OutputError
        The folder cannot be written; nothing is left behind then.
    """
    return write_page(
        out_dir, FIGURES, draw_explanation(found), lambda drawn: _texts(found, *drawn)
    )


def _texts(found: Explanation, picture: Picture) -> dict[str, str]:
    facts = finite_only(found.to_dict())
    return {
        "explain.json": json.dumps(facts, indent=2, allow_nan=False, default=str),
        "explain.html": render_explanation(found, picture),
    }


def draw_explanation(found: Explanation) -> Iterator[Drawn]:
    """Draw the picture."""
    proof = NO_PROOF if found.unavoidable_s is None else PROOF
    reading = f"The whole bar is the time of all steps. {proof}{READING}"
    return draw_plans(found, [("time", "Where the time goes", reading, bars)], dpi=PNG_DPI)


def bars(found: Explanation) -> Figure:
    """Draw the run's time, what of it is proven unavoidable, and each cause; inside `styled`."""
    causes = found.present
    drawn = figure(1.1 + _BAR_IN * (len(causes) + 1))
    axes = drawn.subplots()
    labels = [found.policy, *(cause.label for cause in causes)]
    rows = list(range(len(labels)))
    proven = found.unavoidable_s or 0.0
    axes.barh(0, proven, color=PROVEN, height=0.62)
    axes.barh(0, found.seconds - proven, left=proven, color=AVOIDABLE, height=0.62)
    for row, cause in enumerate(causes, start=1):
        seconds = cause.seconds or 0.0
        axes.barh(row, seconds, color=CAUSE, height=0.62)
        text = f" {seconds:,.1f} s ({cause.share or 0.0:.1%})"
        axes.text(max(seconds, 0.0), row, text, va="center", ha="left", color=INK, fontsize=9)
    if proven:
        share = proven / found.seconds
        text = f"unavoidable: {proven:,.1f} s ({share:.0%})"
        axes.text(proven / 2, 0, text, va="center", ha="center", color="white", fontsize=9)
    axes.text(found.seconds, 0, f" {found.seconds:,.1f} s", va="center", color=INK, fontsize=9)
    axes.set_yticks(rows, labels)
    axes.invert_yaxis()
    axes.axvline(0, color=INK, lw=0.8)
    lowest = min([0.0, *(cause.seconds or 0.0 for cause in causes)])
    axes.set_xlim(1.15 * lowest, 1.22 * found.seconds)
    axes.set_xlabel("time of all steps (s)")
    axes.grid(visible=False, axis="y")
    return drawn


def render_explanation(found: Explanation, picture: Picture) -> str:
    """Fill the page template; nothing is fetched when it is opened."""
    return render_page(
        "explain.html.jinja",
        found=found,
        words=found.words(),
        picture=embed(picture),
        parameters=[(row.label, row.value) for row in parameter_rows(found.result.params)],
    )
