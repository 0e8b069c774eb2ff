"""``brsolver trace``: look at traces, convert them, take samples.

Everything heavy is imported inside the commands: ``brsolver --help`` imports this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from brsolver.cli import _options as o  # noqa: TC001 # typer evaluates annotations
from brsolver.cli._input import InputOptions  # noqa: TC001 # typer evaluates annotations
from brsolver.cli._offered import takes_input_options

if TYPE_CHECKING:
    from brsolver.traces import Trace, TraceStats

app = typer.Typer(
    help="Look at traces, convert them, take samples.", no_args_is_help=True, add_completion=False
)

TargetArgument = Annotated[
    str, typer.Argument(metavar="DST", help="File to write: .csv, .jsonl or .parquet.")
]
DropOption = Annotated[
    bool, typer.Option("--drop-hashes", help="Leave out prefix hashes, which CSV cannot hold.")
]


@app.command()
@takes_input_options
def info(
    trace: o.TraceArgument,
    *,
    options: InputOptions,
    seed: o.SeedOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    png: Annotated[
        str | None,
        typer.Option("--png", metavar="FILE", help="Also draw histograms: .png, .svg or .pdf."),
    ] = None,
) -> None:
    """Print length and arrival statistics of a trace."""
    from brsolver.traces import trace_stats

    loaded = _load(trace, options, seed)
    stats = trace_stats(loaded)
    if png is not None:
        from brsolver.traces.plots import plot_trace

        plot_trace(loaded, png)
        typer.echo(f"wrote {png}", err=True)
    if json:
        _print_json(stats)
    else:
        _print_tables(loaded, stats)


@app.command()
@takes_input_options
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Trace file or preset:NAME.")],
    target: TargetArgument,
    *,
    options: InputOptions,
    seed: o.SeedOption = None,
    drop_hashes: DropOption = False,
) -> None:
    """Write a trace in brsolver's own columns."""
    loaded = _load(source, options, seed)
    _write(loaded, target, drop_hashes=drop_hashes)


@app.command()
@takes_input_options
def sample(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Trace file or preset:NAME.")],
    target: TargetArgument,
    *,
    n: Annotated[int, typer.Option("--n", help="Requests to take.")],
    seed: o.SeedOption = None,
    contiguous: Annotated[
        bool,
        typer.Option(
            "--contiguous/--random",
            help="Consecutive requests, which keeps the arrival rate, or any.",
        ),
    ] = False,
    options: InputOptions,
    drop_hashes: DropOption = False,
) -> None:
    """Write N requests of a trace, in order of arrival."""
    from brsolver.traces import sample_trace

    loaded = _load(source, options, seed)
    _write(
        sample_trace(loaded, n, seed=seed or 0, contiguous=contiguous),
        target,
        drop_hashes=drop_hashes,
    )


def _load(source: str, options: InputOptions, seed: int | None) -> Trace:
    trace = options.source(source).load(seed or 0)
    if trace.skipped_rows:
        typer.echo(f"{trace.name}: left out {trace.skipped_rows:,} bad rows", err=True)
    return trace


def _write(trace: Trace, target: str, *, drop_hashes: bool) -> None:
    from brsolver.traces import write_trace

    write_trace(trace, target, drop_hashes=drop_hashes)
    note = " (surrogate)" if trace.surrogate else ""
    typer.echo(f"wrote {len(trace):,} requests{note} to {target}", err=True)


def _print_json(stats: TraceStats) -> None:
    import json

    typer.echo(json.dumps(stats.to_dict(), indent=2))


def _print_tables(trace: Trace, stats: TraceStats) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_summary_table(stats))
    console.print(_length_table(stats))
    _print_histogram(console, "prompt length (tokens)", trace.prompt_tokens)
    _print_histogram(console, "output length (tokens)", trace.output_tokens)
    if trace.arrival_s is not None:
        given = trace.arrival_s[trace.arrival_s == trace.arrival_s]
        _print_histogram(console, "arrivals over time (s)", given)


def _summary_table(stats: TraceStats) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, title=Text(stats.name))
    table.add_column()
    table.add_column(justify="right")
    for label, value in _summary_rows(stats):
        table.add_row(label, Text(value))
    return table


def _summary_rows(stats: TraceStats) -> list[tuple[str, str]]:
    optional = (
        ("duration (s)", stats.duration_s),
        ("arrivals per second", stats.rate),
        ("burstiness (CV of gaps)", stats.burstiness),
        ("correlation of lengths", stats.correlation),
        ("repeated prefix blocks", stats.repeated_prefix),
        ("mean delay after the turn before (s)", stats.delay_mean_s),
    )
    following = (
        ("turns that follow others", stats.following),
        ("sessions with such turns", stats.sessions_following),
    )
    return [
        ("format", stats.source_format),
        ("surrogate of a published trace", "yes" if stats.surrogate else "no"),
        ("requests", f"{stats.n:,}"),
        ("bad rows left out", f"{stats.skipped_rows:,}"),
        *((label, f"{count:,}") for label, count in following if count),
        *((label, f"{value:,.3f}") for label, value in optional if value is not None),
    ]


def _length_table(stats: TraceStats) -> Any:
    from rich.table import Table

    table = Table("tokens", "mean", "std", "min", "p50", "p95", "p99", "max")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, lengths in (("prompt", stats.prompt), ("output", stats.output)):
        values = (getattr(lengths, str(column.header)) for column in table.columns[1:])
        table.add_row(name, *(f"{value:,.0f}" for value in values))
    return table


def _print_histogram(console: Any, title: str, values: Any) -> None:
    from brsolver.traces.plots import text_histogram

    console.print(f"\n{title}")
    for line in text_histogram(values):
        console.print(line, markup=False, overflow="crop", no_wrap=True)
