"""Studies of growth: ``python -m benchmarks.studies [FILE ...] --out FOLDER``.

Requests are drawn with replacement from each file, and anew from each preset, by seed. What is in
FOLDER already is not run again. Parts are *elsewhere* and *colocated*
(one router, by where prompts are computed), *cells* and *colocated-cells* (cells of workers, at the
largest cluster). Figures are of full slots, a pool of 4·G waiting.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.studies.pictures import draw_growth
from benchmarks.studies.plan import (
    COLOCATED,
    ELSEWHERE,
    REQUESTS,
    WORKERS,
    Sized,
    campaign_of,
    cell_runs,
    runs,
)
from benchmarks.studies.tables import Results, show_cells, show_costs, show_growth
from brsolver.campaign import run_campaign
from brsolver.executors import ExecutorParams, executor_of
from brsolver.specs import split_policies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.studies.plan import Run

PARTS = {
    "elsewhere": (ELSEWHERE, False),
    "colocated": (COLOCATED, False),
    "cells": (ELSEWHERE, True),
    "colocated-cells": (COLOCATED, True),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, print tables, draw pictures; None is the command line's arguments."""
    options = _options(arguments)
    found = Results(_rows(options))
    show_growth(found)
    show_cells(found)
    show_costs(found)
    if options.images:
        for setting in found.settings():
            if len(found.sizes(**setting)) > 1:
                name = f"studies-{setting['prefill']}-{setting['trace']}.png".replace("_", "-")
                draw_growth(found, setting, Path(options.images) / name)


def _rows(options: argparse.Namespace) -> list[dict[str, object]]:
    planned = planned_by(options)
    where = ExecutorParams(
        executor=options.executor, jobs=options.jobs, ray_address=options.ray_address
    )
    table = run_campaign(
        campaign_of(planned),
        options.out,
        executor=executor_of(where, most=len(planned)),
        progress=_progress,
    )
    rows: list[dict[str, object]] = table.to_pylist()
    for row in rows:
        if row["failed"] is not None:
            print(f"{row['policy']} at G = {row['workers']}: {row['failed']}", file=sys.stderr)
    return rows


def planned_by(options: argparse.Namespace) -> list[Run]:
    """Return the runs that options ask for, in the order in which they are carried out."""
    workers = [int(each) for each in options.workers.split(",")]
    seeds = [int(each) for each in options.seeds.split(",")]
    sized = Sized(requests=options.requests, per_slot=options.per_slot)
    planned: list[Run] = []
    for part in options.parts.split(","):
        prefill, in_cells = PARTS[part]
        for source in map(_found, options.traces or ["preset:chat"]):
            planned += (
                cell_runs(prefill, source, max(workers), seeds, sized)
                if in_cells
                else runs(prefill, source, workers, seeds, sized)
            )
    wanted = split_policies(options.policies) if options.policies else ()
    return [run for run in planned if not wanted or run.policy in wanted]


def _found(source: str) -> str:
    """Name a file so that it is found from anywhere."""
    return source if source.startswith("preset:") else str(Path(source).resolve())


def _progress(done: int, total: int) -> None:
    print(f"{done} of {total} runs", file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies", description=__doc__)
    parser.add_argument("traces", nargs="*", help="files, or preset:NAME; default preset:chat")
    parser.add_argument("--out", default="studies", help="folder of the results")
    parser.add_argument("--images", help="folder of the pictures")
    parser.add_argument("--parts", default="elsewhere", help=", ".join(PARTS))
    parser.add_argument("--policies", help="of the parts', only these")
    parser.add_argument("--workers", default=",".join(map(str, WORKERS)))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--per-slot", type=int, default=0, help="requests per slot instead")
    parser.add_argument("--executor", default="local", choices=["local", "ray"])
    parser.add_argument("--ray-address")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
