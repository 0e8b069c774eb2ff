"""``brsolver vllm bench``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from brsolver.cli._input import InputOptions  # noqa: TC001 # typer evaluates annotations
from brsolver.cli._offered import takes_input_options
from integration import server_options as s

if TYPE_CHECKING:
    from collections.abc import Mapping

    from integration.bench.arms import Arm
    from integration.bench.server import ServerParams
    from integration.bench.session import Run
    from integration.bench.switching import Factory

LOAD = "Load"
TRACE = "preset:uniform:n=20000,s_low=32,s_high=1536,o_low=16,o_high=160"
POLICIES = "default,jsq-load@immediate,br-0@pooled,br-t@pooled"


@takes_input_options
def bench(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model to serve.")],
    *,
    policies: Annotated[
        str,
        typer.Option(
            metavar="ARM;ARM;...",
            help="What to compare, separated by ; (or by , where no policy has parameters): "
            "default (vLLM's rule), off (no adapter), interval N (vLLM's rule on ranks that begin "
            "prompts every N steps, with a server of its own), or SPEC@immediate, SPEC@pooled. "
            "The first is what the others are held against.",
        ),
    ] = POLICIES,
    rounds: Annotated[int, typer.Option(metavar="N", help="Interleaved rounds.")] = 5,
    trace: Annotated[
        str, typer.Option(metavar="TRACE", rich_help_panel=LOAD, help="Lengths; as in simulate.")
    ] = TRACE,
    requests: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=LOAD, help="Requests per round.")
    ] = 120,
    scale: Annotated[
        float, typer.Option(metavar="X", rich_help_panel=LOAD, help="Factor on all lengths.")
    ] = 1.0,
    max_tokens: Annotated[
        int,
        typer.Option(
            metavar="N", rich_help_panel=LOAD, help="Longest prompt plus output; others are cut."
        ),
    ] = 4096,
    waiting: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            rich_help_panel=LOAD,
            help="Requests in flight beyond the slots. (default: 4 per rank)",
        ),
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            rich_help_panel=s.SERVER,
            help="What a step costs there, for policies that weigh time: a preset, or a file that "
            "vllm calibrate wrote. (default: found out while serving)",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(rich_help_panel=LOAD, help="Seed of the prompts.")] = 0,
    options: InputOptions,
    ranks: s.RanksOption = s.RANKS,
    slots: s.SlotsOption = s.SLOTS,
    python: s.PythonOption = None,
    server_arg: s.ArgumentsOption = None,
    server_env: s.VariablesOption = None,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart",
            rich_help_panel=s.SERVER,
            help="A fresh server for every run, instead of one that changes its policy while it "
            "runs. Needed for the arm off.",
        ),
    ] = False,
    startup: s.StartupOption = s.STARTUP_S,
    confidence: Annotated[
        float, typer.Option(metavar="P", rich_help_panel=s.OUTPUT, help="Level of intervals.")
    ] = 0.95,
    logs: Annotated[
        str | None,
        typer.Option(metavar="DIR", rich_help_panel=s.OUTPUT, help="Keep the servers' logs there."),
    ] = None,
    json: s.JsonOption = False,
) -> None:
    """Drive a real vLLM server through several policies, interleaved, and compare them.

    In each round every policy serves requests of the same lengths, on one server that switches
    between them. Times and rates are means over rounds with Student intervals; differences are
    paired by round, and called differences only where the interval leaves out zero.
    """
    from integration.bench import preflight
    from integration.bench.server import ServerParams
    from integration.bench.session import SessionParams, run_session
    from integration.bench.switching import settings_of, stage_for
    from integration.bench.workload import WorkloadParams, workloads

    arms = arms_of(policies)
    params = SessionParams(rounds=rounds, waiting=waiting, confidence=confidence)
    load = WorkloadParams(
        trace=options.source(trace),
        requests=requests,
        scale=scale,
        max_tokens=max_tokens,
        seed=seed,
    )
    given = ServerParams(
        model=model,
        python=python or sys.executable,
        ranks=ranks,
        slots=slots,
        arguments=tuple(server_arg or ()),
        environment=s.variables(server_env or ()),
        startup_s=startup,
    )
    params.require_window(requests, ranks, slots)
    settings = settings_of(hardware)
    preflight.require(arms, given, logs)
    parts = workloads(load, rounds)
    make = _factory(given, logs)
    with stage_for(arms, make, parts[0], restart=restart, settings=settings) as stage:
        runs = run_session(arms, parts, stage, params)
    _print(runs, confidence, as_json_object=json)


def arms_of(text: str) -> tuple[Arm, ...]:
    """Read the compared arms; a semicolon separates where specifications hold commas."""
    from integration.bench.arms import parse_arms

    return parse_arms(text.split(";" if ";" in text or ":" in text else ","))


def _factory(given: ServerParams, logs: str | None) -> Factory:
    from dataclasses import replace
    from pathlib import Path

    from integration.bench.server import Server

    def make(environment: Mapping[str, str], label: str, arguments: tuple[str, ...]) -> Server:
        return Server(
            replace(
                given,
                environment={**given.environment, **environment},
                arguments=(*given.arguments, *arguments),
                log=Path(logs) / f"{label}.log" if logs else None,
            )
        )

    return make


def _print(runs: list[Run], confidence: float, *, as_json_object: bool) -> None:
    import json

    from integration.bench.summary import as_json, as_text, summarise

    summaries = summarise(runs, confidence)
    text = json.dumps(as_json(runs, summaries)) if as_json_object else as_text(summaries)
    sys.stdout.write(text + "\n")
