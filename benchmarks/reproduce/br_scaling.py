"""[BR], scaling: throughput over the best baseline at G = 4, 8 and 16, proprietary trace.

Published: BR-0 +11 %, +11 % and +20.5 %, BR-H with an oracle +13.4 %, +21.5 % and +34.5 %.

Here: as in `br_table`, with G workers and as many requests for all G; and with the wide prompts of
`br_causes`.
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
WORKLOADS = {br.PROPRIETARY: METHODS, br.WIDE: {**br.BASELINES, **br.BR0, **br.ORACLE}}
PUBLISHED = {"BR-0": (11.0, 11.0, 20.5), "BR-H, oracle": (13.4, 21.5, 34.5)}
"""Per cent over the best baseline, by G."""


def cells(scope: Scope) -> list[Cell]:
    """Return all G."""
    return [
        cell
        for g in scope.kept(WORKERS)
        for workload, methods in WORKLOADS.items()
        for cell in br.cells(scope, workload, methods, workers=g)
    ]


def tables(rows: Sequence[Row], scope: Scope) -> dict[str, str]:
    """Return one table, G by G."""
    lines = []
    for i, g in enumerate(scope.kept(WORKERS)):
        base = best_baseline(rows, G=g, workload=br.PROPRIETARY)
        for method in ROUTERS:
            each = pick(rows, G=g, method=method, workload=br.PROPRIETARY)
            said = PUBLISHED.get(method)
            lines.append(
                [
                    str(g),
                    method,
                    "–" if said is None else f"{said[i]:+.1f} %",
                    ratio(each, base, "throughput_tok_s").gain(),
                    "–" if said is None else _gain(rows, g, method, br.WIDE).gain(),
                    over(base, "idle_rate").text(".1f", 100),
                    over(each, "idle_rate").text(".1f", 100),
                ]
            )
    header = (
        "G",
        "method",
        "published",
        "ours",
        "ours, wide prompts",
        "idle % of the best baseline",
        "of the method",
    )
    return {"br-scaling": markdown(header, lines)}


def _gain(rows: Sequence[Row], g: int, method: str, workload: str) -> Interval:
    base = best_baseline(rows, G=g, workload=workload)
    return ratio(pick(rows, G=g, method=method, workload=workload), base, "throughput_tok_s")


def picture(rows: Sequence[Row]) -> Figure:
    """Draw gains over G, published and ours on both surrogates."""
    workers = sorted({row["G"] for row in rows})
    panels = []
    for method, said in PUBLISHED.items():
        curves = [
            Curve(
                label=label,
                x=workers,
                y=[_per_cent(_gain(rows, g, method, workload)) for g in workers],
            )
            for workload, label in ((br.PROPRIETARY, "ours"), (br.WIDE, "ours, wide prompts"))
        ]
        then = [Interval(value) for value in said[: len(workers)]]
        curves.append(Curve(label="ours", x=workers, y=then, published=True))
        panels.append(
            Panel(
                title=method,
                xlabel="workers G",
                ylabel="tok/s over the best baseline, per cent",
                curves=curves,
                log="x",
            )
        )
    return sweeps(panels)


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
