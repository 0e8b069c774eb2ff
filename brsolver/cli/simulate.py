"""``brsolver simulate``: one policy on one trace."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from brsolver.cli import _options as o  # noqa: TC001 # typer evaluates annotations
from brsolver.cli._params import RunOptions  # noqa: TC001 # typer evaluates annotations
from brsolver.cli._run_options import takes_run_options

if TYPE_CHECKING:
    from brsolver.cli._progress import LateBar
    from brsolver.results.result import SimulationResult
    from brsolver.traces.trace import Trace


@takes_run_options()
def simulate(
    trace: o.TraceArgument,
    *,
    policy: Annotated[
        str, typer.Option(metavar="NAME[:k=v,...]", help="Policy; see brsolver policies.")
    ],
    options: RunOptions,
    json: o.JsonOption = False,
    out: o.OutOption = None,
) -> None:
    """Replay a trace through a cluster under one routing policy."""
    from brsolver.cli._progress import late_bar

    with late_bar("loading") as bar:
        loaded, result = _simulate(trace, policy, options, out, bar)
        if out is not None:
            _write(loaded, result, options.predictor, out, bar)
    if json:
        sys.stdout.write(json_text(result) + "\n")
    else:
        _print_result(result)
    if out is not None:
        typer.echo(f"wrote {out}", err=True)


def _simulate(
    trace: str, policy: str, options: RunOptions, out: str | None, bar: LateBar
) -> tuple[Trace, SimulationResult]:
    from brsolver.registry import PolicySpec
    from brsolver.report.write import check_out_dir
    from brsolver.simulator import simulate as run

    params = options.params()
    (spec,) = options.policies([PolicySpec.parse(policy)])
    predictor = options.predictor_spec()
    if out is not None:
        check_out_dir(out)
    loaded = options.source(trace, params).load(params.seed)
    bar.rename("simulating, requests")
    return loaded, run(loaded, spec, params, predictor=predictor, progress=bar.update)


def _write(
    loaded: Trace, result: SimulationResult, predictor: str | None, out: str, bar: LateBar
) -> None:
    from brsolver.report.write import write_report
    from brsolver.results.comparison import Comparison, Run

    bar.rename("drawing, figures")
    run = Run.of(result, loaded.after(result.training_rows), policy=result.policy)
    comparison = Comparison.single(run, result.params, predictor=predictor)
    write_report(comparison, out, progress=bar.update)


def json_text(result: SimulationResult) -> str:
    """Write metrics and what was run as one strict JSON object; NaN becomes null."""
    import json

    from brsolver.results.plain import finite_only

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
