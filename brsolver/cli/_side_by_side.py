"""What every back end answered to one saved state, as tables and as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brsolver.cli._terminal import print_strict_json, titled_table, wide_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from brsolver.oracles.result import Number, SolveResult
    from brsolver.oracles.step import Objective, StepInstance

MILP, LP = "milp", "lp"
ROUNDING = 1e-7
"""Relative error of a relaxation's bound in floating point."""

_HEADINGS = ("back end", "kind", "status", "objective", "dual bound", "gap", "build ms", "solve ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    backend : str
        Back end, or whatever else made the decision or the bound.
    kind : {"milp", "lp", "search", "bound", "heuristic", "policy"}
    result : SolveResult
        `Status.ERROR` with the reason in `message` where the back end is missing or crashed.
    """

    backend: str
    kind: str
    result: SolveResult

    @property
    def decides(self) -> bool:
        """Whether its objective is a decision's, not a relaxation's."""
        return self.kind != LP and self.result.objective is not None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        found = self.result
        whole = found.solution is not None and self.kind != LP
        return {
            "backend": self.backend,
            "kind": self.kind,
            "status": found.status.value,
            "objective": found.objective,
            "dual_bound": found.dual_bound,
            "gap": found.gap,
            "build_s": found.build_s,
            "solve_s": found.solve_s,
            "nodes": found.nodes,
            "iterations": found.iterations,
            "origin": found.origin,
            "message": found.message,
            "assignment": found.solution.astype(int).tolist()
            if whole and found.solution is not None
            else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """Every back end's answer for one objective."""

    objective: Objective
    rows: tuple[Row, ...]

    @property
    def best(self) -> Number | None:
        """Best objective of a decision."""
        values = [r.result.objective for r in self.rows if r.decides]
        known = [value for value in values if value is not None]
        choose = max if self.objective == "score" else min
        return choose(known) if known else None

    @property
    def bound(self) -> int | None:
        """Strongest bound of decisions that anyone certifies."""
        bounds = [r.result.dual_bound for r in self.rows]
        known = [self._whole(bound) for bound in bounds if bound is not None]
        choose = min if self.objective == "score" else max
        return choose(known) if known else None

    def _whole(self, bound: Number) -> int:
        """Round a relaxation's bound to the integer it implies: decisions have no other value."""
        slack = 0.0 if isinstance(bound, int) else ROUNDING * max(1.0, abs(bound))
        return math.floor(bound + slack) if self.objective == "score" else math.ceil(bound - slack)

    @property
    def contradictory(self) -> bool:
        """Whether a decision is better than a bound allows: some back end is wrong then."""
        if self.best is None or self.bound is None:
            return False
        return self.best > self.bound if self.objective == "score" else self.best < self.bound

    @property
    def proven_by(self) -> tuple[str, ...]:
        """Back ends that prove the optimum among decisions."""
        return tuple(r.backend for r in self.rows if r.kind == MILP and r.result.proven)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "objective": self.objective,
            "sense": "max" if self.objective == "score" else "min",
            "best": self.best,
            "bound": self.bound,
            "contradictory": self.contradictory,
            "proven_by": list(self.proven_by),
            "rows": [row.to_dict() for row in self.rows],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """A state, what it is called, and a sheet for each objective."""

    state: str
    instance: StepInstance
    sheets: tuple[Sheet, ...]

    def to_dict(self, limit_s: float) -> dict[str, Any]:
        """Return plain values; `limit_s` is what each back end had."""
        return {
            "state": self.state,
            **_facts(self.instance),
            "time_limit_s": limit_s,
            "objectives": [sheet.to_dict() for sheet in self.sheets],
        }


def print_json(solved: Sequence[Solved], limit_s: float) -> None:
    """Print one JSON object: that of a single state, or a list ``states`` of them.

    Parameters
    ----------
    solved : sequence of Solved
    limit_s : float
        Seconds that each back end had.
    """
    each = [one.to_dict(limit_s) for one in solved]
    print_strict_json(each[0] if len(each) == 1 else {"states": each})


def _facts(instance: StepInstance) -> dict[str, Any]:
    return {
        "workers": instance.workers,
        "open_workers": int(instance.open_workers.size),
        "free_slots": int(instance.room.sum()),
        "waiting": int(instance.prompts.size),
        "admit": instance.admit,
        "horizon": int(instance.weights.size) - 1,
        "request_tokens": instance.request_tokens,
    }


def print_sheets(solved: Sequence[Solved]) -> None:
    """Print a table per state and objective."""
    from rich.text import Text

    console = wide_console()
    for at, one in enumerate(solved):
        if at:
            console.print()
        console.print(Text(_heading(one)), soft_wrap=True)
        for sheet in one.sheets:
            console.print()
            console.print(_table(sheet))
            _print_messages(console, sheet)


def _heading(solved: Solved) -> str:
    facts = _facts(solved.instance)
    admit = "may hold" if facts["admit"] is None else f"admits {facts['admit']}"
    text = (
        f"{solved.state}: G = {facts['workers']}, {facts['waiting']:,} waiting, "
        f"{facts['free_slots']:,} free slots, {admit}, H = {facts['horizon']}"
    )
    if each := facts["request_tokens"]:
        text += f", in KV tokens and {each:,} for every request"
    return text


def _table(sheet: Sheet) -> Table:
    from rich.text import Text

    sense = "maximise" if sheet.objective == "score" else "minimise"
    title = f"{sheet.objective}, to {sense}: {_verdict(sheet)}"
    table = titled_table(title)
    for at, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="left" if at < 3 else "right", no_wrap=at < 3)
    table.add_column("nodes/iter.", justify="right")
    table.add_column("origin")
    for row in sheet.rows:
        table.add_row(Text(row.backend), row.kind, *_cells(row.result))
    return table


def _cells(found: SolveResult) -> list[str]:
    gap = "–" if found.gap is None else f"{100 * found.gap:.3f} %"
    return [
        found.status.value,
        _number(found.objective),
        _number(found.dual_bound),
        gap,
        f"{1e3 * found.build_s:.1f}",
        f"{1e3 * found.solve_s:.1f}",
        f"{found.nodes:,}/{found.iterations:,}",
        found.origin,
    ]


def _number(value: Number | None) -> str:
    if value is None:
        return "–"
    # Rounded first, or a relaxation's -1e-9 would show as -0.00.
    return f"{value:,}" if isinstance(value, int) else f"{round(value, 2) + 0.0:,.2f}"


def _verdict(sheet: Sheet) -> str:
    if sheet.contradictory:
        return f"back ends disagree: decision {_number(sheet.best)}, bound {_number(sheet.bound)}"
    if sheet.proven_by:
        return f"optimum {_number(sheet.best)}, proven by {', '.join(sheet.proven_by)}"
    return f"best known {_number(sheet.best)}, bound {_number(sheet.bound)}"


def _print_messages(console: Console, sheet: Sheet) -> None:
    """Print below the table what would tear its columns apart."""
    from rich.text import Text

    for row in sheet.rows:
        if row.result.message:
            line = f"{row.backend} ({row.kind}): {row.result.message}"
            console.print(Text(line, style="yellow"), soft_wrap=True)
