"""Prefix caches of ranks: kernels against the plain reference, and what every cache keeps."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_colocated import assert_same_requests, assert_same_steps, scenarios

from baselines.llm_d_prefix import LlmDPrefix, LlmDPrefixParams
from brsolver.cluster.view import NO_LIMIT
from brsolver.errors import ParameterError, TraceError
from brsolver.policy import as_policy
from brsolver.registry import make_policy
from brsolver.simulator import (
    Arrivals,
    Prefill,
    RequestStatus,
    SimulationParams,
    StepTime,
    WorkerEvent,
    simulate,
)
from brsolver.simulator import _layout as lay
from brsolver.simulator.config import component_parse
from brsolver.simulator.engine import Engine
from brsolver.simulator.prefix import block_chains, most_cached
from brsolver.simulator.reference import Request
from brsolver.simulator.reference_colocated import Rank
from brsolver.simulator.reference_prefix import PrefixReference
from brsolver.specs import parse_spec
from brsolver.traces.trace import Trace


class MostCached:
    """Place requests in order on the worker that has most of their prompts, then the lightest."""

    def route(self, cluster, waiting):
        cached, load = cluster.cached_tokens(waiting), cluster.load.copy()
        room, left = cluster.room.copy(), cluster.token_room.copy()
        pairs = []
        for i, tokens in enumerate(waiting.prompt_tokens.tolist()):
            fit = np.flatnonzero((room > 0) & (left >= tokens))
            if not fit.size:
                break
            g = min(fit.tolist(), key=lambda g: (-cached[i, g], load[g], g))
            room[g] -= 1
            left[g] -= tokens
            load[g] += tokens
            pairs.append((i, g))
        return pairs


def ragged(chains):
    offsets = np.concatenate(([0], np.cumsum([len(chain) for chain in chains])))
    values = np.array([b for chain in chains for b in chain], np.int64)
    return {"hash_offsets": offsets, "hash_values": values}


@st.composite
def chains_of(draw, prompts, block):
    """Draw conversations, prompts with part of an earlier one's blocks; or any blocks at all."""
    tree = draw(st.booleans())
    chains, new = [], 1000
    for prompt in prompts:
        length = draw(st.sampled_from([-(-prompt // block), prompt // block, 0]))
        if not tree:
            chains.append(draw(st.lists(st.integers(0, 5), min_size=length, max_size=length)))
            continue
        earlier = draw(st.sampled_from(chains)) if chains else []
        shared = earlier[: draw(st.integers(0, length))]
        chains.append(shared + list(range(new, new + length - len(shared))))
        new += length
    return chains


@st.composite
def cached_scenarios(draw):
    trace, params, policy = draw(scenarios())
    block = draw(st.integers(1, 9))
    chains = draw(chains_of(trace.prompt_tokens.tolist(), block))
    cache = block * draw(st.sampled_from([1, 3, 10, 40, 1000])) + draw(st.integers(0, block - 1))
    trace = replace(trace, columns={**trace.columns, **ragged(chains)})
    prefill = replace(params.prefill, cache=cache, block=block)
    policy = draw(st.sampled_from([policy, "most-cached", "by-backlog", "by-backlog"]))
    full = [chain[: s // block] for chain, s in zip(chains, trace.prompt_tokens, strict=True)]
    return trace, replace(params, prefill=prefill), policy, full


def made(policy):
    if policy == "by-backlog":
        return LlmDPrefix(LlmDPrefixParams(affinity=0.3, penalty_s=1, throughput=20))
    return MostCached() if policy == "most-cached" else make_policy(*parse_spec(policy))


class Checked(PrefixReference):
    """A reference that looks at its caches after every step."""

    def _do(self, plans):
        super()._do(plans)
        for rank, cache in zip(self.workers, self.caches, strict=True):
            limit = min(self.prefill.cache, rank.capacity)
            there = cache.tokens(rank.held)
            assert there <= limit or not cache.unused
            # Pinned is what requests there have computed, and nothing else.
            of = {r.index: self._blocks(r) for r in rank.running + rank.prompts}
            assert {i: blocks for i, blocks in of.items() if blocks} == cache.of
            assert not {b for b, n in cache.users.items() if n} & set(cache.unused)
            assert len(set(cache.unused)) == len(cache.unused)

    def _blocks(self, request):
        computed = request.computed // self.prefill.block
        return list(self.chains[request.index][:computed])


def reference_run(trace, params, policy, chains):
    timed = params.arrivals.mode == "timestamps"
    requests = [
        Request(i, int(s), int(o), float(trace.arrival_s[i]) if timed else None)
        for i, (s, o) in enumerate(zip(trace.prompt_tokens, trace.output_tokens, strict=True))
    ]
    ranks = [
        Rank(slots, NO_LIMIT if capacity is None else capacity)
        for slots, capacity in zip(params.slots_each(), params.capacity_each(), strict=True)
    ]
    simulator = Checked(
        list(requests),
        ranks,
        made(policy),
        chains=chains,
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


@settings(max_examples=400, deadline=None)
@given(cached_scenarios())
def test_the_kernels_equal_the_reference(scenario):
    trace, params, policy, chains = scenario
    result = simulate(trace, made(policy), params)
    expected, requests = reference_run(trace, params, policy, chains)
    assert_same_steps(result.steps, expected.steps)
    assert_same_requests(result.requests, requests)
    found = [expected.found.get(i, 0) for i in range(len(trace))]
    assert result.requests.cached_tokens.tolist() == found
    # Every prefill token is of what a request has computed last, or was lost.
    kept = sum(r.computed - r.cached for r in requests)
    assert result.steps.prefill_tokens.sum() == kept + expected.recomputed


@settings(max_examples=150, deadline=None)
@given(cached_scenarios())
def test_what_is_computed_and_what_is_cached_are_the_prompts(scenario):
    trace, params, policy, _ = scenario
    # Without a capacity there is no share of it that a delayer could go by.
    prefill = replace(params.prefill, watermark=0.0)
    params = replace(params, capacity=None, prefill=prefill, events=())
    result = simulate(trace, made(policy), params)
    m = result.metrics
    assert m.finished == len(trace)
    assert m.prefill_tokens + m.cached_tokens == trace.prompt_tokens.sum()
    assert m.cached_share == pytest.approx(m.cached_tokens / trace.prompt_tokens.sum())
    assert np.all(result.requests.cached_tokens < trace.prompt_tokens)
    assert np.all(result.requests.cached_tokens % params.prefill.block == 0)
    assert np.all(result.requests.cached_tokens <= most_cached(trace, params.prefill.block))


@settings(max_examples=100, deadline=None)
@given(cached_scenarios())
def test_a_run_leaves_nothing_in_use_and_no_cache_beyond_its_size(scenario):
    trace, params, policy, _ = scenario
    engine = Engine(trace, as_policy(made(policy)), params)
    engine.run()
    users = engine.prefixes.caches.links[:, :, lay.USERS]
    done = np.isin(engine.book[lay.B_STATUS], [RequestStatus.FINISHED, RequestStatus.REJECTED])
    if done.all():
        assert users.max(initial=0) <= 1
        for g, cache in enumerate((users == 1).sum(axis=1)):
            limit = params.capacity_each()[g] or params.prefill.cache
            assert cache * params.prefill.block <= min(limit, params.prefill.cache)


UNIT = StepTime(model="loads", base=1.0, per_token=0.0, per_prefill_token=0.01)


def run(prompts, outputs, chains, policy="round-robin", prefill=None, **regime):
    trace = Trace(
        prompt_tokens=np.array(prompts),
        output_tokens=np.array(outputs),
        columns=ragged(chains),
    )
    cached = {"cache": 1000, "block": 4, "budget": 64} | (prefill or {})
    settings = {"workers": 1, "slots": 1, "step_time": UNIT} | regime
    params = SimulationParams(prefill=Prefill(mode="colocated", **cached), **settings)
    return simulate(trace, policy, params)


def cached(*args, **kwargs):
    return run(*args, **kwargs).requests.cached_tokens.tolist()


def test_only_full_blocks_are_kept_and_the_last_token_is_computed():
    # Ten tokens are two full blocks and a part; eight are two, of which one can be had.
    assert cached([10, 10, 8, 9], [1] * 4, [[1, 2, 3], [1, 2, 3], [1, 2], [1, 2, 4]]) == [
        0,
        8,
        4,
        8,
    ]


def test_a_hit_ends_at_the_first_block_that_is_not_there():
    assert cached([13, 13], [1, 1], [[1, 2, 3], [1, 5, 3]]) == [0, 4]


def test_blocks_can_be_had_as_soon_as_they_are_computed():
    chains = [[1, 2, 3, 4], [1, 2, 3, 5]]
    # The second begins in a step in which the first has computed eight tokens.
    result = run([17, 17], [3, 3], chains, slots=2, prefill={"budget": 12, "threshold": 8})
    assert result.requests.start_step.tolist() == [0, 0]
    assert result.requests.cached_tokens.tolist() == [0, 8]
    assert result.steps.prefill_tokens.sum() == 17 + 9


def test_of_the_prompt_that_came_first_the_last_block_goes_first():
    # Nine tokens of a prompt, and four blocks of the two before it, are 25 when the third comes.
    prompts, outputs = [9, 9, 9, 9], [1] * 4
    chains = [[1, 2], [3, 4], [5, 6], [1, 2]]
    assert cached(prompts, outputs, chains, prefill={"cache": 20}) == [0, 0, 0, 0]
    assert cached(prompts, outputs, chains, prefill={"cache": 24}) == [0, 0, 0, 4]
    assert cached(prompts, outputs, chains, prefill={"cache": 25}) == [0, 0, 0, 8]


@pytest.mark.parametrize(("scheduler", "output"), [("v1", 3), ("sglang", 3), ("sglang", 1)])
def test_of_two_that_end_together_the_one_admitted_first_goes_first(scheduler, output):
    # The third drives one of their blocks out, and the fourth asks for what is left.
    prefill = {"cache": 12, "scheduler": scheduler}
    for last, found in ((1, 0), (2, 4)):
        chains = [[1], [2], [3], [last]]
        outputs = [output, output, 1, 1]
        assert cached([5] * 4, outputs, chains, prefill=prefill, slots=2) == [0, 0, 0, found]


def test_what_is_used_again_gets_young_again():
    chains = [[1], [2], [1], [3], [1], [2]]
    # One block fits beside a prompt: 3 drives out 2, since 1 was used after it.
    result = cached([5] * 6, [1] * 6, chains, prefill={"cache": 12})
    assert result == [0, 0, 4, 0, 4, 0]


def test_running_requests_grow_over_the_cache():
    # The second's output takes what the first has left behind: nothing, block 2, block 1 as well.
    assert cached([9, 5, 9], [1, 2, 1], [[1, 2], [3], [1, 2]], prefill={"cache": 16}) == [0, 0, 8]
    assert cached([9, 5, 9], [1, 5, 1], [[1, 2], [3], [1, 2]], prefill={"cache": 16}) == [0, 0, 4]
    assert cached([9, 5, 9], [1, 9, 1], [[1, 2], [3], [1, 2]], prefill={"cache": 16}) == [0, 0, 0]


def test_a_capacity_below_the_cache_bounds_it():
    chains = [[1, 2], [3, 4], [5, 6], [1, 2]]
    assert cached([9] * 4, [1] * 4, chains, capacity=20) == [0, 0, 0, 0]


def test_blocks_that_several_use_take_room_once():
    # Two of 13 tokens that share three blocks hold 14 tokens; the rest keeps blocks 8 and 9.
    chains = [[8, 9], [1, 2, 3], [1, 2, 3], [8, 9]]
    assert cached([9, 13, 13, 9], [1, 4, 4, 1], chains, slots=2, prefill={"cache": 32})[3] == 8


def test_a_worker_that_fails_comes_back_with_an_empty_cache():
    events = (WorkerEvent(kind="fail", worker=0, at_step=1),)
    events += (WorkerEvent(kind="join", worker=0, at_step=2),)
    chains = [[1, 2], [3], [1, 2]]
    assert cached([9, 5, 9], [1, 4, 1], chains, workers=2, slots=1, events=events) == [0, 0, 0]
    assert cached([9, 5, 9], [1, 4, 1], chains, workers=2, slots=1) == [0, 0, 8]


def test_a_worker_that_joins_has_a_cache_of_its_own():
    events = (WorkerEvent(kind="join", worker=1, at_step=1),)
    assert cached([9, 9, 9], [9, 9, 9], [[1, 2]] * 3, events=events, policy="jsq") == [0, 0, 8]


class Asking:
    """Notes what it is told to be cached, and places like round-robin."""

    def __init__(self, spoil=False):
        self.told, self.spoil = [], spoil
        self.inner = make_policy("round-robin")

    def route(self, cluster, waiting):
        if self.spoil:
            waiting.request[:] = 1 << 40
        self.told.append(cluster.cached_tokens(waiting).tolist())
        return self.inner.route(cluster, waiting)


@pytest.mark.parametrize("routing", ["pooled", "immediate"])
def test_policies_see_what_workers_have(routing):
    asking = Asking()
    closed = Arrivals(mode="closed", concurrency=1)
    chains = [[1, 2], [1, 2], [1, 3]]
    run([9, 9, 9], [1] * 3, chains, asking, workers=2, routing=routing, arrivals=closed)
    third = [[4, 4]] if routing == "immediate" else [[4, 0]]
    assert asking.told == [[[0, 0]], [[8, 0]], third]


def test_without_a_cache_policies_see_nothing_cached():
    asking = Asking()
    run([9, 9], [1, 1], [[1, 2], [1, 2]], asking, prefill={"cache": 0, "block": 512}, workers=2)
    assert asking.told[0] == [[0, 0], [0, 0]]


def test_a_policy_that_asks_about_nobody_is_told_nothing():
    asking = Asking(spoil=True)
    assert cached([9, 9], [1, 1], [[1, 2], [1, 2]], asking) == [0, 8]
    assert asking.told == [[[0], [0]], [[0]]]


def test_the_column_of_cached_tokens_is_of_no_account_where_a_cache_is():
    trace = Trace(
        prompt_tokens=np.array([9, 9]),
        output_tokens=np.array([1, 1]),
        columns={"cached_tokens": np.array([7, 7]), **ragged([[1, 2], [1, 2]])},
    )
    prefill = Prefill(mode="colocated", cache=100, block=4)
    params = SimulationParams(workers=1, slots=1, step_time=UNIT, prefill=prefill)
    assert simulate(trace, "jsq", params).requests.cached_tokens.tolist() == [0, 8]
    params = replace(params, prefill=Prefill(mode="colocated"))
    assert simulate(trace, "jsq", params).requests.cached_tokens.tolist() == [7, 7]


def test_chains_are_sliced_with_their_trace_and_numbered_from_0():
    trace = Trace(
        prompt_tokens=np.array([9, 8, 5]),
        output_tokens=np.array([1, 1, 1]),
        columns=ragged([[70, 50, 90], [70, 60], [1 << 60, 8]]),
    )
    blocks, offsets = block_chains(trace, 4)
    assert blocks.tolist() == [2, 0, 2, 1, 3]
    assert offsets.tolist() == [0, 2, 4, 5]
    blocks, offsets = block_chains(trace.after(1), 4)
    assert blocks.tolist() == [1, 0, 2]
    assert offsets.tolist() == [0, 2, 3]


def test_no_run_can_find_more_than_what_recurs():
    trace = Trace(
        prompt_tokens=np.array([13, 13, 8, 3]),
        output_tokens=np.ones(4, np.int64),
        columns=ragged([[1, 2, 3], [1, 4, 2], [1, 2], [1]]),
    )
    # The third has two full blocks and needs its last token; the fourth has none.
    assert most_cached(trace, 4).tolist() == [8, 4, 4, 0]


def test_a_trace_without_chains_is_refused():
    trace = Trace(prompt_tokens=np.array([5]), output_tokens=np.array([1]), name="t.csv")
    params = SimulationParams(prefill=Prefill(mode="colocated", cache=1024))
    with pytest.raises(TraceError, match=r"t\.csv has no hash_ids, must have them"):
        simulate(trace, "jsq", params)


def test_a_chain_longer_than_its_prompt_is_refused():
    with pytest.raises(TraceError, match=r"row 1 has 3 hash_ids, must have at most 2: its prompt"):
        run([9, 5], [1, 1], [[1, 2, 3], [1, 2, 3]])


def chained(prompts, chains):
    tokens = np.array(prompts)
    return Trace(prompt_tokens=tokens, output_tokens=np.ones_like(tokens), columns=ragged(chains))


def test_a_block_far_smaller_than_those_of_the_trace_is_refused():
    trace = chained([3, 40, 64], [[1], [1, 2, 3], [1, 2, 3, 4]])
    assert block_chains(trace, 16)[1].tolist() == [0, 0, 2, 6]
    says = "a block of 4 tokens does not fit, .* row 1 3 for 40 tokens"
    with pytest.raises(TraceError, match=says) as caught:
        block_chains(trace, 4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("chains", [[[], []], [[], [1, 2]], [[1], [1, 2]]])
def test_chains_that_are_missing_or_short_in_part_are_taken(chains):
    offsets = block_chains(chained([12, 9], chains), 4)[1]
    assert np.diff(offsets).tolist() == [len(chain) for chain in chains]


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({"cache": -1}, "cache is -1, must be at least 0 tokens"),
        ({"block": 0}, "block is 0, must be at least 1 tokens"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(given_, says):
    with pytest.raises(ParameterError) as caught:
        Prefill(mode="colocated", **given_)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cache_is_read_from_the_command_lines_text():
    found = component_parse(Prefill, "colocated:cache=500000,block=64", "prefill")
    assert (found.cache, found.block) == (500_000, 64)
    with pytest.raises(ParameterError, match="cache"):
        component_parse(Prefill, "tier:cache=5", "prefill")
