"""``brsolver simulate``: one policy on one trace."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from brsolver.cli import _options as o  # noqa: TC001 # typer evaluates annotations
from brsolver.cli._params import RunOptions  # noqa: TC001 # typer evaluates annotations
from brsolver.cli._run_options import takes_run_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.cli._progress import LateBar
    from brsolver.results.comparison import Comparison
    from brsolver.results.result import SimulationResult
    from brsolver.results.verdict import Summary
    from brsolver.traces.trace import Trace


@takes_run_options()
def simulate(
    trace: o.TraceArgument,
    *,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:k=v,...]",
            help="Policy; see brsolver policies, or MODULE:CLASS. (default: that of a --config "
            "that brsolver tune wrote)",
            show_default=False,
        ),
    ] = None,
    options: RunOptions,
    json: o.JsonOption = False,
    out: o.OutOption = None,
    requests_out: o.RequestsOutOption = None,
) -> None:
    """Replay a trace through a cluster under one routing policy."""
    from brsolver.cli._progress import late_bar
    from brsolver.results.request_times import write_times
    from brsolver.results.verdict import summaries

    with late_bar("loading") as bar:
        _check_places(out, requests_out)
        loaded, result = _simulate(trace, policy, options, bar)
        comparison = _alone(loaded, result, options.predictor, keep_times=bool(requests_out))
        if out is not None:
            _write(comparison, out, bar)
        if requests_out is not None:
            write_times(comparison.runs, requests_out)
    summary = summaries(comparison)
    if json:
        sys.stdout.write(json_text(result, summary) + "\n")
    else:
        _print_result(result, summary)
    for path in filter(None, (out, requests_out)):
        typer.echo(f"wrote {path}", err=True)


def _check_places(out: str | None, requests_out: str | None) -> None:
    from brsolver.report.write import check_out_dir
    from brsolver.results.request_times import check_times_file

    if out is not None:
        check_out_dir(out)
    if requests_out is not None:
        check_times_file(requests_out)


def _simulate(
    trace: str, policy: str | None, options: RunOptions, bar: LateBar
) -> tuple[Trace, SimulationResult]:
    from brsolver.cli._strangers import named_if_raising
    from brsolver.registry import PolicySpec
    from brsolver.simulator import simulate as run

    params = options.params()
    chosen = PolicySpec.parse(_required(policy or options.tuned_policy()))
    (spec,) = options.policies([chosen])
    predictor = options.predictor_spec()
    loaded = options.source(trace, params).load(params.seed)
    bar.rename("simulating, requests")
    with named_if_raising(spec):
        return loaded, run(loaded, spec, params, predictor=predictor, progress=bar.update)


def _required(policy: str | None) -> str:
    from brsolver.errors import ParameterError

    if policy is None:
        raise ParameterError(
            "--policy is missing, must be given: NAME[:KEY=VALUE,...], see brsolver policies; only "
            "a --config that brsolver tune wrote names one"
        )
    return policy


def _alone(
    loaded: Trace, result: SimulationResult, predictor: str | None, *, keep_times: bool
) -> Comparison:
    from brsolver.results.comparison import Comparison, Run

    ran = loaded.after(result.training_rows)
    run = Run.of(result, ran, policy=result.policy, keep_times=keep_times)
    return Comparison.single(run, result.params, predictor=predictor)


def _write(comparison: Comparison, out: str, bar: LateBar) -> None:
    from brsolver.report.write import write_report

    bar.rename("drawing, figures")
    write_report(comparison, out, progress=bar.update)


def json_text(result: SimulationResult, summary: Sequence[Summary]) -> str:
    """Write summary, metrics and what was run as one strict JSON object; NaN becomes null."""
    import json

    from brsolver.results.plain import finite_only

    facts = {
        **result.metrics.to_dict(),
        "summary": [each.to_dict() for each in summary],
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


def _print_result(result: SimulationResult, summary: Sequence[Summary]) -> None:
    from rich.console import Console
    from rich.text import Text

    from brsolver.report.tables import metrics_table

    console = Console(highlight=False)
    metrics = result.metrics
    title = (
        f"{result.policy} on {result.trace_name}: {metrics.requests:,} requests, "
        f"G = {metrics.workers}, seed {metrics.seed}"
    )
    for each in summary:
        for sentence in each.sentences:
            console.print(Text(sentence), soft_wrap=not sys.stdout.isatty())
    console.print()
    console.print(metrics_table(metrics, title=title))
    for note in result.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
