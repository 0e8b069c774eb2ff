"""``brsolver vllm calibrate``."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from integration import server_options as s

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from integration.bench.calibrate import Served
    from integration.bench.server import ServerParams
    from integration.bench.sweep import SweepParams
    from integration.bench.sweep_fit import Calibration

SWEEP = "Sweep"
ASKED = 0.10
"""Relative error of held-out points from which the fit is not to be trusted."""
DIGITS = 18


def calibrate(  # typer's help says what each of them is
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Model to serve; none with --url.")
    ] = None,
    *,
    out: Annotated[
        str, typer.Option(metavar="FILE.toml", rich_help_panel=s.OUTPUT, help="Hardware file.")
    ] = "hardware.toml",
    name: Annotated[
        str,
        typer.Option(
            metavar="NAME", rich_help_panel=s.OUTPUT, help="Of the hardware. (default: the model's)"
        ),
    ] = "",
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            rich_help_panel=s.SERVER,
            help="A server that runs already on this machine, started with BRSOLVER_STEPS=DIR.",
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            rich_help_panel=s.SERVER,
            help="The DIR that it logs its steps to; of a server started here, keep them there.",
        ),
    ] = None,
    ranks: s.RanksOption = s.RANKS,
    slots: s.SlotsOption = s.SLOTS,
    python: s.PythonOption = None,
    server_arg: s.ArgumentsOption = None,
    server_env: s.VariablesOption = None,
    startup: s.StartupOption = s.STARTUP_S,
    batches: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            rich_help_panel=SWEEP,
            help="Sequences of the fullest rank. (default: from 1 to B - 1)",
        ),
    ] = None,
    contexts: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...", rich_help_panel=SWEEP, help="Tokens of each. (default: 64,512,1536)"
        ),
    ] = None,
    chunks: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            rich_help_panel=SWEEP,
            help="Prompt tokens computed while these decode. (default: 64,256,1024)",
        ),
    ] = None,
    decode_steps: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=SWEEP, help="Decode steps at each point.")
    ] = 24,
    held_out: Annotated[
        int,
        typer.Option(
            metavar="N", rich_help_panel=SWEEP, help="Random points that the fit does not see."
        ),
    ] = 4,
    rounds: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=SWEEP, help="How often to measure all.")
    ] = 3,
    seed: Annotated[int, typer.Option(rich_help_panel=SWEEP, help="Of prompts and orders.")] = 0,
    logs: Annotated[
        str | None,
        typer.Option(metavar="FILE", rich_help_panel=s.OUTPUT, help="Keep the server's log there."),
    ] = None,
    json: s.JsonOption = False,
) -> None:
    """Measure what a step costs on a real vLLM server, and write it as hardware.

    Sweeps batch, context and prefill chunk through the OpenAI API, fits the steps that the engines
    log, and predicts points that the fit has not seen. The file is what --hardware takes.
    """
    from integration.bench.sweep import SweepParams

    _check_server(ranks, slots, startup)
    sizes = {
        "batches": _sizes("batches", batches) or _up_to(slots - 1),
        "contexts": _sizes("contexts", contexts),
        "chunks": _sizes("chunks", chunks),
    }
    sweep = SweepParams(
        **{key: each for key, each in sizes.items() if each},
        steps=decode_steps,
        held_out=held_out,
        rounds=rounds,
        seed=seed,
    )
    sweep.require_slots(slots)
    _check_target(model, url, steps, name, out)
    options = {"ranks": ranks, "slots": slots, "startup_s": startup}
    texts = (python or sys.executable, server_arg or [], server_env or [], logs)
    with _served(model, url, steps, texts, options) as (served, folder):
        found = _measured(served, folder, sweep, ranks=ranks, slots=slots, name=name)
    found.hardware.to_toml(out)
    _print(found, as_json_object=json)
    sys.stderr.write(f"wrote {out}\n")


def _check_server(ranks: int, slots: int, startup: float) -> None:
    from brsolver._limits import MAX_SECONDS, MAX_SLOTS, MAX_WORKERS, require_number, require_whole

    require_whole("--ranks", ranks, 1, MAX_WORKERS)
    require_whole("--slots", slots, 3, MAX_SLOTS, ": for two batches, and a chunk beside them")
    require_number("--startup", startup, 1, MAX_SECONDS)


def _check_target(
    model: str | None, url: str | None, steps: str | None, name: str, out: str
) -> None:
    from brsolver.cli.hardware import require_target
    from brsolver.errors import ParameterError

    if (model is None) == (url is None):
        given = "both are given" if model else "neither is given"
        raise ParameterError(f"MODEL or --url: {given}, must be one of them")
    if url is not None and steps is None:
        raise ParameterError(
            "--url is given without --steps, must be with the folder that the server was started "
            "with as BRSOLVER_STEPS"
        )
    require_target(name, out)


@contextmanager
def _served(
    model: str | None,
    url: str | None,
    steps: str | None,
    texts: tuple[str, list[str], list[str], str | None],
    options: dict[str, Any],
) -> Iterator[tuple[Served, Path]]:
    """Start a server, or find the one that runs; yield it, and the folder of its steps."""
    import tempfile
    from pathlib import Path

    from integration.bench.calibrate import ask
    from integration.bench.server import Server
    from integration.load.http import require_aiohttp

    require_aiohttp("bench")
    if model is None:
        yield ask(str(url)), Path(str(steps))
        return
    with tempfile.TemporaryDirectory(prefix="brsolver-steps-") as scratch:
        folder = _kept(steps) if steps else Path(scratch)
        params = _server_params(model, folder, texts, options)
        with Server(params) as server:
            yield ask(server.url), folder


def _kept(text: str) -> Path:
    """Return a folder for step logs that has none yet: they would be taken for this server's."""
    from pathlib import Path

    from brsolver.errors import OutputError, ParameterError

    folder = Path(text).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--steps {text} cannot be made: {error.strerror}") from error
    if any(folder.glob("rank-*.csv")):
        raise ParameterError(f"--steps {text} holds step logs, must be empty or new")
    return folder


def _server_params(
    model: str,
    folder: Path,
    texts: tuple[str, list[str], list[str], str | None],
    options: dict[str, Any],
) -> ServerParams:
    from pathlib import Path

    from integration.bench import preflight
    from integration.bench.server import ServerParams
    from integration.bench.steps import STEPS

    python, arguments, environment, log = texts
    given = {STEPS: str(folder)} | s.variables(environment)
    preflight.require_model(model)
    preflight.require_vllm(python, given, plugin=True)
    return ServerParams(
        model=model,
        python=python,
        arguments=tuple(arguments),
        environment=given,
        log=Path(log) if log else None,
        **options,
    )


def _measured(
    served: Served, folder: Path, sweep: SweepParams, *, ranks: int, slots: int, name: str
) -> Calibration:
    from brsolver.hardware import Origin
    from integration.bench.calibrate import measure
    from integration.bench.sweep import fitting
    from integration.bench.sweep_fit import calibrate

    asked = sweep.points(ranks)
    points = fitting(asked, sweep, served.room(slots))
    if len(points) < len(asked):
        _tell(
            f"{len(asked) - len(points)} points are left out: a rank's KV cache does not hold them"
        )
    measured = measure(served, points, sweep, folder, report=_tell)
    origin = Origin(
        file="the sweep",
        model=served.title,
        engine=f"vllm {served.version}".rstrip(),
        dp=ranks,
        notes=(f"medians of {len(points)} points, each measured {sweep.rounds} times",),
    )
    return calibrate(measured, origin, name=name)


def _sizes(name: str, text: str | None) -> tuple[int, ...]:
    from brsolver.errors import ParameterError

    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    # Python reads no numbers of thousands of digits.
    if not all(part.isdecimal() and len(part) <= DIGITS for part in parts):
        raise ParameterError(f"{name} is {text!r}, must be whole numbers, e.g. 1,8,32")
    return tuple(int(part) for part in parts)


def _up_to(largest: int) -> tuple[int, ...]:
    """Four batches from 1 to the largest, about evenly spread."""
    return tuple(sorted({max(1, round(largest * share)) for share in (0.05, 0.3, 0.6, 1)}))


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _print(found: Calibration, *, as_json_object: bool) -> None:
    from integration.bench.calibrated import as_json, as_text, worst

    if as_json_object:
        import json

        sys.stdout.write(json.dumps(as_json(found)) + "\n")
    else:
        sys.stdout.write(as_text(found) + "\n")
    if found.held_out() and worst(found) > ASKED:
        _tell(
            f"held-out points are up to {worst(found):.0%} off: measure on an idle machine, with "
            "more --rounds, or over narrower ranges"
        )
