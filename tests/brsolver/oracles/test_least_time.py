"""One bound for any number of runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.oracles.least_time import LeastTime, judge
from brsolver.simulator import Arrivals, Prefill, SimulationParams, simulate
from brsolver.simulator.components import WorkerEvent
from brsolver.traces.trace import Trace

ON_RANKS = Prefill(mode="colocated", budget=64)
CLUSTER = SimulationParams(workers=2, slots=3)


def drawn(seed: int, requests: int = 12) -> Trace:
    rng = np.random.default_rng(seed)
    return Trace(
        prompt_tokens=rng.integers(1, 200, requests), output_tokens=rng.integers(1, 12, requests)
    )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    prefill=st.sampled_from([Prefill(), ON_RANKS]),
    policy=st.sampled_from(["fcfs", "jsq", "br-0", "br-t"]),
    routing=st.sampled_from(["pooled", "immediate"]),
    arrivals=st.sampled_from([Arrivals(), Arrivals(pool=1), Arrivals(mode="rate", rate=20.0)]),
)
def test_no_run_takes_less_and_placement_is_no_more_than_the_gap(
    seed, prefill, policy, routing, arrivals
):
    trace, params = drawn(seed), replace(CLUSTER, prefill=prefill)
    least = LeastTime.of(trace, params)
    run = simulate(trace, policy, replace(params, routing=routing, arrivals=arrivals))
    found = judge(trace, run, least.bound.seconds)
    assert found.uncertified == ""
    assert found.gap >= -1e-9
    assert -1e-9 <= found.routing_gap <= found.gap + 1e-9
    assert least.clairvoyant_s >= least.bound.seconds * (1 - 1e-9)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"max_steps": 3}, "some requests did not finish"),
        ({"capacity": 260, "slots": 8}, "requests were preempted"),
        ({"events": (WorkerEvent(kind="join", worker=2, at_step=1),)}, "workers fail or join"),
    ],
)
def test_what_the_bound_does_not_cover_only_compares(changed, says):
    trace = drawn(1, 40)
    trace = replace(trace, output_tokens=trace.output_tokens + 60)
    params = replace(CLUSTER, **changed)
    found = judge(trace, simulate(trace, "fcfs", params), 1.0)
    assert found.uncertified == says
    assert found.routing_gap is None
    assert found.gap == pytest.approx(found.seconds - 1)
