"""``brsolver compare``: a grid of policies × workers × seeds, and its report."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from brsolver.cli import _options as o

if TYPE_CHECKING:
    from brsolver.cli._params import RunOptions
    from brsolver.cli._progress import LateBar
    from brsolver.report.model import Comparison

PIPE_WIDTH = 160


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
    slots: o.SlotsOption = None,
    capacity: o.CapacityOption = None,
    routing: o.RoutingOption = None,
    step_time: o.StepTimeOption = None,
    fail: o.FailOption = None,
    join: o.JoinOption = None,
    pool: o.PoolOption = None,
    rate: o.RateOption = None,
    utilization: o.UtilizationOption = None,
    timestamps: o.TimestampsOption = False,
    prefill: o.PrefillOption = None,
    transit_steps: o.TransitOption = None,
    horizon: o.HorizonOption = None,
    gamma: o.GammaOption = None,
    beta: o.BetaOption = None,
    alpha: o.AlphaOption = None,
    r_max: o.RMaxOption = None,
    s_greedy: o.SGreedyOption = None,
    predictor: o.PredictorOption = None,
    refresh_steps: o.RefreshOption = None,
    stale_ms: o.StaleMsOption = None,
    stale_steps: o.StaleStepsOption = None,
    stale_mode: o.StaleModeOption = None,
    local_correction: o.LocalCorrectionOption = None,
    seed: o.SeedOption = None,
    warmup_steps: o.WarmupOption = None,
    drain: o.DrainOption = None,
    max_steps: o.MaxStepsOption = None,
    config: o.ConfigOption = None,
    limit: o.LimitOption = None,
    format: o.FormatOption = None,  # noqa: A002 # the option's name
    skip_bad_rows: o.SkipOption = False,
) -> None:
    """Compare policies over numbers of workers and seeds, and write a report."""
    from brsolver.cli._params import RunOptions
    from brsolver.cli._progress import late_bar
    from brsolver.report.write import write_report

    options = RunOptions.pick(locals())
    with late_bar("simulating, runs") as bar:
        comparison = _compare(
            trace,
            policies,
            options,
            workers=workers,
            seeds=seeds,
            predictor=predictor,
            baseline=baseline,
            jobs=jobs,
            out=out,
            bar=bar,
        )
        bar.rename("drawing, figures")
        write_report(comparison, out, progress=bar.update)
    _print_comparison(comparison)
    typer.echo(f"wrote {out}", err=True)


def _compare(
    trace: str,
    policies: str,
    options: RunOptions,
    *,
    workers: str | None,
    seeds: int,
    predictor: str | None,
    baseline: str | None,
    jobs: int | None,
    out: str,
    bar: LateBar,
) -> Comparison:
    from brsolver.cli._params import apply_knobs, parse_workers, simulation_params
    from brsolver.compare import compare as run
    from brsolver.compare import split_policies
    from brsolver.report.write import check_out_dir

    counts = parse_workers(workers)
    params = simulation_params(options, workers=counts[0] if counts else None)
    asked = split_policies(policies)
    specs = apply_knobs(asked, options.knobs())
    check_out_dir(out)
    return run(
        options.source(trace),
        specs,
        workers=counts or (params.workers,),
        seeds=seeds,
        params=params,
        predictor=predictor,
        # Knobs change specifications; the baseline is named as it was asked for.
        baseline=dict(zip(asked, specs, strict=True)).get(baseline or "", baseline),
        jobs=jobs,
        progress=bar.update,
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
