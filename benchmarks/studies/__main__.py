"""Studies of growth: ``python -m benchmarks.studies [FILE ...] --out FOLDER``.

Requests are drawn with replacement from each file, and anew from each preset, by seed. What is in
FOLDER already is not run again. Parts are *elsewhere* and *colocated* (one router, by where prompts
are computed), *cells* and *colocated-cells* (cells of workers, at the largest cluster, beside the
routers that they are held against), *cells-by-time* (the same with requests that come by time, at
0.9 of the slots) and *cells-at-once* (that are sent as they come besides, not pooled). Figures of
the other parts are of full slots, a pool of 4·G waiting. The status is 1 where a run failed, and 2
where nothing can be run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.studies.pictures import draw_growth
from benchmarks.studies.plan import (
    PARTS,
    REQUESTS,
    WORKERS,
    Sized,
    campaign_of,
    part_of,
)
from benchmarks.studies.tables import Results, show_cells, show_costs, show_growth
from brsolver._limits import require_whole
from brsolver.campaign import run_campaign
from brsolver.errors import BrsolverError, ParameterError
from brsolver.executors import EXECUTORS, ExecutorParams, executor_of
from brsolver.specs import split_policies

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.studies.plan import Run

MOST_SEEDS = 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, print tables, draw pictures; returns the exit code.

    Arguments None are those of the command line.
    """
    options = parsed(arguments)
    try:
        rows = _rows(options)
    except BrsolverError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = Results(rows)
    _show(found, options.images)
    return 0 if len(found.rows) == len(rows) else 1


def _show(found: Results, images: str | None) -> None:
    show_growth(found)
    show_cells(found)
    show_costs(found)
    if images:
        for setting in found.settings():
            if len(found.sizes(**setting)) > 1:
                name = f"studies-{setting['prefill']}-{setting['trace']}.png"
                path = Path(images) / name.translate(str.maketrans("_ ", "--"))
                draw_growth(found, setting, path)


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
    """Return the runs that options ask for, in the order in which they are carried out.

    Raises
    ------
    ParameterError
        A list of numbers is none, or no policy of the parts is wanted.
    UnknownNameError
        There is no such part.
    """
    require_whole("seeds", options.seeds, 1, MOST_SEEDS)
    workers, seeds = _whole("--workers", options.workers), range(options.seeds)
    sized = Sized(requests=options.requests, per_slot=options.per_slot)
    planned = [
        run
        for part in options.parts.split(",")
        for source in map(_found, options.traces or ["preset:chat"])
        for run in part_of(part, source, workers, seeds, sized)
    ]
    return _wanted(dict.fromkeys(planned), options.policies)


def _wanted(planned: Iterable[Run], policies: str | None) -> list[Run]:
    if policies is None:
        return list(planned)
    has, wanted = list(planned), split_policies(policies)
    if found := [run for run in has if run.policy in wanted]:
        return found
    known = ", ".join(dict.fromkeys(run.policy for run in has))
    raise ParameterError(f"--policies={policies!r} is none of the parts', must be of {known}")


def _whole(option: str, text: str) -> list[int]:
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise ParameterError(f"{option}={text!r} must be whole numbers, as in 1,2") from None


def _found(source: str) -> str:
    """Name a file so that it is found from anywhere."""
    return source if source.startswith("preset:") else str(Path(source).resolve())


def _progress(done: int, total: int) -> None:
    print(f"{done} of {total} runs", file=sys.stderr, flush=True)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options that arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies", description=__doc__)
    parser.add_argument("traces", nargs="*", help="files, or preset:NAME; default preset:chat")
    parser.add_argument("--out", default="studies", help="folder of the results")
    parser.add_argument("--images", help="folder of the pictures")
    parser.add_argument("--parts", default="elsewhere", help=", ".join(PARTS))
    parser.add_argument("--policies", help="of the parts', only these")
    parser.add_argument("--workers", default=",".join(map(str, WORKERS)))
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 on; default 1")
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--per-slot", type=int, default=0, help="requests per slot instead")
    parser.add_argument("--executor", default="local", choices=EXECUTORS)
    parser.add_argument("--ray-address")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
