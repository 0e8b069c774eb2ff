"""A gap report as one HTML page that needs nothing else, with figures, JSON and worst states."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brsolver.report import gap_figures
from brsolver.report.html import embed, slug
from brsolver.report.page import draw_plans, gap_parameters, percent, render_page, write_page
from brsolver.report.write import PNG_DPI

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from brsolver.oracles.gap import GapReport, PolicyGap
    from brsolver.report.html import Picture
    from brsolver.report.page import Drawn

FIGURES = "gap-figures"
"""Beside ``figures``, so that both reports fit into one folder."""

_STATUS = {
    "optimal": "The best run is known and proven: nothing can cost less.",
    "feasible": "The best run lies between the lower bound and the best known.",
    "bound": "Only a lower bound is known; no run that it holds for is.",
    "infeasible": "It is proven that there is no such run.",
    "limit": "The budget ended before anything was known.",
}
_CURVE = (
    "The best run found so far and the certified lower bound, over the time that the oracle took: "
    "the optimum lies in the shaded band, and a band that has closed proves it."
)
_EXCESS = (
    "Each line adds up how far the heaviest load M(k) was above the smallest possible one, given "
    "which requests were active at that step. Where a line rises steeply, routing lost most (or "
    "the bound is weakest); where it is flat, every step was as good as any routing could make "
    "it. The tick and the diamond on a line mark the end of its fill and the start of its drain. "
    "In brackets, the whole distance as a part of the bound."
)
_PHASES = (
    "The same distances by phase. Fill is until the slots are first full, steady from then to the "
    "last admission, drain whatever comes after it, when nothing is left to route. Left, as parts "
    "of the whole bound, adding up to the gap; right, of the phase's own bound."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstState:
    """A decision of large regret, as it is saved.

    Attributes
    ----------
    policy, objective : str
    name : str
        Its file.
    state : dict
        What `brsolver.oracles.step.StepInstance.load` reads, and the decision taken.
    """

    policy: str
    objective: str
    name: str
    state: dict[str, Any]


def write_gap(
    report: GapReport,
    out_dir: str | Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write ``gap.html``, ``gap.json``, ``gap-figures/`` and the worst states of the step oracle.

    Everything is written to a temporary folder beside its destination first and moved into
    place when it is complete. Files of these names in `out_dir` are replaced; all others there,
    in ``gap-figures/`` too, stay.

    Parameters
    ----------
    report : GapReport
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
            **{worst.name: json.dumps(worst.state) for worst in worst_states(report)},
            "gap.json": json.dumps(report.to_dict(), indent=2, allow_nan=False),
            "gap.html": render_gap(report, pictures),
        },
        progress,
    )


def worst_states(report: GapReport) -> list[WorstState]:
    """Return the worst decision of each policy by each objective; empty without the step oracle."""
    found: list[WorstState] = []
    names: set[str] = set()
    for row in report.policies:
        for objective, figures in _regrets(row):
            if figures["worst_state"] is None:
                continue
            name = stem = f"worst-{slug(row.policy)}-{objective}"
            # Specifications that differ in a sign only would share a name.
            number = 2
            while name in names:
                name, number = f"{stem}-{number}", number + 1
            names.add(name)
            found.append(
                WorstState(
                    policy=row.policy,
                    objective=objective,
                    name=f"{name}.json",
                    state=figures["worst_state"],
                )
            )
    return found


def _regrets(row: PolicyGap) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, figures in row.regret.items():
        if isinstance(figures, dict):
            yield name, figures


def draw_pictures(report: GapReport, *, dpi: int) -> Iterator[Drawn]:
    """Draw every figure of the report; yields its number, how many there are, and itself."""
    plans: list[tuple[str, str, str, Callable[[GapReport], Figure]]] = [
        ("excess", "Where in the run the gap arises", _EXCESS, gap_figures.excess_along_run),
        ("gap_by_phase", "Gap by phase", _PHASES, gap_figures.gap_by_phase),
    ]
    if report.curve:
        plans.insert(0, ("anytime", "What was known when", _CURVE, gap_figures.anytime_curve))
    return draw_plans(report, plans, dpi=dpi)


def render_gap(report: GapReport, pictures: Sequence[Picture]) -> str:
    """Fill the page template; pictures are embedded, nothing is fetched when it is opened."""
    return render_page(
        "gap.html.jinja",
        {"percent": percent, "tokens": _tokens},
        report=report,
        status=_STATUS.get(report.status.value, report.status.value),
        known_gap=_known_gap(report),
        embedded=[embed(picture) for picture in pictures],
        regrets=_regret_rows(report),
        parameters=list(gap_parameters(report, "bound vouched for by")),
    )


def _known_gap(report: GapReport) -> float | None:
    if not report.lower_bound or report.best_known is None:
        return None
    return report.best_known / report.lower_bound - 1.0


def _regret_rows(report: GapReport) -> list[dict[str, Any]]:
    names = {(worst.policy, worst.objective): worst.name for worst in worst_states(report)}
    return [
        {
            "policy": row.policy,
            "objective": objective,
            "examined": row.regret["examined"],
            "decisions": row.regret["decisions"],
            "horizon": row.regret["horizon"],
            **{name: figures[name] for name in ("mean", "p95", "worst", "at_least", "proven")},
            "file": names.get((row.policy, objective), ""),
        }
        for row in report.policies
        for objective, figures in _regrets(row)
    ]


def _tokens(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
