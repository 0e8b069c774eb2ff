from __future__ import annotations

import gc
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from brsolver.cli.main import app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one call of the command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def brsolver(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    # A slow machine is not to be told of here: lines of progress come by the clock.
    monkeypatch.setattr("brsolver.cli._progress.LINE_S", math.inf)

    def call(*arguments: object) -> Outcome:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(code=result.exit_code, out=result.stdout, err=result.stderr)

    return call


@pytest.fixture
def refused(brsolver: Callable[..., Outcome]) -> Callable[..., str]:
    """Call the command with bad input, and return the one line it says about it."""

    def call(*arguments: object) -> str:
        outcome = brsolver(*arguments)
        assert outcome.code == 2
        assert outcome.out == ""
        assert outcome.err.startswith("brsolver: error: ")
        assert outcome.err.count("\n") == 1
        return outcome.err

    return call


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    rows = [f"{100 + 37 * i % 900},{3 + 11 * i % 40}" for i in range(80)]
    path.write_text("\n".join(["prompt_tokens,output_tokens", *rows]) + "\n")
    return path


@pytest.fixture
def traffic(tmp_path: Path) -> Path:
    """Return a trace with times, long enough for `tune` to split."""
    path = tmp_path / "traffic.csv"
    rows = [f"{0.2 * i:.1f},{100 + 37 * i % 900},{3 + 11 * i % 40}" for i in range(300)]
    path.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows]) + "\n")
    return path


TINY = """
name = "tiny"
workers = 2
slots = 4
limit = 60
baseline = "jsq@immediate"
policies = ["jsq@immediate", "br-0@pooled"]
hardware = ["bfio"]

[traces.drawn]
stand_in = "preset:uniform:n=60,s_high=300,o_high=30"

[prefill.elsewhere]
mode = "none"

[regimes.full]

[regimes.half]
load = 0.5
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Return the definition of a small board."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Return a cluster of two nodes on this machine."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray leaves sockets to the collector
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        started.add_node(num_cpus=1)
        gc.collect()
    yield started
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        started.shutdown()
        gc.collect()
