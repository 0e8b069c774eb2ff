"""What tuning came to as one HTML page that needs nothing else, with figures and JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from brsolver.report import tune_figures
from brsolver.report.html import embed
from brsolver.report.page import draw_plans, percent, render_page, write_page
from brsolver.report.parameters import parameter_rows
from brsolver.report.write import PNG_DPI
from brsolver.results.plain import finite_only
from brsolver.tuning import failures_told, sentences, start_line
from brsolver.tuning.flags import looking_on_line
from brsolver.tuning.study import CALLED
from brsolver.tuning.write import FILE, tuned_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from brsolver.report.html import Picture
    from brsolver.report.page import Drawn
    from brsolver.tuning import Tried, TuneResult

FIGURES = "tune-figures"
SHOWN = 200
"""Trials in the page's table at most: the best of those in full, then what failed."""

_HISTORY = (
    "Each mark is a trial, coloured by policy. Those that fell behind on a prefix of the trace "
    "were given up there, and their value is of that prefix; the line is the best of those in full."
)
_IMPORTANCE = (
    "What the best trials have in common that the others have not, of all parameters that were "
    "searched, those of single policies included."
)
_FRONTS = (
    "Trials in full. Above and to the left is better; the grey line joins those that no other "
    "beats in both figures. It is for whoever wants another compromise than the goal's."
)


def write_tune(
    result: TuneResult,
    out_dir: str | Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write ``tune.html``, ``tune.json`` and ``tune-figures/``.

    Parameters
    ----------
    result : TuneResult
    out_dir : str or Path
        Files of the same names in it are replaced, all others stay.
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
    facts = finite_only(result.to_dict())
    return write_page(
        out_dir,
        FIGURES,
        draw_pictures(result, dpi=PNG_DPI),
        lambda pictures: {
            "tune.json": json.dumps(facts, indent=2, allow_nan=False, default=str),
            "tune.html": render(result, pictures),
        },
        progress,
    )


def draw_pictures(result: TuneResult, *, dpi: int) -> Iterator[Drawn]:
    """Draw every figure of the report; yields its number, how many there are, and itself."""
    plans: list[tuple[str, str, str, Callable[[TuneResult], Figure]]] = []
    if any(each.value is not None for each in result.tried):
        plans.append(("history", "What was tried", _HISTORY, tune_figures.history))
    if result.importance:
        plans.append(("importance", "What mattered", _IMPORTANCE, tune_figures.importance))
    if any(each.state == "complete" for each in result.tried):
        title = "Throughput against times to the first token and per token"
        plans.append(("fronts", title, _FRONTS, tune_figures.fronts))
    return draw_plans(result, plans, dpi=dpi)


def render(result: TuneResult, pictures: Sequence[Picture]) -> str:
    """Fill the page template; pictures are embedded, nothing is fetched when it is opened."""
    chosen, same = result.chosen, _same(result.tried)
    return render_page(
        "tune.html.jinja",
        {"percent": percent, "figure": _figure},
        result=result,
        called=CALLED,
        summary=sentences(result),
        failures=failures_told(result),
        line=None if chosen is None else start_line(chosen, FILE),
        watched=None if chosen is None else looking_on_line(chosen, FILE),
        file=None if chosen is None else tuned_text(result),
        trials=_shown(result, same.keys()),
        same=_listed(same),
        embedded=[embed(picture) for picture in pictures],
        searched=[(each.name, str(each), str(each.default)) for each in result.dimensions],
        parameters=[(row.label, row.value) for row in parameter_rows(result.base)],
    )


def _same(tried: Sequence[Tried]) -> dict[str, Any]:
    """Return the settings that all trials had alike, which need not stand with each."""
    if not tried:
        return {}
    first = tried[0].settings
    return {
        name: value
        for name, value in first.items()
        if name != "policy" and all(each.settings.get(name) == value for each in tried)
    }


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def _shown(result: TuneResult, same: Collection[str]) -> list[dict[str, Any]]:
    """Return the trials of the table, best first."""
    whole = [each for each in result.tried if each.state == "complete"]
    whole.sort(key=lambda each: each.value or 0.0, reverse=result.goal.maximise)
    failed = list(result.failures)
    cut = [each for each in result.tried if each.state == "pruned"]
    return [_row(each, same) for each in (*whole, *failed, *cut)[:SHOWN]]


def _row(tried: Tried, same: Collection[str]) -> dict[str, Any]:
    own = {k: v for k, v in tried.settings.items() if k != "policy" and k not in same}
    return {
        "number": tried.number,
        "role": tried.role,
        "state": tried.state,
        "policy": tried.policy,
        "settings": _listed(own),
        "value": tried.value,
        "requests": tried.requests,
        "figures": tried.figures,
        "reason": tried.reason,
    }


def _figure(value: float | None, factor: float = 1.0, digits: int = 0) -> str:
    return "–" if value is None else f"{factor * value:,.{digits}f}"
