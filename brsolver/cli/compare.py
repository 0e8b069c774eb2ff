"""``brsolver compare``: a grid of policies × workers × seeds, and its report."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brsolver.cli import _options as o
from brsolver.cli._executor_options import (
    SCALE,
    SOME_FAILED,
    ExecutorOption,
    JobsOption,
    RayAddressOption,
    check_resume,
    executor_params,
    tells_lines,
)
from brsolver.cli._params import RunOptions  # noqa: TC001 # typer evaluates annotations
from brsolver.cli._run_options import takes_run_options
from brsolver.cli._terminal import PIPE_WIDTH

if TYPE_CHECKING:
    from brsolver.cli._progress import LateBar
    from brsolver.results.comparison import Comparison


@takes_run_options(own=["workers"])
def compare(
    trace: o.TraceArgument,
    *,
    policies: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help="Policies, e.g. jsq,br-0,br-h:horizon=40,gamma=0.9, or MODULE:CLASS.",
        ),
    ],
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for the report.")],
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="G,G,...", rich_help_panel=o.CLUSTER, help="Workers to try. (default: 8)"
        ),
    ] = None,
    options: RunOptions,
    seeds: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=o.RUN, help="Seeds, counted from --seed.")
    ] = 5,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=o.OUTPUT,
            help="Policy that ratios refer to. (default: first)",
        ),
    ] = None,
    executor: ExecutorOption = "local",
    ray_address: RayAddressOption = None,
    jobs: JobsOption = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            rich_help_panel=SCALE,
            help="Keep every run there as it ends, and carry out only those that are not there.",
        ),
    ] = None,
    same_start: Annotated[
        bool,
        typer.Option(
            "--same-start",
            rich_help_panel=o.RUN,
            help="Start at the file's first request with every seed, not one later with each.",
        ),
    ] = False,
    whole: Annotated[
        bool,
        typer.Option(
            "--all", rich_help_panel=o.OUTPUT, help="Print all figures, as in the report."
        ),
    ] = False,
    json: o.JsonOption = False,
    requests_out: o.RequestsOutOption = None,
) -> None:
    """Compare policies over numbers of workers and seeds, and write a report.

    The exit status is 1 where a policy failed and others did not.
    """
    from brsolver.cli._params import parse_workers
    from brsolver.cli._progress import late_bar
    from brsolver.report.write import check_out_dir, write_report
    from brsolver.results.request_times import check_times_file, write_times

    counts = () if workers is None else parse_workers(workers)
    # What is kept or sent to a cluster takes hours, and is often watched by its log.
    with late_bar("simulating, runs", lines=tells_lines(executor, resume)) as bar:
        check_out_dir(out)
        check_resume(resume, out)
        if requests_out is not None:
            check_times_file(requests_out)
        comparison = _compare(
            trace, policies, options, bar, workers=counts, seeds=seeds, baseline=baseline,
            executor=executor_params(executor, jobs, ray_address), resume=resume,
            vary_start=not same_start, keep_times=requests_out is not None,
        )  # fmt: skip
        bar.rename("drawing, figures")
        write_report(comparison, out, progress=bar.update)
        if requests_out is not None:
            write_times(comparison.runs, requests_out)
    if json:
        sys.stdout.write(json_text(comparison) + "\n")
    else:
        _print_comparison(comparison, whole=whole)
    for path in filter(None, (out, requests_out)):
        typer.echo(f"wrote {path}", err=True)
    if comparison.failures:
        raise typer.Exit(SOME_FAILED)


def _compare(
    trace: str,
    policies: str,
    options: RunOptions,
    bar: LateBar,
    *,
    workers: tuple[int, ...],
    baseline: str | None,
    **grid: Any,
) -> Comparison:
    from brsolver.compare import compare as run
    from brsolver.wiring import read_policies

    params = options.params(**({"workers": workers[0]} if workers else {}))
    asked = read_policies(policies)
    specs = options.policies(asked)
    # Knobs change specifications; the baseline is named as it was asked for.
    renamed = {old.text: new.text for old, new in zip(asked, specs, strict=True)}
    return run(
        options.source(trace, params),
        specs,
        workers=workers or (params.workers,),
        params=params,
        predictor=options.predictor_spec(),
        baseline=renamed.get(baseline or "", baseline),
        progress=bar.update,
        **grid,
    )


def json_text(comparison: Comparison) -> str:
    """Write summary, failures and one object per run as one strict JSON object."""
    import json

    from brsolver.report.tables import flat_rows
    from brsolver.results.plain import finite_only
    from brsolver.results.verdict import summaries

    facts = {
        "summary": [each.to_dict() for each in summaries(comparison)],
        "trace": comparison.trace_name,
        "policies": list(comparison.policies),
        "workers": list(comparison.workers),
        "seeds": list(comparison.seeds),
        "baseline": comparison.baseline,
        "failures": [each.to_dict() for each in comparison.failures],
        "notes": list(comparison.notes()),
        "runs": flat_rows(comparison),
        "params": comparison.params.to_dict(),
    }
    return json.dumps(finite_only(facts), indent=2, allow_nan=False, default=str)


def _print_comparison(comparison: Comparison, *, whole: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    from brsolver.report.tables import comparison_tables, legend
    from brsolver.results.notes import failures_told
    from brsolver.results.verdict import paragraphs, summaries

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    console = Console(highlight=False, width=width)
    for heading, sentences in paragraphs(summaries(comparison)):
        if heading:
            console.print(Text(heading, style="bold"))
        for sentence in sentences:
            console.print(Text(sentence), soft_wrap=width is not None)
    for line in failures_told(comparison):
        console.print(Text(line, style="red"), soft_wrap=True)
    console.print()
    for table in comparison_tables(comparison, width=console.width, whole=whole):
        console.print(table)
    console.print(Text(legend(comparison)), soft_wrap=True)
    for note in comparison.notes():
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
