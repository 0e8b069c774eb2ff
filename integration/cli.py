"""``brsolver vllm``."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="Put the router into vLLM, and measure it there.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _group() -> None:
    """Keep the commands a group while there is only one."""
