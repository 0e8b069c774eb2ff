"""``brsolver gap``: how far policies are from the best possible run."""

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
from brsolver.cli._params import RunOptions  # noqa: TC001 # typer evaluates annotations
from brsolver.cli._run_options import takes_run_options
from brsolver.cli._spans import parse_span
from brsolver.cli._terminal import (
    percent,
    print_notes,
    print_strict_json,
    titled_table,
    wide_console,
)

if TYPE_CHECKING:
    from rich.table import Table

    from brsolver.cli._progress import LateBar
    from brsolver.oracles.gap import GapReport, PolicyGap
    from brsolver.oracles.gap_time import TimeGapReport

_REGRETS = ("score", "imbalance")


@takes_run_options(bounded=True, own=["horizon"])
def gap(
    trace: o.TraceArgument,
    *,
    policies: Annotated[
        str,
        typer.Option(metavar="A,B,...", help="Policies, e.g. jsq-load,br-0,br-h, or MODULE:CLASS."),
    ],
    options: RunOptions,
    oracle: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            rich_help_panel=o.ORACLE,
            help="bounds (any size), hindsight-fcfs, hindsight-free (exact up to a dozen "
            "requests; beyond 60 it certifies the free bound only) or step (bounds, and the "
            "regret of every decision).",
        ),
    ] = "bounds",
    budget: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            rich_help_panel=o.ORACLE,
            help="Time for the oracle, that of all processes together: 30s, 5m, 1h. Simulations "
            "and first-time compilation come on top.",
        ),
    ] = "1m",
    horizon: Annotated[
        int | None,
        typer.Option(
            metavar="H",
            rich_help_panel=o.ORACLE,
            help="Steps ahead by which step judges decisions. (default: each policy's own)",
            show_default=False,
        ),
    ] = None,
    decisions: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            rich_help_panel=o.ORACLE,
            help="Decisions of each run that step judges, whatever the budget, for at most a "
            "second each and score or imbalance. (default: as many as the budget allows)",
            show_default=False,
        ),
    ] = None,
    objective: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            rich_help_panel=o.ORACLE,
            help="barrier (KV-token steps of the heaviest worker) or time (seconds of the whole "
            "run by --step-time, and where those beyond the bound went).",
        ),
    ] = "barrier",
    executor: ExecutorOption = "local",
    ray_address: RayAddressOption = None,
    jobs: Annotated[int | None, jobs_option("Runs, bounds and judgements")] = None,
    resume: ResumeOption = None,
    json: o.JsonOption = False,
    out: o.OutOption = None,
) -> None:
    """Hold policies against certified bounds or the best run in hindsight.

    The exit status is 1 where a policy, or a part of the oracle, failed; the others are shown.
    """
    from brsolver.cli._gap_time import print_time_report
    from brsolver.cli._progress import late_bar
    from brsolver.oracles.gap import GapReport
    from brsolver.report.write import check_out_dir

    judging = {
        "oracle": oracle,
        "objective": objective,
        "budget_s": parse_span(budget),
        "horizon": horizon,
        "decisions": decisions,
        "executor": side_by_side(executor, jobs, ray_address),
        "resume": resume,
    }
    check_resume(resume, out)
    if out is not None:
        check_out_dir(out)
    with late_bar("loading", lines=tells_lines(executor, resume)) as bar:
        report = _report(trace, policies, options, bar, **judging)
        if out is not None:
            _write(report, out, bar)
    if json:
        print_strict_json(report.to_dict())
    elif isinstance(report, GapReport):
        _print_report(report)
    else:
        print_time_report(report)
    if out is not None:
        typer.echo(f"wrote {out}", err=True)
    if report.failures:
        raise typer.Exit(SOME_FAILED)


def _report(
    trace: str, policies: str, options: RunOptions, bar: LateBar, **judging: Any
) -> GapReport | TimeGapReport:
    from brsolver.oracles.gap import gap as run
    from brsolver.wiring import read_policies

    params = options.params()
    specs = options.policies(read_policies(policies))
    predictor = options.predictor_spec()
    loaded = options.source(trace, params).load(params.seed)
    bar.rename("simulating and bounding, parts")
    found: GapReport | TimeGapReport = run(
        loaded,
        specs,
        workers=params.workers,
        slots=params.slots,
        params=params,
        predictor=predictor,
        seed=params.seed,
        progress=bar.update,
        **judging,
    )
    return found


def _write(report: GapReport | TimeGapReport, out: str, bar: LateBar) -> None:
    from brsolver.oracles.gap import GapReport
    from brsolver.report.gap_page import write_gap
    from brsolver.report.gap_time_page import write_time_gap

    bar.rename("drawing, figures")
    if isinstance(report, GapReport):
        write_gap(report, out, progress=bar.update)
    else:
        write_time_gap(report, out, progress=bar.update)


def _print_report(report: GapReport) -> None:
    from rich.text import Text

    console = wide_console()
    console.print(_table(report))
    if any(row.regret for row in report.policies):
        console.print()
        console.print(_regret_table(report))
        console.print()
    console.print(Text(_verdict(report)), soft_wrap=True)
    print_notes(console, report.notes)


def _table(report: GapReport) -> Table:
    from rich.text import Text

    title = (
        f"{report.trace_name}: {report.requests:,} requests, G = {report.workers}, "
        f"B = {report.slots}, oracle {report.oracle}"
    )
    table = titled_table(title)
    table.add_column("policy")
    for heading in ("barrier time", "gap to bound", "to best", "routing: fill", "steady", "drain"):
        table.add_column(heading, justify="right")
    for row in report.policies:
        table.add_row(Text(row.policy), *_cells(row))
    return table


def _weight(report: GapReport) -> str:
    each = report.request_tokens
    return f"\na request weighs {each:,} tokens besides its KV tokens" if each else ""


def _cells(row: PolicyGap) -> list[str]:
    phases = [percent(part.gap) for part in row.routing.phases]
    mark = "" if row.certified else "*"
    return [f"{row.barrier_time:,}", percent(row.gap) + mark, percent(row.gap_to_best), *phases]


def _regret_table(report: GapReport) -> Table:
    from rich.text import Text

    title = f"regret per decision in {report.unit} (~: some are bounds, at most that much)"
    table = titled_table(title)
    table.add_column("policy")
    for heading in ("examined", "horizon"):
        table.add_column(heading, justify="right")
    for name in _REGRETS:
        for heading in (f"{name}: mean", "P95", "worst", "proven"):
            table.add_column(heading, justify="right")
    for row in report.policies:
        if row.regret:
            table.add_row(Text(row.policy), *_regret_cells(row.regret))
    return table


def _regret_cells(regret: dict[str, Any]) -> list[str]:
    cells = [f"{regret['examined']:,} of {regret['decisions']:,}", str(regret["horizon"])]
    for name in _REGRETS:
        figures = regret[name]
        mark = "" if figures["proven"] == regret["examined"] else "~"
        cells += [f"{mark}{figures[part]:,.0f}" for part in ("mean", "p95", "worst")]
        cells.append(f"{figures['proven']:,}")
    return cells


def _verdict(report: GapReport) -> str:
    lower = "none" if report.lower_bound is None else f"{report.lower_bound:,}"
    best = "none" if report.best_known is None else f"{report.best_known:,}"
    steps = "effective-token" if report.request_tokens else "KV-token"
    return (
        f"lower bound {lower} ({report.origin}); best known {best} {steps} steps; "
        f"status {report.status.value}; {report.wall_s:.1f} s\n"
        f"the bound holds for {report.valid_for}{_weight(report)}"
    )
