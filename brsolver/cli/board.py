"""``brsolver board``: every policy on the same traces, regimes and hardware."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from brsolver.cli import _executor_options as x
from brsolver.cli import _options as o

if TYPE_CHECKING:
    from brsolver.board.result import Board
    from brsolver.cli._progress import LateBar

POLICIES = "Policies"


def board(
    *,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=POLICIES,
            help="A policy besides those of the definition: NAME[:KEY=VALUE,...][@ROUTING], NAME "
            "being MODULE:CLASS of one that is not installed. ROUTING is pooled (all that wait, "
            "once per step) or immediate (once per arrival). May be given several times. "
            "(default: pooled)",
        ),
    ] = None,
    policies: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B,...",
            rich_help_panel=POLICIES,
            help="Policies in place of those of the definition. The baseline is always there.",
        ),
    ] = None,
    trace: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            rich_help_panel=o.INPUT,
            help="A file in place of the preset that stands in for the trace of that name.",
        ),
    ] = None,
    definition: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.toml",
            rich_help_panel=o.INPUT,
            help="A board of your own. (default: the published one)",
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", rich_help_panel=o.INPUT, help="A small board of a minute or two."),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT=NAME,...",
            rich_help_panel=o.INPUT,
            help="A part of the board; WHAT is trace, prefill, regime or hardware.",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            rich_help_panel=o.INPUT,
            help="Seeds, from 0 on: presets are drawn anew by each, files begin a request later. "
            "With several, scores have intervals. (default: the definition's; one)",
        ),
    ] = None,
    executor: x.ExecutorOption = "local",
    jobs: x.JobsOption = None,
    ray_address: x.RayAddressOption = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            rich_help_panel=o.OUTPUT,
            help="Folder for board.html, board.md and results.parquet. Rows land there as they "
            "come; the same command goes on where it was interrupted.",
        ),
    ] = None,
    json: o.JsonOption = False,
) -> None:
    """Run every policy on the same traces, at the same loads, beside certified bounds.

    The exit status is 1 where a policy failed in a cell; the other cells are shown.
    """
    from brsolver.board.choice import read_choice
    from brsolver.board.definition import load_definition
    from brsolver.board.run import run_board
    from brsolver.cli._board_table import print_board
    from brsolver.cli._progress import late_bar
    from brsolver.executors import executor_of

    loaded = load_definition(_named(definition, quick=quick))
    chosen = read_choice(only or ())
    files = _files(trace or ())
    where = executor_of(x.executor_params(executor, jobs, ray_address))
    # What is kept or sent to a cluster takes long, and is often watched by its log.
    with late_bar("loading", lines=executor != "local" or out is not None) as bar:
        found = run_board(
            loaded,
            more=policy or (),
            policies=policies or (),
            files=files,
            chosen=chosen,
            seeds=seeds,
            out=out,
            executor=where,
            progress=_Told(bar),
        )
        if out is not None:
            _write(found, out, bar)
    _tell(found)
    if json:
        sys.stdout.write(json_text(found) + "\n")
    else:
        print_board(found)
    if out is not None:
        typer.echo(f"wrote {out}", err=True)
    if found.failures:
        raise typer.Exit(x.SOME_FAILED)


class _Told:
    """Passes progress on to a bar, whose words change with what is being done."""

    def __init__(self, bar: LateBar) -> None:
        self._bar = bar
        self._what = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._what = what
            self._bar.rename(f"simulating, {what}")
        self._bar.update(done, total)


def _named(definition: str | None, *, quick: bool) -> str:
    from brsolver.errors import ParameterError

    if quick and definition is not None:
        raise ParameterError("--quick and --definition exclude each other; give one")
    return "quick" if quick else definition or "default"


def _files(texts: list[str] | tuple[()]) -> dict[str, str]:
    from brsolver.errors import ParameterError

    found: dict[str, str] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not (equals and name.strip() and file.strip()):
            raise ParameterError(f"trace is {text!r}, must be NAME=FILE")
        if name.strip() in found:
            raise ParameterError(f"trace {name.strip()} is given twice, must be given once")
        found[name.strip()] = file.strip()
    return found


def _write(found: Board, out: str, bar: LateBar) -> None:
    from brsolver.report.board_page import write_board

    bar.rename("drawing, figures")
    write_board(found, out, progress=bar.update)


def _tell(found: Board) -> None:
    for line in found.failures_told():
        typer.echo(f"failed: {line}", err=True)
    for note in found.notes():
        typer.echo(f"note: {note}", err=True)


def json_text(found: Board) -> str:
    """Write the board as one strict JSON object."""
    import json

    from brsolver.results.plain import finite_only

    return json.dumps(finite_only(found.to_dict()), indent=2, allow_nan=False, default=str)
