"""Tables of a study for the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from classifiers.report.cells import (
    COLUMNS,
    DECISION_HEADINGS,
    against_text,
    headline,
    interval_text,
    reading,
    score_text,
    value_cells,
)

if TYPE_CHECKING:
    from classifiers.evaluation.study import Study

PIPE_WIDTH = 180


def print_study(study: Study) -> None:
    """Print scores, decision values and notes on standard output."""
    # Tables that are piped somewhere should not be cut to the width of a terminal of 80.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    console.print(scores_table(study))
    if study.params.replicates:
        console.print(Text(reading()), soft_wrap=True)
    if study.values:
        console.print()
        console.print(values_table(study))
    for note in study.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)


def scores_table(study: Study) -> Table:
    """Make the table of scores, each with its interval below."""
    table = _table(headline(study))
    table.add_column("predictor")
    for column in COLUMNS:
        table.add_column(column.label, justify="right")
    table.add_column("Brier vs survival")
    for each in study.judgements:
        cells = [_with_interval(score_text(each, c), interval_text(each, c)) for c in COLUMNS]
        table.add_row(Text(each.kind), *cells, against_text(each))
    return table


def _with_interval(value: str, interval: str) -> Text:
    text = Text(value, no_wrap=True)
    if interval:
        text.append(f"\n{interval}", style="dim")
    return text


def values_table(study: Study) -> Table:
    """Make the table of decision values."""
    table = _table(
        "decision value: BR-H with each predictor, from BR-0 (0 %) to the oracle (100 %)"
    )
    for at, heading in enumerate(DECISION_HEADINGS):
        table.add_column(heading, justify="left" if at in {0, 2} else "right")
    for value in study.values:
        table.add_row(*map(Text, value_cells(value)))
    return table


def _table(title: str) -> Table:
    # Titles hold names that brackets may stand in, which Rich would take for markup.
    return Table(
        title=Text(title), title_justify="left", box=None, header_style="bold", pad_edge=False
    )
