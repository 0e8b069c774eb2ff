"""``brsolver oracle hindsight``: the best run of a trace, on several clusters and seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from brsolver.cli import _options as o
from brsolver.cli._executor_options import (
    SOME_FAILED,
    ExecutorOption,
    RayAddressOption,
    ResumeOption,
    check_resume,
    jobs_option,
    side_by_side,
    tells_lines,
)
from brsolver.cli._input import InputOptions  # noqa: TC001 # typer evaluates annotations
from brsolver.cli._offered import takes_input_options
from brsolver.cli._spans import parse_span
from brsolver.cli._terminal import percent, print_strict_json, titled_table, wide_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.oracles.searches import Searched, SearchParams

ADMISSIONS = ("fcfs", "free")
MOST_SEEDS = 100_000


@takes_input_options
def hindsight(
    trace: o.TraceArgument,
    *,
    options: InputOptions,
    workers: Annotated[
        str, typer.Option(metavar="G,G,...", rich_help_panel=o.CLUSTER, help="Workers to try.")
    ] = "2",
    slots: Annotated[
        int, typer.Option(metavar="B", rich_help_panel=o.CLUSTER, help="Slots of each worker.")
    ] = 8,
    pool: Annotated[
        int | None,
        typer.Option(
            metavar="N", rich_help_panel=o.CLUSTER, help="Requests kept waiting. (default: 4·G)"
        ),
    ] = None,
    request_tokens: Annotated[
        int,
        typer.Option(
            metavar="N",
            rich_help_panel=o.CLUSTER,
            help="Tokens that a request weighs besides its KV tokens.",
        ),
    ] = 0,
    admission: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            rich_help_panel=o.ORACLE,
            help="fcfs (first come first served: assignment only) or free (any order).",
        ),
    ] = "fcfs",
    budget: Annotated[
        str,
        typer.Option(
            metavar="TIME", rich_help_panel=o.ORACLE, help="Time for each search: 30s, 5m, 1h."
        ),
    ] = "1m",
    seed: o.SeedOption = None,
    seeds: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=o.RUN, help="Seeds, counted from --seed.")
    ] = 1,
    executor: ExecutorOption = "local",
    ray_address: RayAddressOption = None,
    jobs: Annotated[int | None, jobs_option("Searches")] = None,
    resume: ResumeOption = None,
    json: o.JsonOption = False,
) -> None:
    """Search for the best run in hindsight, of every number of workers with every seed.

    Presets are drawn anew for every seed; of a file each starts a request later. The exit status
    is 1 where a search failed and others did not.
    """
    from brsolver.cli._params import parse_workers
    from brsolver.cli._progress import late_bar
    from brsolver.oracles.searches import SearchParams, search_runs

    where = side_by_side(executor, jobs, ray_address)
    check_resume(resume)
    counts, numbers = parse_workers(workers), _seeds(seed or 0, seeds)
    params = SearchParams(
        slots=slots,
        pool=pool,
        admission=_admission(admission),
        budget_s=parse_span(budget),
        request_tokens=request_tokens,
    )
    with late_bar("searching, runs", lines=tells_lines(executor, resume)) as bar:
        traces = options.source(trace).load_all(numbers)
        found = search_runs(
            traces, counts, params, executor=where, resume=resume, progress=bar.update
        )
    _raise_if_all_failed(found)
    if json:
        _print_json(trace, params, found)
    else:
        _print_table(trace, params, found)
    if any(each.best is None for each in found):
        raise typer.Exit(SOME_FAILED)


def _seeds(first: int, count: int) -> tuple[int, ...]:
    from brsolver.errors import ParameterError

    if not 1 <= count <= MOST_SEEDS:
        raise ParameterError(f"seeds is {count}, must be at least 1 and at most {MOST_SEEDS:,}")
    return tuple(range(first, first + count))


def _admission(name: str) -> Any:
    from brsolver.errors import UnknownNameError

    if name not in ADMISSIONS:
        raise UnknownNameError.suggest("admission", name, ADMISSIONS)
    return name


def _raise_if_all_failed(found: Sequence[Searched]) -> None:
    from brsolver.errors import BrsolverError

    if all(each.best is None for each in found):
        raise BrsolverError(str(found[0].failure))


def _print_json(trace: str, params: SearchParams, found: Sequence[Searched]) -> None:
    from dataclasses import asdict

    searches = [_facts(each) for each in found]
    print_strict_json({"trace": trace, **asdict(params), "searches": searches})


def _facts(each: Searched) -> dict[str, Any]:
    where = {"workers": each.workers, "seed": each.seed, "requests": each.requests}
    if each.best is None:
        return {**where, "failure": each.failure}
    return {
        **where,
        "status": each.best.status.value,
        "lower_bound": each.best.barrier_bound,
        "best_known": each.best.barrier_best,
        "gap": each.best.gap,
        "steps": each.best.steps,
        "method": each.best.method,
        "origin": each.best.origin,
        "message": each.best.message,
        "wall_s": each.best.wall_s,
    }


def _print_table(trace: str, params: SearchParams, found: Sequence[Searched]) -> None:
    from rich.text import Text

    console = wide_console()
    table = titled_table(
        f"{trace}: B = {params.slots}, {params.admission} admission, KV-token steps"
    )
    for heading in ("G", "seed", "requests", "lower bound", "best known", "gap", "steps", "s"):
        table.add_column(heading, justify="right")
    for heading in ("status", "origin of the bound"):
        table.add_column(heading)
    for each in found:
        table.add_row(str(each.workers), str(each.seed), f"{each.requests:,}", *_cells(each))
    console.print(table)
    for each in found:
        if message := each.failure or (each.best and each.best.message):
            line = f"G = {each.workers}, seed {each.seed}: {message}"
            console.print(Text(line, style="yellow"), soft_wrap=True)


def _cells(each: Searched) -> list[str]:
    best = each.best
    if best is None:
        return ["–", "–", "–", "–", "–", "failed", ""]
    known = (_number(value) for value in (best.barrier_bound, best.barrier_best))
    return [
        *known, percent(best.gap), _number(best.steps), f"{best.wall_s:.1f}", best.status.value,
        best.origin,
    ]  # fmt: skip


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
