"""The options that commands share, as Typer annotations; those of a run are in `_run_options`."""

from __future__ import annotations

from typing import Annotated

import typer

from brsolver.options import CLUSTER, FORECASTS, RUN, SEED

ORACLE = "Oracle"
INPUT = "Trace"
OUTPUT = "Output"

TraceArgument = Annotated[
    str, typer.Argument(metavar="TRACE", help="Trace file, or preset:NAME[:key=value,...].")
]
SeedOption = Annotated[
    int | None,
    typer.Option(metavar=SEED.metavar, rich_help_panel=RUN, help=f"{SEED.help} (default: 0)"),
]
PredictorOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=FORECASTS,
        help="oracle, survival, none or another one installed, for policies that look ahead.",
    ),
]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", rich_help_panel=RUN, help="TOML file of parameters; options go first."
    ),
]
LimitOption = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=INPUT, help="Use the first N requests."),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format", metavar="NAME", rich_help_panel=INPUT, help="Format, if not told by content."
    ),
]
SkipOption = Annotated[
    bool,
    typer.Option("--skip-bad-rows", rich_help_panel=INPUT, help="Leave bad rows out, count them."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", rich_help_panel=OUTPUT, help="Print one JSON object.")
]
OutOption = Annotated[
    str | None,
    typer.Option(metavar="DIR", rich_help_panel=OUTPUT, help="Also write a report there."),
]
RequestsOutOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=OUTPUT,
        help="Also write the times of every request there: .csv, .jsonl or .parquet.",
    ),
]

__all__ = [
    "CLUSTER",
    "INPUT",
    "ORACLE",
    "OUTPUT",
    "RUN",
    "ConfigOption",
    "FormatOption",
    "JsonOption",
    "LimitOption",
    "OutOption",
    "PredictorOption",
    "RequestsOutOption",
    "SeedOption",
    "SkipOption",
    "TraceArgument",
]
