"""The options of a server that bench and calibrate share, as Typer annotations."""

from __future__ import annotations

from typing import Annotated

import typer

SERVER, OUTPUT = "Server", "Output"
RANKS, SLOTS, STARTUP_S = 2, 16, 600.0
"""Unless said otherwise."""

RanksOption = Annotated[
    int, typer.Option(metavar="G", rich_help_panel=SERVER, help="Data-parallel ranks.")
]
SlotsOption = Annotated[
    int, typer.Option(metavar="B", rich_help_panel=SERVER, help="vLLM's --max-num-seqs.")
]
PythonOption = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        rich_help_panel=SERVER,
        help="Interpreter that has vLLM and brsolver. (default: this one)",
    ),
]
ArgumentsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ARG", rich_help_panel=SERVER, help="Argument for vLLM's server. Repeatable."
    ),
]
VariablesOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE", rich_help_panel=SERVER, help="Variable for the server. Repeatable."
    ),
]
StartupOption = Annotated[
    float, typer.Option(metavar="S", rich_help_panel=SERVER, help="Longest start in seconds.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", rich_help_panel=OUTPUT, help="Print one JSON object.")
]


def variables(texts: list[str] | tuple[str, ...]) -> dict[str, str]:
    """Read ``NAME=VALUE`` texts.

    Raises
    ------
    ParameterError
        If one is not of that form.
    """
    from brsolver.errors import ParameterError

    pairs = [text.partition("=") for text in texts]
    for text, (name, equals, _) in zip(texts, pairs, strict=True):
        if not (name and equals):
            raise ParameterError(f"--server-env is {text!r}, must be NAME=VALUE")
    return {name: value for name, _, value in pairs}
