"""BR-T beside what engines do: throughput, times, promises kept, gaps, ablations: docs/br-t.md.

Run ``python -m benchmarks.bench_waves [FILE ...] [--parts PART,...] [--out FILE.json]``. Every
trace is routed on every hardware with prefill on the decode ranks. *throughput*: the pool is kept
filled, with as many requests as there are slots, and with 4·G; a trace too short for
`--generations` of requests in every slot begins again. *arrivals* and *goodput*: at shares of what
vLLM's rule does so, *goodput* beside the engines' delayers over grids of their constants.
*ablations*: BR-T with one thing changed at a time. ``--read FILE.json`` prints
the tables of rows measured before.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import _waves_tables as tables
from benchmarks._waves_ablations import ablations
from benchmarks._waves_cells import HARDWARE, Cell
from benchmarks._waves_measures import by_arrivals, goodput, throughput
from brsolver import load_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks._waves_measures import Row
    from brsolver import Trace

PRESETS = ("proprietary-like", "chat")
PARTS: dict[str, Callable[[Sequence[Row]], None]] = {
    "throughput": tables.show_throughput,
    "arrivals": tables.show_arrivals,
    "goodput": tables.show_goodput,
    "ablations": tables.show_ablations,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write rows and print tables; arguments None are those of the command line."""
    options = _options(arguments)
    rows: list[Row] = []
    for path in options.read:
        rows += json.loads(Path(path).read_text(encoding="utf-8"))
    if not options.read:
        sources = (*options.traces, *(f"preset:{name}" for name in _listed(options.presets)))
        traces = [load_trace(source) for source in sources]
        rows = [row for part in _listed(options.parts) for row in _measured(part, traces, options)]
    if options.out:
        Path(options.out).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    for part, show in PARTS.items():
        found = [row for row in rows if row["part"] == part]
        if found:
            show(found)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="*")
    parser.add_argument("--presets", default=",".join(PRESETS), help="or none")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--hardware", default=",".join(HARDWARE))
    parser.add_argument("--workers", default="8")
    parser.add_argument("--slots", default="64,256")
    parser.add_argument("--budget", default="2048,8192", help="tokens of a rank and step")
    parser.add_argument("--bound", default="0.2,0.5,1", help="shares of prefill bound to its rank")
    parser.add_argument("--context", default="shared", help="shared as φ says, or bound")
    parser.add_argument("--pools", default="slots,default", help="requests kept waiting")
    parser.add_argument("--shares", default="0.5,0.7,0.9", help="of vllm's throughput, by arrivals")
    parser.add_argument("--generations", type=int, default=8, help="requests per slot")
    parser.add_argument("--out", help="JSON file with a list of all rows")
    parser.add_argument("--read", nargs="*", default=[], help="JSON files to print instead")
    return parser.parse_args(arguments)


def _listed(text: str) -> list[str]:
    return [] if text == "none" else text.split(",")


def _measured(part: str, traces: Sequence[Trace], options: argparse.Namespace) -> Iterator[Row]:
    shares = [float(share) for share in _listed(options.shares)]
    for trace, cell in itertools.product(traces, _cells(options)):
        if part == "throughput":
            for pool in _listed(options.pools):
                kept = None if pool == "slots" else 4 * cell.workers
                yield from throughput(trace, replace(cell, pool=kept), options.generations)
        elif part == "arrivals":
            yield from by_arrivals(trace, cell, options.generations, shares)
        elif part == "goodput":
            yield from goodput(trace, cell, options.generations, shares)
        else:
            yield from ablations(trace, cell, options.generations, shares)


def _cells(options: argparse.Namespace) -> Iterator[Cell]:
    for hardware, workers, slots, budget, bound, context in itertools.product(
        *(
            _listed(getattr(options, name))
            for name in ("hardware", "workers", "slots", "budget", "bound", "context")
        )
    ):
        yield Cell(
            hardware=hardware,
            workers=int(workers),
            slots=int(slots),
            budget=int(budget),
            bound=float(bound),
            context=context,
        )


if __name__ == "__main__":
    main()
