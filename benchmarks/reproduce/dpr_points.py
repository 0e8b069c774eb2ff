"""[DPR], points K of Fast-Φ: mean imbalance for K = 1, 3, 5, 10 and all steps.

Published (*The EP Barrier Tax*, "Why K=5?"), G = 8, 5,000 ShareGPT requests, b = 0.5, about 70 %
utilisation, KV tokens of ``max_g L_g - min_g L_g``: 49,450, 49,060, 42,137, 50,284 and 43,023, as
9 and 8 % worse, 7 % better, 11 % worse and 5 % better than BR-0, whose 45,300 follow from that.

Here: as in `dpr_overhead`, by steps. K = 1 looks at current loads only and is JSQ-Load, to the
bit: the least overflow is where the margin is largest. All steps are `phi`. A variant shows BR-0
whose ties go to the first worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.reproduce import _dpr as dpr
from benchmarks.reproduce._pictures import Beside, beside
from benchmarks.reproduce._policies import FIRST_OF_EQUAL
from benchmarks.reproduce._study import Scope, Study
from benchmarks.reproduce._tables import markdown, over, pick, published, ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from benchmarks.reproduce._cells import Row
    from brsolver.campaign import Cell

BR0 = "BR-0"
UNBROKEN = "BR-0, ties to the first worker"
METHODS = {
    "K = 1": "jsq-load",
    "K = 3": "fast-phi:k=3",
    "K = 5": "fast-phi:k=5",
    "K = 10": "fast-phi:k=10",
    "all steps": "phi",
    BR0: "br-0:guard=false",
    UNBROKEN: FIRST_OF_EQUAL,
}
PUBLISHED = {
    "K = 1": 49_450, "K = 3": 49_060, "K = 5": 42_137, "K = 10": 50_284, "all steps": 43_023,
    BR0: 45_300,
}  # fmt: skip
FIGURE = "avg_imbalance_range"


def cells(scope: Scope) -> list[Cell]:
    """Return all K, by steps and on a full cluster."""
    return [cell for regime in (dpr.STEPS, dpr.FULL) for cell in dpr.cells(scope, regime, METHODS)]


def tables(rows: Sequence[Row], scope: Scope) -> dict[str, str]:
    """Return one table, with how far single draws lie apart."""
    del scope
    base = pick(rows, regime=dpr.STEPS, method=BR0)
    lines = []
    for method in METHODS:
        said = PUBLISHED.get(method)
        each = pick(rows, regime=dpr.STEPS, method=method)
        full = pick(rows, regime=dpr.FULL, method=method)
        draws = [row[FIGURE] / of[FIGURE] for row, of in zip(each, base, strict=True)]
        lines.append(
            [
                method,
                published(said),
                "–" if said is None else f"{100 * said / PUBLISHED[BR0] - 100:+.0f} %",
                over(each, FIGURE).text(),
                ratio(each, base, FIGURE).gain(),
                f"{100 * min(draws) - 100:+.0f} to {100 * max(draws) - 100:+.0f} %",
                over(full, FIGURE).text(),
            ]
        )
    header = (
        "", "published", "over BR-0", "ours, by steps", "over BR-0", "single draws", "full cluster"
    )  # fmt: skip
    return {"dpr-points": markdown(header, lines)}


def picture(rows: Sequence[Row]) -> Figure:
    """Draw imbalances, published and ours."""
    rows_of = {method: pick(rows, regime=dpr.STEPS, method=method) for method in METHODS}
    marks = [
        Beside(label=method, ours=over(rows_of[method], FIGURE), published=PUBLISHED.get(method))
        for method in METHODS
    ]
    return beside({"70 % busy, arrivals by steps": marks}, "imbalance, range form, KV tokens")


STUDY = Study(
    name="dpr-points",
    title="[DPR]: points K of Fast-Φ",
    source="[DPR] The EP Barrier Tax, Why K=5?",
    cells=cells,
    tables=tables,
    picture=picture,
)
