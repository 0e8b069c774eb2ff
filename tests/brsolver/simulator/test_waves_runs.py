"""Whole runs of BR-T: planned in plain Python; nobody starves; what others stay caught in."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_colocated import events, prefills, scenarios

from brsolver.cluster.view import CAPACITY, ROOM, SLOTS, TOKEN_ROOM
from brsolver.errors import PolicyError
from brsolver.routers import BRT, BRTParams, waves
from brsolver.routers._wave_kernels import Plan
from brsolver.routers.reference_waves import Planner
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
from brsolver.traces.trace import Trace

UNIT = StepTime(model="loads", base=0.02, per_token=1e-6, per_prefill_token=1e-3)
SLOW = replace(UNIT, per_prefill_token=1.0)


def plan_in_plain_python(
    table, projected, prompts, cached, each, growing, since, overdue, seconds, pairs
):
    lists = (prompts.tolist(), cached.tolist())
    planner = Planner(
        table, projected, *lists, each, growing, since.tolist(), overdue, seconds.tolist()
    )
    found = planner.plan()
    placed = found.fills + found.rest
    if placed:
        pairs[: len(placed)] = placed
    return Plan(len(found.fills), len(placed), found.lost, found.longest, found.running)


@st.composite
def params_of_br_t(draw):
    return BRTParams(
        kappa=draw(st.sampled_from([0.0, 0.3, 1.0, 1.0, 20.0, 1e6])),
        hold_s=draw(st.sampled_from([0.0, 0.05, 0.3, 30.0])),
        patience=draw(st.sampled_from([0, 1, 3, 20, 2500])),
        slo_ttft_ms=draw(st.sampled_from([None, None, 100, 2000])),
        slo_tpot_ms=draw(st.sampled_from([None, None, 10, 60])),
        growth=draw(st.sampled_from(["ramp", "survival"])),
        horizon=draw(st.sampled_from([1, 7, 80])),
    )


@settings(max_examples=100, deadline=None)
@given(scenarios(), params_of_br_t(), st.sampled_from([0, 0, 5]))
def test_a_run_planned_in_plain_python_is_the_same_run(scenario, own, each):
    trace, params, _ = scenario
    params = replace(params, step_time=UNIT, request_tokens=each)
    ours = simulate(trace, BRT(own), params)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waves, "plan_wave", plan_in_plain_python)
        plain = simulate(trace, BRT(own), params)
    for name in ("worker", "start_step", "finish_step", "start_s", "first_token_s", "finish_s"):
        found, expected = getattr(ours.requests, name), getattr(plain.requests, name)
        assert found.tobytes() == expected.tobytes()
    assert ours.steps.duration_s.tobytes() == plain.steps.duration_s.tobytes()
    assert ours.notes == plain.notes


@settings(max_examples=40, deadline=None)
@given(scenarios())
def test_where_prompts_are_computed_elsewhere_it_is_br_ramp(scenario):
    trace, params, _ = scenario
    params = replace(params, prefill=Prefill(), step_time=UNIT)
    runs = [simulate(trace, policy, params).requests for policy in ("br-t", "br-ramp")]
    for name in ("worker", "start_step", "finish_s"):
        first, second = (getattr(log, name) for log in runs)
        assert first.tobytes() == second.tobytes()


# Nobody starves.


def could_go(table, prompts):
    """Which requests some worker that is there could hold, if it held nothing else."""
    there = table[SLOTS] != 0
    return prompts <= table[CAPACITY][there].max(initial=0)


class Watched(BRT):
    """BR-T, and what each of its decisions left waiting."""

    __slots__ = ("held_s", "held_since")

    def __init__(self, params):
        super().__init__(params)
        self.held_since, self.held_s = None, []

    def route(self, cluster, waiting):
        room, tokens = cluster.table[ROOM].copy(), cluster.table[TOKEN_ROOM].copy()
        pairs = super().route(cluster, waiting)
        self._watch_holding(cluster, waiting, room, tokens, len(pairs))
        self._watch_order(cluster, waiting, room, tokens, pairs.tolist())
        return pairs

    def _watch_holding(self, cluster, waiting, room, tokens, placed):
        """Note for how long somebody could have gone, and nobody went.

        While the first overdue one has no room, nobody can.
        """
        able = could_go(cluster.table, waiting.prompt_tokens)
        asked = waiting.prompt_tokens[able][: int(room.sum())]
        overdue = able & (waiting.since <= cluster.step - self.params.patience)
        if self.params.patience and overdue.any():
            asked = waiting.prompt_tokens[overdue][:1]
        could = any(((room > 0) & (tokens >= prompt)).any() for prompt in asked)
        if not could or placed:
            self.held_since = None
            return
        if self.held_since is None:
            self.held_since = cluster.clock_s
        self.held_s.append(cluster.clock_s - self.held_since)

    def _watch_order(self, cluster, waiting, room, tokens, pairs):
        """Check that nobody takes the place of somebody overdue."""
        if self.params.patience == 0:
            return
        able = could_go(cluster.table, waiting.prompt_tokens)
        overdue = np.flatnonzero(able & (waiting.since <= cluster.step - self.params.patience))
        placed = [at for at, _ in pairs]
        left = [i for i in overdue if i not in placed]
        if left:
            prompt = waiting.prompt_tokens[left[0]]
            others = [(at, g) for at, g in pairs if at not in overdue or at > left[0]]
            for at, g in pairs:
                if (at, g) not in others:
                    room[g] -= 1
                    tokens[g] -= waiting.prompt_tokens[at]
            fits = ((room > 0) & (tokens >= prompt)).any()
            assert fits or not others
            for at, g in others:
                room[g] -= 1
                tokens[g] -= waiting.prompt_tokens[at]
            assert not fits or ((room > 0) & (tokens >= prompt)).any()


@st.composite
def adversaries(draw):
    """Bursts, trickles and silence; prompts that fill a worker, and little KV to give."""
    size = draw(st.integers(2, 30))
    lengths = st.sampled_from([1, 2, 7, 29, 30, 60])
    gaps = st.sampled_from([0.0, 0.0, 0.001, 0.02, 0.3, 2.0])
    trace = Trace(
        prompt_tokens=np.array(draw(st.lists(lengths, min_size=size, max_size=size))),
        output_tokens=np.array(
            draw(st.lists(st.sampled_from([1, 2, 5, 40]), min_size=size, max_size=size))
        ),
        arrival_s=np.cumsum(draw(st.lists(gaps, min_size=size, max_size=size))),
    )
    workers = draw(st.integers(1, 3))
    slots = tuple(draw(st.lists(st.integers(1, 5), min_size=workers, max_size=workers)))
    capacity = None
    if draw(st.booleans()):
        spare = draw(st.lists(st.sampled_from([0, 5, 60]), min_size=workers, max_size=workers))
        largest = int((trace.prompt_tokens + trace.output_tokens).max())
        capacity = tuple(largest + each for each in spare)
    mode = draw(st.sampled_from(["timestamps", "timestamps", "pool", "closed"]))
    clients = draw(st.integers(1, 12)) if mode == "closed" else None
    return trace, SimulationParams(
        workers=workers,
        slots=slots,
        capacity=capacity,
        arrivals=Arrivals(mode=mode, pool=draw(st.integers(1, 20)), concurrency=clients),
        prefill=draw(prefills(slots)),
        step_time=draw(st.sampled_from([UNIT, UNIT, SLOW])),
        transit_steps=draw(st.sampled_from([0, 0, 1, 3])),
    )


@settings(max_examples=300, deadline=None)
@given(adversaries(), params_of_br_t())
def test_nobody_starves_whatever_comes(adversary, own):
    trace, params = adversary
    policy = Watched(own)
    result = simulate(trace, policy, params)
    # A decision that finds somebody held for that long releases; the one before did not.
    assert all(seconds < own.hold_s for seconds in policy.held_s)
    log = result.requests
    assert (log.status == RequestStatus.FINISHED).all()


@settings(max_examples=200, deadline=None)
@given(adversaries(), params_of_br_t(), st.data())
def test_failures_and_old_news_leave_no_cluster_idle(adversary, own, data):
    trace, params = adversary
    params = replace(
        params,
        events=data.draw(events(params.slots, params.capacity)),
        staleness=Staleness(
            steps=data.draw(st.integers(0, 4)), local_correction=data.draw(st.booleans())
        ),
    )
    result = simulate(trace, BRT(own), params)
    if not params.events:
        assert result.metrics.finished == len(trace)


@pytest.mark.parametrize("patience", [0, 3, 2500])
@pytest.mark.parametrize("giants", [1, 9])
def test_requests_larger_than_any_worker_left_keep_nobody_waiting(patience, giants):
    # More of them than there are slots, and all before the others.
    trace = Trace(
        prompt_tokens=np.array([200] * giants + [10] * 40),
        output_tokens=np.array([5] * (giants + 40)),
    )
    params = SimulationParams(
        workers=3,
        slots=2,
        capacity=(60, 60, 300),
        step_time=UNIT,
        arrivals=Arrivals(pool=60),
        prefill=Prefill(mode="colocated", budget=16),
        events=(WorkerEvent(kind="fail", worker=2, at_step=1),),
    )
    log = simulate(trace, BRT(BRTParams(patience=patience)), params).requests
    small = trace.prompt_tokens == 10
    assert (log.status[small] == RequestStatus.FINISHED).all()
    assert not (log.status[~small] == RequestStatus.FINISHED).any()


LOST = SimulationParams(
    workers=2,
    slots=1,
    step_time=UNIT,
    prefill=Prefill(mode="colocated", budget=64),
    staleness=Staleness(steps=5),
    events=(WorkerEvent(kind="fail", worker=0, at_step=20),),
)
OUTLIVED = Trace(prompt_tokens=np.array([60, 60]), output_tokens=np.array([30, 10]))


def test_who_is_lost_with_the_last_worker_that_ran_is_not_held_by_old_news_of_it():
    """Nothing runs any more, so no step will bring any other."""
    log = simulate(OUTLIVED, "br-t", LOST).requests
    assert (log.status == RequestStatus.FINISHED).all()
    assert log.preemptions.sum() == 1


def test_who_holds_though_the_news_have_come_is_told_of_it():
    class Once:
        """Places what comes first, and nothing after."""

        def __init__(self):
            self.asked_at = []

        def route(self, cluster, waiting):
            self.asked_at.append(cluster.step)
            return [] if cluster.step else [(0, 0), (1, 1)][: len(waiting)]

    policy = Once()
    with pytest.raises(PolicyError, match="at step 20 leaves 1 requests waiting on an idle"):
        simulate(OUTLIVED, policy, LOST)
    assert policy.asked_at == [0, 20, 20]


# What others do not recover from.


def refilled(policy, *, late, ranks=4, slots=1, routing="pooled", output=40):
    """Steps in which not all ranks prefill that are equally busy but for one that starts late.

    All prompts have four chunks, but for the first, which has as many more as it is late.
    """
    chunk, count = 64, 10 * ranks * slots
    prompts = np.full(count, 4 * chunk)
    prompts[0] += late * chunk
    params = SimulationParams(
        workers=ranks,
        slots=slots,
        routing=routing,
        step_time=UNIT,
        prefill=Prefill(mode="colocated", budget=chunk),
    )
    trace = Trace(prompt_tokens=prompts, output_tokens=np.full(count, output))
    steps = simulate(trace, policy, params).steps
    some = steps.prefill_tokens > 0
    # Budgets are not used up by ranks that decode besides; prefill that all do has no less.
    together = steps.prefill_tokens >= ranks * (steps.prefill_max - slots)
    return np.flatnonzero(some & ~together), len(steps)


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("late", [1, 2, 3])
def test_ranks_that_have_drifted_apart_by_chunks_prefill_together_again(late, slots):
    """When they are given their next requests at the latest, and for good.

    The start takes `slots` prompts of four chunks on end, all but one of them; then 40 tokens
    are decoded, and as many prompts computed again.
    """
    apart, total = refilled("br-t", late=late, slots=slots)
    assert apart.size
    assert apart[-1] < slots * 4 + late + 40 + slots * 4
    assert total > 400


@pytest.mark.parametrize(
    ("policy", "routing"),
    [("jsq-load", "pooled"), ("jsq-load", "immediate"), ("vllm", "immediate")],
)
@pytest.mark.parametrize("late", [1, 2, 3])
def test_ranks_that_are_given_requests_at_once_stay_apart(policy, routing, late):
    """In every turn, to the end: what br-t mends is not mended by itself."""
    apart, total = refilled(policy, late=late, routing=routing)
    turn = 4 + 40
    assert {int(step) // turn for step in apart} >= set(range(total // turn))


class Ratchet:
    """Waits for half as many as ever waited: a watermark that only rises.

    What became of rules that learn how many to wait for from how many there were.
    """

    def __init__(self):
        self.level = 1

    def route(self, cluster, waiting):
        self.level = max(self.level, len(waiting) // 2)
        if len(waiting) < self.level and (cluster.running.any() or cluster.queued.any()):
            return []
        room = np.repeat(np.arange(cluster.workers), cluster.room)
        return list(enumerate(room[: len(waiting)].tolist()))


def steps_waited(policy, burst):
    """Steps from which each could start to that in which it did, by the step it came in.

    One request comes every 200 ms, and after 20 s a burst.
    """
    arrival_s = np.sort(np.concatenate((np.arange(300) * 0.2, np.full(burst, 20.0))))
    params = SimulationParams(
        workers=4,
        slots=8,
        step_time=replace(UNIT, per_token=0.0),
        arrivals=Arrivals(mode="timestamps"),
        prefill=Prefill(mode="colocated", budget=64),
    )
    count = arrival_s.size
    trace = Trace(
        prompt_tokens=np.full(count, 96), output_tokens=np.full(count, 40), arrival_s=arrival_s
    )
    result = simulate(trace, policy, params)
    came = np.searchsorted(result.steps.start_s, arrival_s)
    burst_at = int(np.searchsorted(result.steps.start_s, 20.0))
    return came - burst_at, result.requests.start_step - came


@pytest.mark.parametrize("burst", [60, 200])
def test_a_burst_does_not_change_what_later_arrivals_wait(burst):
    """A hundred steps after it has been worked off, as it is at once, all is about as before."""
    came, waited = steps_waited("jsq-load", burst)
    worked_off = came[waited > 0].max()
    # So few arrive that nobody would be held for long.
    came, waited = steps_waited("br-t:kappa=8", burst)
    before = waited[(came < 0) & (came > -500)].max()
    # The last have nobody after them to go with.
    after = waited[:-2][came[:-2] > worked_off + 100]
    assert after.size > 50
    assert 0 < before < 20
    assert after.max() <= 1.5 * before


def test_a_watermark_that_a_burst_raises_keeps_later_arrivals_waiting():
    came, waited = steps_waited(Ratchet(), 60)
    assert waited[came < 0].max() == 0
    assert waited[came > 500].max() > 30
