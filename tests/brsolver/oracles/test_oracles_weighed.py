"""Bounds, hindsight and gaps of effective loads: heuristic ≥ best ≥ bound, in one unit."""

from dataclasses import replace

import numpy as np
import pytest
from bounds_brute_force import best_assignment, best_run
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.errors import ParameterError
from brsolver.oracles.bounds import admissions_bound, fcfs_bound, free_bound, phase_gaps
from brsolver.oracles.gap import gap
from brsolver.oracles.hindsight import hindsight
from brsolver.oracles.schedule import fcfs_schedule
from brsolver.simulator import Arrivals, SimulationParams, StepTime, simulate
from brsolver.traces.trace import Trace

WEIGHTS = st.sampled_from([1, 40, 1500])


@st.composite
def cases(draw, most=6):
    size = draw(st.integers(1, most))
    trace = Trace(
        prompt_tokens=np.array(draw(st.lists(st.integers(1, 90), min_size=size, max_size=size))),
        output_tokens=np.array(draw(st.lists(st.integers(1, 5), min_size=size, max_size=size))),
    )
    return trace, draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 5))


def some_trace(seed):
    rng = np.random.default_rng(seed)
    return Trace(prompt_tokens=rng.integers(1, 300, 60), output_tokens=rng.integers(1, 12, 60))


@settings(max_examples=60, deadline=None)
@given(cases(), WEIGHTS)
def test_bounds_and_optima_are_those_of_effective_loads(case, each):
    trace, workers, slots, pool = case
    where = {"workers": workers, "slots": slots, "pool": pool, "request_tokens": each}
    schedule = fcfs_schedule(trace, workers, slots, pool)
    heavy, output = (trace.prompt_tokens + each).tolist(), trace.output_tokens.tolist()
    start, end = schedule.start.tolist(), schedule.end.tolist()
    best = best_assignment(heavy, start, end, workers, slots)
    bound = fcfs_bound(trace, **where)
    found = hindsight(trace, **where, bound=bound)
    assert bound.total <= best == found.barrier_best
    assert (bound.request_tokens, found.request_tokens) == (each, each)
    least, _ = best_run(heavy, output, workers, slots, pool, idling=False)
    free = free_bound(trace, **where)
    assert free.total <= least == hindsight(trace, **where, admission="free").barrier_best
    params = SimulationParams(
        workers=workers, slots=slots, arrivals=Arrivals(pool=pool), request_tokens=each
    )
    for policy in ("br-0", "jsq-load"):
        run = simulate(trace, policy, params)
        assert run.metrics.barrier_time >= least
        assert run.metrics.makespan_s >= free.makespan_s - 1e-9
        own = admissions_bound(
            trace, run.requests.start_step, workers=workers, slots=slots, request_tokens=each
        )
        assert phase_gaps(run, own).total.gap >= 0
    run = simulate(trace, "jsq-load", params)
    assert run.metrics.barrier_time >= best
    assert run.metrics.makespan_s >= bound.makespan_s - 1e-9


@settings(max_examples=40, deadline=None)
@given(cases(most=30), WEIGHTS, st.booleans())
def test_seconds_rely_on_kv_tokens_alone(case, each, table):
    """Steps last by KV tokens: weights prove nothing of their length."""
    trace, workers, slots, pool = case
    model = StepTime(model="table", loads=(0, 500), seconds=(0.01, 0.05)) if table else StepTime()
    where = {"workers": workers, "slots": slots, "pool": pool, "step_time": model}
    params = SimulationParams(
        workers=workers, slots=slots, arrivals=Arrivals(pool=pool), step_time=model
    )
    run = simulate(trace, "br-0", replace(params, request_tokens=each))
    bound = free_bound(trace, **where, request_tokens=each)
    assert bound.makespan_s <= run.metrics.makespan_s + 1e-9
    assert bound.makespan_s <= free_bound(trace, **where).makespan_s + 1e-9


def test_a_bound_of_other_weights_holds_for_no_run():
    trace = some_trace(1)
    params = SimulationParams(workers=2, slots=4, request_tokens=70)
    run = simulate(trace, "jsq-load", params)
    bound = fcfs_bound(trace, workers=2, slots=4)
    with pytest.raises(ParameterError, match=r"requests that weigh 0 tokens besides .* not 70"):
        phase_gaps(run, bound)
    with pytest.raises(
        ParameterError, match="another trace, cluster or pool, or of other request_tokens"
    ):
        hindsight(trace, workers=2, slots=4, bound=bound, request_tokens=70)
    with pytest.raises(ParameterError, match="request_tokens is -1"):
        fcfs_bound(trace, workers=2, slots=4, request_tokens=-1)


@pytest.mark.parametrize("oracle", ["bounds", "hindsight-fcfs", "step"])
def test_the_gap_of_weighed_runs_is_that_of_longer_prompts(oracle):
    trace = some_trace(5)
    longer = replace(trace, prompt_tokens=trace.prompt_tokens + 250)
    asked = {"workers": 2, "slots": 3, "oracle": oracle, "budget_s": 3.0}
    params = SimulationParams(request_tokens=250)
    found = gap(trace, "jsq-load,br-0", **asked, params=params).to_dict()
    plain = gap(longer, "jsq-load,br-0", **asked).to_dict()
    assert (found["unit"], found["request_tokens"]) == ("effective tokens", 250)
    assert (plain["unit"], plain["request_tokens"]) == ("KV tokens", 0)
    assert found["lower_bound"] == plain["lower_bound"]
    for one, other in zip(found["policies"], plain["policies"], strict=True):
        assert one["barrier_time"] == other["barrier_time"]
        assert one["routing"] == other["routing"]
