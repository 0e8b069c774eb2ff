"""``python -m integration.engines``: the command by itself, with the errors of ``brsolver``."""

from __future__ import annotations

import sys
from typing import Any

from typer.main import get_command

from brsolver.cli.main import OneLineErrors
from integration.engines.cli import fake_engine

NAME = "fake-engine"


class _Alone(OneLineErrors):
    """A group of this command alone."""

    def list_commands(self, ctx: Any) -> list[str]:
        del ctx
        return [NAME]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        del ctx
        return get_command(fake_engine) if cmd_name == NAME else None


if __name__ == "__main__":
    _Alone(name="brsolver").main([NAME, *sys.argv[1:]])
