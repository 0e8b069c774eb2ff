"""[BFIO], sweep over the workers G, with energy.

Published: by ``scripts/bash_multiG.sh`` of the public code at B = 72, H = 60, 80,000 LongBench
requests, G from 16 to 256; its figure shows curves. In figures: v1, at G = 32, B = 72 and
BurstGPT lengths, BF-IO(20) beside FCFS: +14 % throughput, -13 % TPOT, -3.3 % energy. The abstract
of v2: 28 % less energy, more than 52 % at fleet scale. In words: imbalance falls by a factor that
grows with G.

Here: G from 8 to 128 at B = 72, H = 0, 20 and 60. Matched: step time, the pool of 4·G, order of
events, the public code's power ``100 + 300·(1 - idle_g)^0.7`` W. Differs: lengths (the public
code's normal ones, or BurstGPT's where their file is given), 8 requests per slot instead of a
fixed number; v1 writes of power by a model of utilisation that its code does not have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.reproduce import _bfio as bfio
from benchmarks.reproduce._study import Scope, Study
from benchmarks.reproduce._tables import markdown
from benchmarks.reproduce.bfio_slots import sweep_picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from benchmarks.reproduce._cells import Row
    from brsolver.campaign import Cell

SLOTS = 72
WORKERS = (8, 16, 32, 64, 128)
HORIZONS = (0, 20, 60)
METHODS = {**bfio.BASELINES, **{f"BF-IO, H = {h}": bfio.bf_io(h) for h in HORIZONS}}
PUBLISHED = {(32, "BF-IO, H = 20"): "v1: +14 %, -13 %, -3.3 %"}
"""Throughput, TPOT and energy beside FCFS, where figures are published."""


def cells(scope: Scope) -> list[Cell]:
    """Return all G."""
    return [cell for g in scope.kept(WORKERS) for cell in bfio.cells(scope, g, SLOTS, METHODS)]


def tables(rows: Sequence[Row], scope: Scope) -> dict[str, str]:
    """Return a table per workload: G by G."""
    found = {}
    for workload in bfio.present(rows):
        lines = []
        for g in scope.kept(WORKERS):
            of = bfio.methods(rows, workload=workload, G=g)
            for label, each in of.items():
                said = PUBLISHED.get((g, label), "–")
                times = bfio.falls(each, of[bfio.FCFS]).text(".1f")
                lines.append([str(g), label, *bfio.columns(each, of[bfio.FCFS]), f"×{times}", said])
        header = ("G", "method", *bfio.HEADER, "imbalance of FCFS over it", "published")
        found[f"bfio-workers-{workload}"] = markdown(header, lines)
    return found


def picture(rows: Sequence[Row]) -> Figure:
    """Draw imbalance, throughput and energy over G, normal lengths."""
    return sweep_picture([r for r in rows if r["workload"] == bfio.NORMAL], "G", "workers G")


STUDY = Study(
    name="bfio-workers",
    title="[BFIO]: sweep over G, with energy",
    source="[BFIO], sweep over the workers (bash_multiG.sh of its public code), abstract",
    cells=cells,
    tables=tables,
    picture=picture,
)
