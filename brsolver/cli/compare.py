"""``brsolver compare``: a grid of policies × workers × seeds, and its report."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brsolver.cli import _options as o
from brsolver.cli._params import RunOptions  # noqa: TC001 # typer evaluates annotations
from brsolver.cli._run_options import takes_run_options

if TYPE_CHECKING:
    from brsolver.cli._progress import LateBar
    from brsolver.results.comparison import Comparison

PIPE_WIDTH = 160


@takes_run_options(own=["workers"])
def compare(
    trace: o.TraceArgument,
    *,
    policies: Annotated[
        str,
        typer.Option(metavar="A,B,...", help="Policies, e.g. jsq,br-0,br-h:horizon=40,gamma=0.9."),
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
            metavar="NAME", rich_help_panel=o.OUTPUT, help="Ratios refer to it. (default: first)"
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N", rich_help_panel=o.RUN, help="Processes. (default: all processors)"
        ),
    ] = None,
) -> None:
    """Compare policies over numbers of workers and seeds, and write a report."""
    from brsolver.cli._params import parse_workers
    from brsolver.cli._progress import late_bar
    from brsolver.report.write import check_out_dir, write_report

    counts = () if workers is None else parse_workers(workers)
    with late_bar("simulating, runs") as bar:
        check_out_dir(out)
        comparison = _compare(
            trace, policies, options, bar, workers=counts, seeds=seeds, baseline=baseline, jobs=jobs
        )
        bar.rename("drawing, figures")
        write_report(comparison, out, progress=bar.update)
    _print_comparison(comparison)
    typer.echo(f"wrote {out}", err=True)


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


def _print_comparison(comparison: Comparison) -> None:
    from rich.console import Console
    from rich.text import Text

    from brsolver.report.tables import comparison_tables, interval_note

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    console = Console(highlight=False, width=width)
    for table in comparison_tables(comparison, width=console.width):
        console.print(table)
    console.print(f"{interval_note(comparison)} ×: ratio to {comparison.baseline}.", markup=False)
    for note in comparison.notes():
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
