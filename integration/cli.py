"""``brsolver vllm``."""

from __future__ import annotations

import contextlib

import typer

from integration.cli_check import check

app = typer.Typer(
    help="Put the router into vLLM, and measure it there.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(check)

with contextlib.suppress(ModuleNotFoundError):
    from integration.cli_bench import bench
    from integration.cli_calibrate import calibrate

    app.command()(bench)
    app.command()(calibrate)


@app.callback()
def _group() -> None:
    """Keep the commands a group, however many there are."""
