"""A specification is read once, where it comes in, and a policy is made once for a run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from brsolver import registry, specs
from brsolver.cli.main import app
from brsolver.compare import compare
from brsolver.oracles.gap import gap
from brsolver.registry import PolicySpec, PredictorSpec
from brsolver.routers import BRH
from brsolver.simulator import SimulationParams, simulate
from brsolver.traces.trace import Trace
from brsolver.wiring import read_policies

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

POLICY, FORECASTS = "br-h:horizon=20", "survival:memory=500"
SMALL = SimulationParams(workers=2, slots=3)


def make_trace(requests: int = 40) -> Trace:
    rng = np.random.default_rng(1)
    return Trace(
        prompt_tokens=rng.integers(1, 99, requests), output_tokens=rng.integers(1, 30, requests)
    )


class Counts:
    """What was read and made."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.made = 0


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    counted = Counts()
    read, make = specs.parse_spec, BRH.__init__

    def parse(text: str) -> tuple[str, dict[str, str]]:
        counted.read.append(text)
        return read(text)

    def init(self: BRH, *arguments: Any, **keywords: Any) -> None:
        counted.made += 1
        make(self, *arguments, **keywords)

    monkeypatch.setattr(specs, "parse_spec", parse)
    monkeypatch.setattr(registry, "parse_spec", parse)
    monkeypatch.setattr(BRH, "__init__", init)
    return counted


def run_command(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout)) if result.stdout.startswith("{") else {}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    rows = [f"{100 + 37 * i % 900},{3 + 11 * i % 40}" for i in range(40)]
    path.write_text("\n".join(["prompt_tokens,output_tokens", *rows]) + "\n")
    return path


def test_the_command_simulate(counts: Counts, file: Path) -> None:
    facts = run_command(
        "simulate", file, "--policy", POLICY, "--predictor", FORECASTS, "--r-max", 8, "--json",
        "--workers", 2, "--slots", 3,
    )  # fmt: skip
    assert facts["policy_params"]["horizon"] == 20
    assert facts["policy"] == f"{POLICY},r_max=8"
    assert counts.read == [POLICY, FORECASTS]
    assert counts.made == 1


def test_the_command_compare(counts: Counts, file: Path, tmp_path: Path) -> None:
    run_command(
        "compare", file, "--policies", f"jsq,{POLICY}", "--predictor", FORECASTS, "--jobs", 1,
        "--workers", "2,3", "--slots", 3, "--seeds", 2, "--r-max", 8, "--out", tmp_path / "out",
    )  # fmt: skip
    assert counts.read == ["jsq", POLICY, FORECASTS]
    assert counts.made == 4


def test_the_command_gap(counts: Counts, file: Path) -> None:
    facts = run_command(
        "gap", file, "--policies", f"jsq,{POLICY}", "--predictor", FORECASTS, "--json",
        "--workers", 2, "--slots", 3, "--budget", "1s",
    )  # fmt: skip
    assert [row["policy"] for row in facts["policies"]] == ["jsq", POLICY]
    assert counts.read == ["jsq", POLICY, FORECASTS]
    assert counts.made == 1


@pytest.mark.parametrize("read", [False, True])
def test_simulate(counts: Counts, *, read: bool) -> None:
    policy = PolicySpec.parse(POLICY) if read else POLICY
    predictor = PredictorSpec.parse(FORECASTS) if read else FORECASTS
    result = simulate(make_trace(), policy, SMALL, predictor=predictor)
    assert (result.policy, result.predictor) == (POLICY, FORECASTS)
    assert counts.read == [POLICY, FORECASTS]
    assert counts.made == 1


@pytest.mark.parametrize("call", [compare, gap], ids=["compare", "gap"])
@pytest.mark.parametrize("read", [False, True])
def test_functions_take_texts_and_specifications(
    counts: Counts, call: Callable[..., Any], *, read: bool
) -> None:
    predictor = PredictorSpec.parse(FORECASTS) if read else FORECASTS
    policies = read_policies(f"jsq,{POLICY}") if read else f"jsq,{POLICY}"
    own: dict[str, Any] = (
        {"workers": (2,), "params": SMALL, "jobs": 1}
        if call is compare
        else {"workers": 2, "slots": 3, "budget_s": 1.0}
    )
    found = call(make_trace(), policies, predictor=predictor, **own)
    runs = found.runs if call is compare else found.results
    assert [(run.policy, run.predictor) for run in runs] == [
        ("jsq", "none"), (POLICY, FORECASTS),
    ]  # fmt: skip
    assert sorted(counts.read) == sorted(["jsq", POLICY, FORECASTS])
    assert counts.made == 1
