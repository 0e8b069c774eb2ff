"""[BR], sensitivity of BR-H to β and γ, proprietary trace, G = 8, H = 80, oracle.

Published: throughput within 945 to 1,043 tok/s for all (β, γ) swept, 92 to 101 % of the table's
1,029. Which values were swept is not in what we have of it.

Here: as in `br_table`, and with the wide prompts of `br_causes`; β from 1 to 8·G, γ from 0.5 to 1.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from benchmarks.reproduce import _br as br
from benchmarks.reproduce._pictures import heat
from benchmarks.reproduce._study import Scope, Study
from benchmarks.reproduce._tables import markdown, over, pick, ratio
from benchmarks.reproduce.br_table import best_baseline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from benchmarks.reproduce._cells import Row
    from brsolver.campaign import Cell

BETAS = (1, 2, 4, 8, 16, 43, 64)
GAMMAS = (0.5, 0.7, 0.86, 0.95, 0.99, 1.0)
SEEDS = 4
OPERATING = (8, 0.86)
WORKLOADS = {br.PROPRIETARY: "br-sensitivity", br.WIDE: "br-sensitivity-wide"}
"""And where their tables go."""
PUBLISHED = (945, 1043, 1029)
"""Least and most tok/s of the sweep, and tok/s of the main table."""


def _name(beta: float, gamma: float) -> str:
    return f"{beta}, {gamma}"


def _grid(scope: Scope) -> list[tuple[float, float]]:
    grid = list(product(scope.kept(BETAS), scope.kept(GAMMAS)))
    return grid if OPERATING in grid else [*grid, OPERATING]


def cells(scope: Scope) -> list[Cell]:
    """Return baselines and all pairs."""
    methods = {
        _name(beta, gamma): (
            f"br-h:projection=expected,beta={beta},gamma={gamma},r_max=4,guard=false",
            "oracle",
        )
        for beta, gamma in _grid(scope)
    }
    methods = {**br.BASELINES, **methods}
    return [cell for name in WORKLOADS for cell in br.cells(scope, name, methods, seeds=SEEDS)]


def tables(rows: Sequence[Row], scope: Scope) -> dict[str, str]:
    """Return throughput over the best baseline by β and γ, and the spread beside the published."""
    return {
        place: _table([row for row in rows if row["workload"] == name], scope)
        for name, place in WORKLOADS.items()
    }


def _table(rows: Sequence[Row], scope: Scope) -> str:
    base, centre = best_baseline(rows), pick(rows, method=_name(*OPERATING))
    gammas = scope.kept(GAMMAS)
    lines = []
    for beta in scope.kept(BETAS):
        each = [pick(rows, method=_name(beta, gamma)) for gamma in gammas]
        lines.append([f"{beta}", *(ratio(e, base, "throughput_tok_s").gain() for e in each)])
    pairs = [pick(rows, method=_name(*pair)) for pair in _grid(scope)]
    beside = [ratio(each, centre, "throughput_tok_s").mean for each in pairs]
    tpot = [over(each, "tpot_p95_s").mean * 1000 for each in pairs]
    low, high, at = PUBLISHED
    spread = markdown(
        ("", "published", "ours"),
        [
            ["tok/s, least of the sweep over the table's", f"{low / at:.3f}", f"{min(beside):.3f}"],
            ["tok/s, most of the sweep over the table's", f"{high / at:.3f}", f"{max(beside):.3f}"],
            ["TPOT P95 ms", "77.3 to 79.5", f"{min(tpot):.1f} to {max(tpot):.1f}"],
        ],
    )
    grid = markdown(("β \\ γ", *(f"{gamma:g}" for gamma in gammas)), lines)
    return f"{grid}\n\n{spread}"


def picture(rows: Sequence[Row]) -> Figure:
    """Draw the gain over the best baseline as a map, with wide prompts."""
    rows = [row for row in rows if row["workload"] == br.WIDE]
    base = best_baseline(rows)
    swept = {row["method"] for row in rows}
    # The operating point may stand alone, outside the grid.
    betas = [b for b in BETAS if _name(b, GAMMAS[0]) in swept]
    gammas = [g for g in GAMMAS if _name(betas[0], g) in swept]
    values = [
        [
            100 * ratio(pick(rows, method=_name(b, g)), base, "throughput_tok_s").mean - 100
            for g in gammas
        ]
        for b in betas
    ]
    return heat(
        values,
        rows=[str(b) for b in betas],
        columns=[f"{g:g}" for g in gammas],
        ylabel="weight of overflow β",
        xlabel="discount γ",
        title="BR-H with an oracle, wide prompts: throughput over the best baseline, per cent",
    )


STUDY = Study(
    name="br-sensitivity",
    title="[BR]: sensitivity to β and γ",
    source="[BR] arXiv:2605.06113v2, sensitivity at H = 80",
    cells=cells,
    tables=tables,
    picture=picture,
)
