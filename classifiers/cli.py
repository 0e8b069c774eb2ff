"""``brsolver classifier``.

Everything heavy is imported inside the commands: ``brsolver --help`` imports this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from brsolver.cli import _options as o
from brsolver.cli._input import InputOptions  # noqa: TC001 # typer evaluates annotations
from brsolver.cli._offered import takes_input_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from classifiers.cli_judge import Request

JUDGING = "How forecasts are judged"

app = typer.Typer(
    help="Train termination classifiers on traces, and judge them as forecasters.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ShareOption = Annotated[
    float,
    typer.Option(
        "--train",
        metavar="SHARE",
        help="Earlier share of the trace to learn from; the rest is kept for judging.",
    ),
]
HorizonOption = Annotated[
    int | None,
    typer.Option(
        "--horizon",
        metavar="H",
        help="Steps H of the forecasts' horizon. (default: 80, or the model's)",
    ),
]
WorkersOption = Annotated[
    int,
    typer.Option(
        metavar="G", rich_help_panel=JUDGING, help="Workers of the run that asks for forecasts."
    ),
]
SlotsOption = Annotated[
    int, typer.Option(metavar="B", rich_help_panel=JUDGING, help="Slots per worker.")
]
SamplesOption = Annotated[
    int, typer.Option(metavar="N", rich_help_panel=JUDGING, help="About how many samples to keep.")
]
BootstrapOption = Annotated[
    int,
    typer.Option(
        metavar="N", rich_help_panel=JUDGING, help="Bootstrap replicates; 0 for no intervals."
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", rich_help_panel=o.OUTPUT, help="Print one JSON object.")
]


@app.command()
@takes_input_options
def train(
    trace: o.TraceArgument,
    *,
    kind: Annotated[
        str, typer.Option(metavar="KIND", help="hazard (the same as hazard-gb) or hazard-lr.")
    ] = "hazard",
    out: Annotated[str, typer.Option(metavar="FILE", help="Model file to write: model.skops.")],
    horizon: Annotated[
        int, typer.Option("--horizon", metavar="H", help="Steps H of the forecasts' horizon.")
    ] = 80,
    share: ShareOption = 0.5,
    seed: o.SeedOption = None,
    options: InputOptions,
) -> None:
    """Train a classifier on the earlier part of a trace, and write it to a file."""
    from classifiers.cli_train import train_to_file

    train_to_file(options.source(trace), kind, out, horizon=horizon, share=share, seed=seed or 0)


@app.command()
@takes_input_options
def evaluate(
    trace: o.TraceArgument,
    *,
    model: Annotated[
        str | None, typer.Option(metavar="FILE", help="Model file that train has written.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="KIND", help="Or survival, exact, hazard-lr or hazard-gb, made on the spot."
        ),
    ] = None,
    horizon: HorizonOption = None,
    share: ShareOption = 0.5,
    workers: WorkersOption = 8,
    slots: SlotsOption = 64,
    samples: SamplesOption = 20_000,
    bootstrap: BootstrapOption = 200,
    seed: o.SeedOption = None,
    options: InputOptions,
    json: JsonOption = False,
    html: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", rich_help_panel=o.OUTPUT, help="Also write a page with plots."
        ),
    ] = None,
) -> None:
    """Judge one predictor's forecasts on requests that it has not seen."""
    from classifiers.cli_judge import evaluate_one

    evaluate_one(_request(locals()), model=model, kind=kind, json=json, html=html)


@app.command()
@takes_input_options
def compare(
    trace: o.TraceArgument,
    *,
    kinds: Annotated[
        str, typer.Option(metavar="A,B,...", help="Kinds of predictors.")
    ] = "survival,exact,hazard-lr,hazard-gb",
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", rich_help_panel=o.OUTPUT, help="Also write report.html, results.json."
        ),
    ] = None,
    value_workers: Annotated[
        str,
        typer.Option(
            "--value-workers",
            metavar="G,...",
            rich_help_panel=JUDGING,
            help="Workers to route to for the decision value; none to leave it out.",
        ),
    ] = "8,16",
    starts: Annotated[
        int,
        typer.Option(
            metavar="N",
            rich_help_panel=JUDGING,
            help="Runs per decision value, each starting one request later.",
        ),
    ] = 1,
    horizon: HorizonOption = None,
    share: ShareOption = 0.5,
    workers: WorkersOption = 8,
    slots: SlotsOption = 64,
    samples: SamplesOption = 20_000,
    bootstrap: BootstrapOption = 200,
    seed: o.SeedOption = None,
    options: InputOptions,
    json: JsonOption = False,
) -> None:
    """Judge several kinds of predictors, as forecasters and by what they are worth to BR-H."""
    from classifiers.cli_judge import compare_kinds

    request = _request(locals())
    compare_kinds(request, kinds, value_workers=value_workers, starts=starts, json=json, out=out)


def _request(given: Mapping[str, Any]) -> Request:
    """Take what is to be judged on, and how, out of a command's arguments."""
    from classifiers.cli_judge import Request

    shared = ("horizon", "share", "workers", "slots", "samples")
    return Request(
        source=given["options"].source(given["trace"]),
        replicates=given["bootstrap"],
        seed=given["seed"] or 0,
        **{name: given[name] for name in shared},
    )
