"""Prefill on the decode ranks: kernels against the plain reference, and what every run keeps."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.cluster.view import NO_LIMIT
from brsolver.errors import ParameterError, TraceError
from brsolver.registry import make_policy
from brsolver.simulator import (
    Arrivals,
    Prefill,
    RequestStatus,
    SimulationParams,
    Staleness,
    StepTime,
    WorkerEvent,
    simulate,
)
from brsolver.simulator.reference import Request
from brsolver.simulator.reference_colocated import ColocatedReference, Rank
from brsolver.specs import parse_spec
from brsolver.traces.trace import Trace

MEASURED = StepTime(
    model="loads",
    base=0.0256,
    per_sequence=63e-6,
    per_token=41.6e-9,
    per_prefill_token=65e-6,
    per_prefill_context=1e-9,
    per_mean_prefill_token=7e-6,
)
PADDED = replace(MEASURED, graph_sizes=(1, 2, 4, 8))
TABLE = StepTime(
    model="table",
    loads=(10, 200),
    prefill_tokens=(0, 50),
    seconds=(0.02, 0.05, 0.03, 0.07),
)


@st.composite
def traces(draw):
    size = draw(st.integers(1, 25))
    prompt = draw(st.lists(st.integers(1, 40), min_size=size, max_size=size))
    output = draw(st.lists(st.integers(1, 12), min_size=size, max_size=size))
    gaps = draw(st.lists(st.sampled_from([0.0, 0.001, 0.02, 0.5]), min_size=size, max_size=size))
    columns = {}
    if draw(st.booleans()):
        share = draw(st.lists(st.sampled_from([0, 0.5, 1]), min_size=size, max_size=size))
        columns["cached_tokens"] = (np.array(prompt) * np.array(share)).astype(np.int64)
    return Trace(
        prompt_tokens=np.array(prompt),
        output_tokens=np.array(output),
        arrival_s=np.cumsum(gaps) - gaps[0],
        columns=columns,
    )


def _event(draw, kind, worker, at, **more):
    when = {"at_s": at * 0.03} if draw(st.booleans()) else {"at_step": at}
    return WorkerEvent(kind=kind, worker=worker, **when, **more)


@st.composite
def events(draw, slots, capacity):
    found = []
    for victim in draw(st.sets(st.integers(0, len(slots) - 1), max_size=len(slots))):
        at = draw(st.integers(0, 15))
        timed = _event(draw, "fail", victim, at)
        found.append(timed)
        if draw(st.booleans()):
            back = at + draw(st.integers(1, 10))
            spare = capacity[victim] if capacity else None
            when = {"at_s": back * 0.03} if timed.at_step is None else {"at_step": back}
            found.append(
                WorkerEvent(kind="join", worker=victim, slots=slots[victim], capacity=spare, **when)
            )
    return tuple(found)


@st.composite
def prefills(draw, slots):
    scheduler = draw(st.sampled_from(["v1", "v1", "sglang"]))
    least = max(slots) if scheduler == "v1" else 1
    budget = draw(st.integers(least, least + draw(st.sampled_from([3, 20, 200]))))
    delayer = draw(delayers())
    if scheduler == "sglang":
        return Prefill(mode="colocated", scheduler=scheduler, budget=budget, **delayer)
    return Prefill(
        mode="colocated",
        budget=budget,
        threshold=draw(st.sampled_from([0, 0, 1, 4, 30])),
        interval=1 if delayer else draw(st.sampled_from([1, 1, 2, 3, 8])),
        **delayer,
    )


@st.composite
def delayers(draw):
    """Draw a rule by which prefill is held back, most often none."""
    few = st.sampled_from([1, 2, 3, 8])
    rule = draw(st.sampled_from(["none", "none", "sglang", "atom", "trtllm"]))
    if rule == "none":
        return {}
    given = {"delayer": rule}
    if rule == "sglang":
        given["max_delay_passes"] = draw(few)
        given["attempts"] = draw(st.sampled_from([0, 1, 2, 16]))
    elif rule == "atom":
        given |= {name: draw(few) for name in ("ttft_ticks", "partial_ticks", "stall")}
        given["fill_target"] = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    else:
        given["timeout_iters"] = draw(few)
        given["batching_wait_iters"] = draw(st.sampled_from([0, 1, 3]))
    return given


@st.composite
def scenarios(draw):
    trace = draw(traces())
    workers = draw(st.integers(1, 4))
    slots = tuple(draw(st.lists(st.integers(1, 4), min_size=workers, max_size=workers)))
    largest = int((trace.prompt_tokens + trace.output_tokens).max())
    capacity = None
    if draw(st.booleans()):
        spare = draw(st.lists(st.integers(-5, 60), min_size=workers, max_size=workers))
        spare[0] = max(spare[0], 0)
        capacity = tuple(max(largest + extra, 1) for extra in spare)
    mode = draw(st.sampled_from(["pool", "timestamps", "closed"]))
    arrivals = Arrivals(
        mode=mode,
        pool=draw(st.integers(1, 9)),
        concurrency=draw(st.integers(1, 12)) if mode == "closed" else None,
    )
    prefill = draw(prefills(slots))
    if capacity is not None and prefill.delayer in {"sglang", "atom"}:
        prefill = replace(prefill, watermark=draw(st.sampled_from([0.0, 0.1, 0.5])))
    params = SimulationParams(
        workers=workers,
        slots=slots,
        capacity=capacity,
        routing=draw(st.sampled_from(["pooled", "immediate"])),
        arrivals=arrivals,
        prefill=prefill,
        step_time=draw(st.sampled_from([MEASURED, MEASURED, PADDED, TABLE, StepTime()])),
        events=draw(events(slots, capacity)),
        transit_steps=draw(st.sampled_from([0, 0, 1, 3])),
    )
    policy = draw(
        st.sampled_from(
            [
                *("jsq-load", "br-0", "bf-io:horizon=0", "round-robin", "vllm", "lpt"),
                *("br-t", "br-t:kappa=9", "br-t:kappa=9,hold_s=0.1", "br-t:patience=2"),
            ]
        )
    )
    return trace, params, policy


def reference_run(trace, params, policy):
    timed = params.arrivals.mode == "timestamps"
    cached = trace.columns.get("cached_tokens", np.zeros(len(trace), np.int64))
    requests = []
    for i, (s, o) in enumerate(zip(trace.prompt_tokens, trace.output_tokens, strict=True)):
        known = min(int(cached[i]), int(s) - 1)
        ready = float(trace.arrival_s[i]) if timed else None
        requests.append(Request(i, int(s), int(o), ready, cached=known, computed=known))
    ranks = [
        Rank(slots, NO_LIMIT if capacity is None else capacity)
        for slots, capacity in zip(params.slots_each(), params.capacity_each(), strict=True)
    ]
    simulator = ColocatedReference(
        list(requests),
        ranks,
        make_policy(*parse_spec(policy)) if isinstance(policy, str) else policy,
        pool=params.arrivals.pool if params.arrivals.mode == "pool" else 0,
        concurrency=params.arrivals.concurrency or 0,
        immediate=params.routing == "immediate",
        transit_steps=params.transit_steps,
        events=params.events,
        prefill=params.prefill,
        step_time=params.step_time,
    )
    simulator.run()
    return simulator, requests


def assert_same_steps(steps, expected):
    assert len(steps) == len(expected)
    for j, record in enumerate(expected):
        assert steps.start_s[j] == record.start_s
        assert steps.duration_s[j] == record.duration_s
        assert steps.active[j] == record.active
        assert steps.load_max[j] == max(record.loads)
        assert steps.load_sum[j] == sum(record.loads)
        assert steps.post_sum[j] == sum(record.post)
        assert steps.prefill_tokens[j] == sum(record.prefill)
        assert steps.prefill_max[j] == max(record.prefill)
        assert steps.lost_prefill_s[j] == record.parts.lost_prefill
        assert steps.lost_sequences_s[j] == record.parts.lost_sequences
        assert steps.lost_kv_s[j] == record.parts.lost_kv
        assert steps.lost_padding_s[j] == record.parts.lost_padding


def assert_same_requests(log, requests):
    for request in requests:
        i = request.index
        assert log.start_step[i] == request.start_step
        assert log.finish_step[i] == request.finish_step
        assert log.preemptions[i] == request.preemptions
        assert log.worker[i] == request.worker
        assert (log.status[i] == RequestStatus.REJECTED) == request.rejected
        for found, known in (
            (log.start_s[i], request.start_s),
            (log.first_token_s[i], request.first_s),
            (log.finish_s[i], request.finish_s),
        ):
            assert np.isnan(found) if known is None else found == known


@settings(max_examples=400, deadline=None)
@given(scenarios())
def test_the_kernels_equal_the_reference(scenario):
    trace, params, policy = scenario
    result = simulate(trace, policy, params)
    expected, requests = reference_run(trace, params, policy)
    assert_same_steps(result.steps, expected.steps)
    assert_same_requests(result.requests, requests)
    # Every prefill token is of what a request has computed last, or was lost.
    kept = sum(r.computed - r.cached for r in requests)
    assert result.steps.prefill_tokens.sum() == kept + expected.recomputed


@settings(max_examples=200, deadline=None)
@given(scenarios(), st.integers(0, 3), st.booleans())
def test_invariants_hold(scenario, stale_steps, corrected):
    trace, params, policy = scenario
    params = replace(params, staleness=Staleness(steps=stale_steps, local_correction=corrected))
    result = simulate(trace, policy, params)
    log, steps, m = result.requests, result.steps, result.metrics
    finished = log.status == RequestStatus.FINISHED
    assert m.finished + sum(log.unfinished().values()) == len(trace)
    cached = trace.columns.get("cached_tokens", np.zeros(len(trace), np.int64))
    needed = trace.prompt_tokens - np.minimum(cached, trace.prompt_tokens - 1)
    assert steps.active.sum() >= trace.output_tokens[finished].sum()
    assert steps.prefill_tokens.sum() >= needed[finished].sum()
    if not params.events and params.capacity is None:
        assert m.finished == len(trace)
        assert steps.active.sum() == trace.output_tokens.sum()
        assert steps.prefill_tokens.sum() == needed.sum()
    assert np.all(np.diff(steps.start_s) > 0)
    assert np.all(steps.prefill_max <= params.prefill.budget)
    if params.prefill.scheduler == "v1" and params.workers == 1 and not params.events:
        # Decoded tokens are of the budget, first ones come with their prompt's last token.
        ends = steps.start_s + steps.duration_s
        first = np.array([(log.first_token_s == end).sum() for end in ends])
        decoded = steps.active - first if not log.preemptions.any() else 0
        assert np.all(decoded + steps.prefill_tokens <= params.prefill.budget)
    assert np.all(steps.active + steps.prefill_tokens > 0)
    assert np.all(log.start_s[finished] >= log.ready_s[finished])
    assert np.all(log.first_token_s[finished] > log.start_s[finished])
    assert np.all(log.finish_s[finished] >= log.first_token_s[finished])
    if params.capacity is not None:
        assert np.all(result.samples.load <= params.capacity_each())
    for row in result.samples.running:
        assert np.all(row <= params.slots_each())
    if params.arrivals.mode == "closed":
        assert_in_flight(log, params.arrivals.concurrency)


def assert_in_flight(log, clients):
    """At most so many have arrived and not ended, counted at every arrival."""
    ended = np.where(log.status == RequestStatus.REJECTED, -1.0, log.finish_s)
    for arrived in log.arrival_s[~np.isnan(log.arrival_s)]:
        there = (log.arrival_s <= arrived) & ~(ended <= arrived)
        assert there.sum() <= clients


@settings(max_examples=50, deadline=None)
@given(scenarios(), st.sampled_from(["random", "p2c", "br-h", "fast-phi"]))
def test_same_seed_same_trajectory(scenario, policy):
    trace, params, _ = scenario
    first, second = (simulate(trace, policy, params) for _ in range(2))
    for name in ("worker", "finish_s", "start_step", "first_token_s"):
        a, b = getattr(first.requests, name), getattr(second.requests, name)
        assert a.tobytes() == b.tobytes()
    assert first.steps.prefill_max.tobytes() == second.steps.prefill_max.tobytes()


UNIT = StepTime(model="loads", base=1.0, per_token=0.0, per_prefill_token=0.01)


def run(prompts, outputs, prefill, policy="round-robin", columns=None, **regime):
    trace = Trace(
        prompt_tokens=np.array(prompts), output_tokens=np.array(outputs), columns=columns or {}
    )
    settings = {"workers": 1, "slots": 4, "step_time": UNIT} | regime
    params = SimulationParams(prefill=Prefill(mode="colocated", **prefill), **settings)
    return simulate(trace, policy, params)


def test_running_requests_go_first_then_prompts_under_way_then_what_waits():
    result = run([2, 14, 6], [9, 2, 2], {"budget": 8}, slots=3)
    # Of 8 tokens: the first prompt takes 2, the second what is left; then one is decoded.
    assert result.steps.prefill_tokens[:4].tolist() == [8, 7, 7, 0]
    assert result.requests.start_step.tolist() == [0, 0, 2]
    assert result.requests.first_token_s.tolist() == pytest.approx([1.08, 3.22, 3.22])
    assert result.steps.active[:4].tolist() == [1, 1, 3, 3]
    assert result.steps.duration_s[:4] == pytest.approx([1.08, 1.07, 1.07, 1.0])


def test_a_long_prompt_lets_others_by_with_a_threshold():
    result = run([30, 4], [1, 1], {"budget": 12, "threshold": 8})
    assert result.steps.prefill_tokens.tolist() == [12, 8, 8, 6]
    assert result.requests.finish_step.tolist() == [3, 0]


def test_context_counts_every_token_before_and_itself():
    step_time = StepTime(model="loads", base=1.0, per_token=0.0, per_prefill_context=1.0)
    result = run([5], [1], {"budget": 4}, slots=1, step_time=step_time)
    assert result.steps.duration_s.tolist() == [1 + 1 + 2 + 3 + 4, 1 + 5]


def test_an_ending_prompt_neither_decodes_nor_is_read():
    step_time = StepTime(model="loads", base=1.0, per_sequence=1.0, per_token=1.0)
    result = run([5], [3], {"budget": 8}, step_time=step_time)
    assert result.steps.active.tolist() == [1, 1, 1]
    assert result.steps.duration_s.tolist() == [1, 1 + 1 + 6, 1 + 1 + 7]


def test_prefill_waits_for_its_interval_unless_nothing_decodes():
    prefill = {"budget": 8, "interval": 4}
    timed = Arrivals(mode="timestamps")
    trace = Trace(
        prompt_tokens=np.array([4, 4, 4]),
        output_tokens=np.array([9, 9, 2]),
        arrival_s=np.array([0.5, 1.7, 20.0]),
    )
    params = SimulationParams(
        workers=1,
        slots=4,
        step_time=UNIT,
        arrivals=timed,
        prefill=Prefill(mode="colocated", **prefill),
    )
    result = simulate(trace, "jsq", params)
    # The second comes during step 1 and waits for step 4; the third finds nothing running.
    assert result.requests.start_step.tolist() == [0, 4, 13]
    assert result.steps.prefill_tokens[[0, 4, 13]].tolist() == [4, 4, 4]


def test_a_rank_that_was_capacity_bound_goes_on_with_prefill():
    result = run([8, 8, 8], [9, 9, 9], {"budget": 8, "interval": 8}, slots=3)
    # Once nothing waits any more, the rest of the prompt under way has to wait for its turn.
    assert result.steps.prefill_tokens[:9].tolist() == [8, 7, 7, 0, 0, 0, 0, 0, 2]
    other = run([8, 8], [30, 9], {"budget": 12, "interval": 8}, slots=3)
    assert other.steps.prefill_tokens[:9].tolist() == [12, 0, 0, 0, 0, 0, 0, 0, 4]


def test_with_sglang_nobody_decodes_while_a_rank_prefills():
    prefill = {"budget": 8, "scheduler": "sglang"}
    result = run([4, 20], [3, 2], prefill, workers=2, slots=1)
    assert result.steps.prefill_tokens.tolist() == [12, 8, 4, 0, 0]
    assert result.steps.prefill_max.tolist() == [8, 8, 4, 0, 0]
    assert result.steps.active.tolist() == [1, 0, 1, 2, 1]
    assert result.requests.first_token_s.tolist() == pytest.approx([1.08, 3.2])
    assert result.requests.finish_step.tolist() == [4, 3]


def test_outputs_of_one_token_end_with_their_prompt():
    for scheduler in ("v1", "sglang"):
        result = run([4, 20], [1, 1], {"budget": 8, "scheduler": scheduler})
        assert result.steps.active.sum() == 2
        assert result.requests.finish_s.tolist() == result.requests.first_token_s.tolist()


def test_what_is_cached_needs_no_compute_and_holds_tokens():
    columns = {"cached_tokens": np.array([6, 9, 0])}
    result = run([10, 9, 5], [2, 2, 2], {"budget": 64}, columns=columns)
    assert result.steps.prefill_tokens.sum() == 4 + 1 + 5
    assert result.steps.load_max[0] == 24


@pytest.mark.parametrize("bad", [-1, 11])
def test_a_bad_number_of_cached_tokens_is_refused_with_its_row(bad):
    with pytest.raises(TraceError, match=f"row 1: cached_tokens is {bad}, must be from 0 to the 9"):
        run([10, 9], [2, 2], {}, columns={"cached_tokens": np.array([0, bad])})


def test_a_column_of_cached_tokens_that_are_no_numbers_is_refused():
    with pytest.raises(TraceError, match=r"cached_tokens is .*, must be whole numbers"):
        run([10, 9], [2, 2], {}, columns={"cached_tokens": np.array(["a", "b"])})


@pytest.mark.parametrize(
    ("prefill", "says"),
    [
        ({"budget": 3}, "prefill: budget is 3, must be at least 4, the slots of a worker"),
        ({"budget": 0}, "budget is 0, must be at least 1 tokens"),
        ({"budget": 2**21}, "budget is 2097152, must be at most 1,048,576 tokens"),
        ({"threshold": -1}, "threshold is -1, must be at least 0"),
        ({"interval": 0}, "interval is 0, must be at least 1 steps"),
        ({"interval": 2, "scheduler": "sglang"}, "interval is 2, must be 1 with scheduler sglang"),
        ({"scheduler": "orca"}, "scheduler is 'orca', must be v1 or sglang"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(prefill, says):
    with pytest.raises(ParameterError) as caught:
        run([10], [2], prefill)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_preempted_prompts_are_computed_again():
    # The running request grows until the prompt under way no longer fits beside it.
    result = run([10, 30], [25, 2], {"budget": 4, "threshold": 1}, capacity=45, slots=2)
    assert result.requests.preemptions.tolist() == [0, 1]
    assert result.metrics.finished == 2
    assert result.steps.prefill_tokens.sum() > 40


def test_a_closed_loop_keeps_as_many_in_flight_as_there_are_clients():
    closed = Arrivals(mode="closed", concurrency=3)
    trace = Trace(prompt_tokens=np.full(9, 5), output_tokens=np.arange(1, 10))
    log = simulate(trace, "jsq", SimulationParams(workers=1, slots=8, arrivals=closed)).requests
    assert log.start_step.tolist() == [0, 0, 0, 1, 2, 3, 5, 7, 9]
    with pytest.raises(ParameterError, match="concurrency is None, must be a whole number"):
        Arrivals(mode="closed")
    with pytest.raises(ParameterError, match="concurrency is given, but mode 'pool'"):
        Arrivals(concurrency=3)


@pytest.mark.parametrize("scheduler", ["v1", "sglang"])
def test_utilization_reckons_with_prefill_on_the_decode_ranks(scheduler):
    rng = np.random.default_rng(0)
    trace = Trace(
        prompt_tokens=rng.integers(500, 1500, 1500), output_tokens=rng.integers(50, 150, 1500)
    )
    params = SimulationParams(
        workers=2,
        slots=32,
        step_time=StepTime(model="loads", base=0.02, per_token=0.0, per_prefill_token=2e-5),
        arrivals=Arrivals(mode="utilization", utilization=0.4),
        prefill=Prefill(mode="colocated", scheduler=scheduler),
    )
    result = simulate(trace, "jsq-load", params)
    steps = result.steps
    busy = float((steps.active * steps.duration_s).sum() / steps.duration_s.sum()) / 64
    assert busy == pytest.approx(0.4, abs=0.12)


def test_time_to_first_token_has_prefill_in_it():
    result = run([40], [5], {"budget": 16})
    assert result.metrics.ttft_mean_s == pytest.approx(3 + 0.40)


def test_a_run_ends_with_prompts_under_way_and_says_so():
    result = run([100, 5], [5, 5], {"budget": 4}, max_steps=3)
    assert result.requests.unfinished() == {"queued": 1, "running": 1}


def test_time_per_token_leaves_the_first_one_out_where_prompts_are_computed_on_the_ranks():
    trace = Trace(prompt_tokens=np.array([90, 20, 7]), output_tokens=np.array([5, 1, 3]))
    params = SimulationParams(workers=1, slots=3, prefill=Prefill(mode="colocated", budget=16))
    result = simulate(trace, "jsq", params)
    log = result.requests
    expected = (log.finish_s - log.first_token_s)[[0, 2]] / np.array([4, 2])
    found = log.tpot_s(trace.output_tokens)
    assert found[[0, 2]] == pytest.approx(expected)
    assert np.isnan(found[1])
    assert result.metrics.tpot_mean_s == pytest.approx(expected.mean())
    assert result.metrics.ttft_mean_s == pytest.approx((log.first_token_s - log.arrival_s).mean())
