"""[DPR], overhead table: throughput over JSQ as the shared part b of a step grows.

Published (*The EP Barrier Tax*, "Realistic simulation with MoE overhead model"), b = 0, 0.3, 0.5
and 1.0: JSQ-Load +12.0, +9.4, +8.2 and +6.2 %, Fast-Φ +5.5, +4.4, +3.8 and +3.0 %.

Here: `preset:chat` cut at 1,024 output tokens for ShareGPT, 128 slots per worker, G = 8, 5,000
requests, 70 % utilisation by steps and by seconds, and a full cluster (see `_dpr`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.reproduce import _dpr as dpr
from benchmarks.reproduce._pictures import Curve, Panel, sweeps
from benchmarks.reproduce._study import Scope, Study
from benchmarks.reproduce._tables import Interval, markdown, over, pick, ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from benchmarks.reproduce._cells import Row
    from brsolver.campaign import Cell

OVERHEADS = (0.0, 0.3, 0.5, 1.0)
PUBLISHED = {"JSQ-Load": (12.0, 9.4, 8.2, 6.2), "Fast-Φ": (5.5, 4.4, 3.8, 3.0)}
"""Per cent over JSQ, by b."""
REGIMES = (dpr.STEPS, dpr.SECONDS, dpr.FULL)


def cells(scope: Scope) -> list[Cell]:
    """Return all regimes; by seconds, all b."""
    found = [c for regime in (dpr.STEPS, dpr.FULL) for c in dpr.cells(scope, regime, dpr.METHODS)]
    for overhead in OVERHEADS:
        found += dpr.cells(scope, dpr.SECONDS, dpr.METHODS, overhead=overhead)
    return found


def gain(rows: Sequence[Row], method: str, regime: str, overhead: float) -> Interval:
    """Return throughput over JSQ's, draw by draw."""
    key = {"overhead": overhead} if regime == dpr.SECONDS else {}
    each = pick(rows, regime=regime, method=method, **key)
    base = pick(rows, regime=regime, method=dpr.JSQ, **key)
    return ratio(each, base, dpr.throughput(regime, overhead))


def implied(gains: Sequence[float]) -> tuple[float, float, float]:
    """Return the envelopes over the mean that gains by b imply, and the largest misfit.

    A gain g at b says ``(J + b) = (1 + g)·(X + b)``, J and X being the sums over steps of the
    fullest worker's load under JSQ and under the method, over that of the mean load, which no
    policy changes. Four gains say more than two unknowns need.
    """
    b, g = np.array(OVERHEADS), np.array(gains) / 100
    matrix = np.stack([np.ones_like(g), -(1 + g)], axis=1)
    (jsq, method), *_ = np.linalg.lstsq(matrix, g * b, rcond=None)
    misfit = np.abs((jsq + b) / (method + b) - 1 - g).max()
    return float(jsq), float(method), 100 * float(misfit)


def tables(rows: Sequence[Row], scope: Scope) -> dict[str, str]:
    """Return gains by b, and the envelopes behind them."""
    del scope
    lines = []
    for method in (*PUBLISHED, "BR-0"):
        for i, overhead in enumerate(OVERHEADS):
            said = PUBLISHED.get(method)
            ours = (gain(rows, method, regime, overhead).gain() for regime in REGIMES)
            lines.append(
                [method, f"{overhead:g}", "–" if said is None else f"{said[i]:+.1f} %", *ours]
            )
    header = ("method", "b", "published", "ours, by steps", "by seconds", "full cluster")
    return {"dpr-overhead": markdown(header, lines), "dpr-envelope": _envelopes(rows)}


def _envelopes(rows: Sequence[Row]) -> str:
    lines = []
    for method, said in PUBLISHED.items():
        jsq, own, misfit = implied(said)
        ours = [
            over(pick(rows, regime=dpr.STEPS, method=name), dpr.envelope).text(".3f")
            for name in (dpr.JSQ, method)
        ]
        lines.append(
            [f"JSQ, {method}", f"{jsq:.3f}, {own:.3f}", f"{misfit:.2f} points", ", ".join(ours)]
        )
    return markdown(("methods", "implied by the published gains", "misfit", "ours"), lines)


def picture(rows: Sequence[Row]) -> Figure:
    """Draw gains over b, published and ours by steps and on a full cluster."""
    panels = []
    for regime in (dpr.STEPS, dpr.FULL):
        curves = []
        for method in (*PUBLISHED, "BR-0"):
            gains = [_per_cent(gain(rows, method, regime, b)) for b in OVERHEADS]
            curves.append(Curve(label=method, x=OVERHEADS, y=gains))
            if method in PUBLISHED:
                said = [Interval(value) for value in PUBLISHED[method]]
                curves.append(Curve(label=method, x=OVERHEADS, y=said, published=True))
        panels.append(
            Panel(title=_TITLES[regime], xlabel="b/a", ylabel="per cent over JSQ", curves=curves)
        )
    return sweeps(panels)


_TITLES = {dpr.STEPS: "70 % busy, arrivals by steps", dpr.FULL: "full cluster"}


def _per_cent(value: Interval) -> Interval:
    return Interval(100 * value.mean - 100, 100 * value.half)


STUDY = Study(
    name="dpr-overhead",
    title="[DPR]: overhead table",
    source="[DPR] The EP Barrier Tax, simulation with MoE overhead",
    cells=cells,
    tables=tables,
    picture=picture,
)
