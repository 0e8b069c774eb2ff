"""No forecast is judged on what trained it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint

import numpy as np
import pytest

from brsolver import SimulationParams, Trace, registry, simulate
from brsolver.compare import compare
from brsolver.errors import ParameterError, UnknownNameError
from brsolver.predictors import Forecast
from brsolver.registry import PredictorSpec
from brsolver.simulator.held_out import hold_out

SMALL = SimulationParams(workers=2, slots=4)


def trace_of(count=60):
    rng = np.random.default_rng(8)
    return Trace(
        prompt_tokens=rng.integers(1, 50, count),
        output_tokens=rng.integers(1, 30, count),
        arrival_s=np.arange(count) * 2.0,
        origin_s=100.0,
    )


def test_rows_that_trained_are_left_out_and_it_is_said():
    trace = trace_of()
    result = simulate(trace, "br-h", SMALL, predictor="survival:train=0.25")
    assert result.training_rows == 15
    assert result.metrics.requests == 45
    assert result.trace_fingerprint == trace.after(15).fingerprint()
    assert result.notes[0].startswith("the first 15 of 60 requests trained the predictor")


def test_policies_without_forecasts_run_the_same_requests():
    result = simulate(trace_of(), "jsq-load", SMALL, predictor="survival:train=0.25")
    assert result.metrics.requests == 45


def test_comparison_trains_once_and_holds_all_policies_to_the_same_rest(monkeypatch):
    made = []
    original = PredictorSpec.make
    monkeypatch.setattr(
        PredictorSpec,
        "make",
        lambda self, **context: made.append(self.given) or original(self, **context),
    )
    grid = compare(
        trace_of(), "jsq-load,br-0,br-h", params=SMALL, workers=(2, 3), jobs=1,
        predictor="survival:train=0.5",
    )  # fmt: skip
    assert {run.metrics.requests for run in grid.runs} == {30}
    assert made == [{"train": "0.5"}]
    assert all("first 30 of 60" in run.notes[0] for run in grid.runs)
    alone = simulate(trace_of(), "br-h", SMALL, predictor="survival:train=0.5")
    (same,) = (r for r in grid.runs if r.policy == "br-h" and r.workers == 2)
    assert same.metrics.avg_imbalance_sum == alone.metrics.avg_imbalance_sum


def test_a_predictor_that_learns_online_leaves_nothing_out():
    held = hold_out(trace_of(), "survival")
    assert len(held.trace) == 60
    assert held.note is None
    assert not PredictorSpec.parse("none").trained
    assert not PredictorSpec.parse("oracle").trained


def test_the_rest_keeps_its_place_on_the_clock():
    rest = trace_of().after(15)
    assert rest.arrival_s[0] == 0
    assert rest.origin_s == 130
    assert rest.after(5).origin_s == 140


@pytest.mark.parametrize("rows", [-1, 60, 61])
def test_nothing_left_is_refused(rows):
    with pytest.raises(ParameterError, match="nothing is left"):
        trace_of().after(rows)


@dataclass(frozen=True, kw_only=True)
class FiledParams:
    path: str = ""


class Filed:
    """Takes a path."""

    Params = FiledParams
    positional = "path"

    def predict(self, query, horizon):
        return Forecast(p_finish=np.zeros(1), mu_remaining=np.zeros(1), horizon=horizon)


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ("filed:a,b=c.skops", {"path": "a,b=c.skops"}),
        ("filed: C:/x/y.skops ", {"path": "C:/x/y.skops"}),
        ("filed", {}),
    ],
)
def test_a_path_is_taken_whole(monkeypatch, spec, values):
    monkeypatch.setattr(registry, "predictor_class", lambda name: Filed)
    found = PredictorSpec.parse(spec)
    assert (found.name, found.given) == ("filed", values)
    assert found.params == FiledParams(**values)


def test_unknown_predictors_are_named():
    with pytest.raises(UnknownNameError, match="survivel"):
        PredictorSpec.parse("survivel:train=0.5")


def test_predictors_that_cannot_be_loaded_are_named(monkeypatch):
    broken = {"mine": EntryPoint("mine", "no_such_module:X", registry.PREDICTOR_GROUP)}
    monkeypatch.setattr(registry, "_entries", lambda group: broken)
    with pytest.raises(ParameterError, match=r"predictor 'mine' .* cannot be loaded"):
        PredictorSpec.parse("mine")
