"""Dynamic programme, interval model, anytime search, reference and brute force agree."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.oracles.hindsight import (
    dp,
    fcfs_schedule,
    hindsight,
    hindsight_anytime,
    hindsight_cp_sat,
    hindsight_dp,
    replay,
)
from brsolver.oracles.hindsight.local_search import SwapSearch
from brsolver.oracles.hindsight.reference import reference_assignment
from brsolver.oracles.schedule import least_loaded
from brsolver.simulator import Arrivals, SimulationParams, simulate
from brsolver.traces.trace import Trace

FCFS_POLICIES = ("jsq-load", "round-robin", "fcfs")
OTHER_POLICIES = ("br-0", "random")


def trace_of(pairs):
    lengths = np.array(pairs, np.int64)
    return Trace(prompt_tokens=lengths[:, 0], output_tokens=lengths[:, 1])


def random_trace(seed, n, s_high=60, o_high=12):
    rng = np.random.default_rng(seed)
    return trace_of(np.stack((rng.integers(1, s_high, n), rng.integers(1, o_high, n)), axis=1))


def cluster(workers, slots, pool):
    arrivals = Arrivals(mode="pool", pool=pool)
    return SimulationParams(workers=workers, slots=slots, arrivals=arrivals)


def brute_force(schedule):
    best = None
    for plan in product(range(schedule.workers), repeat=len(schedule)):
        worker = np.array(plan, np.int64)
        if schedule.fits(worker):
            value = schedule.barrier_time(worker)
            best = value if best is None else min(best, value)
    return best


requests = st.tuples(st.integers(1, 30), st.integers(1, 8))
instances = st.tuples(
    st.lists(requests, min_size=1, max_size=7),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 8),
)


@given(instances)
@settings(max_examples=60, deadline=None)
def test_exact_methods_agree_with_brute_force(instance):
    pairs, workers, slots, pool = instance
    schedule = fcfs_schedule(trace_of(pairs), workers, slots, pool)
    best = brute_force(schedule)
    assert hindsight_dp(schedule).value == best
    found = hindsight_cp_sat(schedule)
    assert found.value == found.bound == best
    assert schedule.interval_bounds().sum() <= best


@given(instances)
@settings(max_examples=8, deadline=None)
def test_reference_model_agrees(instance):
    pairs, workers, slots, pool = instance
    schedule = fcfs_schedule(trace_of(pairs), workers, slots, pool)
    assert reference_assignment(schedule) == hindsight_dp(schedule).value


@pytest.mark.parametrize("policy", FCFS_POLICIES)
@pytest.mark.parametrize("pool", [1, 3, 12])
def test_schedule_is_what_fcfs_policies_do(policy, pool):
    trace = random_trace(pool, 60)
    schedule = fcfs_schedule(trace, 3, 4, pool)
    run = simulate(trace, policy, cluster(3, 4, pool))
    assert np.array_equal(run.requests.start_step, schedule.start)
    assert np.array_equal(run.requests.finish_step + 1, schedule.end)
    assert len(run.steps) == schedule.steps
    assert run.metrics.barrier_time == schedule.barrier_time(run.requests.worker)
    assert run.steps.load_sum.sum() == schedule.total_work


@given(st.integers(0, 10_000), st.integers(2, 3), st.integers(2, 4), st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_bound_optimum_policies_in_order(seed, workers, slots, pool):
    trace = random_trace(seed, 40)
    found = hindsight(trace, workers=workers, slots=slots, pool=pool)
    assert found.status.value == "optimal"
    schedule = fcfs_schedule(trace, workers, slots, pool)
    assert schedule.interval_bounds().sum() <= found.barrier_best
    for policy in FCFS_POLICIES:
        run = simulate(trace, policy, cluster(workers, slots, pool))
        assert found.barrier_best <= run.metrics.barrier_time


@pytest.mark.parametrize("policy", OTHER_POLICIES)
def test_policies_in_fcfs_order_are_no_better(policy):
    trace = random_trace(5, 30)
    run = simulate(trace, policy, cluster(2, 3, 1))
    # A pool of one request leaves a policy nothing to choose but the worker.
    assert hindsight(trace, workers=2, slots=3, pool=1).barrier_best <= run.metrics.barrier_time


def test_checkpoints_change_nothing(monkeypatch):
    trace = random_trace(3, 80)
    schedule = fcfs_schedule(trace, 2, 4)
    whole = hindsight_dp(schedule)

    def in_pieces(self, room):
        return 3

    monkeypatch.setattr(dp._Programme, "_plan_memory", in_pieces)
    pieces = hindsight_dp(schedule)
    assert pieces.value == whole.value == schedule.barrier_time(pieces.worker)


def test_plan_is_replayed_by_the_simulator():
    trace = random_trace(8, 50)
    schedule = fcfs_schedule(trace, 3, 3, 5)
    found = hindsight_dp(schedule)
    ran = replay(trace, found.worker, schedule.start, workers=3, slots=3, pool=5)
    assert ran.barrier_time == found.value
    assert ran.imbalance == 3 * found.value - schedule.total_work


def test_floor_of_other_workers_is_respected():
    schedule = fcfs_schedule(random_trace(2, 5, o_high=9), 2, 3)
    high = np.full(schedule.steps, 10_000)
    assert hindsight_dp(schedule, floor=high).value == 10_000 * schedule.steps
    none = np.zeros(schedule.steps, np.int64)
    assert hindsight_dp(schedule, floor=none).value == hindsight_dp(schedule).value


def test_swaps_keep_slots_and_count_what_they_save():
    schedule = fcfs_schedule(random_trace(4, 120, o_high=6), 3, 4)
    start = least_loaded(schedule)
    search = SwapSearch(schedule, start)
    saved = search.run(5_000)
    assert saved > 0
    assert schedule.fits(search.worker)
    assert schedule.barrier_time(start) - saved == schedule.barrier_time(search.worker)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_anytime_brackets_the_optimum_and_never_loosens(seed):
    schedule = fcfs_schedule(random_trace(seed, 40), 3, 3)
    best = hindsight_dp(schedule).value
    found = hindsight_anytime(schedule, budget_s=1.5, warm_start=least_loaded(schedule))
    assert found.bound <= best <= found.value == schedule.barrier_time(found.worker)
    for before, after in zip(found.curve, found.curve[1:], strict=False):
        assert before.incumbent >= after.incumbent
        assert before.bound <= after.bound
        assert after.bound <= after.incumbent


def test_objectives_agree_on_the_plan():
    trace = random_trace(6, 30)
    barrier, makespan, imbalance = (
        hindsight(trace, workers=2, slots=3, objective=name)
        for name in ("barrier", "makespan", "imbalance")
    )
    assert barrier.barrier_best == makespan.barrier_best == imbalance.barrier_best
    schedule = fcfs_schedule(trace, 2, 3)
    assert imbalance.best_known == 2 * barrier.best_known - schedule.total_work
    seconds = 0.005 * schedule.steps + 1e-7 * barrier.barrier_best
    assert makespan.best_known == pytest.approx(seconds)


@pytest.mark.parametrize("calls", [1, 2, 4, 6])
def test_a_dp_that_stops_early_certifies_a_bound(monkeypatch, calls):
    schedule = fcfs_schedule(random_trace(9, 30), 2, 3)
    best = hindsight_dp(schedule).value
    monkeypatch.setattr(dp, "CHUNK", 40)
    ticks = iter([0.0, 0.0, *[0.0] * calls])
    monkeypatch.setattr(dp, "perf_counter", lambda: next(ticks, 1e9))
    found = hindsight_dp(schedule, budget_s=1.0)
    assert found.worker is None
    assert schedule.interval_bounds().sum() <= found.bound <= best


def test_an_interrupt_keeps_what_is_known(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(dp._Programme, "_drain", interrupted)
    found = hindsight(random_trace(9, 30), workers=2, slots=3, method="dp")
    assert found.status.value == "feasible"
    assert found.message == "interrupted"
