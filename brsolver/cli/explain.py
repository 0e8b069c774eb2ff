"""``brsolver explain``: what better routing would buy, and which part of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from brsolver.cli import _options as o  # noqa: TC001 # typer evaluates annotations
from brsolver.cli._params import RunOptions  # noqa: TC001 # typer evaluates annotations
from brsolver.cli._run_options import takes_run_options
from brsolver.cli._terminal import print_notes, titled_table

if TYPE_CHECKING:
    from rich.table import Table

    from brsolver.cli._progress import LateBar
    from brsolver.oracles.explain import Explanation


@takes_run_options()
def explain(
    trace: o.TraceArgument,
    *,
    policy: Annotated[
        str,
        typer.Option(
            metavar="NAME[:k=v,...]", help="Policy; see brsolver policies, or MODULE:CLASS."
        ),
    ],
    options: RunOptions,
    json: o.JsonOption = False,
    out: o.OutOption = None,
) -> None:
    """Say where a run's time goes, and what better routing would buy."""
    from brsolver.cli._progress import late_bar
    from brsolver.report.write import check_out_dir

    if out is not None:
        check_out_dir(out)
    with late_bar("loading") as bar:
        found = _explain(trace, policy, options, bar)
        if out is not None:
            _write(found, out)
    if json:
        sys.stdout.write(json_text(found) + "\n")
    else:
        _print(found)
    if out is not None:
        typer.echo(f"wrote {out}", err=True)


def _explain(trace: str, policy: str, options: RunOptions, bar: LateBar) -> Explanation:
    from brsolver.cli._strangers import named_if_raising
    from brsolver.oracles.explain import explain as run
    from brsolver.registry import PolicySpec

    params = options.params()
    (spec,) = options.policies([PolicySpec.parse(policy)])
    predictor = options.predictor_spec()
    loaded = options.source(trace, params).load(params.seed)
    bar.rename("switching off, runs")
    with named_if_raising(spec):
        return run(loaded, spec, params, predictor=predictor, progress=bar.update)


def _write(found: Explanation, out: str) -> None:
    from brsolver.report.explain_page import write_explanation

    write_explanation(found, out)


def json_text(found: Explanation) -> str:
    """Write the explanation as one strict JSON object."""
    import json

    from brsolver.results.plain import finite_only

    return json.dumps(finite_only(found.to_dict()), indent=2, allow_nan=False, default=str)


def _print(found: Explanation) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    console.print(_table(found))
    console.print()
    for line in found.words():
        console.print(Text(line), soft_wrap=True)
    print_notes(console, found.notes)


def _table(found: Explanation) -> Table:
    params = found.result.params
    where = f" on {params.step_time.hardware}" if params.step_time.hardware else ""
    title = f"{found.policy} on {found.result.trace_name}, G = {params.workers}{where}"
    table = titled_table(title)
    table.add_column("where the time goes")
    for heading in ("s", "of the run"):
        table.add_column(heading, justify="right")
    table.add_row("the run", f"{found.seconds:,.1f}", "100.0 %")
    if found.unavoidable_s is not None:
        share = found.unavoidable_s / found.seconds
        table.add_row("no policy could avoid", f"{found.unavoidable_s:,.1f}", f"{share:.1%}")
    for cause in found.present:
        table.add_row(cause.label, _rounded(cause.seconds, ",.1f"), _rounded(cause.share, ".1%"))
    return table


def _rounded(value: float | None, form: str) -> str:
    """Write a figure; one that rounds to nothing has no sign."""
    text = format(value or 0.0, form)
    return text if any(digit in text for digit in "123456789") else text.removeprefix("-")
