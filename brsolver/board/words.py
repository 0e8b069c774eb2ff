"""How figures of a board are written, in whatever medium."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from brsolver.board.standings import KINDS, LOSS
from brsolver.results.deciding import short, times

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from brsolver.board.result import Board
    from brsolver.board.standings import Kind

DASH = "–"
MARKS = {"published": "", "stand-in": "*", "other file": "†"}
"""Behind a trace's name: where its requests are from."""
MEANT = {
    "stand-in": "* a preset stands in for the public trace",
    "other file": "† a file that is not the published one",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table with a line per policy.

    Attributes
    ----------
    label : str
    group : str
        What it is about, above the labels of several; empty if it is about all cells.
    values : tuple of float
        One per standing, to sort by; NaN where there is none.
    texts : tuple of str
        As shown.
    """

    label: str
    group: str
    values: tuple[float, ...]
    texts: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return group and label."""
        return f"{self.group}, {self.label}" if self.group else self.label


def overview(board: Board) -> list[Column]:
    """Return the columns of the table that a reader sees first."""
    lines = board.standings
    scores, halves = [one.score for one in lines], [one.score_half_width for one in lines]
    found = [_scored(_column("all cells", scores, times), halves)]
    for prefill, kind in parts(board):
        score, *_, gap, _ = part_columns(board, prefill, kind)
        found.append(replace(score, label=kind, group=prefill))
        if kind == "saturated":
            found.append(replace(gap, label="gap", group=prefill))
    found.append(_column("worst cell", [one.worst for one in lines], times))
    lost = _column("lost", [one.losses for one in lines], str)
    of = tuple(f"{one.losses} of {one.cells - one.failed}" for one in lines)
    found.append(replace(lost, texts=of))
    found.append(_column("a decision, µs", [one.decision_us for one in lines], short))
    return found


def part_columns(board: Board, prefill: str, kind: Kind) -> list[Column]:
    """Return the columns of one way of prefill and one kind of regime."""
    held = [one.part(prefill, kind) for one in board.standings]

    def column(label: str, name: str, write: Callable[[float], str]) -> Column:
        values = [math.nan if part is None else float(getattr(part, name)) for part in held]
        return _column(label, values, write)

    halves = [math.nan if part is None else part.score_half_width for part in held]
    return [
        _scored(column("score", "score", times), halves),
        column("TPOT", "tpot", times),
        column("TTFT P99", "ttft", times),
        column("lost at the barrier", "lost", percent),
        column("gap to the bound", "gap", percent),
        column("of it placement", "routing_gap", percent),
    ]


def parts(board: Board) -> list[tuple[str, Kind]]:
    """Return the ways of prefill and kinds of regime that any policy has cells in."""
    known = {(part.prefill, part.kind) for one in board.standings for part in one.parts}
    every = [(prefill, kind) for prefill in board.definition.prefill for kind in KINDS]
    return [each for each in every if each in known]


def _column(label: str, values: Sequence[float], write: Callable[[float], str]) -> Column:
    texts = tuple(DASH if math.isnan(value) else write(value) for value in values)
    return Column(label=label, group="", values=tuple(map(float, values)), texts=texts)


def _scored(column: Column, halves: Sequence[float]) -> Column:
    """Write half of each score's interval beside it, where there is any."""
    texts = tuple(
        text if math.isnan(half) else f"{text} ± {half:.2f}"
        for text, half in zip(column.texts, halves, strict=True)
    )
    return replace(column, texts=texts)


def percent(value: float) -> str:
    """Write a share as per cent; unknown is a dash."""
    return DASH if math.isnan(value) else f"{100 * value:,.1f} %"


def trace_label(board: Board, name: str) -> str:
    """Return a trace's name with the mark of where its requests are from."""
    origin = next((one.origin for one in board.traces if one.name == name), "published")
    return name + MARKS[origin]


def legend(board: Board) -> list[str]:
    """Return what the marks of traces mean, of those that are there."""
    origins = {one.origin for one in board.traces}
    return [text for origin, text in MEANT.items() if origin in origins]


def conditions(board: Board) -> str:
    """Say in one sentence what was run."""
    one = board.definition
    spans = (
        f"traces {_listed(trace_label(board, name) for name in one.traces)}",
        f"prefill {_listed(one.prefill)}",
        f"regimes {_listed(one.regimes)}",
        f"hardware {_listed(one.hardware)}",
        f"seeds {_listed(map(str, one.seeds))}",
    )
    return (
        f"{len(board.standings)} policies in {len(board.rows):,} cells: {'; '.join(spans)}. "
        f"G = {one.workers}, B = {one.slots}, the first {one.limit:,} requests of each trace."
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _lost(seeds: int) -> str:
    lost = f"Lost are cells with a score of less than {1 - LOSS:g}"
    if seeds == 1:
        return f"{lost}: with one seed nothing is known of noise below that (--seeds N)."
    return (
        f"{lost}, each seed's for itself. ± is half the 95 % interval of a mean over {seeds} seeds "
        "(Student's t): what of it hangs on which requests were drawn, or come when."
    )


def reading(board: Board) -> Iterator[str]:
    """Yield the sentences that a reader of the tables needs."""
    base = board.baseline.text
    yield (
        f"All but gaps, shares and decisions are ratios to {base} in the same cell, geometric "
        "means over cells. A cell's score is above 1 where it is better than that rule: "
        "throughput where a pool of requests keeps the slots full, and the rule's end-to-end P95 "
        "over the policy's where requests come at a share of what the rule gets through."
    )
    yield (
        "The gap is seconds beyond a certified lower bound of all runs: any order, assignment and "
        "time of release. No policy can be better by more than that. Of it placement is what "
        "lies beyond the best assignment of the requests that were admitted, and prefilled, when "
        "this run did."
    )
    yield _lost(len(board.definition.seeds))
    loose = sum(not row["certified"] for row in board.scored())
    yield (
        f"In {loose} cells the bound does not hold, as requests were preempted or did not "
        "finish: the gap compares there, and certifies nothing."
        if loose
        else "The bound holds for the runs of all cells: every gap is certified."
    )
    if any(not regime.saturated for regime in board.definition.regimes.values()):
        yield (
            "By arrivals the bound holds as well, but it does not know when requests come. Most "
            "of such a gap is steps that were not full for want of requests, and not the policy's."
        )
