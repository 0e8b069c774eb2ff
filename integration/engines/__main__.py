"""``python -m integration.engines``: the command by itself, with the errors of ``brsolver``."""

from __future__ import annotations

import typer

from brsolver.cli.main import OneLineErrors
from integration.engines.cli import run

app = typer.Typer(
    cls=OneLineErrors,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("fake-engine")(run)

if __name__ == "__main__":
    app()
