"""What printed tables have in common; Rich is imported when something is printed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import Console
    from rich.table import Table

PIPE_WIDTH = 160
"""Characters of a line where nobody says how many there are."""


def wide_console() -> Console:
    """Return where tables are printed: what is piped somewhere is not cut to 80 characters."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def titled_table(title: str) -> Table:
    """Return an empty table with a line above it."""
    from rich.table import Table
    from rich.text import Text

    return Table(
        title=Text(title), title_justify="left", box=None, header_style="bold", pad_edge=False
    )


def print_notes(console: Console, notes: Iterable[str]) -> None:
    """Print what a reader of the figures must know."""
    from rich.text import Text

    for note in notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)


def print_strict_json(facts: Mapping[str, object]) -> None:
    """Print one JSON object; what is no finite number is null."""
    import json

    from brsolver.results.plain import finite_only

    sys.stdout.write(json.dumps(finite_only(dict(facts)), indent=2, allow_nan=False) + "\n")


def percent(value: float | None) -> str:
    """Write a share."""
    return "–" if value is None else f"{100 * value:.2f} %"
