"""Free admission: state search, time-indexed model and reference agree."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.oracles.hindsight import (
    FreeWeights,
    fcfs_schedule,
    hindsight,
    hindsight_dp,
    hindsight_free,
    hindsight_free_search,
    replay,
)
from brsolver.oracles.hindsight.reference import reference_free
from brsolver.simulator import Arrivals, SimulationParams, simulate
from brsolver.traces.trace import Trace


def trace_of(pairs):
    lengths = np.array(pairs, np.int64)
    return Trace(prompt_tokens=lengths[:, 0], output_tokens=lengths[:, 1])


requests = st.tuples(st.integers(1, 20), st.integers(1, 4))
instances = st.tuples(
    st.lists(requests, min_size=1, max_size=5),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(1, 5),
)


def solve_both(trace, workers, slots, pool, **kwargs):
    schedule = fcfs_schedule(trace, workers, slots, pool)
    common = {"workers": workers, "slots": slots, "pool": pool, "horizon": schedule.steps}
    model = hindsight_free(trace, **common, **kwargs)
    search = hindsight_free_search(
        trace, **common, **{"weights": FreeWeights(), "budget_s": 20.0, **kwargs}
    )
    return model, search


@given(instances, st.booleans())
@settings(max_examples=30, deadline=None)
def test_model_and_search_agree(instance, conserving):
    pairs, workers, slots, pool = instance
    trace = trace_of(pairs)
    model, search = solve_both(trace, workers, slots, pool, work_conserving=conserving)
    assert model.proven
    assert search.proven
    assert model.value == search.value
    for found in (model, search):
        ran = replay(trace, found.worker, found.start, workers=workers, slots=slots, pool=pool)
        assert ran.barrier_time == found.value
    assert search.value <= hindsight_dp(fcfs_schedule(trace, workers, slots, pool)).value


@given(instances, st.booleans())
@settings(max_examples=6, deadline=None)
def test_reference_agrees(instance, conserving):
    pairs, workers, slots, pool = instance
    trace = trace_of(pairs)
    _, search = solve_both(trace, workers, slots, pool, work_conserving=conserving)
    horizon = fcfs_schedule(trace, workers, slots, pool).steps
    assert search.value == reference_free(
        trace,
        workers=workers,
        slots=slots,
        pool=pool,
        horizon=horizon,
        work_conserving=conserving,
    )


@given(instances)
@settings(max_examples=15, deadline=None)
def test_steps_with_a_price_agree(instance):
    pairs, workers, slots, pool = instance
    weights = FreeWeights(per_step=7, per_token=2)
    model, search = solve_both(
        trace_of(pairs), workers, slots, pool, work_conserving=True, weights=weights
    )
    assert model.proven
    assert model.value == search.value


def test_free_admission_is_no_worse_than_any_policy():
    rng = np.random.default_rng(3)
    trace = trace_of(np.stack((rng.integers(5, 50, 9), rng.integers(2, 7, 9)), axis=1))
    params = SimulationParams(workers=2, slots=2, arrivals=Arrivals(mode="pool", pool=4))
    runs = [simulate(trace, p, params) for p in ("br-0", "random", "jsq-load", "lpt")]
    horizon = max(len(run.steps) for run in runs)
    free = hindsight(
        trace, workers=2, slots=2, pool=4, admission="free", horizon=horizon, budget_s=30
    )
    assert free.status.value == "optimal"
    assert free.best_known <= min(run.metrics.barrier_time for run in runs)
    assert free.best_known <= hindsight(trace, workers=2, slots=2, pool=4).best_known


def test_a_horizon_without_room_is_infeasible():
    trace = trace_of([(5, 4)] * 4)
    for method in ("search", "cp-sat"):
        found = hindsight(trace, workers=1, slots=1, admission="free", horizon=6, method=method)
        assert found.status.value == "infeasible"
        assert found.best_known is None
        assert found.lower_bound is None


def test_makespan_weights_are_exact_ratios():
    from brsolver.simulator import StepTime

    assert FreeWeights.of_makespan(StepTime()) == FreeWeights(per_step=50_000, per_token=1)


def test_free_makespan_is_in_seconds():
    trace = trace_of([(5, 3), (9, 2), (4, 4), (7, 1)])
    found = hindsight(trace, workers=2, slots=1, admission="free", objective="makespan")
    seconds = 0.005 * found.steps + 1e-7 * found.barrier_best
    assert found.status.value == "optimal"
    assert found.best_known == pytest.approx(seconds)
    assert found.barrier_bound is None
