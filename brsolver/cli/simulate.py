"""``brsolver simulate``: one policy on one trace."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brsolver.cli import _options as o

if TYPE_CHECKING:
    from brsolver.cli._progress import LateBar
    from brsolver.simulator.result import SimulationResult
    from brsolver.traces.model import Trace


def simulate(
    trace: o.TraceArgument,
    *,
    policy: Annotated[
        str, typer.Option(metavar="NAME[:k=v,...]", help="Policy; see brsolver policies.")
    ],
    workers: Annotated[
        int | None,
        typer.Option(metavar="G", rich_help_panel=o.CLUSTER, help="Workers. (default: 8)"),
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
    json: Annotated[
        bool, typer.Option("--json", rich_help_panel=o.OUTPUT, help="Print one JSON object.")
    ] = False,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", rich_help_panel=o.OUTPUT, help="Also write a report there."),
    ] = None,
) -> None:
    """Replay a trace through a cluster under one routing policy."""
    from brsolver.cli._params import RunOptions
    from brsolver.cli._progress import late_bar

    options = RunOptions.pick(locals())
    with late_bar("loading") as bar:
        loaded, result = _simulate(
            trace, policy, options, workers=workers, predictor=predictor, out=out, bar=bar
        )
        if out is not None:
            _write(loaded, result, predictor, out, bar)
    if json:
        sys.stdout.write(json_text(result) + "\n")
    else:
        _print_result(result)
    if out is not None:
        typer.echo(f"wrote {out}", err=True)


def _simulate(
    trace: str,
    policy: str,
    options: Any,
    *,
    workers: int | None,
    predictor: str | None,
    out: str | None,
    bar: LateBar,
) -> tuple[Trace, SimulationResult]:
    from brsolver.cli._params import apply_knobs, simulation_params
    from brsolver.compare import check_policies
    from brsolver.report.write import check_out_dir
    from brsolver.simulator import simulate as run

    params = simulation_params(options, workers=workers)
    (spec,) = check_policies(apply_knobs([policy], options.knobs()))
    if out is not None:
        check_out_dir(out)
    loaded = options.source(trace).load(params.seed)
    bar.rename("simulating, requests")
    return loaded, run(loaded, spec, params, predictor=predictor, progress=bar.update)


def _write(
    loaded: Trace, result: SimulationResult, predictor: str | None, out: str, bar: LateBar
) -> None:
    from brsolver.report.model import Comparison, Run
    from brsolver.report.write import write_report

    bar.rename("drawing, figures")
    run = Run.of(result, loaded.after(result.training_rows), policy=result.policy)
    comparison = Comparison.single(run, result.params, predictor=predictor)
    write_report(comparison, out, progress=bar.update)


def json_text(result: SimulationResult) -> str:
    """Write metrics and what was run as one strict JSON object; NaN becomes null."""
    import json

    facts = {
        **result.metrics.to_dict(),
        "trace": result.trace_name,
        "trace_fingerprint": result.trace_fingerprint,
        "predictor": result.predictor,
        "sees_future": result.sees_future,
        "policy_params": dict(result.policy_params),
        "unfinished_by_reason": result.requests.unfinished(),
        "notes": list(result.notes),
        "params": result.params.to_dict(),
    }
    return json.dumps(finite_only(facts), indent=2, allow_nan=False, default=str)


def finite_only(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {key: finite_only(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_only(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _print_result(result: SimulationResult) -> None:
    from rich.console import Console
    from rich.text import Text

    from brsolver.report.tables import metrics_table

    console = Console(highlight=False)
    metrics = result.metrics
    title = (
        f"{result.policy} on {result.trace_name}: {metrics.requests:,} requests, "
        f"G = {metrics.workers}, seed {metrics.seed}"
    )
    console.print(metrics_table(metrics, title=title))
    for note in result.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
