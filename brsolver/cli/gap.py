"""``brsolver gap``: how far policies are from the best possible run."""

from __future__ import annotations

import math
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brsolver.cli import _options as o

if TYPE_CHECKING:
    from rich.table import Table

    from brsolver.cli._progress import LateBar
    from brsolver.compare import TraceSource
    from brsolver.oracles.gap import GapReport, PolicyGap
    from brsolver.simulator.params import SimulationParams

ORACLE = "Oracle"
PIPE_WIDTH = 160
_REGRETS = ("score", "imbalance")
_SPAN = re.compile(r"(?P<count>\d+(\.\d*)?|\.\d+)(?P<unit>ms|s|m|h|)")
_MAX_SPAN_S = 1e9
_UNITS = {"ms": 1e-3, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def gap(
    trace: o.TraceArgument,
    *,
    policies: Annotated[
        str, typer.Option(metavar="A,B,...", help="Policies, e.g. jsq-load,br-0,br-h.")
    ],
    workers: Annotated[
        int, typer.Option(metavar="G", rich_help_panel=o.CLUSTER, help="Workers.")
    ] = 8,
    slots: Annotated[
        int, typer.Option(metavar="B", rich_help_panel=o.CLUSTER, help="Slots per worker.")
    ] = 32,
    oracle: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            rich_help_panel=ORACLE,
            help="bounds (any size), hindsight-fcfs, hindsight-free (exact up to a dozen "
            "requests; beyond 60 it certifies the free bound only) or step (bounds, and the "
            "regret of every decision).",
        ),
    ] = "bounds",
    budget: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            rich_help_panel=ORACLE,
            help="Time for the oracle: 30s, 5m, 1h. Simulations and first-time compilation "
            "come on top.",
        ),
    ] = "1m",
    horizon: Annotated[
        int | None,
        typer.Option(
            metavar="H",
            rich_help_panel=ORACLE,
            help="Steps ahead by which step judges decisions. (default: each policy's own)",
            show_default=False,
        ),
    ] = None,
    pool: o.PoolOption = None,
    step_time: o.StepTimeOption = None,
    predictor: o.PredictorOption = None,
    seed: o.SeedOption = None,
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
    """Hold policies against certified bounds or the best run in hindsight."""
    from brsolver.cli._params import parse_step_time
    from brsolver.cli._progress import late_bar
    from brsolver.compare import TraceSource
    from brsolver.simulator.params import Arrivals, SimulationParams, StepTime

    source = TraceSource(source=trace, reader=format, limit=limit, skip_bad_rows=skip_bad_rows)
    params = SimulationParams(
        workers=workers,
        slots=slots,
        arrivals=Arrivals(pool=pool),
        step_time=StepTime() if step_time is None else parse_step_time(step_time),
        seed=seed or 0,
    )
    with late_bar("loading") as bar:
        report = _report(
            source,
            policies,
            params,
            workers=workers,
            slots=slots,
            oracle=oracle,
            budget_s=parse_span(budget),
            horizon=horizon,
            predictor=predictor,
            out=out,
            bar=bar,
        )
        if out is not None:
            _write(report, out, bar)
    if json:
        sys.stdout.write(json_text(report) + "\n")
    else:
        _print_report(report)
    if out is not None:
        typer.echo(f"wrote {out}", err=True)


def _report(
    source: TraceSource,
    policies: str,
    params: SimulationParams,
    *,
    workers: int,
    slots: int,
    oracle: str,
    budget_s: float,
    horizon: int | None,
    predictor: str | None,
    out: str | None,
    bar: LateBar,
) -> GapReport:
    from brsolver.compare import split_policies
    from brsolver.oracles.gap import gap as run
    from brsolver.report.write import check_out_dir

    if out is not None:
        check_out_dir(out)
    loaded = source.load(params.seed)
    bar.rename("simulating and bounding, parts")
    return run(
        loaded,
        split_policies(policies),
        workers=workers,
        slots=slots,
        oracle=oracle,  # type: ignore[arg-type] # checked there, with a suggestion
        budget_s=budget_s,
        params=params,
        predictor=predictor,
        seed=params.seed,
        horizon=horizon,
        progress=bar.update,
    )


def _write(report: GapReport, out: str, bar: LateBar) -> None:
    from brsolver.report.gap_page import write_gap

    bar.rename("drawing, figures")
    write_gap(report, out, progress=bar.update)


def parse_span(text: str, name: str = "budget") -> float:
    """Read a time like ``90``, ``90s``, ``5m``, ``1.5h`` or ``500ms``; return seconds."""
    from brsolver.errors import ParameterError

    match = _SPAN.fullmatch(text.strip())
    seconds = float(match["count"]) * _UNITS[match["unit"]] if match else 0.0
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ParameterError(f"{name} is {text!r}, must be a positive time such as 30s, 5m or 1h")
    if seconds > _MAX_SPAN_S:
        raise ParameterError(f"{name} is {text!r}, must be at most {_MAX_SPAN_S:g} s")
    return seconds


def json_text(report: GapReport) -> str:
    """Write the report as one strict JSON object."""
    import json

    from brsolver.cli.simulate import finite_only

    return json.dumps(finite_only(report.to_dict()), indent=2, allow_nan=False)


def _print_report(report: GapReport) -> None:
    from rich.console import Console
    from rich.text import Text

    # Tables that are piped somewhere should not be cut to the width of a terminal of 80.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    console.print(_table(report))
    if any(row.regret for row in report.policies):
        console.print()
        console.print(_regret_table(report))
        console.print()
    console.print(Text(_verdict(report)), soft_wrap=True)
    for note in report.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)


def _table(report: GapReport) -> Table:
    from rich.table import Table
    from rich.text import Text

    title = (
        f"{report.trace_name}: {report.requests:,} requests, G = {report.workers}, "
        f"B = {report.slots}, oracle {report.oracle}"
    )
    table = Table(
        title=Text(title), title_justify="left", box=None, header_style="bold", pad_edge=False
    )
    table.add_column("policy")
    for heading in ("barrier time", "gap to bound", "to best", "routing: fill", "steady", "drain"):
        table.add_column(heading, justify="right")
    for row in report.policies:
        table.add_row(Text(row.policy), *_cells(row))
    return table


def _cells(row: PolicyGap) -> list[str]:
    phases = [_percent(part.gap) for part in row.routing.phases]
    mark = "" if row.certified else "*"
    return [f"{row.barrier_time:,}", _percent(row.gap) + mark, _percent(row.gap_to_best), *phases]


def _regret_table(report: GapReport) -> Table:
    from rich.table import Table
    from rich.text import Text

    title = "regret per decision in KV tokens (~: some are bounds, at most that much)"
    table = Table(
        title=Text(title), title_justify="left", box=None, header_style="bold", pad_edge=False
    )
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


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"


def _verdict(report: GapReport) -> str:
    lower = "none" if report.lower_bound is None else f"{report.lower_bound:,}"
    best = "none" if report.best_known is None else f"{report.best_known:,}"
    return (
        f"lower bound {lower} ({report.origin}); best known {best} KV-token steps; "
        f"status {report.status.value}; {report.wall_s:.1f} s\n"
        f"the bound holds for {report.valid_for}"
    )
