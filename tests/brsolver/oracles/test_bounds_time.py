from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from time_brute_force import (
    Laid,
    Tiny,
    shortest_assignment,
    shortest_placement,
    shortest_run,
)

from brsolver.errors import ParameterError
from brsolver.hardware.reference import measured
from brsolver.hardware.step_time import StepTime
from brsolver.oracles.bounds import fcfs_bound, free_bound
from brsolver.oracles.bounds.as_loads import RankLimits, Totals, as_loads
from brsolver.oracles.bounds.rank_prefill import RankPrefill
from brsolver.oracles.bounds.seconds import Case, padded_steps_s
from brsolver.oracles.bounds.time import (
    admissions_time_bound,
    any_time_bound,
    fcfs_time_bound,
    free_time_bound,
)
from brsolver.oracles.bounds.time_steps import StepContents, steps_time_bound
from brsolver.simulator import SimulationParams, simulate
from brsolver.simulator.components import Arrivals
from brsolver.traces.trace import Trace

ROUNDED = 1 + 1e-12
COST = st.sampled_from([0.0, 0.25, 1.0, 1.7, 6.0])
SIZES = st.sampled_from([(), (2,), (1, 3), (2, 4), (3,)])


@st.composite
def loads_models(draw: st.DrawFn) -> StepTime:
    names = [
        f"per_{mean}{load}"
        for mean in ("", "mean_")
        for load in ("sequence", "token", "prefill_token", "prefill_context")
    ]
    experts = draw(st.sampled_from([0.0, 0.0, 5.0, 40.0]))
    share = draw(st.sampled_from([0.02, 0.3, 1.0]))
    return StepTime(
        model="loads",
        base=draw(st.sampled_from([0.1, 3.0, 20.0])),
        graph_sizes=draw(SIZES),
        all_experts=experts,
        expert_share=share if experts else 0.0,
        **{name: draw(COST) for name in names},
    )


@st.composite
def tables(draw: st.DrawFn) -> StepTime:
    axes = {
        name: tuple(sorted(draw(st.sets(st.integers(0, 9), min_size=2, max_size=3))))
        for name in draw(
            st.sampled_from(
                [("loads",), ("sequences",), ("sequences", "loads"), ("loads", "prefill_tokens"),
                 ("sequences", "loads", "prefill_tokens")]
            )
        )
    }  # fmt: skip
    cells = int(np.prod([len(axis) for axis in axes.values()]))
    seconds = draw(st.lists(st.floats(0.5, 9.0), min_size=cells, max_size=cells))
    return StepTime(model="table", seconds=tuple(seconds), **axes)


MODELS = st.one_of(
    loads_models(),
    loads_models(),
    tables(),
    st.builds(
        StepTime,
        model=st.just("max-mean"),
        base=st.sampled_from([0.1, 5.0]),
        per_token=COST,
        per_mean_token=COST,
    ),
)
DECODED = st.lists(st.builds(Tiny, st.integers(1, 9), st.integers(1, 3)), min_size=1, max_size=4)


def trace_of(requests: list[Tiny]) -> Trace:
    return Trace(
        prompt_tokens=np.array([each.prompt for each in requests]),
        output_tokens=np.array([each.output for each in requests]),
    )


def prefill_of(requests: list[Tiny], budget: int) -> RankPrefill:
    cached = np.array([each.cached for each in requests])
    return RankPrefill.of(trace_of(requests), budget, cached=cached)


@settings(max_examples=150, deadline=None)
@given(DECODED, st.integers(1, 2), st.integers(1, 3), MODELS)
def test_no_run_is_shorter_than_the_bound(
    requests: list[Tiny], workers: int, slots: int, model: StepTime
) -> None:
    best = shortest_run(requests, workers, slots, model)
    bound = any_time_bound(trace_of(requests), workers=workers, slots=slots, step_time=model)
    assert 0 < bound.seconds <= best * ROUNDED
    assert bound.seconds >= bound.total_work_s * (1 - 2e-12)


@st.composite
def prefilled(draw: st.DrawFn) -> list[Tiny]:
    prompts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    return [Tiny(s, draw(st.integers(1, 3)), draw(st.integers(0, s - 1))) for s in prompts]


@settings(max_examples=150, deadline=None)
@given(prefilled(), st.integers(1, 2), st.integers(1, 2), st.integers(2, 4), MODELS)
def test_no_run_that_prefills_on_its_ranks_is_shorter(
    requests: list[Tiny], workers: int, slots: int, budget: int, model: StepTime
) -> None:
    best = shortest_run(requests, workers, slots, model, budget)
    bound = any_time_bound(
        trace_of(requests),
        workers=workers,
        slots=slots,
        step_time=model,
        prefill=prefill_of(requests, budget),
    )
    assert 0 < bound.seconds <= best * ROUNDED


@settings(max_examples=150, deadline=None)
@given(DECODED, st.integers(1, 3), st.integers(1, 3), MODELS)
def test_no_assignment_in_order_of_arrival_is_shorter(
    requests: list[Tiny], workers: int, slots: int, model: StepTime
) -> None:
    trace = trace_of(requests)
    bounds = [
        fcfs_time_bound(trace, workers=workers, slots=slots, step_time=model, effort=effort)
        for effort in ("fast", "tight")
    ]
    start = _fcfs_start(trace, workers * slots, 4 * workers)
    best = shortest_assignment(requests, start, workers, slots, model)
    assert best is not None
    for bound in bounds:
        assert 0 < bound.seconds <= best * ROUNDED


def _fcfs_start(trace: Trace, places: int, pool: int) -> list[int]:
    from brsolver.oracles._schedule_kernels import admit_in_order

    return [int(x) for x in admit_in_order(trace.output_tokens, places, pool)[0]]


@settings(max_examples=100, deadline=None)
@given(DECODED, st.lists(st.integers(0, 5), min_size=4, max_size=4), st.integers(1, 3), MODELS)
def test_admission_steps_may_be_any(
    requests: list[Tiny], starts: list[int], workers: int, model: StepTime
) -> None:
    start = starts[: len(requests)]
    start = [x - min(start) for x in start]
    bound = admissions_time_bound(
        trace_of(requests), np.array(start), workers=workers, slots=4, step_time=model
    )
    best = shortest_assignment(requests, start, workers, 4, model)
    assert best is not None
    assert 0 < bound.seconds <= best * ROUNDED


@st.composite
def laid_out(draw: st.DrawFn) -> tuple[list[Tiny], list[Laid]]:
    requests = draw(prefilled())
    laid = []
    for each in requests:
        left, pieces = each.prompt - each.cached, []
        while left:
            pieces.append(draw(st.integers(1, left)))
            left -= pieces[-1]
        laid.append(Laid(draw(st.integers(0, 4)), tuple(pieces)))
    return requests, laid


def contents(requests: list[Tiny], laid: list[Laid]) -> StepContents:
    steps = max(x.decoded_from + r.output - 1 for x, r in zip(laid, requests, strict=True))
    prefill = np.zeros(steps, np.int64)
    for x in laid:
        prefill[x.first : x.decoded_from] += x.pieces
    return StepContents(
        prefilled_from=np.array([x.first for x in laid]),
        decoded_from=np.array([x.decoded_from for x in laid]),
        prefill_tokens=prefill,
        decodes=np.ones(steps, np.bool_),
    )


@settings(max_examples=150, deadline=None)
@given(laid_out(), st.integers(1, 3), MODELS)
def test_no_placement_of_the_same_steps_is_shorter(
    run: tuple[list[Tiny], list[Laid]], workers: int, model: StepTime
) -> None:
    requests, laid = run
    bound = steps_time_bound(
        trace_of(requests),
        prefill_of(requests, 12),
        contents(requests, laid),
        workers=workers,
        slots=3,
        step_time=model,
    )
    best = shortest_placement(requests, laid, workers, 3, model)
    assert best is not None
    assert 0 < bound.seconds <= best * ROUNDED


def test_one_prompt_at_a_time_is_on_one_rank() -> None:
    requests, laid = [Tiny(4, 1), Tiny(4, 1)], [Laid(0, (4,)), Laid(1, (4,))]
    model = StepTime(model="loads", base=1.0, per_token=0.0, per_prefill_token=1.0)
    where = {"workers": 2, "slots": 2, "step_time": model}
    bound = steps_time_bound(
        trace_of(requests), prefill_of(requests, 4), contents(requests, laid), **where
    )
    assert bound.seconds == pytest.approx(2 * 1.0 + 2 * 4.0)
    free = any_time_bound(trace_of(requests), prefill=prefill_of(requests, 4), **where)
    assert free.seconds == pytest.approx(1.0 + 4.0)


def random_trace(seed: int) -> Trace:
    rng = np.random.default_rng(seed)
    requests = int(rng.integers(1, 60))
    return Trace(
        prompt_tokens=rng.integers(1, 500, requests),
        output_tokens=1 + (80 * rng.random(requests) ** 4).astype(np.int64),
    )


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 12),
    st.sampled_from(["jsq-load", "br-0", "lpt", "random", "fcfs"]),
    MODELS,
)
def test_simulated_runs_take_at_least_their_bounds(
    seed: int, workers: int, slots: int, pool: int, policy: str, model: StepTime
) -> None:
    trace = random_trace(seed)
    params = SimulationParams(
        workers=workers, slots=slots, arrivals=Arrivals(pool=pool), step_time=model
    )
    run = simulate(trace, policy, params)
    where = {"workers": workers, "slots": slots, "step_time": model}
    bounds = [
        admissions_time_bound(trace, run.requests.start_step, **where),
        free_time_bound(trace, pool=pool, **where),
        free_time_bound(trace, pool=pool, work_conserving=False, **where),
        any_time_bound(trace, **where),
    ]
    took = float(run.steps.duration_s.sum())
    for bound in bounds:
        assert bound.seconds <= took * ROUNDED
    assert bounds[-1].seconds <= bounds[-2].seconds * ROUNDED


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), MODELS)
def test_makespans_of_bounds_contradict_nothing(seed: int, workers: int, model: StepTime) -> None:
    trace = random_trace(seed)
    where = {"workers": workers, "slots": 3, "step_time": model}
    fast = fcfs_time_bound(trace, effort="fast", **where)
    assert fcfs_bound(trace, effort="fast", **where).makespan_s == pytest.approx(fast.seconds)
    free = free_time_bound(trace, **where)
    assert free_bound(trace, **where).makespan_s == pytest.approx(free.seconds)
    assert free.seconds <= fast.seconds * ROUNDED


@settings(max_examples=100, deadline=None)
@given(tables(), st.integers(1, 12), st.integers(0, 12), st.data())
def test_coefficients_lie_below_a_grid(
    model: StepTime, slots: int, budget: int, data: st.DataObject
) -> None:
    totals = Totals(sequences=300, kv_tokens=4000, prefill_tokens=70 if budget else 0)
    limits = RankLimits(sequences=slots, kv_tokens=40, prefill_tokens=budget)
    below = as_loads(model, totals, limits, workers=2, steps=40)
    n = data.draw(st.floats(0, slots))
    kv = data.draw(st.floats(0, 40))
    prefill = data.draw(st.floats(0, budget))
    least = below.base + below.per_sequence * n + below.per_token * kv
    assert least + below.per_prefill_token * prefill <= measured(model, n, kv, prefill) * ROUNDED


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(0, 6),
    st.sampled_from([0.0, 0.5, 2.0, 9.0]),
    SIZES,
)
def test_padded_steps_are_never_fewer_nor_cheaper(
    output: int, workers: int, slots: int, least: int, base: float, sizes: tuple[int, ...]
) -> None:
    model = StepTime(model="loads", base=base, per_sequence=1.0, graph_sizes=sizes)
    case = Case(
        model=model,
        prompt=np.array([1]),
        decodes=np.array([output]),
        born=0,
        totals=Totals(sequences=output, kv_tokens=output),
        workers=workers,
        slots=slots,
        steps=least,
    )
    if not case.pads:
        return
    # Least cost of so many slot-steps of the largest rank in so many steps.
    needed, cost = -(-output // workers), case.padded
    table = {(0, 0): 0.0}
    for k in range(1, 20):
        for (steps, done), spent in list(table.items()):
            if steps == k - 1:
                for m in range(1, slots + 1):
                    at = (k, min(done + m, needed))
                    table[at] = min(table.get(at, np.inf), spent + base + float(cost[m]))
    best = min(spent for (k, done), spent in table.items() if done == needed and k >= least)
    assert padded_steps_s(case) <= best * ROUNDED


def test_graphs_that_fit_no_batch_cost_something() -> None:
    trace = Trace(prompt_tokens=np.full(6, 3), output_tokens=np.full(6, 5))
    plain = StepTime(model="loads", base=1.0, per_sequence=1.0, per_token=0.01)
    padded = StepTime(model="loads", base=1.0, per_sequence=1.0, per_token=0.01, graph_sizes=(2, 4))
    where = {"workers": 2, "slots": 3}
    bound = any_time_bound(trace, step_time=padded, **where)
    assert bound.binding == "padding"
    # Five steps of 4 instead of 3, or more of 2: 5·(1 + 4) against 7.5·(1 + 2).
    kv = 0.01 * bound.totals.kv_tokens / 2
    assert bound.seconds == pytest.approx(7.5 * 3 + kv)
    assert any_time_bound(trace, step_time=plain, **where).seconds < bound.seconds


def test_the_least_steps_are_those_of_slots_budget_longest_or_prefill() -> None:
    trace = Trace(prompt_tokens=np.array([8, 8, 8]), output_tokens=np.array([1, 1, 20]))
    prefill = RankPrefill.of(trace, 4)
    assert prefill.chunks.tolist() == [2, 2, 2]
    needed = prefill.least_steps(trace.output_tokens, workers=1, slots=2)
    assert needed == {"slots": 13, "budget": 11, "longest": 21, "prefilled first": 21}
    short = RankPrefill.of(trace, 8, chunk=2, cached=np.array([7, 8, 0]))
    assert short.tokens.tolist() == [1, 1, 8]
    assert short.chunks.tolist() == [1, 1, 4]
    assert short.context.tolist() == [8, 8, 36]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 0}, "budget is 0, must be at least 1 token"),
        ({"chunk": 0}, "chunk is 0, must be between 1 and the budget, 4"),
        ({"cached": np.array([-1])}, r"cached\[0\] is -1, must be at least 0"),
    ],
)
def test_bad_prefill_is_one_line(changes: dict[str, object], message: str) -> None:
    trace = Trace(prompt_tokens=np.array([5]), output_tokens=np.array([2]))
    with pytest.raises(ParameterError, match=message):
        RankPrefill.of(trace, **{"budget": 4, **changes})  # type: ignore[arg-type] # by keyword


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoded_from": np.array([0])}, "must be after its prompt's first step, 0"),
        ({"decoded_from": np.array([9])}, "must lie within 3 steps"),
        ({"decodes": np.zeros(3, np.bool_)}, "decode 1 steps into the run, must be at most 0"),
    ],
)
def test_contents_that_contradict_themselves_are_one_line(
    changes: dict[str, object], message: str
) -> None:
    requests, laid = [Tiny(4, 2)], [Laid(0, (2, 2))]
    known = contents(requests, laid)
    names = ("prefilled_from", "decoded_from", "prefill_tokens", "decodes")
    given_: dict[str, object] = {**{name: getattr(known, name) for name in names}, **changes}
    with pytest.raises(ParameterError, match=message):
        steps_time_bound(
            trace_of(requests),
            prefill_of(requests, 4),
            StepContents(**given_),  # type: ignore[arg-type] # by keyword
            workers=1,
            slots=1,
        )
