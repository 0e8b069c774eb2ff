"""``brsolver classifier``."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="Train termination classifiers on traces, and judge them as forecasters.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _group() -> None:
    """Keep the commands a group while there is only one."""
