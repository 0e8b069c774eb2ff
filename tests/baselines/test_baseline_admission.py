"""Nearest to finish, and admission by KV load, against plain references of their rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import baseline_views as views
import numpy as np
import pytest
from baseline_views import Worker, pairs_of, view_of, waiting_of
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.tpu_nearest_finish import TPUNearestFinish
from baselines.trtllm_kv_admission import TRTLLMKVAdmission, TRTLLMKVAdmissionParams
from brsolver.errors import ParameterError
from brsolver.registry import describe_policy, make_policy
from brsolver.simulator import Prefill, SimulationParams, simulate
from brsolver.traces.trace import Trace

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Waiting

Active = list[tuple[int, int, int]]


@st.composite
def with_active(draw: st.DrawFn) -> tuple[ClusterView, Waiting, Active]:
    """Draw a view whose loads are those of its running requests and of what queues there."""
    view, waiting = draw(views.pooled() if draw(st.booleans()) else views.immediate())
    workers, active = views.workers_of(view), []
    for w in workers:
        each = [(w.index, draw(st.integers(1, 9)), draw(st.integers(1, 4)))] * w.running
        active += each
        queued = w.queued * draw(st.integers(1, 9))
        w.load = sum(kv for _, kv, _ in each) + queued + view.request_tokens * w.requests
    made = view_of(
        workers, active=active, immediate=view.immediate, request_tokens=view.request_tokens
    )
    return made, waiting, active


@settings(deadline=None, max_examples=200)
@given(with_active())
def test_nearest_to_finish_follows_the_rule(case: tuple[ClusterView, Waiting, Active]) -> None:
    view, waiting, active = case
    runs = {g: sum(kv for w, kv, _ in active if w == g) for g in range(view.workers)}
    oldest = {g: max((a for w, _, a in active if w == g), default=0) for g in range(view.workers)}

    def choose(workers: list[Worker], _: int) -> Worker:
        return min(
            workers, key=lambda w: (w.kv_tokens - runs[w.index], w.requests, -oldest[w.index])
        )

    found = pairs_of(TPUNearestFinish().route(view, waiting))
    assert found == views.place(view, waiting, choose)


def test_what_is_to_be_computed_goes_before_counts_and_these_before_ages() -> None:
    queued = Worker(0, room=1, running=0, queued=1, load=7)
    crowded = Worker(1, room=1, running=3, load=9)
    busy = Worker(2, room=1, running=1, load=50)
    view = view_of([queued, crowded, busy], active=[(1, 3, 2)] * 3 + [(2, 50, 1)])
    assert pairs_of(TPUNearestFinish().route(view, waiting_of([4]))) == [(0, 2)]
    even = [Worker(g, room=1, running=1, load=9) for g in range(3)]
    view = view_of(even, active=[(0, 9, 3), (1, 9, 5), (2, 9, 5)])
    assert pairs_of(TPUNearestFinish().route(view, waiting_of([4]))) == [(0, 1)]


def admitted(view: ClusterView, waiting: Waiting, window: int) -> list[tuple[int, int]]:
    """Admit by KV load, in plain Python."""
    workers, left, pairs = views.workers_of(view), list(range(len(waiting))), []
    while True:
        most = max(w.requests for w in workers)
        heaviest = max(w.load for w in workers)
        options = [
            (
                max(most, w.requests + 1),
                max(heaviest, w.load + int(waiting.prompt_tokens[i]) + view.request_tokens),
                *(i, w.requests, w.load, w.index),
            )
            for i in left[:window]
            for w in workers
            if w.has_room(int(waiting.prompt_tokens[i]))
        ]
        if not options:
            return pairs
        *_, i, _, _, g = min(options)
        workers[g].take(int(waiting.prompt_tokens[i]))
        left.remove(i)
        pairs.append((i, g))


@settings(deadline=None, max_examples=200)
@given(st.one_of(views.pooled(), views.immediate()), st.sampled_from([1, 2, 3, 32]))
def test_admission_by_kv_load_follows_the_rule(
    case: tuple[ClusterView, Waiting], window: int
) -> None:
    view, waiting = case
    policy = TRTLLMKVAdmission(TRTLLMKVAdmissionParams(window=window))
    before = view.table.copy()
    assert pairs_of(policy.route(view, waiting)) == admitted(view, waiting, window)
    np.testing.assert_array_equal(view.table, before)


def test_who_raises_no_maximum_is_admitted_first() -> None:
    view = view_of([Worker(0, room=1, running=1, load=10), Worker(1, room=1, running=1, load=4)])
    policy = TRTLLMKVAdmission()
    assert pairs_of(policy.route(view, waiting_of([9, 6, 5]))) == [(1, 1), (2, 0)]


def test_a_request_that_fits_nowhere_is_overtaken_within_the_window_only() -> None:
    view = view_of([Worker(0, room=2, token_room=50)])
    tokens = waiting_of([51, 60, 1])
    assert pairs_of(TRTLLMKVAdmission().route(view, tokens)) == [(2, 0)]
    narrow = TRTLLMKVAdmission(TRTLLMKVAdmissionParams(window=2))
    assert pairs_of(narrow.route(view, tokens)) == []


def test_a_window_of_nobody_is_refused() -> None:
    with pytest.raises(ParameterError, match="window is 0, must be at least 1"):
        TRTLLMKVAdmissionParams(window=0)


@pytest.mark.parametrize("policy", [TPUNearestFinish(), TRTLLMKVAdmission()])
@pytest.mark.parametrize("routing", ["pooled", "immediate"])
@pytest.mark.parametrize("mode", ["none", "colocated"])
def test_whole_runs_end(policy: object, routing: str, mode: str) -> None:
    rng = np.random.default_rng(4)
    trace = Trace(prompt_tokens=rng.integers(1, 99, 60), output_tokens=rng.integers(1, 9, 60))
    params = SimulationParams(
        workers=3, slots=4, routing=routing, prefill=Prefill(mode=mode, budget=32)
    )
    assert simulate(trace, policy, params).metrics.finished == 60


@pytest.mark.parametrize("name", ["tpu-nearest-finish", "trtllm-kv-admission"])
def test_they_can_be_made_by_name_and_say_where_they_come_from(name: str) -> None:
    view = view_of([Worker(0, room=1)])
    assert pairs_of(make_policy(name).route(view, waiting_of([5]))) == [(0, 0)]
    described = describe_policy(name)
    assert described.summary
    assert "2780" in described.source or "kv_balanced" in described.source
