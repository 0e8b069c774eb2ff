"""The options that commands share, as Typer annotations; those of a run are in `_run_options`."""

from __future__ import annotations

from typing import Annotated

import typer

from brsolver.options import CLUSTER, FORECASTS, INPUT, RUN, SEED

ORACLE = "Oracle"
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
        help="Forecasts for policies that look ahead: oracle, survival, none, or the name of "
        "another predictor.",
    ),
]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=RUN,
        help="TOML file of parameters; options take precedence.",
    ),
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
    "JsonOption",
    "OutOption",
    "PredictorOption",
    "RequestsOutOption",
    "SeedOption",
    "TraceArgument",
]
