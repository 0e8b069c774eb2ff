"""[BFIO], sweep over the batch B: what balance is worth as workers hold more requests.

Published: by ``scripts/bash_multiB.sh`` of the public code at G = 256, H = 140, 80,000 LongBench
requests, FCFS, JSQ and BF-IO; its figure shows curves. In words: imbalance falls by a factor that
grows at least as the square root of B (Theorem 2, for H = 0).

Here: G = 16, B from 18 to 288, H = 0, 20 and 140. Matched: step time (its constant part grows with
B), the pool of 4·G, order of events, power. Differs: lengths (the public code's normal ones, or
BurstGPT's where their file is given; LongBench's are not), G, and 8 requests per slot instead of
a fixed number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.reproduce import _bfio as bfio
from benchmarks.reproduce._pictures import Curve, Panel, sweeps
from benchmarks.reproduce._study import Scope, Study
from benchmarks.reproduce._tables import markdown, over, pick, ratio
from benchmarks.studies.growth import slope

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.figure import Figure

    from benchmarks.reproduce._cells import Row
    from benchmarks.reproduce._tables import Interval
    from brsolver.campaign import Cell

WORKERS = 16
SLOTS = (18, 36, 72, 144, 288)
HORIZONS = (0, 20, 140)
METHODS = {**bfio.BASELINES, **{f"BF-IO, H = {h}": bfio.bf_io(h) for h in HORIZONS}}


def cells(scope: Scope) -> list[Cell]:
    """Return all B."""
    return [cell for b in scope.kept(SLOTS) for cell in bfio.cells(scope, WORKERS, b, METHODS)]


def tables(rows: Sequence[Row], scope: Scope) -> dict[str, str]:
    """Return a table per workload: B by B, and how fast the fall of imbalance grows."""
    found = {}
    for workload in bfio.present(rows):
        slots = scope.kept(SLOTS)
        lines = []
        for b in slots:
            of = bfio.methods(rows, workload=workload, B=b)
            for label, each in of.items():
                times = bfio.falls(each, of[bfio.FCFS]).text(".1f")
                lines.append([str(b), label, *bfio.columns(each, of[bfio.FCFS]), f"×{times}"])
        table = markdown(("B", "method", *bfio.HEADER, "imbalance of FCFS over it"), lines)
        grows = ", ".join(
            f"{label} B^{_exponent(rows, workload, label, slots):.2f}"
            for label in METHODS
            if label != bfio.FCFS
        )
        found[f"bfio-slots-{workload}"] = f"{table}\n\nThe last column grows as: {grows}."
    return found


def _exponent(rows: Sequence[Row], workload: str, label: str, slots: Sequence[int]) -> float:
    falls = [
        bfio.falls(
            pick(rows, workload=workload, B=b, method=label),
            pick(rows, workload=workload, B=b, method=bfio.FCFS),
        ).mean
        for b in slots
    ]
    return slope(slots, falls)


def picture(rows: Sequence[Row]) -> Figure:
    """Draw imbalance, throughput and energy over B, normal lengths."""
    return sweep_picture([r for r in rows if r["workload"] == bfio.NORMAL], "B", "slots B")


def sweep_picture(rows: Sequence[Row], name: str, xlabel: str) -> Figure:
    """Draw imbalance, throughput and energy over a swept parameter."""
    values = sorted({row[name] for row in rows})
    labels = list(dict.fromkeys(row["method"] for row in rows))

    def curves(of: Callable[[list[Row], list[Row]], Interval]) -> list[Curve]:
        return [
            Curve(label=label, x=values, y=[of(pick(rows, method=label, **{name: v}),
                  pick(rows, method=bfio.FCFS, **{name: v})) for v in values])
            for label in labels
        ]  # fmt: skip

    return sweeps(
        [
            Panel(
                title="imbalance after departures", xlabel=xlabel, ylabel="KV tokens, sum form",
                curves=curves(lambda each, _: over(each, "avg_imbalance_sum_post")), log="xy",
            ),
            Panel(
                title="tok/s over FCFS", xlabel=xlabel, ylabel="ratio",
                curves=curves(lambda each, base: ratio(each, base, "throughput_tok_s")), log="x",
            ),
            Panel(
                title="energy per token over FCFS", xlabel=xlabel, ylabel="ratio",
                curves=curves(lambda each, base: ratio(each, base, bfio.joules)), log="x",
            ),
        ]
    )  # fmt: skip


STUDY = Study(
    name="bfio-slots",
    title="[BFIO]: sweep over B, with energy",
    source="[BFIO], sweep over the batch (bash_multiB.sh of its public code)",
    cells=cells,
    tables=tables,
    picture=picture,
)
