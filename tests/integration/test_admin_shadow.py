from __future__ import annotations

import itertools

import numpy as np
import pytest
from admin_traffic import WORKERS, play, served, specs, traffic

from brsolver.errors import BrsolverError, ParameterError
from integration.admin.params import ShadowParams
from integration.admin.replay import Changed, Replay, Replayed
from integration.admin.shadow import Shadows
from integration.picker.asks import Ask, End
from integration.picker.params import WorkerSpec

EVER = float("inf")


def watched(real: Replay, *policies: str, **fields) -> Shadows:
    params = ShadowParams(policies=policies, **{"window_s": 3_600.0, **fields})
    shadows = Shadows(params, real.core, clock=lambda: real.now_s)
    real.core.listeners.append(shadows)
    return shadows


def now_and_then(shadows: Shadows, every: int = 40):
    """Let shadows catch up between some of the moments of a replay."""
    count = itertools.count(1)
    return lambda: next(count) % every or shadows.run(EVER)


@pytest.mark.parametrize(
    ("policy", "mode"), [("br-t", "pooled"), ("jsq-load", "immediate"), ("br-0", "pooled")]
)
def test_the_shadow_of_the_policy_that_routes_lives_as_it_does(policy, mode):
    real = served(policy=policy, mode=mode)
    shadows = watched(real, "round-robin")
    play(real, traffic(150, per_second=18.0), now_and_then(shadows))
    shadows.run(EVER)
    own = shadows.figures()[0]
    ended = real.window.ended.since(0.0)
    assert (own.policy, own.routes, own.requests) == (policy, True, len(ended))
    assert own.ttft_s == pytest.approx(ended["ttft_s"].mean(), rel=1e-6)
    assert own.tpot_s == pytest.approx(np.nanmean(ended["tpot_s"]), rel=1e-6)
    spent = real.window.buckets.spent(real.window.buckets.numbers(-1)).sum(axis=1)
    assert own.lost_share == pytest.approx(spent[1:-1].sum() / spent[:-1].sum(), rel=0.01)


def test_streams_that_nobody_asked_for_usage_are_replayed_too():
    real = served(policy="jsq-load", mode="immediate")
    real._end = lambda name: real.core.ended(name, End.FINISHED)
    shadows = watched(real, "round-robin")
    play(real, traffic(60, per_second=18.0), now_and_then(shadows))
    real.now_s += 100.0
    shadows.run(EVER)
    assert {each.requests for each in shadows.figures()} == {60}
    made = [each.replay.window.ended.since(0.0)["output_tokens"] for each in shadows._shadows]
    in_truth = sorted(real.window.ended.since(0.0)["output_tokens"].tolist())
    assert [sorted(each.tolist()) for each in made] == [in_truth] * 2
    assert min(in_truth) >= 1


def test_better_policies_are_seen_to_be_better():
    real = served(policy="round-robin", mode="immediate", predictor="none")
    shadows = watched(real, "br-t", mode="pooled")
    play(real, traffic(150, per_second=14.0), now_and_then(shadows))
    shadows.run(EVER)
    own, other = shadows.figures()
    assert own.requests == other.requests == 150
    assert other.tpot_s < own.tpot_s
    assert other.lost_share < own.lost_share


def test_all_shadows_have_all_requests_and_their_books_end_at_zero():
    real = served()
    shadows = watched(real, "vllm", "jsq-load")
    play(real, traffic(80, per_second=40.0), now_and_then(shadows))
    real.now_s += 100.0
    shadows.run(EVER)
    for shadow in shadows._shadows:
        audit = shadow.replay.core.audit()
        assert audit.balanced
        assert (audit.begun, audit.reserved, audit.held) == (80, 0, 0)
        assert audit.ended == {End.FINISHED: 80}
    assert [each.behind_s for each in shadows.figures()] == [0.0] * 3


def test_preempted_requests_get_all_their_tokens():
    # Four workers of 600 KV tokens: prompts fit, what they generate does not.
    real = served(policy="jsq-load", mode="immediate", capacity=600)
    rng = np.random.default_rng(3)
    asks = [Ask(f"r{i}", int(p), 400) for i, p in enumerate(rng.integers(50, 250, 40))]
    requests = [
        Replayed(ask=ask, at_s=50.0 + 0.2 * i, output_tokens=int(rng.integers(100, 300)))
        for i, ask in enumerate(asks)
    ]
    counted: dict[str, int] = {}

    class Counting:
        def event(self, event) -> None:
            if type(event).__name__ == "Ended":
                counted[event.name] = (
                    real.core.tokens_of(event.name)
                    if event.name in (real.core._books.known)
                    else event.usage.completion_tokens
                )

    real.core.listeners.append(Counting())
    play(real, requests)
    assert counted == {each.ask.name: each.output_tokens for each in requests}
    assert real.core.audit().balanced


@pytest.mark.parametrize(("sequences", "steps"), [(4, 100), (7, 175)], ids=["all", "in turn"])
def test_sequences_run_beside_each_other_as_far_as_there_are_slots(sequences, steps):
    real = served(workers=1, slots=4, predictor="none")
    shadows = watched(real, "jsq-load", patience_s=10.0)
    ask = Ask("several", 100, None, sequences=sequences)
    real.feed(Replayed(ask=ask, at_s=50.0, output_tokens=100 * sequences))
    first = real._steps
    play(real, [], now_and_then(shadows))
    # One step computes the prompt, and has the first token of each.
    assert real._steps - first == steps
    real.now_s += 10.0
    shadows.run(EVER)
    figures = shadows.figures()
    assert [each.note for each in figures] == ["", ""]
    for shadow, found in zip(shadows._shadows, figures, strict=True):
        (row,) = shadow.replay.window.ended.since(0.0)
        assert row["output_tokens"] == 100 * sequences
        assert shadow.replay._steps == steps
        assert found.tpot_s == pytest.approx((row["total_s"] - row["ttft_s"]) / (steps - 1))
        assert shadow.replay.core.audit().balanced


def test_sequences_whose_length_comes_late_run_their_share():
    real = served(workers=1, slots=4, predictor="none")
    shadows = watched(real, "jsq-load", patience_s=0.5)
    ask = Ask("several", 100, None, sequences=4)
    real.feed(Replayed(ask=ask, at_s=50.0, output_tokens=800))
    play(real, [], now_and_then(shadows, every=10))
    real.now_s += 10.0
    shadows.run(EVER)
    for shadow in shadows._shadows:
        ended = shadow.replay.window.ended.since(0.0)
        assert ended["output_tokens"].tolist() == [800]
        assert shadow.replay._steps <= 220
        assert shadow.stopped == ""


def test_a_shadow_waits_for_lengths_but_not_for_ever():
    real = served(slots=64)
    shadows = watched(real, "jsq-load", patience_s=10.0)
    real.feed(Replayed(ask=Ask("long", 100, None), at_s=50.0, output_tokens=2_000))
    for each in traffic(40, per_second=4.0, start_s=51.0):
        real.feed(each)
    while real.now_s < 58.0:
        real.live_on()
    shadows.run(EVER)
    assert {each.replay.now_s for each in shadows._shadows} == {50.0}
    while real.now_s < 65.0:
        real.live_on()
    shadows.run(EVER)
    # The long one came in without a length, and everybody after it.
    assert all(each.replay.now_s > 54.0 for each in shadows._shadows)
    assert all("long" in each.replay.window.live for each in shadows._shadows)
    while real.next_s < EVER:
        real.live_on()
        shadows.run(EVER)
    real.now_s += 100.0
    shadows.run(EVER)
    for each in shadows._shadows:
        audit = each.replay.core.audit()
        assert (audit.balanced, audit.reserved, audit.begun) == (True, 0, 41)


def test_what_never_ran_has_no_length_and_is_left_out():
    real = served(slots=1)
    shadows = watched(real, "jsq-load")
    for each in traffic(30, per_second=100.0):
        real.feed(each)
    while len(real.window.live) < 30:
        real.live_on()
    gone = [name for name, live in real.window.live.items() if live.worker < 0]
    assert gone
    for name in gone:
        assert real.core.withdraw(name)
    play(real, [])
    real.now_s += 100.0
    shadows.run(EVER)
    assert shadows._shadows[0].replay.core.audit().begun == 30 - len(gone)


def test_workers_go_down_and_join_in_the_shadow_too():
    real = served()
    shadows = watched(real, "jsq-load")
    for each in traffic(120, per_second=20.0):
        real.feed(each)
    new = WorkerSpec(name="new", address="10.9.9.9:1")
    for at_s, worker, what, spec in (
        (51.0, 0, "down", specs()[0]),
        (52.0, WORKERS, "added", new),
        (53.0, 1, "draining", specs()[1]),
        (54.0, 0, "up", specs()[0]),
    ):
        while real.now_s < at_s:
            real.live_on()
        real._change(Changed(at_s=at_s, worker=worker, what=what, spec=spec))
    play(real, [], now_and_then(shadows))
    real.now_s += 50.0
    shadows.run(EVER)
    for shadow in shadows._shadows:
        assert shadow.stopped == ""
        states = [worker.state for worker in shadow.replay.core.workers]
        assert states == ["up", "gone", "up", "up", "up"]
        served_by_new = shadow.replay.window.ended.since(0.0)["worker"] == WORKERS
        assert served_by_new.any()


def test_time_is_bounded_and_what_is_left_comes_later():
    real = served()
    shadows = watched(real, "jsq-load", "vllm")
    play(real, traffic(60, per_second=20.0))
    reads = itertools.count()
    shadows._timer = lambda: float(next(reads))
    # Every look at the time is a second: two seconds are two or three moments.
    assert shadows.run(2.0)
    assert next(reads) <= 5
    real.now_s += 50.0
    while shadows.run(50.0):
        pass
    assert {each.requests for each in shadows.figures()} == {60}


def test_who_is_too_far_behind_begins_anew_and_says_so():
    real = served()
    shadows = watched(real, "jsq-load", patience_s=5.0, behind_s=20.0)
    play(real, traffic(200, per_second=5.0))
    assert real.now_s > 80.0
    shadows.run(EVER)
    for each in shadows.figures():
        assert "begun anew" in each.note
        assert (each.requests, each.behind_s) == (0, 0.0)
    play(real, traffic(20, per_second=5.0, start_s=real.now_s, seed=9)[:20])
    real.now_s += 10.0
    shadows.run(EVER)
    assert {each.requests for each in shadows.figures()} <= {20}


def test_a_shadow_that_fails_stops_and_nothing_else_does():
    real = served()
    shadows = watched(real, "jsq-load", "vllm")
    broken = shadows._shadows[1]
    broken.replay.core.request = None
    play(real, traffic(20, per_second=20.0), now_and_then(shadows))
    real.now_s += 50.0
    shadows.run(EVER)
    own, failed, other = shadows.figures()
    assert (own.requests, other.requests) == (20, 20)
    assert failed.note == "stopped: TypeError"


def test_the_policy_that_routes_is_there_once():
    real = served(policy="jsq-load", mode="immediate")
    shadows = watched(real, "vllm", "jsq-load")
    assert [(each.policy, each.routes) for each in shadows.figures()] == [
        ("jsq-load", True),
        ("vllm", False),
    ]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"policies": ("no-such",)}, "no-such"),
        ({"policies": ("vllm", "vllm")}, "twice"),
        ({"mode": "sideways"}, "mode is 'sideways'"),
        ({"share": 0.0}, "share is 0"),
        ({"slice_ms": 0}, "slice_ms is 0"),
        ({"patience_s": 60.0, "behind_s": 30.0}, "behind_s is 30, must be above patience_s, 60"),
    ],
)
def test_bad_parameters_are_one_line(fields, said):
    with pytest.raises(BrsolverError, match=said) as raised:
        ShadowParams(**fields)
    assert isinstance(raised.value, ParameterError)
    assert "\n" not in str(raised.value)
