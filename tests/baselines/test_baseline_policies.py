"""Every baseline against a plain reference of its rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

import baseline_views as views
import numpy as np
import pytest
from baseline_views import Choose, Worker, finished, pairs_of, view_of, waiting_of
from hypothesis import given, settings

from baselines.atom_least_tokens import AtomLeastTokens, AtomLeastTokensParams
from baselines.fast_phi import FastPhi
from baselines.fcfs import FCFS
from baselines.jsq import JSQ
from baselines.jsq_load import JSQLoad
from baselines.llm_d_prefix import LlmDPrefix
from baselines.lpt import LPT
from baselines.phi import Phi
from baselines.power_of_two import PowerOfTwo, PowerOfTwoLoad
from baselines.prefix_affinity import PrefixAffinity
from baselines.prefix_within import PrefixWithin
from baselines.random_choice import RandomChoice
from baselines.round_robin import RoundRobin
from baselines.sglang_cache_aware import SGLangCacheAware
from baselines.sglang_total_tokens import SGLangTotalTokens
from baselines.tpu_nearest_finish import TPUNearestFinish
from baselines.trtllm_kv_aware import TRTLLMKVAware
from baselines.vllm_rules import VLLM020, VLLM032
from brsolver.cluster.view import ClusterView, Waiting
from brsolver.errors import ParameterError
from brsolver.registry import describe_policy, make_policy
from classifiers.survival import SurvivalPredictor

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.policy import Policy

Case = tuple[ClusterView, Waiting]


def fewest_requests(view: ClusterView) -> Choose:
    return lambda workers, _: min(workers, key=lambda w: w.requests)


def fewest_tokens(view: ClusterView) -> Choose:
    return lambda workers, _: min(workers, key=lambda w: w.load)


def sglang(view: ClusterView) -> Choose:
    return lambda workers, _: min(workers, key=lambda w: (w.kv_tokens, w.requests))


def atom(view: ClusterView) -> Choose:
    def choose(workers: list[Worker], k: int) -> Worker:
        return min(
            workers,
            key=lambda w: (w.prompt_tokens + 512 * w.requests, (w.index - k) % view.workers),
        )

    return choose


def vllm_020(view: ClusterView) -> Choose:
    def score(w: Worker) -> int:
        return 4 * (w.queued + view.clients * w.placed) + w.running

    return lambda workers, _: min(workers, key=score)


def vllm_032(view: ClusterView) -> Choose:
    usage = [
        min(1.0, w.kv_tokens / w.capacity) if w.capacity < 1000 else 0.0
        for w in views.workers_of(view)
    ]

    def score(w: Worker) -> float:
        inflight = (w.running + w.queued) / view.clients + w.placed
        waiting = w.queued + view.clients * w.placed
        requests = max(view.clients * inflight, waiting + w.running)
        return requests + waiting * 6 * max(0.0, usage[w.index] - 0.5)

    return lambda workers, k: min(workers, key=lambda w: (score(w), (w.index - k) % view.workers))


def first(view: ClusterView) -> Choose:
    return lambda workers, _: workers[0]


def next_in_turn(view: ClusterView) -> Choose:
    turn = 0

    def choose(workers: list[Worker], _: int) -> Worker:
        nonlocal turn
        chosen = min(workers, key=lambda w: (w.index - turn) % view.workers)
        turn = chosen.index + 1
        return chosen

    return choose


RULES: list[tuple[Callable[[], Policy], Callable[[ClusterView], Choose]]] = [
    (JSQ, fewest_requests),
    (JSQLoad, fewest_tokens),
    (SGLangTotalTokens, sglang),
    (AtomLeastTokens, atom),
    (VLLM020, vllm_020),
    (VLLM032, vllm_032),
    (RoundRobin, next_in_turn),
]


def survival_of_short_outputs() -> SurvivalPredictor:
    predictor = SurvivalPredictor()
    predictor.observe(finished([1, 3, 4, 4]))
    return predictor


EVERY: list[Callable[[], Policy]] = [
    *(make for make, _ in RULES),
    FCFS,
    LPT,
    RandomChoice,
    PowerOfTwo,
    PowerOfTwoLoad,
    TPUNearestFinish,
    lambda: Phi(predictor=survival_of_short_outputs()),
    lambda: FastPhi(predictor=survival_of_short_outputs()),
    PrefixAffinity,
    PrefixWithin,
    SGLangCacheAware,
    TRTLLMKVAware,
    LlmDPrefix,
]

NAMES = [
    "random",
    "round-robin",
    "p2c",
    "p2c-load",
    "jsq",
    "jsq-load",
    "vllm-0.20",
    "vllm",
    "sglang-total-tokens",
    "atom-least-tokens",
    "prefix-affinity",
    "prefix-within",
    "sglang-cache-aware",
    "trtllm-kv-aware",
    "llm-d-prefix",
    "fcfs",
    "lpt",
    "phi",
    "fast-phi",
]


@pytest.mark.parametrize(("make", "rule"), [*RULES, (FCFS, first)])
@given(case=views.pooled())
@settings(deadline=None, max_examples=50)
def test_pooled_decisions_follow_the_rule(
    make: Callable[[], Policy], rule: Callable[[ClusterView], Choose], case: Case
) -> None:
    view, waiting = case
    assert pairs_of(make().route(view, waiting)) == views.place(view, waiting, rule(view))


@pytest.mark.parametrize(("make", "rule"), RULES)
@given(case=views.immediate())
@settings(deadline=None, max_examples=50)
def test_immediate_decisions_follow_the_rule(
    make: Callable[[], Policy], rule: Callable[[ClusterView], Choose], case: Case
) -> None:
    view, waiting = case
    assert pairs_of(make().route(view, waiting)) == views.place(view, waiting, rule(view))


@given(case=views.pooled())
@settings(deadline=None, max_examples=50)
def test_lpt_places_the_largest_first_on_the_fewest_tokens(case: Case) -> None:
    view, waiting = case
    order = sorted(range(len(waiting)), key=lambda i: -int(waiting.prompt_tokens[i]))
    expected = views.place(view, waiting, fewest_tokens(view), order)
    assert pairs_of(LPT().route(view, waiting)) == expected


@given(case=views.immediate())
@settings(deadline=None, max_examples=50)
def test_fcfs_sends_an_arrival_to_the_first_free_slot(case: Case) -> None:
    view, waiting = case
    workers = [w for w in views.workers_of(view) if w.room > 0]
    free = [w for w in workers if w.running + w.queued < w.slots]
    ranked = free or sorted(workers, key=lambda w: w.requests)
    assert pairs_of(FCFS().route(view, waiting)) == [(0, w.index) for w in ranked[:1]]


@pytest.mark.parametrize("make", EVERY)
@given(case=views.pooled())
@settings(deadline=None, max_examples=50)
def test_no_worker_gets_more_than_it_has_room_for(make: Callable[[], Policy], case: Case) -> None:
    view, waiting = case
    before = view.table.copy()
    pairs = pairs_of(make().route(view, waiting))
    assert len({i for i, _ in pairs}) == len(pairs)
    for g in range(view.workers):
        given_to = [int(waiting.prompt_tokens[i]) for i, worker in pairs if worker == g]
        assert len(given_to) <= view.room[g]
        assert sum(given_to) <= view.token_room[g]
    np.testing.assert_array_equal(view.table, before)


@pytest.mark.parametrize("make", EVERY)
@given(case=views.pooled(limited=False))
@settings(deadline=None, max_examples=50)
def test_every_slot_is_filled_while_requests_wait(make: Callable[[], Policy], case: Case) -> None:
    view, waiting = case
    placed = make().route(view, waiting)
    assert len(placed) == min(len(waiting), int(view.room.sum()))


@pytest.mark.parametrize("make", EVERY)
@given(case=views.immediate())
@settings(deadline=None, max_examples=50)
def test_an_arrival_goes_to_some_live_worker(make: Callable[[], Policy], case: Case) -> None:
    view, waiting = case
    pairs = pairs_of(make().route(view, waiting))
    assert [i for i, _ in pairs] == [0] * bool(view.room.any())
    assert all(view.slots[g] > 0 for _, g in pairs)


@pytest.mark.parametrize("make", EVERY)
def test_nothing_overtakes_a_request_that_fits_nowhere(make: Callable[[], Policy]) -> None:
    view = view_of([Worker(0, room=2, token_room=50), Worker(1, room=2, token_room=60)])
    assert pairs_of(make().route(view, waiting_of([61, 1]))) == []
    assert pairs_of(make().route(view, waiting_of([60, 60]))) == [(0, 1)]


@pytest.mark.parametrize("make", EVERY)
def test_unlimited_room_on_every_worker_is_no_overflow(make: Callable[[], Policy]) -> None:
    view = view_of([Worker(g, room=1 << 60) for g in range(16)])
    assert len(make().route(view, waiting_of([3, 2, 1]))) == 3


def test_lpt_stops_at_the_largest_request_that_fits_nowhere() -> None:
    view = view_of([Worker(0, room=2, token_room=50)])
    assert pairs_of(LPT().route(view, waiting_of([1, 51]))) == []


def test_round_robin_starts_at_worker_0_at_every_pooled_decision() -> None:
    policy = RoundRobin()
    view = view_of([Worker(g, room=1) for g in range(3)])
    for _ in range(2):
        assert pairs_of(policy.route(view, waiting_of([1]))) == [(0, 0)]


def test_round_robin_goes_on_from_arrival_to_arrival_past_departed_workers() -> None:
    policy = RoundRobin()
    workers = [Worker(0, room=1), Worker(1, slots=0), Worker(2, room=1), Worker(3, room=1)]
    view = view_of(workers, immediate=True)
    chosen = [pairs_of(policy.route(view, waiting_of([1])))[0][1] for _ in range(5)]
    assert chosen == [0, 2, 3, 0, 2]


@pytest.mark.parametrize("make", [VLLM032, AtomLeastTokens])
def test_the_scan_starts_one_worker_further_on_with_every_request(
    make: Callable[[], Policy],
) -> None:
    policy = make()
    view = view_of([Worker(g, room=1) for g in range(3)], immediate=True)
    chosen = [pairs_of(policy.route(view, waiting_of([1])))[0][1] for _ in range(4)]
    assert chosen == [0, 1, 2, 0]


@pytest.mark.parametrize("make", [VLLM032, AtomLeastTokens])
def test_the_scan_start_moves_on_by_all_requests_of_a_decision(
    make: Callable[[], Policy],
) -> None:
    policy = make()
    view = view_of([Worker(g, room=1) for g in range(4)])
    assert pairs_of(policy.route(view, waiting_of([1, 1]))) == [(0, 0), (1, 1)]
    assert pairs_of(policy.route(view, waiting_of([1, 1, 1]))) == [(0, 2), (1, 3), (2, 0)]
    assert pairs_of(policy.route(view, waiting_of([1]))) == [(0, 1)]


def test_vllm_020_breaks_ties_towards_worker_0_at_every_arrival() -> None:
    policy = VLLM020()
    view = view_of([Worker(g, room=1) for g in range(3)], immediate=True)
    assert [pairs_of(policy.route(view, waiting_of([1])))[0][1] for _ in range(2)] == [0, 0]


def test_vllm_020_counts_a_waiting_request_as_four_running_ones() -> None:
    workers = [Worker(0, room=1, queued=1), Worker(1, room=1, running=3)]
    view = view_of(workers, immediate=True)
    assert pairs_of(VLLM020().route(view, waiting_of([1]))) == [(0, 1)]


def test_vllm_032_avoids_a_queue_at_a_worker_short_of_kv_cache() -> None:
    short = Worker(0, room=1, queued=2, load=100, capacity=100)
    busy = Worker(1, room=1, running=7, load=50, capacity=100)
    view = view_of([short, busy], immediate=True)
    assert pairs_of(VLLM032().route(view, waiting_of([1]))) == [(0, 1)]


def test_vllm_032_ignores_kv_usage_where_the_capacity_is_unknown() -> None:
    view = view_of(
        [Worker(0, room=1, queued=2, load=100), Worker(1, room=1, running=7, load=50)],
        immediate=True,
    )
    assert pairs_of(VLLM032().route(view, waiting_of([1]))) == [(0, 0)]


def test_the_weight_of_a_request_in_atom_least_tokens_is_a_parameter() -> None:
    workers = [Worker(0, room=1, running=2, prompt_tokens=10), Worker(1, room=1, prompt_tokens=40)]
    view = view_of(workers, immediate=True)
    light, heavy = (AtomLeastTokens(AtomLeastTokensParams(request_tokens=t)) for t in (14, 16))
    assert pairs_of(light.route(view, waiting_of([1]))) == [(0, 0)]
    assert pairs_of(heavy.route(view, waiting_of([1]))) == [(0, 1)]


def test_a_negative_weight_of_a_request_is_refused() -> None:
    with pytest.raises(ParameterError, match="request_tokens is -1"):
        AtomLeastTokensParams(request_tokens=-1)


@pytest.mark.parametrize("name", NAMES)
def test_every_baseline_can_be_made_by_name_and_says_where_it_comes_from(name: str) -> None:
    policy = make_policy(name, rng=np.random.default_rng(3))
    view = view_of([Worker(0, room=1)])
    assert pairs_of(policy.route(view, waiting_of([5]))) == [(0, 0)]
    described = describe_policy(name)
    assert described.summary
    assert described.source != type(policy).__module__
