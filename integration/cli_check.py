"""``brsolver vllm check``."""

from __future__ import annotations

import json as json_lib
import sys
from typing import Annotated

import typer


def check(
    *,
    router: Annotated[
        str | None,
        typer.Option(
            help="Policy or TOML file to check, instead of what BRSOLVER_ROUTER says.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say whether the router would be active in the vLLM of this environment, and how.

    Exits with 0 if it would be, or if only BRSOLVER_ROUTER is missing for that; with 1 if it
    cannot be; with 2 if what it is told makes no sense. Imports no vLLM.
    """
    import os

    from integration.vllm.config import ROUTER
    from integration.vllm.inspection import inspect

    environ = dict(os.environ) | ({} if router is None else {ROUTER: router})
    found = inspect(environ)
    if json:
        sys.stdout.write(json_lib.dumps(found.as_dict(), indent=2) + "\n")
    else:
        width = max(len(name) for name, _ in found.lines())
        for name, text in found.lines():
            sys.stdout.write(f"{name:{width}}  {text}\n")
    if not found.possible:
        raise typer.Exit(1)
