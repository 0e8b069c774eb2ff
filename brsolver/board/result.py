"""A board that was computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from brsolver.board.standings import Standing, scored_rows, standings
from brsolver.campaign import FAILED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.board.definition import BoardDefinition
    from brsolver.board.policies import BoardPolicy
    from brsolver.board.sources import LoadedTrace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Board:
    """Every policy in every cell.

    Attributes
    ----------
    definition : BoardDefinition
        Its parts that were computed.
    baseline : BoardPolicy
    traces : tuple of LoadedTrace
    rows : tuple of dict
        A row per cell, as in ``results.parquet``.
    standings : tuple of Standing
        A line per policy, best first.
    version : str
    wall_s : float
        Seconds of this call; what was there already took none of them.
    left_out : tuple of str
        What the definition has and no cell could be made of.
    """

    definition: BoardDefinition
    baseline: BoardPolicy
    traces: tuple[LoadedTrace, ...]
    rows: tuple[dict[str, Any], ...]
    version: str
    wall_s: float
    left_out: tuple[str, ...] = ()
    standings: tuple[Standing, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "standings", standings(self.rows, self._baseline, FAILED))

    @property
    def _baseline(self) -> tuple[str, str]:
        return self.baseline.spec.text, self.baseline.routing

    @property
    def failures(self) -> tuple[dict[str, Any], ...]:
        """Rows without figures."""
        return tuple(row for row in self.rows if row.get(FAILED) is not None)

    def scored(self) -> list[dict[str, Any]]:
        """Return the rows with figures, with their scores against the baseline."""
        return scored_rows(self.rows, self._baseline, FAILED)

    def failures_told(self) -> list[str]:
        """Return a line per policy and reason, with how many cells and the first of them."""
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in self.failures:
            who = f"{row['policy']}@{row['routing']}"
            found.setdefault((who, str(row[FAILED])), []).append(row)
        return [_told(who, why, rows) for (who, why), rows in found.items()]

    def remark(self, one: Standing) -> str:
        """Say what of a policy's line cannot be compared with the others; empty if all can."""
        if one.failed:
            return f"failed in {one.failed} of {one.cells}"
        most = max(other.cells for other in self.standings)
        return f"{one.cells} of {most} cells" if one.cells < most else ""

    def notes(self) -> tuple[str, ...]:
        """Return what a reader of the figures must know."""
        told = [note for loaded in self.traces for note in loaded.notes]
        return tuple(dict.fromkeys([*told, *self.left_out]))

    def to_dict(self) -> dict[str, Any]:
        """Return what ``brsolver board --json`` prints."""
        return {
            "board": self.definition.name,
            "fingerprint": self.definition.fingerprint,
            "version": self.version,
            "workers": self.definition.workers,
            "slots": self.definition.slots,
            "baseline": self.baseline.text,
            "traces": [
                {"name": one.name, "origin": one.origin, "source": one.source}
                for one in self.traces
            ],
            "standings": [one.to_dict() for one in self.standings],
            "failures": self.failures_told(),
            "notes": list(self.notes()),
            "cells": [dict(row) for row in self.rows],
        }


def _told(who: str, why: str, rows: Sequence[dict[str, Any]]) -> str:
    names = ("trace", "prefill", "regime", "hardware", "seed")
    first = ", ".join(str(rows[0][name]) for name in names)
    many = "1 cell" if len(rows) == 1 else f"{len(rows)} cells, the first"
    return f"{who} failed in {many} ({first}): {why}"
