"""What it would buy if running requests moved, and what counting ends does for old information."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from benchmarks._table import show
from brsolver import SimulationParams, load_trace, simulate
from brsolver.hardware.model import step_time_of
from brsolver.simulator import Arrivals, Migration, Staleness

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brsolver import SimulationResult, Trace

SLOTS = 64
SETTINGS = (
    ("bfio", 8, 0),
    ("bfio", 16, 0),
    ("minimax-m2.7-h200-dp4", 8, 0),
    ("minimax-m2.7-h200-dp4", 8, "auto"),
)
"""Step time, workers, and what a request weighs besides its KV tokens."""
MOVES = (
    "trace", "steps", "G", "weight", "policy", "every", "moves", "steady idle %", "time lost %",
    "TPOT P50 ms", "moved", "tokens each",
)  # fmt: skip
STALE = ("trace", "routing", "information", "steady idle %", "time lost %", "TPOT P50 ms")
AGES = {
    "fresh": Staleness(),
    "100 ms old": Staleness(ms=100, mode="periodic"),
    "and placements": Staleness(ms=100, mode="periodic", local_correction=True),
    "and ends": Staleness(ms=100, mode="periodic", local_correction=True, local_departures=True),
}


def main(paths: list[str]) -> None:
    """Print both tables for ``chat`` and the files given."""
    traces = ["chat", *paths]
    rows = [row for path in traces for row in moves(path)]
    show("Running requests that move, utilisation 0.7", MOVES, rows)
    rows = [row for path in traces for row in stale(path)]
    show("Old loads, jsq-load, G = 16, utilisation 0.7, bfio", STALE, rows)


def moves(path: str) -> Iterator[tuple[object, ...]]:
    """Yield a row for every setting, policy, cadence and price."""
    for (name, workers, weight), policy in product(SETTINGS, ("jsq-load", "br-h")):
        params = SimulationParams(
            workers=workers,
            slots=SLOTS,
            arrivals=Arrivals(mode="utilization", utilization=0.7),
            step_time=step_time_of(name),
            request_tokens=weight,  # type: ignore[arg-type] # a number, or the text "auto"
        )
        for every, price in ((0, ""), *product((16, 4, 1), ("free", "paid"))):
            moved = (
                Migration(every=every) if price == "paid" else Migration(every=every, kv_bytes=0)
            )
            result = simulate(_trace(path, workers), policy, replace(params, migration=moved))
            m = result.metrics
            each = m.migrated_tokens / max(m.migrations, 1)
            setting = path, name, workers, weight, policy, every, price
            yield *setting, *_figures(result), m.migrations, f"{each:,.0f}"


def stale(path: str) -> Iterator[tuple[object, ...]]:
    """Yield a row for either routing and every correction."""
    for routing, (age, staleness) in product(("pooled", "immediate"), AGES.items()):
        params = SimulationParams(
            workers=16,
            slots=SLOTS,
            routing=routing,  # type: ignore[arg-type] # one of the two
            arrivals=Arrivals(mode="utilization", utilization=0.7),
            step_time=step_time_of("bfio"),
            staleness=staleness,
        )
        result = simulate(_trace(path, 16), "jsq-load", params)
        yield path, routing, age, *_figures(result)


def _trace(path: str, workers: int) -> Trace:
    if path == "chat":
        return load_trace(f"preset:chat:n={20 * SLOTS * workers}")
    return load_trace(path)


def _figures(result: SimulationResult) -> tuple[str, str, str]:
    m = result.metrics
    lost, tpot = 100 * m.time_lost_share, 1e3 * m.tpot_p50_s
    return f"{100 * steady_idle(result):.2f}", f"{lost:.2f}", f"{tpot:.2f}"


def steady_idle(result: SimulationResult) -> float:
    """Return the share of barrier load lost between the 25th and 90th percentile of admissions."""
    first, end = np.percentile(result.requests.start_step, [25, 90]).astype(int)
    steps, window = result.steps, slice(first, end)
    room = (steps.alive * steps.load_max)[window]
    return float(np.mean((room - steps.load_sum[window]) / room))


if __name__ == "__main__":
    main(sys.argv[1:])
