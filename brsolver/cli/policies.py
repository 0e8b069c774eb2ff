"""``brsolver policies``: what can be routed with."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from brsolver.registry import PolicyInfo


def policies(
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """List the installed routing policies with their parameters and sources."""
    from brsolver.registry import policy_names

    infos = [_describe(name) for name in policy_names()]
    if json:
        _print_json(infos)
    else:
        _print_table(infos)


def _describe(name: str) -> PolicyInfo:
    from brsolver.errors import BrsolverError
    from brsolver.registry import PolicyInfo, describe_policy

    try:
        return describe_policy(name)
    except BrsolverError as error:
        # One broken plug-in must not hide the others.
        return PolicyInfo(name=name, summary=str(error), source="", params={})


def _print_json(infos: list[PolicyInfo]) -> None:
    import json

    rows = [asdict(info) for info in infos]
    sys.stdout.write(json.dumps(rows, indent=2, default=str, allow_nan=False) + "\n")


def _print_table(infos: list[PolicyInfo]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold", pad_edge=False, show_lines=True)
    table.add_column("policy", no_wrap=True)
    for heading in ("parameters and defaults", "what it does", "source"):
        table.add_column(heading, overflow="fold")
    for info in infos:
        cells = (info.name, _settings(info.params), info.summary, info.source)
        table.add_row(*(Text(cell) for cell in cells))
    width = None if sys.stdout.isatty() else 140
    Console(highlight=False, width=width).print(table)


def _settings(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in params.items()) or "–"
