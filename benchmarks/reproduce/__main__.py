"""Rebuild published tables and figures: ``python -m benchmarks.reproduce [NAME ...]``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks.reproduce import _burstgpt
from benchmarks.reproduce._pages import marked, save_picture, write_tables
from benchmarks.reproduce._study import BURSTGPT, QUICK, Scope
from benchmarks.reproduce.catalogue import STUDIES
from brsolver.campaign import FAILED, run_campaign
from brsolver.errors import BrsolverError, TraceError, UnknownNameError
from brsolver.executors import EXECUTORS, ExecutorParams, executor_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.reproduce._cells import Row
    from benchmarks.reproduce._study import Study
    from brsolver import Trace
    from brsolver.campaign.run import Progress

FOLDER = "reproduced"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute what is missing, print tables; returns the exit code.

    Arguments None are those of the command line.
    """
    options = _options(arguments)
    try:
        names = options.names or list(STUDIES)
        for name in names:
            if name not in STUDIES:
                raise UnknownNameError.suggest("reproduction", name, STUDIES)
        lengths, missed = _lengths(options, names)
        scope = _scope(options, lengths)
        status = max(_reproduced(STUDIES[name], scope, options) for name in names)
        return status if missed is None else status | _tell_missed(missed, names, options.folder)
    except BrsolverError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    listed = "\n".join(f"  {name:16} {study.title}" for name, study in STUDIES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reproduce",
        description=f"{__doc__}\n\nReproductions:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="without one: all of them")
    parser.add_argument("--quick", action="store_true", help="small runs, which show nothing")
    parser.add_argument("--folder", default=FOLDER, help=f"for rows, default {FOLDER}")
    parser.add_argument("--docs", help="write tables into reproduce.md there, pictures to images/")
    parser.add_argument(
        "--burstgpt",
        metavar=f"FILE|{_burstgpt.FETCH}",
        help="file of BurstGPT lengths, for the studies of [BFIO]; fetch: the public one, kept "
        "beside the rows",
    )
    parser.add_argument("--executor", choices=EXECUTORS, default="local")
    parser.add_argument("--ray-address")
    parser.add_argument("--jobs", type=int)
    return parser.parse_args(arguments)


def _scope(options: argparse.Namespace, lengths: Trace | None) -> Scope:
    given = {} if lengths is None else {BURSTGPT: lengths}
    return replace(QUICK if options.quick else Scope(), given=given)


def _lengths(
    options: argparse.Namespace, names: Sequence[str]
) -> tuple[Trace | None, BrsolverError | None]:
    """Return BurstGPT's lengths, where they are wanted; or why they cannot be had."""
    from brsolver import load_trace

    if options.burstgpt != _burstgpt.FETCH:
        return (load_trace(options.burstgpt) if options.burstgpt else None), None
    if not _burstgpt.of(names):
        return None, None
    try:
        return load_trace(_burstgpt.fetched(Path(options.folder))), None
    except (_burstgpt.NotReachedError, TraceError) as error:
        return None, error


def _tell_missed(error: BrsolverError, names: Sequence[str], folder: str) -> int:
    print(_burstgpt.told(error, names, Path(folder)), file=sys.stderr)
    # Another file than the known one is worth a look; that there is no network is nobody's fault.
    return 0 if isinstance(error, _burstgpt.NotReachedError) else 1


def _reproduced(study: Study, scope: Scope, options: argparse.Namespace) -> int:
    began = perf_counter()
    campaign = study.campaign(scope)
    executor = executor_of(
        ExecutorParams(
            executor=options.executor, jobs=options.jobs, ray_address=options.ray_address
        ),
        most=len(campaign.cells),
    )
    folder = Path(options.folder) / scope.name / study.name
    rows = run_campaign(campaign, folder, executor=executor, progress=_told(study.name)).to_pylist()
    print(f"{study.name}: {perf_counter() - began:.0f} s", file=sys.stderr)
    failed = [row for row in rows if row[FAILED] is not None]
    if failed:
        _tell_failures(study, failed)
        return 1
    _show(study, rows, scope, options.docs)
    return 0


def _tell_failures(study: Study, failed: Sequence[Row]) -> None:
    for row in failed:
        key = ", ".join(f"{name} {row[name]}" for name in row if row[name] is not None)
        print(f"{study.name}: failed: {key}", file=sys.stderr)
    print(f"{study.name}: {len(failed)} runs failed, no table is made", file=sys.stderr)


def _told(name: str) -> Progress:
    def tell(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        if sys.stderr.isatty() or end:
            print(f"\r{name}: {done}/{total} runs", end=end, file=sys.stderr, flush=True)

    return tell


def _show(study: Study, rows: Sequence[Row], scope: Scope, docs: str | None) -> None:
    tables = study.tables(rows, scope)
    print(f"\n## {study.title}\n\n{study.source}")
    for name, table in tables.items():
        print(f"\n<!-- {name} -->\n\n{table}")
    if docs is not None:
        from brsolver.report.style import styled

        write_tables(Path(docs), tables if scope.full else marked(tables))
        with styled():
            save_picture(Path(docs), study.name, study.picture(rows))


if __name__ == "__main__":
    sys.exit(main())
