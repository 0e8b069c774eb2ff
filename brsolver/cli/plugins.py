"""Commands that other packages add to ``brsolver``, found through entry points.

An entry point of the group ``brsolver.commands`` names a `typer.Typer`, or a function that is one
plain command; its own name is the command's. The module should import nothing heavy:
``brsolver --help`` loads it for its help.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from inspect import isfunction
from typing import Any

import typer
from typer.main import get_command

from brsolver.errors import ParameterError

COMMAND_GROUP = "brsolver.commands"


def names() -> list[str]:
    """Return the names of all added commands, sorted."""
    return sorted(_entries())


def load(name: str) -> Any:
    """Return the command `name`, or None if no package adds it.

    One that cannot be imported is listed, and says why when it is run: it must not take the
    overview of the others with it.
    """
    entry = _entries().get(name)
    if entry is None:
        return None
    try:
        command = get_command(_app(entry))
    except Exception as error:  # noqa: BLE001 # a stranger's module may raise anything
        command = get_command(_broken(entry, error))
    command.name = name
    return command


@cache
def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=COMMAND_GROUP)}


def _app(entry: EntryPoint) -> typer.Typer:
    found = entry.load()
    if isinstance(found, typer.Typer):
        return found
    if not isfunction(found):
        raise TypeError(f"is a {type(found).__name__}, must be a typer.Typer or a function")
    app = typer.Typer(
        add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}
    )
    app.command(entry.name)(found)
    return app


def _broken(entry: EntryPoint, reason: Exception) -> typer.Typer:
    app = typer.Typer(add_completion=False)
    line = f"command {entry.name!r} ({entry.value}) cannot be loaded: {reason}"

    @app.command(
        help=line,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    def refuse() -> None:
        raise ParameterError(line) from reason

    return app
