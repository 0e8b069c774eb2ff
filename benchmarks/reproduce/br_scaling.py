"""[BR], scaling: throughput over the best baseline at G = 4, 8 and 16, proprietary trace.

Published: BR-0 +11 %, +11 % and +20.5 %, BR-H with an oracle +13.4 %, +21.5 % and +34.5 %.

Here: as in `br_table`, with G workers and as many requests for all G.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.reproduce import _br as br
from benchmarks.reproduce._pictures import Curve, Panel, sweeps
from benchmarks.reproduce._study import Scope, Study
from benchmarks.reproduce._tables import Interval, markdown, over, pick, ratio
from benchmarks.reproduce.br_table import best_baseline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from benchmarks.reproduce._cells import Row
    from brsolver.campaign import Cell

WORKERS = (4, 8, 16)
ROUTERS = {**br.BR0, **br.ORACLE, **br.OURS}
METHODS = {**br.BASELINES, **ROUTERS}
PUBLISHED = {"BR-0": (11.0, 11.0, 20.5), "BR-H, oracle": (13.4, 21.5, 34.5)}
"""Per cent over the best baseline, by G."""


def cells(scope: Scope) -> list[Cell]:
    """Return all G."""
    return [
        cell
        for g in scope.kept(WORKERS)
        for cell in br.cells(scope, br.PROPRIETARY, METHODS, workers=g)
    ]


def tables(rows: Sequence[Row], scope: Scope) -> dict[str, str]:
    """Return one table, G by G."""
    lines = []
    for i, g in enumerate(scope.kept(WORKERS)):
        base = best_baseline(rows, G=g)
        for method in ROUTERS:
            each = pick(rows, G=g, method=method)
            said = PUBLISHED.get(method)
            lines.append(
                [
                    str(g),
                    method,
                    "–" if said is None else f"{said[i]:+.1f} %",
                    ratio(each, base, "throughput_tok_s").gain(),
                    over(base, "idle_rate").text(".1f", 100),
                    over(each, "idle_rate").text(".1f", 100),
                ]
            )
    header = ("G", "method", "published", "ours", "idle % of the best baseline", "of the method")
    return {"br-scaling": markdown(header, lines)}


def picture(rows: Sequence[Row]) -> Figure:
    """Draw gains over G, published and ours."""
    workers = sorted({row["G"] for row in rows})
    curves = []
    for method in ROUTERS:
        gains = [
            _per_cent(
                ratio(pick(rows, G=g, method=method), best_baseline(rows, G=g), "throughput_tok_s")
            )
            for g in workers
        ]
        curves.append(Curve(label=method, x=workers, y=gains))
        if method in PUBLISHED:
            said = [Interval(value) for value in PUBLISHED[method][: len(workers)]]
            curves.append(Curve(label=f"{method}, published", x=workers, y=said, published=True))
    panel = Panel(
        title="throughput over the best baseline",
        xlabel="workers G",
        ylabel="per cent more",
        curves=curves,
        log="x",
    )
    return sweeps([panel])


def _per_cent(value: Interval) -> Interval:
    return Interval(100 * value.mean - 100, 100 * value.half)


STUDY = Study(
    name="br-scaling",
    title="[BR]: scaling over G = 4, 8, 16",
    source="[BR] arXiv:2605.06113v2, scaling of throughput with G",
    cells=cells,
    tables=tables,
    picture=picture,
)
