"""A board as one HTML page that needs nothing else, and as Markdown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brsolver.board.standings import LOSS
from brsolver.board.words import (
    conditions,
    legend,
    overview,
    part_columns,
    parts,
    reading,
    trace_label,
)
from brsolver.report import board_figures
from brsolver.report.html import embed
from brsolver.report.page import draw_plans, percent, render_page, write_page
from brsolver.report.write import PNG_DPI
from brsolver.results.deciding import short, times

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from brsolver.board.result import Board
    from brsolver.board.words import Column
    from brsolver.report.html import Picture
    from brsolver.report.page import Drawn

FIGURES = "board-figures"
FILTERS = ("trace", "prefill", "regime", "hardware", "policy")
"""Columns of the table of cells that a reader can choose by; of several seeds by these as well."""
_GAPS = (
    "A dot per cell with full slots, a colour and a row of dots per way of prefill; the bar is "
    "their geometric mean. Further left is nearer to the least time that any run could take. The "
    "axis is logarithmic."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A cell of a table: what is shown, and what it sorts by."""

    label: str
    text: str
    key: float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a table."""

    name: str
    routing: str
    remark: str
    values: tuple[Value, ...]


def write_board(
    board: Board, out_dir: str | Path, *, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write ``board.html``, ``board.md`` and ``board-figures/``.

    Parameters
    ----------
    board : Board
    out_dir : str or Path
        Files of the same names in it are replaced, all others stay.
    progress : callable, optional
        Called with (figures drawn, all figures).

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    OutputError
        The folder cannot be written; nothing is left behind then.
    """
    return write_page(
        out_dir,
        FIGURES,
        draw_pictures(board, dpi=PNG_DPI),
        lambda pictures: {"board.html": render(board, pictures), "board.md": markdown(board)},
        progress,
    )


def draw_pictures(board: Board, *, dpi: int) -> Iterator[Drawn]:
    """Draw every figure; yields its number, how many there are, and itself."""
    plans: list[tuple[str, str, str, Callable[[Board], Figure]]] = []
    if any(row["kind"] == "saturated" for row in board.scored()):
        title = "How far each policy is from the least time"
        plans.append(("gaps", title, _GAPS, board_figures.gaps))
    return draw_plans(board, plans, dpi=dpi)


def render(board: Board, pictures: Sequence[Picture]) -> str:
    """Fill the page template; pictures are embedded, nothing is fetched when it is opened."""
    return render_page(
        "board.html.jinja",
        {"ratio": _ratio, "verdict": _verdict, "groups": _groups},
        board=board,
        conditions=conditions(board),
        reading=list(reading(board)),
        legend=legend(board),
        notes=board.notes(),
        failures=board.failures_told(),
        overview=_lines(board, overview(board)),
        heads=overview(board),
        parts=[
            (f"{prefill}, {kind}", _lines(board, part_columns(board, prefill, kind), kept=True))
            for prefill, kind in parts(board)
        ],
        loses=board.standings,
        cells=[_cell(board, row) for row in board.scored()],
        choosers=[(name, _choices(board, name)) for name in _filters(board)],
        embedded=[embed(picture) for picture in pictures],
        parameters=list(_parameters(board)),
    )


def markdown(board: Board) -> str:
    """Write the tables as Markdown."""
    blocks = [f"# Board {board.definition.name}", conditions(board), *reading(board)]
    blocks += [" ".join([*legend(board), f"Written by brsolver {board.version}."])]
    blocks += [f"**{line}**" for line in board.failures_told()]
    blocks.append(_table(_lines(board, overview(board))))
    for prefill, kind in parts(board):
        blocks.append(f"## {prefill}, {kind}")
        blocks.append(_table(_lines(board, part_columns(board, prefill, kind), kept=True)))
    blocks += ["## Where each policy is worst", _worst(board)]
    return "\n\n".join(blocks)


def _lines(board: Board, columns: Sequence[Column], *, kept: bool = False) -> list[Line]:
    """Return a line per policy; with `kept` only of those that have any figure."""
    found = []
    for at, one in enumerate(board.standings):
        if kept and all(math.isnan(column.values[at]) for column in columns):
            continue
        values = tuple(
            Value(label=column.name, text=column.texts[at], key=_key(column.values[at]))
            for column in columns
        )
        found.append(
            Line(name=one.policy, routing=one.routing, remark=board.remark(one), values=values)
        )
    return found


def _key(value: float) -> float | str:
    return "" if math.isnan(value) else value


def _table(lines: Sequence[Line]) -> str:
    if not lines:
        return "None."
    heads = ["policy", *(value.label for value in lines[0].values)]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    rows += [
        f"| `{line.name}@{line.routing}`{_aside(line.remark)} | "
        f"{' | '.join(value.text for value in line.values)} |"
        for line in lines
    ]
    return "\n".join(rows)


def _aside(remark: str) -> str:
    return f" ({remark})" if remark else ""


def _worst(board: Board) -> str:
    rows = ["| policy | worst cell | there | loses most often in |", "|---|---|---|---|"]
    for one in board.standings:
        if one.worst_in:
            most = "; ".join(one.loses_in[:3]) or "none"
            rows.append(f"| `{one.label}` | {one.worst_in} | {times(one.worst)} | {most} |")
    return "\n".join(rows)


def _cell(board: Board, row: dict[str, Any]) -> dict[str, Any]:
    """Return a line of the table of cells: what it can be chosen by, and its values."""
    chosen = {name: str(row[name]) for name in _filters(board)}
    chosen["policy"] = f"{row['policy']}@{row['routing']}"
    figures = (
        ("score", row["score"], _ratio(row["score"])),
        ("tokens per s", row["throughput_tok_s"], short(row["throughput_tok_s"])),
        ("mean TPOT, ms", row["tpot_mean_s"], short(1e3 * row["tpot_mean_s"])),
        ("TTFT P99, s", row["ttft_p99_s"], short(row["ttft_p99_s"])),
        ("end-to-end P95, s", row["e2e_p95_s"], short(row["e2e_p95_s"])),
        ("lost", row["time_lost_share"], percent(row["time_lost_share"])),
        ("gap", row["gap"], percent(row["gap"]) + ("" if row["certified"] else " (compares)")),
        ("placement", row["routing_gap"], percent(row["routing_gap"])),
    )
    values = [
        Value(label=label, text=text, key="" if value is None else _key(float(value)))
        for label, value, text in figures
    ]
    return {"chosen": {**chosen, "trace": trace_label(board, row["trace"])}, "values": values}


def _filters(board: Board) -> tuple[str, ...]:
    return FILTERS if len(board.definition.seeds) == 1 else (*FILTERS, "seed")


def _ratio(value: float) -> str:
    return "–" if math.isnan(value) else times(value)


def _choices(board: Board, name: str) -> list[str]:
    every = (_cell(board, row)["chosen"][name] for row in board.scored())
    return list(dict.fromkeys(every))


def _parameters(board: Board) -> Iterator[tuple[str, str]]:
    one = board.definition
    yield "board", f"{one.name}, fingerprint {one.fingerprint}"
    yield "baseline", board.baseline.text
    for loaded in board.traces:
        first = next(iter(loaded.by_seed.values()))
        yield (
            f"trace {loaded.name}",
            f"{loaded.origin}: {loaded.source}, {len(first):,} requests, {first.fingerprint()}",
        )
    for name, prefill in one.prefill.items():
        yield f"prefill {name}", _settings(prefill)
    for name, regime in one.regimes.items():
        pool = regime.pool or 4 * one.workers
        said = f"a pool of {pool} requests" if regime.saturated else f"{regime.load:g} of the load"
        yield f"regime {name}", said
    yield "version", board.version
    yield "time of this call", f"{board.wall_s:,.0f} s"


def _settings(prefill: Any) -> str:
    if not prefill.colocated:
        return "computed before a request is routed"
    cache = f", {prefill.cache:,} KV tokens with prefix cache" if prefill.cache else ""
    return f"on the decode ranks, {prefill.budget:,} tokens a step{cache}"


def _verdict(score: float | str) -> str:
    """Return the class of a score: beyond what one seed leaves open, or neither."""
    if isinstance(score, str) or abs(score - 1) <= LOSS:
        return ""
    return "better" if score > 1 else "worse"


def _groups(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Return what stands above columns next to each other, and above how many."""
    from itertools import groupby

    return [(name, len(list(those))) for name, those in groupby(columns, lambda one: one.group)]
