"""What ``brsolver gap --objective time`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver.cli._terminal import percent, print_notes, titled_table, wide_console

if TYPE_CHECKING:
    from rich.table import Table

    from brsolver.oracles.gap_time import PolicyTimeGap, TimeGapReport

_PARTS = (
    ("more_steps_s", "more steps"),
    ("prefill_s", "prefill"),
    ("sequences_s", "sequences"),
    ("kv_s", "KV"),
    ("padding_s", "padding"),
    ("unavoidable_s", "unavoidable"),
)


def print_time_report(report: TimeGapReport) -> None:
    """Print the table, what the bound is, and notes."""
    from rich.text import Text

    console = wide_console()
    console.print(_table(report))
    console.print(Text(_verdict(report)), soft_wrap=True)
    print_notes(console, report.notes)


def _table(report: TimeGapReport) -> Table:
    from rich.text import Text

    on = f", on {report.hardware}" if report.hardware else ""
    title = (
        f"{report.trace_name}: {report.requests:,} requests, G = {report.workers}, "
        f"B = {report.slots}{on}, oracle {report.oracle}; parts are % of the bound"
    )
    table = titled_table(title)
    table.add_column("policy")
    for heading in ("seconds", "gap to bound", "to best"):
        table.add_column(heading, justify="right")
    shown = _shown(report)
    for _, heading in shown:
        table.add_column(heading, justify="right")
    table.add_column("routing alone", justify="right")
    for row in report.policies:
        table.add_row(Text(row.policy), *_cells(report, row, shown))
    return table


def _shown(report: TimeGapReport) -> list[tuple[str, str]]:
    """Return the parts that are something in any run."""
    return [
        (name, heading)
        for name, heading in _PARTS
        if any(percent(_part(report, row, name)).strip("-") != "0.00 %" for row in report.policies)
    ]


def _part(report: TimeGapReport, row: PolicyTimeGap, name: str) -> float:
    seconds: float = getattr(row.beyond, name)
    return seconds / report.lower_bound_s


def _cells(report: TimeGapReport, row: PolicyTimeGap, shown: list[tuple[str, str]]) -> list[str]:
    mark = "" if row.certified else "*"
    parts = [percent(_part(report, row, name)) for name, _ in shown]
    return [
        f"{row.seconds:,.2f}",
        percent(row.gap) + mark,
        percent(row.gap_to_best),
        *parts,
        percent(row.routing_gap),
    ]


def _verdict(report: TimeGapReport) -> str:
    best = "none" if report.best_known_s is None else f"{report.best_known_s:,.2f} s"
    bound, every = report.bound, report.bounds[-1]
    return (
        f"lower bound {report.lower_bound_s:,.2f} s ({report.origin}; {bound.steps:,} steps by "
        f"{bound.steps_by}); best known {best}; status {report.status.value}; "
        f"{report.wall_s:.1f} s\nthe bound holds for {report.valid_for}\n"
        f"a run planned with all requests and lengths known need not be of that kind: it takes at "
        f"least {every.seconds:,.2f} s, and at most {report.clairvoyant_s:,.2f} s"
    )
