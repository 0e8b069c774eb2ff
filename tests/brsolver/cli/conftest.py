from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from brsolver.cli.main import app

if TYPE_CHECKING:
    from collections.abc import Callable
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
