"""[DPR], scaling: throughput over JSQ at b = 0.5 for G = 4, 8 and 16.

Published (*The EP Barrier Tax*, "Scaling with realistic overhead"): JSQ-Load +4.3, +4.3, +2.1 %,
BR-0 +2.7, +0.5, +4.7 %, Fast-Φ +4.2, +4.2, +6.6 %. At G = 8 the same article's overhead table has
+8.2 % for JSQ-Load at the same b.

Here: as in `dpr_overhead` by steps and on a full cluster, G workers at the same utilisation and as
many requests for all G. For a single request F falls with the load of the worker, so BR-0 with
ties to the lowest load is JSQ-Load, decision by decision. The published figures of the two differ:
a variant shows what BR-0 gives whose ties go to the first worker, as [DPR] had it at first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.reproduce import _dpr as dpr
from benchmarks.reproduce._pictures import Curve, Panel, sweeps
from benchmarks.reproduce._policies import FIRST_OF_EQUAL
from benchmarks.reproduce._study import Scope, Study
from benchmarks.reproduce._tables import Interval, markdown, pick, ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from benchmarks.reproduce._cells import Row
    from brsolver.campaign import Cell

WORKERS = (4, 8, 16)
UNBROKEN = "BR-0, ties to the first worker"
METHODS = {**dpr.METHODS, UNBROKEN: FIRST_OF_EQUAL}
OVERHEAD = 0.5
PUBLISHED = {"JSQ-Load": (4.3, 4.3, 2.1), "BR-0": (2.7, 0.5, 4.7), "Fast-Φ": (4.2, 4.2, 6.6)}
"""Per cent over JSQ, by G."""
REGIMES = (dpr.STEPS, dpr.FULL)


def cells(scope: Scope) -> list[Cell]:
    """Return all G in both regimes."""
    return [
        cell
        for g in scope.kept(WORKERS)
        for regime in REGIMES
        for cell in dpr.cells(scope, regime, METHODS, workers=g)
    ]


def _gain(rows: Sequence[Row], g: int, regime: str, method: str) -> Interval:
    base = pick(rows, G=g, regime=regime, method=dpr.JSQ)
    each = pick(rows, G=g, regime=regime, method=method)
    return ratio(each, base, dpr.throughput(regime, OVERHEAD))


def tables(rows: Sequence[Row], scope: Scope) -> dict[str, str]:
    """Return one table, G by G, with how far single draws lie apart."""
    lines = []
    for i, g in enumerate(scope.kept(WORKERS)):
        for method in (*PUBLISHED, UNBROKEN):
            said = f"{PUBLISHED[method][i]:+.1f} %" if method in PUBLISHED else "–"
            ours = (_gain(rows, g, regime, method).gain() for regime in REGIMES)
            lines.append([str(g), method, said, *ours, _draws(rows, g, method)])
    header = (
        "G",
        "method",
        "published",
        "ours, by steps",
        "full cluster",
        "single draws, by steps",
    )
    return {"dpr-scaling": markdown(header, lines)}


def _draws(rows: Sequence[Row], g: int, method: str) -> str:
    of = dpr.throughput(dpr.STEPS, OVERHEAD)
    base = pick(rows, G=g, regime=dpr.STEPS, method=dpr.JSQ)
    each = pick(rows, G=g, regime=dpr.STEPS, method=method)
    gains = [100 * of(a) / of(b) - 100 for a, b in zip(each, base, strict=True)]
    return f"{min(gains):+.1f} to {max(gains):+.1f} %"


def picture(rows: Sequence[Row]) -> Figure:
    """Draw gains over G, published and ours by steps."""
    workers = sorted({row["G"] for row in rows})
    curves = []
    for method, said in PUBLISHED.items():
        gains = [_gain(rows, g, dpr.STEPS, method) for g in workers]
        own = [Interval(100 * gain.mean - 100, 100 * gain.half) for gain in gains]
        curves.append(Curve(label=method, x=workers, y=own))
        then = [Interval(value) for value in said[: len(workers)]]
        curves.append(Curve(label=method, x=workers, y=then, published=True))
    return sweeps(
        [
            Panel(
                title="throughput over JSQ, b/a = 0.5, 70 % busy, arrivals by steps",
                xlabel="workers G",
                ylabel="per cent more",
                curves=curves,
                log="x",
            )
        ]
    )


STUDY = Study(
    name="dpr-scaling",
    title="[DPR]: scaling over G = 4, 8, 16",
    source="[DPR] The EP Barrier Tax, scaling with overhead b = 0.5",
    cells=cells,
    tables=tables,
    picture=picture,
)
