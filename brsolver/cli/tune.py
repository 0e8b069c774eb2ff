"""``brsolver tune``: the router and the settings that serve a server's own traffic best."""

from __future__ import annotations

import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brsolver.cli import _options as o
from brsolver.cli._executor_options import (
    SOME_FAILED,
    ExecutorOption,
    JobsOption,
    RayAddressOption,
    executor_params,
)
from brsolver.cli._params import RunOptions  # noqa: TC001 # typer evaluates annotations
from brsolver.cli._run_options import takes_run_options
from brsolver.cli._spans import parse_span
from brsolver.cli._terminal import print_notes, wide_console
from brsolver.options import CLUSTER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from brsolver.cli._progress import LateBar
    from brsolver.executors import ExecutorParams
    from brsolver.simulator.params import SimulationParams
    from brsolver.tuning import TuneParams, TuneResult

TUNING = "Tuning"
INTERRUPTED = 130
"""Exit status where the search was interrupted; what was tried is kept and shown."""
STUDY = "study.db"


@takes_run_options(own=["hardware", "step_time", "fail", "join", "max_steps"])
def tune(
    trace: o.TraceArgument,
    *,
    hardware: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|FILE.toml",
            rich_help_panel=CLUSTER,
            help="What a step costs, see brsolver hardware list; several are chosen from. With "
            "what is its own: NAME:workers=G,slots=B,capacity=K. (default: minimax-m2.7-h200-dp4)",
            show_default=False,
        ),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            rich_help_panel=CLUSTER,
            help="GPUs that there are: each hardware makes as many workers of them as it can.",
        ),
    ] = None,
    options: RunOptions,
    policies: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            rich_help_panel=TUNING,
            help="Policies to choose from, by name or as MODULE:CLASS; parameters that are given "
            "are kept. (default: vllm, jsq-load, br-0, br-h, br-ramp, br-t)",
        ),
    ] = None,
    goal: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            rich_help_panel=TUNING,
            help="throughput (output tokens per second), goodput (requests per second that meet "
            "--slo-ttft and --slo-tpot) or latency (mean time to the last token).",
        ),
    ] = "throughput",
    budget: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            rich_help_panel=TUNING,
            help="Time for search and validation: 90s, 5m, 1h; starting, compiling and drawing "
            "come on top. A study that is gone on with has used some of it.",
        ),
    ] = "5m",
    trials: Annotated[
        int | None,
        typer.Option(metavar="N", rich_help_panel=TUNING, help="Trials at most."),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=LOW..HIGH,...",
            rich_help_panel=TUNING,
            help="Search these settings although they are given, or in that range: "
            "slots=16..256,budget,delayer=none|trtllm.",
        ),
    ] = None,
    validate_from: Annotated[
        float,
        typer.Option(
            metavar="X",
            rich_help_panel=TUNING,
            help="Share of the requests, by arrival, from which on they validate.",
        ),
    ] = 0.5,
    starts: Annotated[
        int,
        typer.Option(
            metavar="N",
            rich_help_panel=TUNING,
            help="Pieces of that part, each a start of its own.",
        ),
    ] = 5,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            rich_help_panel=TUNING,
            help="Optuna storage of the study. (default: study.db in the report's folder)",
        ),
    ] = None,
    study: Annotated[
        str, typer.Option(metavar="NAME", rich_help_panel=TUNING, help="The study's name there.")
    ] = "tune",
    executor: ExecutorOption = "local",
    ray_address: RayAddressOption = None,
    jobs: JobsOption = None,
    out: Annotated[
        str,
        typer.Option(
            metavar="DIR", rich_help_panel=o.OUTPUT, help="Folder for tuned.toml, report and study."
        ),
    ] = "tuned",
    json: o.JsonOption = False,
) -> None:
    """Search the router and engine settings that serve a trace best, and validate them.

    What is given is kept, what is not is searched: slots, prefill budget and interval, routing, and
    every policy's parameters. The first trial is vLLM's rule with the settings as given. Running
    the same command again goes on where the last one ended. The exit status is 1 where trials
    failed and others did not.
    """
    from brsolver.cli._progress import late_bar
    from brsolver.report.write import check_out_dir
    from brsolver.tuning.dimensions import read_ranges
    from brsolver.tuning.write import own_tables

    asked = {
        "goal": goal,
        "budget_s": parse_span(budget),
        "trials": trials,
        "validate_from": validate_from,
        "starts": starts,
        "hardware": tuple(hardware or ()),
        "gpus": gpus,
        "search": read_ranges(search or ""),
        "study": study,
    }
    where = executor_params(executor, jobs, ray_address)
    folder = check_out_dir(out)
    own_tables(folder)  # what could not be kept is refused before any time is spent
    asked["storage"] = storage or f"sqlite:///{folder / STUDY}"
    with late_bar("loading", lines=True) as bar, _made(folder, asked):
        result = _tuned(trace, policies, options, asked, where, bar)
        written = _write(result, folder, bar)
    _print(result, folder, as_json=json)
    for path in written:
        typer.echo(f"wrote {path}", err=True)
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)
    if result.failures:
        raise typer.Exit(SOME_FAILED)


@contextmanager
def _made(folder: Path, asked: dict[str, Any]) -> Iterator[None]:
    """Make the report's folder; one that was made for nothing is taken away again."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    study = folder / STUDY
    fresh = not study.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        # What cannot be removed is in use by others, or not empty.
        with suppress(OSError):
            if fresh and study.exists() and _holds_nothing(asked):
                study.unlink()
            for each in missing:
                each.rmdir()
        raise


def _holds_nothing(asked: dict[str, Any]) -> bool:
    from brsolver.tuning.study import holds_nothing

    return holds_nothing(asked["storage"], asked["study"])


def _tuned(
    trace: str,
    policies: str | None,
    options: RunOptions,
    asked: dict[str, Any],
    where: ExecutorParams,
    bar: LateBar,
) -> TuneResult:
    from brsolver.executors import executor_of
    from brsolver.tuning import TuneParams
    from brsolver.tuning import tune as run
    from brsolver.tuning.space import DEFAULT_POLICIES
    from brsolver.wiring import read_policies

    params = _params(options, asked)
    tuning = TuneParams(**asked, given=given_names(options))
    specs = options.policies(read_policies(policies or DEFAULT_POLICIES))
    _check_gpus(tuning, options)
    loaded = options.source(trace, params).load(params.seed)

    def tell(what: str, done: float, total: float) -> None:
        bar.rename(what)
        bar.update(int(done), int(total))

    bar.rename("starting")
    return run(
        loaded,
        params,
        tuning,
        policies=specs,
        predictor=options.predictor_spec(),
        executor=executor_of(where),
        progress=tell,
    )


def _params(options: RunOptions, asked: dict[str, Any]) -> SimulationParams:
    """Return the server as it is given, its steps as on the first hardware."""
    from brsolver.hardware.model import step_time_of
    from brsolver.specs import parse_spec

    names = asked["hardware"]
    more = {"step_time": step_time_of(parse_spec(names[0])[0])} if names else {}
    return options.params(**more)


def _check_gpus(tuning: TuneParams, options: RunOptions) -> None:
    from brsolver.errors import ParameterError

    if tuning.gpus is not None and any(flag.field == "workers" for flag in options.run):
        raise ParameterError(
            "--gpus and --workers are given, must be one of them: the hardware says how many "
            "workers so many GPUs make"
        )


def given_names(options: RunOptions) -> frozenset[str]:
    """Return the settings that options or a configuration file name, which are not searched."""
    from brsolver.specs import parse_spec
    from brsolver.tuned import Tuned, is_tuned, read_toml

    names = {flag.field for flag in options.run}
    for flag, value in options.run.items():
        if flag.field == "prefill":
            names |= parse_spec(value)[1].keys()
    if options.config is not None:
        values = read_toml(options.config)
        values = Tuned.of(values).for_simulation() if is_tuned(values) else values
        prefill = values.get("prefill")
        names |= values.keys() | (prefill.keys() if isinstance(prefill, dict) else set())
    return frozenset(names - {"prefill"})


def _write(result: TuneResult, folder: Path, bar: LateBar) -> list[Path]:
    from brsolver.report.tune_page import write_tune
    from brsolver.tuning import write_tuned

    bar.rename("drawing, figures")
    written = write_tuned(result, folder)
    write_tune(result, folder, progress=bar.update)
    return [folder / "tune.html", *([] if written is None else [written])]


def _print(result: TuneResult, folder: Path, *, as_json: bool) -> None:
    if as_json:
        import json

        from brsolver.results.plain import finite_only

        facts = finite_only(result.to_dict())
        sys.stdout.write(json.dumps(facts, indent=2, allow_nan=False, default=str) + "\n")
        return
    from rich.text import Text

    from brsolver.cli._tune_tables import validated_table
    from brsolver.tuning import failures_told, sentences, start_line
    from brsolver.tuning.flags import looking_on_line
    from brsolver.tuning.write import FILE

    console = wide_console()
    for sentence in sentences(result):
        console.print(Text(sentence), soft_wrap=True)
    for line in failures_told(result):
        console.print(Text(line, style="red"), soft_wrap=True)
    if result.chosen is not None:
        console.print()
        console.print(validated_table(result))
        line = start_line(result.chosen, folder / FILE)
        console.print(Text(line, style="bold"), soft_wrap=True)
        watched = looking_on_line(result.chosen, folder / FILE)
        if watched is not None:
            told = f"with the adapter, which looks on and can record: {watched}"
            console.print(Text(told), soft_wrap=True)
    print_notes(console, result.notes)
