from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from bounds_brute_force import best_assignment, best_split
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.errors import BrsolverError, ParameterError
from brsolver.hardware.step_time import StepTime
from brsolver.oracles.bounds import (
    BoundResult,
    PhaseSplit,
    admissions_bound,
    fcfs_bound,
    free_bound,
)
from brsolver.oracles.bounds import _pack_kernels as pk
from brsolver.oracles.bounds.reference import fixed_bound, loads_at, step_bound, window_gain
from brsolver.simulator import SimulationParams, simulate
from brsolver.traces.trace import Trace

LENGTHS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 9)), min_size=1, max_size=7)


def make_trace(pairs: list[tuple[int, int]]) -> Trace:
    prompt, output = np.array(pairs, np.int64).T
    return Trace(prompt_tokens=prompt, output_tokens=output)


def random_trace(seed: int, requests: int, longest: int = 60) -> Trace:
    rng = np.random.default_rng(seed)
    return Trace(
        prompt_tokens=rng.integers(1, 900, requests),
        output_tokens=1 + (longest * rng.random(requests) ** 3).astype(np.int64),
    )


def optimum(trace: Trace, bound: BoundResult) -> int | None:
    assert bound.start is not None
    return best_assignment(
        trace.prompt_tokens.tolist(),
        bound.start.tolist(),
        (bound.start + trace.output_tokens).tolist(),
        bound.workers,
        bound.slots,
    )


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 3), st.integers(1, 4), st.integers(1, 8))
def test_no_assignment_is_below_the_bound(
    pairs: list[tuple[int, int]], workers: int, slots: int, pool: int
) -> None:
    trace = make_trace(pairs)
    fast = fcfs_bound(trace, workers=workers, slots=slots, pool=pool, effort="fast")
    tight = fcfs_bound(trace, workers=workers, slots=slots, pool=pool)
    best = optimum(trace, tight)
    assert best is not None
    assert fast.total <= tight.total <= best
    assert fast.total >= -(-fast.total_work // workers)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.lists(st.integers(0, 6), min_size=7, max_size=7), st.integers(1, 3))
def test_admission_steps_may_be_any(
    pairs: list[tuple[int, int]], starts: list[int], workers: int
) -> None:
    trace = make_trace(pairs)
    bound = admissions_bound(trace, np.array(starts[: len(trace)]), workers=workers, slots=7)
    best = optimum(trace, bound)
    assert best is not None
    assert bound.total <= best


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=7), st.integers(1, 3), st.integers(1, 4))
def test_searching_a_step_finds_its_optimum(loads: list[int], workers: int, slots: int) -> None:
    best = best_split(loads, workers, slots)
    if best is None:
        return
    known = step_bound(loads, workers, slots)
    down = np.array(sorted(loads, reverse=True), np.int64)
    assert known <= best
    assert pk.lift(down, workers, slots, known, 100_000) == best
    assert known <= pk.lift(down, workers, slots, known, 3) <= best


@pytest.mark.parametrize("seed", range(6))
def test_kernels_agree_with_plain_code(seed: int) -> None:
    trace = random_trace(seed, 120)
    workers, slots = 2 + seed % 3, 3 + seed
    bound = fcfs_bound(trace, workers=workers, slots=slots, effort="fast")
    assert bound.start is not None
    prompt, start = trace.prompt_tokens.tolist(), bound.start.tolist()
    end = (bound.start + trace.output_tokens).tolist()
    assert bound.per_step.tolist() == fixed_bound(prompt, start, end, workers, slots)
    assert bound.active.tolist() == [
        len(loads_at(k, prompt, start, end)) for k in range(bound.steps)
    ]


def test_windows_are_what_some_set_of_requests_proves() -> None:
    bounds = []
    for seed in range(8):
        trace = random_trace(seed, 40, longest=300)
        bounds.append(fcfs_bound(trace, workers=3, slots=4))
        check_windows(trace, bounds[-1])
    assert sum(bool(bound.windows) for bound in bounds) >= 2


def check_windows(trace: Trace, bound: BoundResult) -> None:
    assert bound.start is not None
    edges = [edge for window in bound.windows for edge in (window.first, window.end)]
    assert [bound.drain_start, *edges] == sorted([bound.drain_start, *edges])
    start, end = bound.start, bound.start + trace.output_tokens
    rows = (trace.prompt_tokens.tolist(), start.tolist(), end.tolist())
    for window in bound.windows:
        running = np.flatnonzero(end > window.first).tolist()
        gains = [
            window_gain(chosen, (window.first, window.end), bound.per_step.tolist(), *rows)
            for chosen in combinations(running, bound.workers + 1)
        ]
        assert 0 < window.gain <= max(gains)


@pytest.mark.parametrize("seed", range(4))
def test_phases_add_up(seed: int) -> None:
    bound = fcfs_bound(random_trace(seed, 200), workers=3, slots=4, pool=5)
    gain = sum(window.gain for window in bound.windows)
    assert bound.phases.total == bound.total == bound.per_step.sum() + gain
    assert 0 < bound.fill_end < bound.drain_start < bound.steps
    assert bound.active[bound.fill_end] == 12
    assert (bound.active[: bound.fill_end] < 12).all()
    assert bound.start is not None
    assert bound.drain_start == bound.start.max() + 1
    assert bound.phases.fill == bound.per_step[: bound.fill_end].sum()


def test_slots_that_never_fill_leave_no_steady_phase() -> None:
    bound = fcfs_bound(random_trace(0, 5), workers=2, slots=8)
    assert bound.phases.steady == 0
    assert bound.fill_end == bound.drain_start == 1


def test_the_makespan_counts_steps_and_tokens() -> None:
    trace = random_trace(1, 50)
    model = StepTime(model="max-mean", base=0.25, per_token=2.0, per_mean_token=1.0)
    bound = fcfs_bound(trace, workers=2, slots=4, step_time=model)
    expected = 0.25 * bound.steps + 2.0 * bound.total + bound.total_work / 2
    assert bound.makespan_s == pytest.approx(expected)


TABLES = st.lists(
    st.tuples(st.integers(1, 400), st.floats(0.01, 5.0)),
    min_size=2,
    max_size=5,
    unique_by=lambda p: p[0],
)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), TABLES, st.sampled_from(["jsq-load", "br-0"]))
def test_no_run_is_shorter_than_the_bound_by_a_measured_table(
    seed: int, points: list[tuple[int, float]], policy: str
) -> None:
    loads, seconds = zip(*sorted(points), strict=True)
    model = StepTime(model="table", loads=loads, seconds=seconds)
    trace = random_trace(seed, 20)
    runs = SimulationParams(workers=2, slots=3, step_time=model)
    run = simulate(trace, policy, runs)
    where = {"workers": 2, "slots": 3, "step_time": model}
    bounds = [free_bound(trace, **where)] + [fcfs_bound(trace, **where)] * (policy == "jsq-load")
    for bound in bounds:
        assert 0 <= bound.makespan_s <= run.metrics.makespan_s * (1 + 1e-12)


def test_a_rising_table_counts_every_step_at_its_bound() -> None:
    model = StepTime(model="table", loads=(10.0, 20.0), seconds=(1.0, 3.0))
    trace = Trace(prompt_tokens=np.array([10, 10]), output_tokens=np.array([2, 2]))
    bound = fcfs_bound(trace, workers=1, slots=2, step_time=model)
    assert bound.per_step.tolist() == [20, 22]
    assert bound.makespan_s == pytest.approx(3.0 + 3.4)
    falling = replace(model, seconds=(3.0, 1.0))
    least = fcfs_bound(trace, workers=1, slots=2, step_time=falling).makespan_s
    assert least == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"slots": 0}, "slots is 0"),
        ({"pool": 0}, "pool is 0"),
        ({"effort": "hard"}, "effort is 'hard', must be fast or tight"),
        ({"budget_s": 0.0}, "budget_s is 0.0"),
        ({"budget_s": float("nan")}, "budget_s is nan"),
    ],
)
def test_bad_parameters_are_one_line(changes: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"workers": 2, "slots": 2, **changes}
    with pytest.raises(BrsolverError, match=message) as raised:
        fcfs_bound(random_trace(0, 4), **given)  # type: ignore[arg-type] # by keyword
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ([0, 0, 0], "must be one whole admission step for each of 4 requests"),
        ([0.0, 0, 0, 0], "must be one whole admission step"),
        ([0, 0, -1, 0], r"start\[2\] is -1, must be at least 0: a request that was never admitted"),
        ([0, 0, 0, 0], "start has 4 requests running at once, must have at most 2"),
    ],
)
def test_bad_admission_steps_are_refused(start: list[float], message: str) -> None:
    trace = Trace(prompt_tokens=np.full(4, 5), output_tokens=np.full(4, 3))
    with pytest.raises(ParameterError, match=message):
        admissions_bound(trace, np.array(start), workers=2, slots=1)  # type: ignore[arg-type]


def test_results_whose_phases_do_not_add_up_are_refused() -> None:
    bound = fcfs_bound(random_trace(0, 10), workers=2, slots=2)
    with pytest.raises(ParameterError, match="phases add up to 1, must add up to total"):
        replace(bound, phases=PhaseSplit(fill=1))
