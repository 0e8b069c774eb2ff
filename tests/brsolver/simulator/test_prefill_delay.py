"""Prefill held back by the engines' own rules: by example, for how long, and the kernels."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_colocated import (
    UNIT,
    assert_same_requests,
    assert_same_steps,
    delayers,
    reference_run,
    scenarios,
)

from brsolver.errors import ParameterError
from brsolver.registry import make_policy
from brsolver.simulator import Arrivals, Prefill, SimulationParams, simulate
from brsolver.simulator.reference_delay import Atom, Attempts, Outlook, SGLang, TensorRT
from brsolver.specs import parse_spec
from brsolver.traces.trace import Trace

RULES = ["sglang", "atom", "trtllm"]


def rank(pending=0, running=1, **more):
    """Return what a rank tells that has so many prefill tokens and running requests."""
    figures = {"under_way": False, "slots": 8, "usage": 0.5} | more
    return Outlook(can_prefill=pending > 0, running=running, pending=pending, **figures)


def verdicts(rule, *steps):
    return [rule.verdict(ranks) for ranks in steps]


MIXED = [rank(4), rank()]
ALL = [rank(4), rank(4)]


def test_sglang_holds_new_prompts_back_while_some_rank_has_none():
    found = verdicts(SGLang(4, 0.0), *[MIXED] * 5)
    assert found == ["under way"] * 3 + ["all"] + ["under way"]


def test_sglang_releases_when_all_ranks_can_and_counts_anew_after_it():
    found = verdicts(SGLang(3, 0.0), MIXED, ALL, MIXED, MIXED, MIXED)
    assert found == ["under way", "all", "under way", "under way", "all"]


def test_with_nothing_to_prefill_sglangs_hold_is_over():
    found = verdicts(SGLang(3, 0.0), MIXED, [rank(), rank()], MIXED, MIXED, MIXED)
    assert found == ["under way", "all", "under way", "under way", "all"]


def test_sglang_waits_for_as_many_slots_as_the_largest_attempt_had_prompts():
    few = [rank(4, slots=3, running=2, largest=2), rank(4)]
    enough = [rank(4, slots=3, running=1, largest=2), rank(4)]
    assert verdicts(SGLang(9, 0.0), few, enough) == ["under way", "all"]
    assert verdicts(SGLang(3, 0.0), few, few, few) == ["under way"] * 2 + ["all"]


@pytest.mark.parametrize("ranks", [MIXED, [rank(4, slots=2, largest=2), rank(4)]])
def test_below_the_watermark_sglang_does_not_wait(ranks):
    assert SGLang(9, 0.5).verdict(ranks) == "under way"
    assert SGLang(9, 0.6).verdict(ranks) == "all"
    idle = [replace(each, usage=0.9 if each.can_prefill else 0.1) for each in MIXED]
    assert SGLang(9, 0.6).verdict(idle) == "under way"


def test_an_idle_cluster_prefills_by_every_rule():
    idle = [rank(4, running=0), rank(running=0)]
    for rule in (SGLang(9, 0.0), Atom(100, 1.0, 9, 9, 9, 0.0), TensorRT(9, 9)):
        assert rule.verdict(idle) == "all"


def atom(**more):
    given = {"budget": 10, "fill_target": 0.5, "ttft_ticks": 6, "partial_ticks": 2, "stall": 3}
    return Atom(**(given | {"watermark": 0.0} | more))


def test_atom_waits_for_what_fills_a_step_on_all_ranks():
    assert verdicts(atom(), ALL, [rank(4), rank(5)], [rank(4), rank(6)]) == ["none", "none", "all"]


def test_atom_gives_up_when_no_more_comes():
    found = verdicts(atom(), ALL, ALL, ALL, ALL, ALL)
    assert found == ["none"] * 3 + ["all", "none"]
    more = [[rank(tokens), rank(1)] for tokens in (1, 2, 3, 4, 5, 6)]
    assert verdicts(atom(), *more) == ["none"] * 6


def test_atom_holds_while_a_rank_has_none_but_not_for_ever():
    assert verdicts(atom(), *[[rank(9), rank()]] * 7) == ["none"] * 6 + ["all"]


def test_atom_holds_prompts_under_way_back_for_a_shorter_time():
    partial = [rank(4, under_way=True), rank()]
    assert verdicts(atom(), *[partial] * 4) == ["none", "none", "all", "none"]


def test_atom_does_not_wait_where_kv_tokens_are_scarce_or_plenty():
    for usage, watermark, expected in (
        (0.89, 0.0, "none"),
        (0.9, 0.0, "all"),
        (0.3, 0.3, "none"),
        (0.29, 0.3, "all"),
    ):
        ranks = [rank(4, usage=usage), rank(usage=0.99)]
        assert atom(watermark=watermark).verdict(ranks) == expected


def test_tensorrt_waits_for_all_ranks_and_then_for_more_to_come():
    found = verdicts(TensorRT(9, 2), MIXED, ALL, ALL, ALL, ALL)
    assert found == ["none"] * 3 + ["all", "none"]


def test_tensorrt_waits_no_longer_than_its_time_out():
    assert verdicts(TensorRT(3, 9), *[MIXED] * 4) == ["none", "none", "all", "none"]


def test_tensorrt_counts_steps_in_which_no_rank_has_any():
    nothing = [rank(), rank()]
    assert verdicts(TensorRT(3, 9), nothing, nothing, MIXED) == ["none", "none", "all"]
    assert verdicts(TensorRT(3, 0), nothing, ALL, MIXED) == ["none", "all", "none"]


def test_tensorrt_does_not_wait_for_a_rank_that_decodes_nothing():
    assert TensorRT(9, 9).verdict([rank(4), rank(running=0)]) == "all"
    assert TensorRT(9, 9).verdict([rank(4), rank(4, running=0)]) == "all"


def test_attempts_are_forgotten_after_as_many_more():
    attempts = Attempts.of(Prefill(mode="colocated", delayer="sglang", attempts=2))
    attempts.note(9, 0, 0)
    attempts.note(0, 3, 2)
    assert attempts.largest == 9
    attempts.note(1, 5, 5)
    assert attempts.largest == 2
    assert Attempts.of(Prefill(mode="colocated", delayer="sglang", attempts=0)).largest == 0


def run(arrival_s, prompts, prefill, columns=None, **regime):
    trace = Trace(
        prompt_tokens=np.array(prompts),
        output_tokens=np.full(len(prompts), 20),
        arrival_s=np.array(arrival_s),
        columns=columns or {},
    )
    given = {"workers": 2, "slots": 4, "step_time": UNIT, "arrivals": Arrivals(mode="timestamps")}
    held = Prefill(mode="colocated", **({"budget": 64} | prefill))
    return simulate(trace, "jsq", SimulationParams(prefill=held, **(given | regime)))


@pytest.mark.parametrize(
    ("prefill", "starts"),
    [
        ({}, [0, 2, 4]),
        ({"delayer": "sglang", "max_delay_passes": 9}, [0, 4, 4]),
        ({"delayer": "sglang", "max_delay_passes": 2}, [0, 3, 5]),
        ({"delayer": "atom", "stall": 2}, [0, 6, 6]),
        ({"delayer": "atom", "fill_target": 0.06}, [0, 4, 4]),
        ({"delayer": "atom", "ttft_ticks": 1}, [0, 3, 5]),
        # It waits for no rank that decodes nothing, but then for its time-out or such a rank.
        ({"delayer": "trtllm", "timeout_iters": 3}, [0, 2, 5]),
        ({"delayer": "trtllm"}, [0, 2, 20]),
    ],
)
def test_a_prompt_waits_for_another_ranks(prefill, starts):
    # The second comes during step 1 to a rank that decodes nothing yet, the third during step 3.
    assert run([0.5, 1.7, 3.9], [4, 4, 4], prefill).requests.start_step.tolist() == starts


def test_with_sglang_a_prompt_under_way_goes_on_while_others_are_held_back():
    prefill = {"delayer": "sglang", "max_delay_passes": 9, "budget": 8}
    result = run([0.5, 1.7, 3.9, 5.9], [4, 40, 4, 4], prefill)
    # Once the third's is done, the second's rank is the only one that can: from step 5 on.
    assert result.requests.start_step.tolist() == [0, 4, 4, 13]
    assert result.steps.prefill_tokens[3:9].tolist() == [0, 12, 8, 8, 8, 8]


def test_with_sglang_a_prompt_under_way_makes_its_rank_able():
    prefill = {"delayer": "sglang", "max_delay_passes": 2, "budget": 8}
    result = run([0.5, 1.7, 3.9], [4, 40, 4], prefill)
    assert result.requests.start_step.tolist() == [0, 3, 4]


def test_with_sglang_what_was_held_back_counts_as_an_attempt_of_what_waited():
    prefill = {"delayer": "sglang", "max_delay_passes": 9}
    # Rank 0 has run two from the start, two slots are left: as many as its largest attempt had. The
    # fourth waits at rank 1 from step 2 on, alone, though three slots are free there.
    result = run([0.5, 0.5, 0.5, 1.7, 3.9], [4] * 5, prefill)
    assert result.requests.worker.tolist() == [0, 1, 0, 1, 0]
    assert result.requests.start_step.tolist() == [0, 0, 0, 4, 4]


def test_with_sglang_prefill_waits_for_the_slots_of_the_largest_attempt():
    prefill = {"delayer": "sglang", "max_delay_passes": 4}
    arrivals = [0.5] * 6 + [2.5] * 2
    held = run(arrivals, [4] * 8, prefill).requests.start_step.tolist()
    assert held == [0] * 6 + [5, 5]
    at_first = run(arrivals, [4] * 8, prefill | {"attempts": 0}).requests.start_step.tolist()
    assert at_first == [0] * 6 + [2, 2]


@pytest.mark.parametrize("rule", ["atom", "trtllm"])
def test_by_the_others_it_is_held_back_too(rule):
    limits = {"atom": {"partial_ticks": 3}, "trtllm": {"timeout_iters": 4}}[rule]
    prefill = {"delayer": rule, "budget": 8} | limits
    result = run([0.5, 0.5, 0.5], [4, 4, 20], prefill)
    # The long prompt's rank has a part of it left; the other one has none.
    chunks = np.flatnonzero(result.steps.prefill_tokens)
    assert chunks[0] == 0
    assert set(np.diff(chunks)) == {4}


@settings(max_examples=400, deadline=None)
@given(scenarios())
def test_the_kernels_equal_the_reference(scenario):
    trace, params, policy = scenario
    assume(params.prefill.delayer != "none")
    result = simulate(trace, policy, params)
    expected, requests = reference_run(trace, params, policy)
    assert_same_steps(result.steps, expected.steps)
    assert_same_requests(result.requests, requests)


@pytest.mark.parametrize(("cached", "start"), [(3, 2), (4, 5)])
def test_atom_counts_what_is_to_be_computed(cached, start):
    columns = {"cached_tokens": np.array([0, 0, cached, cached])}
    prefill = {"delayer": "atom", "fill_target": 0.5, "budget": 10}
    result = run([0.5, 0.5, 2.5, 2.5], [4, 4, 8, 8], prefill, columns)
    assert result.requests.start_step.tolist() == [0, 0, start, start]


class Recorder:
    """Routes as another policy does, and remembers when it sent whom."""

    def __init__(self, policy):
        self.policy = policy
        self.sent = {}

    def route(self, cluster, waiting):
        pairs = self.policy.route(cluster, waiting)
        self.sent |= {int(waiting.request[at]): cluster.step for at, _ in pairs}
        return pairs


def longest_wait(prefill):
    """Return the most steps that a rule may keep a request whose slot is free."""
    if prefill.delayer == "sglang":
        return prefill.max_delay_passes - 1
    if prefill.delayer == "atom":
        return prefill.ttft_ticks
    return (prefill.batching_wait_iters + 1) * prefill.timeout_iters - 1


@settings(max_examples=200, deadline=None)
@given(scenarios(), delayers(), st.sampled_from(["v1", "sglang"]))
def test_nobody_waits_longer_than_the_rules_own_time_out(scenario, given, scheduler):
    trace, params, policy = scenario
    assume(given)
    prefill = Prefill(mode="colocated", budget=10_000, scheduler=scheduler, **given)
    params = replace(
        params, prefill=prefill, capacity=None, events=(), routing="pooled", transit_steps=0
    )
    recorder = Recorder(make_policy(*parse_spec(policy)))
    result = simulate(trace, recorder, params)
    assert result.metrics.finished == len(trace)
    for request, sent in recorder.sent.items():
        waited = result.requests.start_step[request] - sent
        assert 0 <= waited <= longest_wait(prefill)


@pytest.mark.parametrize("rule", RULES)
def test_the_time_out_is_what_a_lone_prompt_waits_for(rule):
    held = {"max_delay_passes": 5} if rule == "sglang" else {}
    held |= {"ttft_ticks": 5, "partial_ticks": 2} if rule == "atom" else {}
    held |= {"timeout_iters": 5} if rule == "trtllm" else {}
    result = run([0.5, 0.5, 2.5], [4, 4, 4], {"delayer": rule} | held)
    waits = {"sglang": 4, "atom": 5, "trtllm": 3}[rule]
    # TensorRT-LLM's count runs from step 1 on, though nobody waited then.
    assert result.requests.start_step.tolist() == [0, 0, 2 + waits]


@pytest.mark.parametrize(
    ("prefill", "says"),
    [
        ({"delayer": "vllm"}, "delayer is 'vllm', must be none, sglang, atom or trtllm"),
        ({"delayer": "sglang", "max_delay_passes": 0}, "max_delay_passes is 0, must be at least 1"),
        ({"delayer": "sglang", "attempts": 17}, "attempts is 17, must be at most 16"),
        ({"delayer": "atom", "fill_target": 1.5}, "fill_target is 1.5, must be at most 1"),
        ({"delayer": "atom", "stall": 0}, "stall is 0, must be at least 1 steps"),
        ({"delayer": "trtllm", "timeout_iters": 0}, "timeout_iters is 0, must be at least 1"),
        ({"stall": 2}, "stall is 2, must be 3 with delayer none, which has none"),
        (
            {"delayer": "atom", "timeout_iters": 9},
            "timeout_iters is 9, must be 50 with delayer atom, which has none",
        ),
        (
            {"delayer": "atom", "interval": 4},
            "interval is 4, must be 1 with delayer atom: both say when the ranks prefill",
        ),
        (
            {"delayer": "atom", "watermark": 0.2},
            "prefill: watermark is 0.2, must be 0 where workers have no KV capacity",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(prefill, says):
    with pytest.raises(ParameterError) as caught:
        run([0.5], [4], prefill)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
