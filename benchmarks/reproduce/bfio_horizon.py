"""[BFIO], sweep over the horizon H.

Published: by ``scripts/bash_multiH.sh`` of the public code at G = 16, B = 72, 100,000 BurstGPT
requests, H of 0, 10, 20, 40, 60, 80, 120 and 200; its figure shows curves. In words: a short
horizon sees who is about to leave; one too long is spoilt by arrivals that are not known.

Here: the same G, B and H. Matched: step time, pool, order of events, power, true lengths for H > 0.
Differs: lengths (the public code's normal ones, or BurstGPT's where their file is given), 8
requests per slot instead of 87.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.reproduce import _bfio as bfio
from benchmarks.reproduce._pictures import Curve, Panel, sweeps
from benchmarks.reproduce._study import Scope, Study
from benchmarks.reproduce._tables import markdown, over, pick, ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from benchmarks.reproduce._cells import Row
    from brsolver.campaign import Cell

WORKERS, SLOTS = 16, 72
HORIZONS = (0, 10, 20, 40, 60, 80, 120, 200)


def cells(scope: Scope) -> list[Cell]:
    """Return FCFS and BF-IO of all horizons."""
    policies = {bfio.FCFS: bfio.BASELINES[bfio.FCFS]}
    policies |= {str(h): bfio.bf_io(h) for h in scope.kept(HORIZONS)}
    return list(bfio.cells(scope, WORKERS, SLOTS, policies))


def tables(rows: Sequence[Row], scope: Scope) -> dict[str, str]:
    """Return a table per workload: H by H."""
    del scope
    found = {}
    for workload in bfio.present(rows):
        of = bfio.methods(rows, workload=workload)
        lines = [[label, *bfio.columns(each, of[bfio.FCFS])] for label, each in of.items()]
        found[f"bfio-horizon-{workload}"] = markdown(("H", *bfio.HEADER), lines)
    return found


def picture(rows: Sequence[Row]) -> Figure:
    """Draw imbalance and throughput over H, normal lengths: what needs no file."""
    of = bfio.methods(rows, workload=bfio.NORMAL)
    base = of.pop(bfio.FCFS)
    horizons, label = [int(h) for h in of], bfio.NAMES[bfio.NORMAL]
    each = [pick(rows, workload=bfio.NORMAL, method=str(h)) for h in horizons]
    loads = Curve(label=label, x=horizons, y=[over(e, "avg_imbalance_sum_post") for e in each])
    rates = Curve(label=label, x=horizons, y=[ratio(e, base, "throughput_tok_s") for e in each])
    return sweeps(
        [
            Panel(title="imbalance after departures", xlabel="horizon H, steps",
                  ylabel="KV tokens, sum form", curves=[loads]),
            Panel(title="tok/s over FCFS", xlabel="horizon H, steps", ylabel="ratio",
                  curves=[rates]),
        ]
    )  # fmt: skip


STUDY = Study(
    name="bfio-horizon",
    title="[BFIO]: sweep over H, with energy",
    source="[BFIO], sweep over the horizon (bash_multiH.sh of its public code)",
    cells=cells,
    tables=tables,
    picture=picture,
)
