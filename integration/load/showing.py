"""The figures of a load as a table for a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from integration.load.answers import shortened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration.load.figures import Figures, Spread
    from integration.load.running import Loaded

DURATIONS = {
    "ttft": "first token (TTFT)",
    "tpot": "per token (TPOT)",
    "itl": "chunk to chunk (ITL)",
    "e2e": "last token (E2E)",
    "late": "sent late by",
}
DUE = "Latencies count from when a request was due, not from when it was sent."


def counts_table(loaded: Loaded) -> Table:
    """Make the table of counts and rates."""
    table = _table(_title(loaded))
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("", style="dim")
    for label, value, unit in _counts(loaded.figures):
        # As it is: what servers say, too, may look like markup.
        table.add_row(Text(label), value, Text(unit, style="dim"))
    return table


def _title(loaded: Loaded) -> str:
    figures = loaded.figures
    return f"{shortened(loaded.served.model)} on {loaded.trace.name}: {figures.requests:,} requests"


def durations_table(figures: Figures) -> Table:
    """Make the table of durations, in milliseconds."""
    table = _table("")
    table.add_column("milliseconds", no_wrap=True)
    for heading in ("mean", "P50", "P90", "P95", "P99", "most"):
        table.add_column(heading, justify="right")
    for name, label in DURATIONS.items():
        table.add_row(label, *_cells(getattr(figures, name)))
    return table


def _table(title: str) -> Table:
    return Table(
        title=Text(title) if title else None,
        title_justify="left",
        box=None,
        header_style="bold",
        pad_edge=False,
        show_header=not title,
    )


def _counts(figures: Figures) -> Iterator[tuple[str, str, str]]:
    yield "complete", f"{figures.complete:,}", f"of {figures.requests:,} requests"
    for kind, count in figures.failed.items():
        yield f"failed: {kind}", f"{count:,}", figures.reasons[kind]
    if figures.interrupted or figures.unsent:
        yield "interrupted", f"{figures.interrupted:,}", f"{figures.unsent:,} not sent"
    if figures.short:
        yield "fewer tokens than asked for", f"{figures.short:,}", "requests"
    yield "duration", f"{figures.duration_s:,.2f}", "s"
    yield "requests", _rate(figures.requests_per_s), "requests/s"
    yield "output tokens", _rate(figures.output_tok_s), "tok/s"
    yield "prompt and output tokens", _rate(figures.total_tok_s), "tok/s"
    if figures.good is not None:
        share = figures.good / max(figures.requests - figures.unsent, 1)
        yield "goodput", _rate(figures.goodput_per_s), f"requests/s, {share:.1%} of those sent"
    yield "in flight at most", f"{figures.peak:,}", "requests"


def _rate(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.2f}"


def _cells(spread: Spread) -> list[str]:
    values = (spread.mean, spread.p50, spread.p90, spread.p95, spread.p99, spread.most)
    return ["-" if math.isnan(value) else f"{1e3 * value:,.2f}" for value in values]
