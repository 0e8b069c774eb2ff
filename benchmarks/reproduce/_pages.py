"""Tables into the page that shows them, between the marks that are there for them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from brsolver.errors import OutputError
from brsolver.traces.atomic import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.figure import Figure

PAGE = "reproduce.md"
DPI = 110
QUICK_MARK = "*A quick run, which shows that all works and nothing else.*"


def write_tables(docs: Path, tables: Mapping[str, str]) -> Path:
    """Put each table between ``<!-- NAME -->`` and ``<!-- end NAME -->`` of the page.

    Raises
    ------
    OutputError
        The page is not there, or has no such marks.
    """
    page = docs / PAGE
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{page}: cannot be read: {error.strerror or error}") from error
    for name, table in tables.items():
        text = _replaced(text, name, table, page)
    with replacing(page) as part:
        part.write_text(text, encoding="utf-8")
    return page


def marked(tables: Mapping[str, str]) -> dict[str, str]:
    """Return the tables of a run that shows nothing, with a line above each that says so."""
    return {name: f"{QUICK_MARK}\n\n{table}" for name, table in tables.items()}


def _replaced(text: str, name: str, table: str, page: Path) -> str:
    begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    parts = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not parts.search(text):
        raise OutputError(f"{page}: has no {begin} and {end}, between which a table is written")
    return parts.sub(lambda _: f"{begin}\n\n{table}\n\n{end}", text)


def save_picture(docs: Path, name: str, drawn: Figure) -> Path:
    """Save a figure as ``images/reproduce-NAME.png``, the same bytes for the same figure."""
    path = docs / "images" / f"reproduce-{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        drawn.savefig(part, format="png", dpi=DPI, metadata={"Software": None})
    return path
