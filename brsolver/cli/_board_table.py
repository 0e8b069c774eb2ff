"""What ``brsolver board`` prints."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from brsolver.board.result import Board

PIPE_WIDTH = 200


def print_board(board: Board) -> None:
    """Print the table of standings, and what it says."""
    from rich.console import Console
    from rich.text import Text

    from brsolver.board.words import conditions, legend, reading

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    console = Console(highlight=False, width=width)
    console.print(Text(conditions(board)), soft_wrap=width is not None)
    console.print()
    console.print(_table(board))
    for line in (*reading(board), *legend(board)):
        console.print(Text(line), soft_wrap=width is not None)


def _table(board: Board) -> Table:
    from rich.table import Table
    from rich.text import Text

    from brsolver.board.words import overview

    found = overview(board)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("policy", no_wrap=True)
    for column in found:
        table.add_column(column.name, justify="right")
    for at, one in enumerate(board.standings):
        remark = board.remark(one)
        name = f"{one.label} ({remark})" if remark else one.label
        table.add_row(Text(name), *(column.texts[at] for column in found))
    return table
