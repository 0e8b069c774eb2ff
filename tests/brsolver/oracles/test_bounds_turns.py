"""Bounds and explanations of runs whose turns follow others."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.errors import ParameterError
from brsolver.hardware.step_time import StepTime
from brsolver.oracles.bounds import fcfs_bound, free_bound
from brsolver.oracles.bounds.time import any_time_bound, free_time_bound
from brsolver.oracles.explain import explain
from brsolver.oracles.gap import gap
from brsolver.oracles.hindsight import hindsight
from brsolver.oracles.hindsight.free import hindsight_free
from brsolver.simulator import Arrivals, SimulationParams, simulate
from brsolver.traces.trace import Trace

CLUSTER = {"workers": 2, "slots": 3}
SECONDS = StepTime(model="loads", base=0.02, per_sequence=1e-3, per_token=1e-4)
MODES = {"timestamps": {}, "pool": {"pool": 3}, "closed": {"concurrency": 4}}


def conversations(requests: int = 40, seed: int = 3) -> Trace:
    rng = np.random.default_rng(seed)
    session = np.arange(requests) % 7
    delay = np.where(np.arange(requests) < 7, np.nan, rng.choice([0.0, 0.1, 1.0], requests))
    return Trace(
        prompt_tokens=rng.integers(1, 900, requests),
        output_tokens=rng.integers(1, 40, requests),
        arrival_s=np.where(np.isnan(delay), 0.1 * np.arange(requests), np.nan),
        columns={"session": session, "delay_s": delay},
    )


@pytest.mark.parametrize(
    "asked",
    [
        lambda trace: gap(trace, "jsq-load", **CLUSTER),
        lambda trace: gap(trace, "jsq-load", oracle="step", **CLUSTER),
        lambda trace: gap(trace, "jsq-load", oracle="hindsight-free", objective="time", **CLUSTER),
        lambda trace: fcfs_bound(trace, **CLUSTER),
        lambda trace: free_bound(trace, **CLUSTER),
        lambda trace: free_time_bound(trace, **CLUSTER),
        lambda trace: hindsight(trace, **CLUSTER),
        lambda trace: hindsight_free(trace, horizon=99, **CLUSTER),
    ],
)
def test_whatever_needs_to_know_who_waits_refuses(asked) -> None:
    with pytest.raises(ParameterError, match="turns of trace follow others, must follow none"):
        asked(conversations())


@pytest.mark.parametrize("mode", MODES)
def test_the_gap_in_seconds_is_held_against_any_order(mode: str) -> None:
    params = SimulationParams(arrivals=Arrivals(mode=mode, **MODES[mode]), step_time=SECONDS)
    found = gap(conversations(), ["jsq-load", "br-0"], objective="time", params=params, **CLUSTER)
    assert found.bound.kind == "any"
    assert found.bound.trace_fingerprint == conversations().fingerprint()
    assert all(row.gap >= 0 and row.certified for row in found.policies)
    assert all(row.own.seconds <= row.seconds for row in found.policies)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 25), st.integers(0, 99), st.sampled_from(sorted(MODES)))
def test_no_run_is_shorter_than_the_bound(requests: int, seed: int, mode: str) -> None:
    trace = conversations(requests, seed)
    params = SimulationParams(
        arrivals=Arrivals(mode=mode, **MODES[mode]), step_time=SECONDS, **CLUSTER
    )
    bound = any_time_bound(trace, step_time=SECONDS, **CLUSTER)
    run = simulate(trace, "jsq-load", params)
    assert run.metrics.finished == requests
    assert bound.seconds <= run.steps.duration_s.sum()


def test_an_explanation_says_what_no_policy_could_have_avoided() -> None:
    arrivals = Arrivals(mode="timestamps")
    params = SimulationParams(arrivals=arrivals, step_time=SECONDS, routing="immediate", **CLUSTER)
    found = explain(conversations(), "jsq-load", params)
    assert 0 < found.unavoidable_s <= found.seconds
    plain = replace(conversations(), arrival_s=None, columns={})
    other = any_time_bound(plain, step_time=SECONDS, **CLUSTER)
    assert found.unavoidable_s == other.seconds
