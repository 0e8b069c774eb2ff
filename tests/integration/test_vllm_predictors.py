"""Predictors of every kind under the adapter, named as on the command line."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from fake_vllm import Deployment, FinishReason
from typer.testing import CliRunner

from brsolver.cli.main import app
from integration.vllm.config import PREDICTOR, from_environment

if TYPE_CHECKING:
    from pathlib import Path

HORIZON = 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, trained by the command that users train theirs with."""
    path = tmp_path_factory.mktemp("model") / "a=b,c.skops"
    trace = "preset:recurring-prompts:n=1200"
    command = ["classifier", "train", trace, "--kind", "hazard-lr", "--out", str(path)]
    done = CliRunner().invoke(app, [*command, "--horizon", str(HORIZON)])
    assert done.exit_code == 0, done.output
    return path


def test_a_models_path_is_taken_whole(model: Path):
    found = from_environment({"BRSOLVER_ROUTER": "br-h", PREDICTOR: f"model:{model}"})
    assert found is not None
    assert found.predictor.name == "model"
    assert found.predictor.given == {"path": str(model)}


@pytest.mark.parametrize("mode", ["immediate", "pooled"])
@pytest.mark.parametrize("predictor", ["survival", "exact", "model", "none"])
def test_requests_are_routed_with_its_forecasts(model: Path, predictor: str, mode: str):
    named = f"model:{model}" if predictor == "model" else predictor

    async def scenario():
        d = Deployment(f"br-h:horizon={HORIZON}", mode, slots=4, environ={PREDICTOR: named})
        forecaster = d.session.forecaster
        assert (forecaster is None) == (predictor == "none")
        for i in range(120):
            await d.add(str(i), 10 + i % 7)
            await d.settle()
            for name, rank in list(d.sent().items())[max(0, i - 3) : i]:
                if name in d.client.reqs_in_flight:
                    ended = {name} if i % 2 else None
                    reason = FinishReason.STOP if i % 2 else None
                    await d.report(rank, {name: 1}, ended, finish_reason=reason)
        assert d.adapter.failsafe.failures == 0
        assert len(d.sent()) > 50
        await d.settle()

    asyncio.run(scenario())
