"""What ``brsolver tune`` prints of the validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver.cli._terminal import titled_table

if TYPE_CHECKING:
    from rich.table import Table

    from brsolver.tuning import TuneResult, Validated

_COLUMNS = (
    ("tok/s", "bulk_tok_s", 1.0, ",.0f"),
    ("TTFT ms", "ttft_mean_s", 1e3, ",.0f"),
    ("P95", "ttft_p95_s", 1e3, ",.0f"),
    ("TPOT ms", "tpot_mean_s", 1e3, ",.1f"),
    ("P95", "tpot_p95_s", 1e3, ",.1f"),
    ("E2E s", "e2e_mean_s", 1.0, ",.2f"),
    ("lost %", "time_lost_share", 1e2, ",.1f"),
)
_GOODPUT = ("goodput req/s", "bulk_good_req_s", 1.0, ",.3g")


def validated_table(result: TuneResult) -> Table:
    """Return a row per setting that was validated, means over the starts."""
    from rich.text import Text

    columns = (_GOODPUT, *_COLUMNS) if result.goal.name == "goodput" else _COLUMNS
    title = f"{result.trace_name}: later {result.requests[1]:,} requests, means over the starts"
    table = titled_table(title)
    table.add_column("")
    table.add_column("setting", overflow="fold")
    table.add_column("gain", justify="right")
    for heading, *_ in columns:
        table.add_column(heading, justify="right")
    for each in result.validated:
        cells = [_cell(each, *column) for column in columns]
        mark = "→ " if each.role == result.recommended else "  "
        table.add_row(
            Text(mark + each.role), Text(str(each.candidate)), Text(_gain(each)), *map(Text, cells)
        )
    return table


def _gain(each: Validated) -> str:
    gain = each.gains.get("published")
    return "" if gain is None else str(gain)


def _cell(each: Validated, heading: str, metric: str, factor: float, form: str) -> str:
    del heading
    value = each.mean(metric)
    return "–" if value is None else format(factor * value, form)
