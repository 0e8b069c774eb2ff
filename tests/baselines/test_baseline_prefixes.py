"""Rules that go by prefix caches, against plain references of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import baseline_views as views
import numpy as np
import pytest
from baseline_views import Choose, Worker, pairs_of, view_of, waiting_of
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.llm_d_prefix import LlmDPrefix, LlmDPrefixParams
from baselines.prefix_affinity import PrefixAffinity
from baselines.prefix_within import PrefixWithin, PrefixWithinParams
from baselines.sglang_cache_aware import SGLangCacheAware, SGLangCacheAwareParams
from baselines.trtllm_kv_aware import TRTLLMKVAware, TRTLLMParams
from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.cluster.view import ClusterView, Waiting
    from brsolver.policy import Policy

Hits = list[list[int]]
Rule = tuple["Callable[[], Policy]", "Callable[[ClusterView, Waiting, Hits], Choose]"]
SEED = 7


def affinity(view: ClusterView, waiting: Waiting, hits: Hits) -> Choose:
    return lambda workers, k: min(workers, key=lambda w: (-hits[k][w.index], w.load))


def within(share: float) -> Callable[[ClusterView, Waiting, Hits], Choose]:
    def rule(view: ClusterView, waiting: Waiting, hits: Hits) -> Choose:
        every = {w.index: w for w in views.workers_of(view)}

        def choose(workers: list[Worker], k: int) -> Worker:
            every.update({w.index: w for w in workers})
            loads = [w.load for w in every.values() if w.slots]
            limit = min(w.load for w in workers) + share * sum(loads) / len(loads)
            near = [w for w in workers if w.load <= limit]
            chosen = min(near, key=lambda w: (-hits[k][w.index], w.load))
            every[chosen.index] = chosen
            return chosen

        return choose

    return rule


def starts_of(view: ClusterView, waiting: Waiting) -> list[int]:
    count = min(len(waiting), int(np.minimum(view.room, len(waiting)).sum()))
    return np.random.default_rng(SEED).integers(0, view.workers, count).tolist()


def in_turn(workers: list[Worker], start: int, count: int) -> list[Worker]:
    return sorted(workers, key=lambda w: (w.index - start) % count)


def trtllm(params: TRTLLMParams) -> Callable[[ClusterView, Waiting, Hits], Choose]:
    def rule(view: ClusterView, waiting: Waiting, hits: Hits) -> Choose:
        starts = starts_of(view, waiting)
        active = dict(enumerate(view.prompt_tokens.tolist()))
        requests = view.running + view.queued
        alive = max(int((view.slots > 0).sum()), 1)
        fair = math.ceil((int(requests.sum()) + len(starts)) / alive)
        cap = max(math.ceil(params.fair * fair), int(requests.max()))

        def choose(workers: list[Worker], k: int) -> Worker:
            tokens = int(waiting.prompt_tokens[k])
            few = [w for w in workers if w.requests < cap] or workers
            total = max(sum(active[w.index] for w in few), tokens)
            counts = max(hits[k][w.index] for w in few) > params.threshold * tokens

            def score(w: Worker) -> tuple[float, int]:
                found = hits[k][w.index] if counts else 0
                load = active[w.index] / total * tokens
                return tokens - found + params.beta * load, active[w.index]

            chosen = min(in_turn(few, starts[k], view.workers), key=score)
            active[chosen.index] += tokens - hits[k][chosen.index]
            return chosen

        return choose

    return rule


def llm_d(params: LlmDPrefixParams) -> Callable[[ClusterView, Waiting, Hits], Choose]:
    def rule(view: ClusterView, waiting: Waiting, hits: Hits) -> Choose:
        starts = starts_of(view, waiting)
        flying = view.backlog.copy()

        def choose(workers: list[Worker], k: int) -> Worker:
            tokens = int(waiting.prompt_tokens[k])
            sticky = [w for w in workers if hits[k][w.index] >= params.affinity * tokens]
            others = [w for w in workers if w not in sticky]
            able = workers
            if sticky and params.affinity:
                behind = min(flying[w.index] for w in sticky) - min(
                    (flying[w.index] for w in others), default=math.inf
                )
                if not params.penalty_s or behind <= params.penalty_s * params.throughput:
                    able = sticky
            turn = in_turn(able, starts[k], view.workers)
            chosen = min(turn, key=lambda w: flying[w.index] - hits[k][w.index])
            flying[chosen.index] += tokens - hits[k][chosen.index]
            return chosen

        return choose

    return rule


def sglang(params: SGLangCacheAwareParams) -> Callable[[ClusterView, Waiting, Hits], Choose]:
    def rule(view: ClusterView, waiting: Waiting, hits: Hits) -> Choose:
        every = {w.index: w for w in views.workers_of(view)}

        def choose(workers: list[Worker], k: int) -> Worker:
            every.update({w.index: w for w in workers})
            counts = [w.requests for w in every.values() if w.slots]
            most = max(workers, key=lambda w: (hits[k][w.index], -w.requests))
            apart = max(counts) - min(counts) > params.apart
            unbalanced = apart and max(counts) > params.ratio * min(counts)
            little = hits[k][most.index] <= params.threshold * waiting.prompt_tokens[k]
            if unbalanced or little:
                return min(workers, key=lambda w: w.requests)
            return most

        return choose

    return rule


def drawn() -> np.random.Generator:
    return np.random.default_rng(SEED)


TIGHT = SGLangCacheAwareParams(threshold=0.5, apart=1, ratio=1.2)
EAGER = TRTLLMParams(beta=0.3, threshold=0.4, fair=1.0)
LAGGING = LlmDPrefixParams(affinity=0.5, penalty_s=1, throughput=3)

RULES: list[Rule] = [
    (PrefixAffinity, affinity),
    (PrefixWithin, within(0.1)),
    (lambda: PrefixWithin(PrefixWithinParams(share=0.5)), within(0.5)),
    (lambda: TRTLLMKVAware(rng=drawn()), trtllm(TRTLLMParams())),
    (lambda: TRTLLMKVAware(EAGER, rng=drawn()), trtllm(EAGER)),
    (lambda: LlmDPrefix(rng=drawn()), llm_d(LlmDPrefixParams())),
    (lambda: LlmDPrefix(LAGGING, rng=drawn()), llm_d(LAGGING)),
    (SGLangCacheAware, sglang(SGLangCacheAwareParams())),
    (lambda: SGLangCacheAware(TIGHT), sglang(TIGHT)),
]


@st.composite
def cases(draw: st.DrawFn) -> tuple[ClusterView, Waiting, Hits]:
    at_once = draw(st.booleans())
    view, waiting = draw(views.immediate() if at_once else views.pooled())
    hits = [
        [draw(st.sampled_from([0, 0, tokens // 2, tokens - 1])) for _ in range(view.workers)]
        for tokens in waiting.prompt_tokens.tolist()
    ]
    workers = views.workers_of(view)
    each = view.request_tokens
    seen = view_of(workers, immediate=at_once, request_tokens=each, cached=hits)
    return seen, waiting, hits


@pytest.mark.parametrize(("make", "rule"), RULES)
@given(case=cases())
@settings(deadline=None, max_examples=150)
def test_decisions_follow_the_rule(
    make: Callable[[], Policy],
    rule: Callable[[ClusterView, Waiting, Hits], Choose],
    case: tuple[ClusterView, Waiting, Hits],
) -> None:
    view, waiting, hits = case
    expected = views.place(view, waiting, rule(view, waiting, hits))
    assert pairs_of(make().route(view, waiting)) == expected


def two(**first: int) -> list[Worker]:
    return [Worker(0, **{"room": 1, **first}), Worker(1, room=1)]


def chosen(policy: Policy, workers: list[Worker], hits: list[int], tokens: int = 100) -> int:
    view = view_of(workers, immediate=True, cached=[hits])
    return pairs_of(policy.route(view, waiting_of([tokens])))[0][1]


def test_affinity_goes_where_the_prompt_is_however_loaded() -> None:
    assert chosen(PrefixAffinity(), two(load=10**6), [1, 0]) == 0


def test_within_leaves_a_worker_too_far_above_the_least() -> None:
    workers = [Worker(0, load=1100, room=1), Worker(1, load=1000, room=1)]
    assert chosen(PrefixWithin(), workers, [99, 0]) == 0
    workers[0].load = 1120
    assert chosen(PrefixWithin(), workers, [99, 0]) == 1
    assert chosen(PrefixWithin(PrefixWithinParams(share=0.2)), workers, [99, 0]) == 0


def test_trtllm_weighs_uncached_tokens_against_a_share_of_the_active_ones() -> None:
    # Of 100 tokens 60 are cached where all active ones are: 40 + 100β against 100.
    workers = two(prompt_tokens=500)
    assert chosen(TRTLLMKVAware(), workers, [60, 0]) == 1
    assert chosen(TRTLLMKVAware(TRTLLMParams(beta=0.5)), workers, [60, 0]) == 0
    # Below the threshold hits do not count at all.
    light = TRTLLMParams(beta=0.001, threshold=0.6)
    assert chosen(TRTLLMKVAware(light), workers, [60, 0]) == 1


def test_trtllm_caps_a_workers_requests() -> None:
    workers = two(running=9, slots=20)
    greedy = TRTLLMParams(beta=0.0, fair=1.0)
    assert chosen(TRTLLMKVAware(greedy), workers, [90, 0]) == 1
    assert chosen(TRTLLMKVAware(TRTLLMParams(beta=0.0, fair=2.0)), workers, [90, 0]) == 0


def test_llm_d_sticks_to_a_worker_until_it_lags_too_far() -> None:
    policy = LlmDPrefix(LlmDPrefixParams(penalty_s=1, throughput=1000))
    assert chosen(policy, two(backlog=1000), [80, 0]) == 0
    assert chosen(policy, two(backlog=1001), [80, 0]) == 1
    assert chosen(policy, two(backlog=30), [79, 0]) == 0
    assert chosen(policy, two(backlog=80), [79, 0]) == 1
    assert chosen(LlmDPrefix(LlmDPrefixParams(penalty_s=0)), two(backlog=10**9), [80, 0]) == 0


def test_sglang_leaves_the_cache_where_requests_are_out_of_balance() -> None:
    assert chosen(SGLangCacheAware(), two(running=64, slots=80), [99, 0]) == 0
    assert chosen(SGLangCacheAware(), two(running=65, slots=80), [99, 0]) == 1
    busy = [Worker(0, running=165, slots=200, room=1), Worker(1, running=100, slots=200, room=1)]
    assert chosen(SGLangCacheAware(), busy, [99, 0]) == 1
    busy[1].running = 110
    assert chosen(SGLangCacheAware(), busy, [99, 0]) == 0
    assert chosen(SGLangCacheAware(), two(running=1), [30, 0]) == 1


def test_ties_are_broken_by_the_generator() -> None:
    for make in (TRTLLMKVAware, LlmDPrefix):
        policy = make(rng=np.random.default_rng(5))
        workers = [Worker(g, room=1) for g in range(4)]
        assert {chosen(policy, workers, [0] * 4) for _ in range(60)} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PrefixWithinParams(share=-0.1), r"share is -0\.1, must be from 0 to 1000"),
        (lambda: TRTLLMParams(beta=-1), "beta is -1, must be from 0 to 1000"),
        (lambda: TRTLLMParams(fair=0.5), r"fair is 0\.5, must be from 1"),
        (lambda: LlmDPrefixParams(affinity=2), "affinity is 2, must be from 0 to 1"),
        (lambda: LlmDPrefixParams(throughput=0), "throughput is 0, must be from 1"),
        (lambda: SGLangCacheAwareParams(ratio=0.9), r"ratio is 0\.9, must be from 1"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        make()
