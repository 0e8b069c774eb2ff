from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from bounds_brute_force import best_run
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.oracles.bounds import earliest_admission, free_bound, least_steps
from brsolver.oracles.bounds.admission import Revealed, least_steps_by
from brsolver.oracles.bounds.free import _usable_before, latest_admission
from brsolver.simulator import SimulationParams, simulate
from brsolver.simulator.components import Arrivals
from brsolver.traces.trace import Trace

if TYPE_CHECKING:
    from brsolver.results.result import SimulationResult

TINY = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 4)), min_size=1, max_size=5)


def trace_of(pairs: list[tuple[int, int]]) -> Trace:
    prompt, output = np.array(pairs, np.int64).T
    return Trace(prompt_tokens=prompt, output_tokens=output)


@settings(max_examples=80, deadline=None)
@given(TINY, st.integers(1, 2), st.integers(1, 2), st.integers(1, 3), st.booleans())
def test_no_run_is_below_the_bound(
    pairs: list[tuple[int, int]], workers: int, slots: int, pool: int, idling: bool
) -> None:
    trace = trace_of(pairs)
    bound = free_bound(trace, workers=workers, slots=slots, pool=pool, work_conserving=not idling)
    prompt, output = trace.prompt_tokens.tolist(), trace.output_tokens.tolist()
    cost, steps = best_run(prompt, output, workers, slots, pool, idling)
    assert bound.total <= cost
    assert bound.steps <= steps
    assert bound.total >= -(-bound.total_work // workers)
    assert bound.phases.total == bound.total


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 12),
    st.sampled_from(["jsq-load", "br-0", "lpt", "random", "fcfs"]),
)
def test_admissions_stay_between_their_bounds(
    seed: int, workers: int, slots: int, pool: int, policy: str
) -> None:
    rng = np.random.default_rng(seed)
    requests = int(rng.integers(1, 60))
    trace = Trace(
        prompt_tokens=rng.integers(1, 500, requests),
        output_tokens=1 + (80 * rng.random(requests) ** 4).astype(np.int64),
    )
    params = SimulationParams(workers=workers, slots=slots, arrivals=Arrivals(pool=pool))
    run = simulate(trace, policy, params)
    places = (trace.output_tokens, workers * slots, pool)
    assert (earliest_admission(*places) <= run.requests.start_step).all()
    assert run.requests.start_step.max() <= latest_admission(*places)
    assert least_steps(*places) <= len(run.steps)
    needed = least_steps_by(*places, work_conserving=True)
    assert max(needed.values()) <= len(run.steps)
    assert needed["late"] >= needed["longest"]
    assert_admitted_in_time(
        run, Revealed(output=trace.output_tokens, positions=workers * slots, pool=pool)
    )
    bound = free_bound(trace, workers=workers, slots=slots, pool=pool)
    peaks = run.steps.load_max
    assert bound.phases.fill <= peaks[: bound.fill_end].sum()
    assert bound.phases.steady <= peaks[bound.fill_end : bound.drain_start].sum()
    assert bound.phases.drain <= peaks[bound.drain_start :].sum()
    assert (bound.per_step <= peaks[: bound.fill_end]).all()


def assert_admitted_in_time(run: SimulationResult, known: Revealed) -> None:
    admitted = np.cumsum(np.bincount(run.requests.start_step, minlength=len(run.steps)))
    for step in range(len(run.steps)):
        before = admitted[step - 1] if step else 0
        assert known.least_admitted(step) <= before
    for i in range(len(known.output)):
        assert known.earliest(i, 0) <= run.requests.start_step[i]


def test_one_long_request_sets_the_steps_and_the_drain() -> None:
    output = np.array([2] * 30 + [500] + [2] * 30)
    trace = Trace(prompt_tokens=np.where(output == 2, 5000, 10), output_tokens=output)
    bound = free_bound(trace, workers=4, slots=2, pool=4)
    assert bound.steps > 500
    assert bound.phases.drain > 0
    assert bound.total > -(-bound.total_work // 4)


def test_slots_for_everyone_force_the_whole_run() -> None:
    trace = Trace(prompt_tokens=np.array([9, 5, 4]), output_tokens=np.array([3, 1, 2]))
    bound = free_bound(trace, workers=2, slots=2, pool=4)
    assert bound.fill_end == 3
    assert bound.total == 9 + 10 + 11


def test_without_work_conservation_nothing_is_forced() -> None:
    trace = Trace(prompt_tokens=np.array([90, 5, 4]), output_tokens=np.array([3, 1, 2]))
    bound = free_bound(trace, workers=2, slots=2, pool=4, work_conserving=False)
    assert bound.total == 90 + 91 + 92
    assert bound.per_step.size == 0
    assert bound.kind == "idling"


@pytest.mark.parametrize("pool", [1, 3, 100])
def test_the_first_requests_of_a_pool_may_come_at_once(pool: int) -> None:
    first = earliest_admission(np.full(20, 3), 4, pool)
    assert (first[:pool] == 0).all()
    assert (first[pool:] > 0).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 8), st.integers(1, 9))
def test_slot_steps_before_a_step_are_counted_by_request(
    outputs: list[int], positions: int, pool: int
) -> None:
    output = np.array(outputs)
    first = earliest_admission(output, positions, pool)
    by_request = [np.minimum(output, np.maximum(x - first, 0)).sum() for x in range(51)]
    assert _usable_before(output, positions, pool, 50).tolist() == by_request


def test_long_requests_cannot_delay_the_last_admission_by_all_they_run() -> None:
    output = np.array([1000] * 4 + [2] * 60)
    spent = int(output.sum()) - 1
    assert latest_admission(output, 8, 64) <= 2 * 60 // 4 + 2 < spent // 8
