"""`LiveRanks` against the simulator, and what it keeps whatever is done to it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from brsolver.cluster._state_kernels import W_BACKLOG, W_QUEUED, W_QUEUED_TOKENS
from brsolver.cluster.state import ClusterState
from brsolver.errors import ParameterError, StateError
from brsolver.hardware._step_kernels import N_CONTEXT, N_PREFILL, N_SEQUENCES, N_TOKENS
from brsolver.simulator import Arrivals, Prefill, SimulationParams, StepTime, simulate
from brsolver.simulator.live import LiveRanks
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
STEP_TIMES = (
    MEASURED,
    replace(MEASURED, graph_sizes=(1, 2, 4, 8)),
    StepTime(),
    StepTime(
        model="table",
        loads=(10, 200),
        prefill_tokens=(0, 50),
        seconds=(0.02, 0.05, 0.03, 0.07),
    ),
)


@st.composite
def prefills(draw, slots):
    if draw(st.integers(0, 3)) == 0:
        return Prefill()
    return Prefill(
        mode="colocated",
        budget=max(slots) + draw(st.sampled_from([0, 3, 20, 200])),
        threshold=draw(st.sampled_from([0, 0, 1, 4, 30])),
        interval=draw(st.sampled_from([1, 1, 2, 3, 8])),
    )


@st.composite
def scenarios(draw):
    size = draw(st.integers(1, 25))
    several = {"min_size": size, "max_size": size}
    prompt = np.array(draw(st.lists(st.integers(1, 40), **several)))
    output = np.array(draw(st.lists(st.integers(1, 12), **several)))
    gaps = draw(st.lists(st.sampled_from([0.0, 0.001, 0.02, 0.5]), **several))
    share = np.array(draw(st.lists(st.sampled_from([0, 0, 0.5, 1]), **several)))
    trace = Trace(
        prompt_tokens=prompt,
        output_tokens=output,
        arrival_s=np.cumsum(gaps) - gaps[0],
        columns={"cached_tokens": (prompt * share).astype(np.int64)},
    )
    slots = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    spare = draw(st.lists(st.integers(0, 60), min_size=len(slots), max_size=len(slots)))
    # What never fits is rejected in simulations and runs alone here.
    largest = int((prompt + output).max())
    capacity = tuple(largest + extra for extra in spare) if draw(st.booleans()) else None
    params = SimulationParams(
        workers=len(slots),
        slots=slots,
        capacity=capacity,
        routing="immediate",
        arrivals=Arrivals(mode="timestamps"),
        prefill=draw(prefills(slots)),
        step_time=draw(st.sampled_from(STEP_TIMES)),
    )
    return trace, params, draw(st.sampled_from(["round-robin", "jsq-load"]))


class Replay:
    """The simulated run's requests, sent to live ranks at the same times and workers."""

    def __init__(self, trace, params, workers):
        self.state = ClusterState(params.slots_each(), capacity=params.capacity_each())
        self.ranks = LiveRanks(self.state, params.step_time, prefill=params.prefill)
        self.trace, self.workers = trace, workers
        self.clock = 0.0
        self.steps, self.first, self.ended = [], {}, {}

    def run(self):
        coming = list(range(len(self.trace)))
        while coming or self.ranks.busy:
            if not self.ranks.busy:
                self.clock = max(self.clock, self.trace.arrival_s[coming[0]])
            while coming and self.trace.arrival_s[coming[0]] <= self.clock:
                self.send(coming.pop(0))
            self.step()

    def send(self, i):
        self.ranks.send(
            i,
            int(self.workers[i]),
            int(self.trace.prompt_tokens[i]),
            output_tokens=int(self.trace.output_tokens[i]),
            cached_tokens=int(self.trace.columns["cached_tokens"][i]),
        )

    def step(self):
        done = self.ranks.step()
        self.clock += done.duration_s
        self.first |= dict.fromkeys(done.first, self.clock)
        self.ended |= dict.fromkeys(done.ended, self.clock)
        self.steps.append(done)


@settings(max_examples=400, deadline=None)
@given(scenarios())
def test_steps_first_tokens_and_ends_are_the_simulator_s(scenario):
    trace, params, policy = scenario
    result = simulate(trace, policy, params)
    replay = Replay(trace, params, result.requests.worker)
    replay.run()
    steps, log = result.steps, result.requests
    assert [step.duration_s for step in replay.steps] == steps.duration_s.tolist()
    lost = (
        steps.lost_prefill_s, steps.lost_sequences_s, steps.lost_kv_s, steps.lost_padding_s
    )  # fmt: skip
    assert [step.lost_s for step in replay.steps] == list(zip(*map(list, lost), strict=True))
    if params.prefill.colocated:
        prefill = [step.loads[N_PREFILL].sum() for step in replay.steps]
        assert prefill == steps.prefill_tokens.tolist()
    everyone = range(len(trace))
    assert [replay.first[i] for i in everyone] == log.first_token_s.tolist()
    assert [replay.ended[i] for i in everyone] == log.finish_s.tolist()
    assert not replay.state.workers[[W_BACKLOG, W_QUEUED, W_QUEUED_TOKENS]].any()
    assert not replay.state.load.any()
    assert replay.state.active_total == 0


BUDGET = 12


class Anything(RuleBasedStateMachine):
    """Whatever is done to live ranks, the books are those of the requests that are there."""

    def __init__(self):
        super().__init__()
        self.state = ClusterState((2, 3, 1), capacity=(60, None, 200))
        prefill = Prefill(mode="colocated", budget=BUDGET)
        self.ranks = LiveRanks(self.state, MEASURED, prefill=prefill)
        self.prompts, self.next = {}, 0

    @rule(
        worker=st.integers(0, 2),
        prompt=st.integers(1, 90),
        output=st.none() | st.integers(4, 20),
        cached=st.integers(0, 90),
        generated=st.integers(0, 3),
    )
    def send(self, worker, prompt, output, cached, generated):
        self.ranks.send(
            self.next,
            worker,
            prompt,
            output_tokens=output,
            cached_tokens=cached,
            generated=generated,
        )
        self.prompts[self.next] = prompt
        self.next += 1

    @precondition(lambda self: self.prompts)
    @rule(data=st.data())
    def leave(self, data):
        request = data.draw(st.sampled_from(sorted(self.prompts)))
        self.ranks.leave(request)
        del self.prompts[request]

    @precondition(lambda self: self.prompts)
    @rule(data=st.data())
    def first_now(self, data):
        request = data.draw(st.sampled_from(sorted(self.prompts)))
        self.ranks.first_now(request)
        assert self.ranks.generated(request) >= 1
        assert self.ranks.handle(request) >= 0

    @rule(worker=st.integers(0, 2))
    def drop(self, worker):
        gone = self.ranks.drop(worker)
        assert self.state.load[worker] == 0
        for request in gone:
            del self.prompts[request]

    @rule(count=st.integers(1, 6))
    def step(self, count):
        for _ in range(count):
            done = self.ranks.step()
            assert (done.duration_s > 0) == bool(self.prompts)
            assert set(done.first) <= set(self.prompts)
            assert (done.loads[N_PREFILL] <= BUDGET).all()
            for request in done.ended:
                del self.prompts[request]

    @invariant()
    def books_are_those_of_the_requests(self):
        assert set(self.prompts) == {i for i in range(self.next) if i in self.ranks}
        assert len(self.ranks) == len(self.prompts)
        assert self.ranks.busy == bool(self.prompts)
        load, queued = [0, 0, 0], [0, 0, 0]
        for request, prompt in self.prompts.items():
            tokens = prompt + self.ranks.generated(request)
            worker = self.ranks.where(request)
            if self.ranks.handle(request) >= 0:
                load[worker] += tokens
            else:
                queued[worker] += tokens
        assert self.state.load.tolist() == load
        assert self.state.workers[W_QUEUED_TOKENS].tolist() == queued
        assert (self.state.workers[W_BACKLOG] <= self.state.workers[W_QUEUED_TOKENS]).all()
        assert (self.state.workers[W_BACKLOG] >= self.state.workers[W_QUEUED]).all()


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def ranks_of(slots=(2, 2), capacity=None, **prefill):
    settled = {"mode": "colocated", "budget": 8} | prefill
    state = ClusterState(slots, capacity=capacity)
    return LiveRanks(state, MEASURED, prefill=Prefill(**settled))


def test_a_step_of_nothing_lasts_nothing():
    done = ranks_of().step()
    assert done.duration_s == 0.0
    assert (done.first, done.ended) == ([], [])


def test_loads_are_what_each_rank_did():
    ranks = ranks_of()
    ranks.send(7, 1, 10, output_tokens=3)
    assert ranks.step().loads.tolist() == [[0, 0], [0, 0], [0, 8], [0, 36]]
    done = ranks.step()
    assert done.loads[[N_PREFILL, N_CONTEXT], 1].tolist() == [2, 19]
    assert done.first == [7]
    done = ranks.step()
    assert done.loads[[N_SEQUENCES, N_TOKENS], 1].tolist() == [1, 11]
    assert ranks.step().ended == [7]
    assert 7 not in ranks


def test_a_first_token_told_from_outside_sets_the_model_right():
    ranks = ranks_of()
    ranks.send(1, 0, 30)
    ranks.first_now(1)
    assert ranks.generated(1) == 1
    for _ in range(4):
        ranks.step()
    assert ranks.generated(1) == 5
    # Begun by the steps: what they ran ahead is taken back, and only once.
    ranks.send(2, 1, 3, output_tokens=40)
    for _ in range(3):
        ranks.step()
    ranks.first_now(2)
    assert ranks.generated(2) == 1
    ranks.step()
    ranks.first_now(2)
    assert ranks.generated(2) == 2


def test_one_with_all_its_tokens_by_word_from_outside_leaves_with_the_next_step():
    ranks = ranks_of()
    ranks.send(1, 0, 30, output_tokens=1)
    ranks.first_now(1)
    assert ranks.step().ended == [1]


def test_what_never_fits_runs_alone():
    ranks = ranks_of(slots=(2,), capacity=(10,), budget=64)
    ranks.send(1, 0, 50, output_tokens=2)
    ranks.send(2, 0, 5, output_tokens=2)
    assert ranks.step().first == [1]
    assert ranks.step().ended == [1]
    assert ranks.step().first == [2]


def test_workers_that_join_later_have_a_rank():
    ranks = ranks_of()
    worker = ranks.state.add_worker(1)
    ranks.send(1, worker, 4)
    assert ranks.step().first == [1]
    assert ranks.drop(worker) == [1]
    ranks.state.remove_worker(worker)
    with pytest.raises(StateError, match="no worker 2: live workers are"):
        ranks.send(2, worker, 4)
    assert not ranks.busy
    assert ranks.waiting(worker) == ranks.running(worker) == ranks.held_tokens(worker) == 0


def test_a_request_is_at_one_worker_and_leaves_once():
    ranks = ranks_of()
    ranks.send(1, 0, 4)
    with pytest.raises(StateError, match="request 1 is at worker 0 already"):
        ranks.send(1, 1, 4)
    ranks.leave(1)
    for act in (ranks.leave, ranks.where, ranks.generated, ranks.first_now, ranks.handle):
        with pytest.raises(StateError, match="no request 1 is at any worker"):
            act(1)


@pytest.mark.parametrize("worker", [-1, 2])
def test_a_worker_that_is_not_there_is_refused(worker):
    ranks = ranks_of()
    for act in (lambda: ranks.send(1, worker, 4), lambda: ranks.drop(worker)):
        with pytest.raises(StateError, match=f"no worker {worker}: there are 2, numbered from 0"):
            act()
    assert 1 not in ranks


@pytest.mark.parametrize(
    ("lengths", "says"),
    [
        ({"prompt_tokens": 0}, "prompt_tokens is 0, must be at least 1"),
        ({"generated": -1}, "generated is -1, must be at least 0"),
        ({"cached_tokens": -1}, "cached_tokens is -1, must be at least 0"),
        ({"generated": 3, "output_tokens": 3}, "output_tokens is 3, must be at least 4"),
    ],
)
def test_lengths_that_cannot_be_are_refused(lengths, says):
    given_lengths = {"prompt_tokens": 5} | lengths
    with pytest.raises(ParameterError, match=says):
        ranks_of().send(1, 0, **given_lengths)


@pytest.mark.parametrize(
    ("prefill", "says"),
    [
        ({"scheduler": "sglang"}, "scheduler is sglang, must be v1"),
        ({"delayer": "trtllm"}, "delayer is trtllm, must be none"),
        ({"cache": 100}, "cache is 100, must be 0"),
        ({"budget": 1}, "budget is 1, must be at least 2"),
    ],
)
def test_ranks_that_it_has_not_are_refused(prefill, says):
    with pytest.raises(ParameterError, match=says):
        ranks_of(**prefill)
