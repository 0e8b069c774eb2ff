"""The compiled programs: fake engines on one clock, and the load client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from integration.free_ports import LOOPBACK, free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SOURCES = Path(__file__).parent
FLAGS = ("-O2", "-Wall", "-Wextra")
PATIENCE_S = 30.0
DRAIN_S = 70.0
"""How long the client lets what runs run out, and some."""


def compile_all(folder: Path) -> None:
    """Compile the programs into a folder; end with one line where there is no compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("bench_serve: there is no C compiler: install cc, or name one with CC=PATH")
    for name in ("engine", "client"):
        command = [compiler, *FLAGS, "-o", folder / name, SOURCES / f"{name}.c"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            sys.exit(f"bench_serve: CC is {compiler}, must be a C compiler: {error.strerror}")
        if done.returncode:
            reason = (done.stderr.strip() or "it says nothing").splitlines()[0]
            sys.exit(f"bench_serve: {compiler} cannot compile {name}.c: {reason}")


@dataclass(frozen=True)
class Engines:
    """Running fake engines.

    Attributes
    ----------
    ports : list of int
        A port each.
    """

    ports: list[int]

    def set_clock(self, seconds: float) -> None:
        """Let a step last so long; 0 is as fast as sockets take tokens."""
        url = f"http://127.0.0.1:{self.ports[0]}/clock/{round(seconds * 1e6)}"
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            answer.read()


@contextmanager
def running_engines(folder: Path, count: int) -> Iterator[Engines]:
    """Run so many fake engines in one process."""
    ports = free_ports([LOOPBACK] * count)
    command = [folder / "engine", ",".join(map(str, ports)), "40000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                sys.exit("bench_serve: the fake engines did not start")
            yield Engines(ports)
        finally:
            process.kill()


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the client asks for.

    Attributes
    ----------
    streams, tokens, prompt_bytes : int
        Streams at once; output tokens, and bytes of the prompt, of a request.
    spread_s : float
        Time over which the first requests begin, lest they end together.
    clock_s : float
        A step of the engines.
    usage : bool
        Whether streams ask what they took.
    """

    streams: int
    tokens: int = 100
    prompt_bytes: int = 400
    spread_s: float = 0.1
    clock_s: float = 0.04
    usage: bool = True


def run_client(
    folder: Path,
    ports: Sequence[int],
    load: Load,
    *,
    warm_s: float,
    seconds: float,
    on: Callable[[str], None],
) -> dict[str, Any]:
    """Run the load client; return its report.

    Parameters
    ----------
    folder : Path
        Of the compiled programs.
    ports : sequence of int
        Where streams go, in turn.
    load : Load
    warm_s, seconds : float
        Before the measurement, and its length.
    on : callable
        Called with ``"begin"`` and ``"end"`` of the measurement.
    """
    figures = (load.streams, load.tokens, load.prompt_bytes, warm_s, seconds, load.spread_s)
    asked = [*map(str, figures), str(int(load.usage))]
    command = [folder / "client", ",".join(map(str, ports)), *asked]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            last = line.strip()
            if last in {"begin", "end"}:
                on(last)
        process.wait(DRAIN_S)
    if process.returncode:
        sys.exit(f"bench_serve: the load client failed with {process.returncode}")
    report: dict[str, Any] = json.loads(last)
    return report
