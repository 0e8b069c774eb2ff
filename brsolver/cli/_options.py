"""The options that commands share, as Typer annotations."""

from __future__ import annotations

from typing import Annotated

import typer

CLUSTER = "Cluster"
ARRIVALS = "Arrivals"
POLICY = "Policy parameters (key=value in the policy's own specification goes first)"
FORECASTS = "Forecasts and stale information"
RUN = "Run"
INPUT = "Trace"
OUTPUT = "Output"

TraceArgument = Annotated[
    str, typer.Argument(metavar="TRACE", help="Trace file, or preset:NAME[:key=value,...].")
]

SlotsOption = Annotated[
    str | None,
    typer.Option(
        metavar="B",
        rich_help_panel=CLUSTER,
        help="Slots per worker, or one number each: 8,8,16. (default: 32)",
    ),
]
CapacityOption = Annotated[
    str | None,
    typer.Option(
        metavar="K",
        rich_help_panel=CLUSTER,
        help="KV tokens per worker, or one number each. (default: unlimited)",
    ),
]
RoutingOption = Annotated[
    str | None,
    typer.Option(
        metavar="pooled|immediate",
        rich_help_panel=CLUSTER,
        help="Route a pool at every step, or each arrival at once. (default: pooled)",
    ),
]
StepTimeOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        rich_help_panel=CLUSTER,
        help="affine:base=S,per_token=S, max-mean:base=S,per_token=S,per_mean_token=S or "
        "table:path=FILE.csv with columns load,seconds. "
        "(default: affine:base=0.005,per_token=1e-7)",
    ),
]
FailOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="W@T",
        rich_help_panel=CLUSTER,
        help="Worker W fails at T, e.g. 3@12.5s or 3@400 (steps). Repeatable.",
    ),
]
JoinOption = Annotated[
    list[str] | None,
    typer.Option(metavar="W@T", rich_help_panel=CLUSTER, help="Worker W joins at T. Repeatable."),
]

PoolOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        rich_help_panel=ARRIVALS,
        help="Keep N requests waiting, in trace order. (default: 4·G)",
    ),
]
RateOption = Annotated[
    float | None,
    typer.Option(metavar="R", rich_help_panel=ARRIVALS, help="R requests per second."),
]
UtilizationOption = Annotated[
    float | None,
    typer.Option(
        metavar="U", rich_help_panel=ARRIVALS, help="The rate that keeps about U of all slots busy."
    ),
]
TimestampsOption = Annotated[
    bool,
    typer.Option("--timestamps", rich_help_panel=ARRIVALS, help="At the trace's own times."),
]
PrefillOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        rich_help_panel=ARRIVALS,
        help="none, delay:delay_s=S,tokens_per_s=N or tier:workers=P,tokens_per_s=N. "
        "(default: none)",
    ),
]
TransitOption = Annotated[
    int | None,
    typer.Option(
        "--transit-steps",
        metavar="N",
        rich_help_panel=ARRIVALS,
        help="Steps from a decision to the request's first; a real server takes 1. (default: 0)",
    ),
]

HorizonOption = Annotated[
    int | None,
    typer.Option(metavar="H", rich_help_panel=POLICY, help="Steps of load projection."),
]
GammaOption = Annotated[
    float | None, typer.Option(rich_help_panel=POLICY, help="Discount per projected step.")
]
BetaOption = Annotated[
    float | None, typer.Option(rich_help_panel=POLICY, help="Weight of overflow.")
]
AlphaOption = Annotated[
    float | None, typer.Option(rich_help_panel=POLICY, help="Weight of filling margins.")
]
RMaxOption = Annotated[
    int | None,
    typer.Option(
        "--r-max", metavar="N", rich_help_panel=POLICY, help="Waiting requests looked at."
    ),
]
SGreedyOption = Annotated[
    int | None,
    typer.Option(
        "--s-greedy",
        metavar="N",
        rich_help_panel=POLICY,
        help="Free slots above which requests are placed one by one.",
    ),
]

PredictorOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=FORECASTS,
        help="oracle, survival, none or another one installed, for policies that look ahead.",
    ),
]
RefreshOption = Annotated[
    int | None,
    typer.Option(
        "--refresh-steps",
        metavar="N",
        rich_help_panel=FORECASTS,
        help="Steps between refreshes of all forecasts. (default: 32)",
    ),
]
StaleMsOption = Annotated[
    float | None,
    typer.Option(
        "--stale-ms", metavar="D", rich_help_panel=FORECASTS, help="Age of information, in ms."
    ),
]
StaleStepsOption = Annotated[
    int | None,
    typer.Option(
        "--stale-steps", metavar="N", rich_help_panel=FORECASTS, help="Or its age in steps."
    ),
]
StaleModeOption = Annotated[
    str | None,
    typer.Option(
        "--stale-mode",
        metavar="delay|periodic",
        rich_help_panel=FORECASTS,
        help="Always that old, or a snapshot that often. (default: delay)",
    ),
]
LocalCorrectionOption = Annotated[
    bool | None,
    typer.Option(
        "--local-correction/--no-local-correction",
        rich_help_panel=FORECASTS,
        help="Add what the router has placed since.",
        show_default=False,
    ),
]

SeedOption = Annotated[
    int | None,
    typer.Option(metavar="S", rich_help_panel=RUN, help="Seed of everything random. (default: 0)"),
]
WarmupOption = Annotated[
    int | None,
    typer.Option(
        "--warmup-steps", metavar="N", rich_help_panel=RUN, help="Steps left out of averages."
    ),
]
DrainOption = Annotated[
    bool | None,
    typer.Option(
        "--drain/--no-drain",
        rich_help_panel=RUN,
        help="Let averages cover the steps after the last admission. (default: no-drain)",
        show_default=False,
    ),
]
MaxStepsOption = Annotated[
    int | None,
    typer.Option("--max-steps", metavar="N", rich_help_panel=RUN, help="Stop after N steps."),
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
