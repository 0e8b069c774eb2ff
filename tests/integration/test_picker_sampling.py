"""The pace of steps, learned from streams that are looked at while they run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picking import Picking

from integration.picker import Ask, End, Gauges, Seen, Usage
from integration.picker.asks import Refused
from integration.picker.bodies import CHAT, COMPLETIONS, RESPONSES, Body
from integration.picker.events import Ended, Refusal, Requested, Stepped
from integration.picker.params import PickerParams
from integration.picker.reading import Reader
from integration.picker.sampling import TokenBytes, Watched

OPENING, EACH = 480, 210
"""Bytes that a stream has once, and with each token."""
STEP_S = 0.09


def at(moment: float, tokens: float, *, each: float = EACH, kind: str = COMPLETIONS) -> Seen:
    return Seen(at_s=moment, sent=int(OPENING + each * tokens), kind=kind)


def calibrated(p: Picking, *, tokens=(20, 60, 90, 140)) -> None:
    """Let streams end that say how many tokens they had, too short to tell of the pace."""
    for index, count in enumerate(tokens):
        name = f"early{index}"
        p.request(name, stream=True)
        p.run(0.0)
        seen = Seen(
            at_s=1.0, sent=OPENING + EACH * count, kind=COMPLETIONS, first_s=0.4, last_s=0.9
        )
        # Within no time: nothing can be learned of steps that nobody has done.
        p.core.sampled(name, seen, last=True)
        p.core.ended(name, End.FINISHED, Usage(10, count))
        p.run(0.0)


def running(p: Picking, *names: str, **more) -> None:
    for name in names:
        p.request(name, **({"stream": True} | more))
    p.run(1.0)


def looked_at(p: Picking, paces: dict[str, float], looks: int = 12, every: float = 1.0) -> None:
    """Let time pass in which streams have a token every so many seconds, and are looked at."""
    for look in range(looks):
        for name, step_s in paces.items():
            p.core.sampled(name, at(1.0 + look * every, 5 + int(look * every / step_s)))
        p.run(every)


def modelled(p: Picking) -> float:
    return p.log.of(Stepped)[-1].step.duration_s


def test_pace_comes_from_streams_that_go_on():
    p = Picking(workers=1)
    calibrated(p)
    running(p, "a", "b")
    before = p.core.audit()
    looked_at(p, {"a": STEP_S, "b": STEP_S})
    assert modelled(p) == pytest.approx(STEP_S, rel=0.05)
    after = p.core.audit()
    # A look ends nothing, begins nothing, and moves nobody.
    assert after.balanced
    assert (after.reserved, after.begun, after.ended) == (
        before.reserved,
        before.begun,
        before.ended,
    )


def test_without_tokens_told_nothing_is_made_of_bytes():
    p = Picking(workers=1)
    running(p, "a")
    scale = p.core.step_scale
    looked_at(p, {"a": STEP_S})
    assert p.core.step_scale == scale


def test_engines_that_count_their_steps_are_believed_before_streams():
    p = Picking(workers=2)
    calibrated(p)
    running(p, "a", "b")
    scale = p.core.step_scale
    # Each its own worker, both of which count steps, of which nothing has been done yet.
    for worker in range(2):
        p.core.told(worker, Gauges(running=1, steps=7))
    looked_at(p, {"a": STEP_S, "b": STEP_S}, looks=5)
    assert p.core.step_scale == scale


def test_counters_of_tokens_do_not_keep_streams_from_telling():
    p = Picking(workers=1)
    calibrated(p)
    running(p, "a")
    p.core.told(0, Gauges(running=1, generation_tokens=7))
    looked_at(p, {"a": STEP_S})
    assert modelled(p) == pytest.approx(STEP_S, rel=0.05)


@pytest.mark.parametrize("odd", [STEP_S / 6, 5 * STEP_S])
def test_stream_unlike_the_others_moves_nothing(odd):
    p = Picking(workers=1, slots=8)
    calibrated(p)
    running(p, "a", "b", "c", "d")
    looked_at(p, {"a": STEP_S, "b": STEP_S, "c": STEP_S, "d": odd}, looks=20)
    assert modelled(p) == pytest.approx(STEP_S, rel=0.05)


def test_what_stood_still_took_all_the_time():
    p = Picking(workers=1)
    calibrated(p)
    running(p, "a")
    for look in range(40):
        # Every other time there is nothing new, by ten tokens else.
        p.core.sampled("a", at(float(look), 5 + 10 * (look // 2)))
        p.run(1.0)
    assert modelled(p) == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize(
    "more",
    [{"stream": False}, {"sequences": 2}, {"model": "other"}],
    ids=["whole", "several", "of another kind"],
)
def test_what_is_not_one_stream_of_a_known_kind_tells_nothing(more):
    p = Picking(workers=1)
    calibrated(p)
    running(p, "a", **more)
    scale = p.core.step_scale
    looked_at(p, {"a": STEP_S})
    assert p.core.step_scale == scale


def test_looks_at_what_is_not_there_do_nothing():
    p = Picking(workers=1)
    p.core.sampled("nobody", at(1.0, 5))
    p.request("a", stream=True)
    p.core.ended("a", End.DISCONNECTED)
    p.core.sampled("a", at(1.0, 5))
    assert p.core.audit().balanced
    learning = p.core._telling.learning
    assert not learning._looks
    running(p, "b")
    p.core.sampled("b", at(1.0, 5))
    p.core.ended("b", End.DISCONNECTED)
    assert not learning._looks


def ends(p: Picking) -> Ended:
    return p.log.of(Ended)[-1]


def test_times_of_a_stream_are_measured():
    p = Picking(workers=1)
    running(p, "a")
    seen = Seen(at_s=9.0, sent=9000, kind=CHAT, asked_s=1.5, first_s=2.0, last_s=6.0)
    p.core.sampled("a", seen, last=True)
    p.core.ended("a", End.FINISHED, Usage(10, 41))
    times = ends(p).measured
    assert (times.ttft_s, times.worker_ttft_s, times.decode_s) == (2.0, 0.5, 4.0)
    assert times.decoded == 40
    assert times.tpot_s == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("more", "seen"),
    [
        ({"stream": False}, {}),
        ({}, {"kind": RESPONSES}),
        ({}, {"kind": ""}),
        ({}, {"first_s": None}),
    ],
    ids=["whole", "events before tokens", "unknown", "no body"],
)
def test_what_does_not_begin_with_a_token_is_not_measured(more, seen):
    p = Picking(workers=1)
    running(p, "a", **more)
    told = {"at_s": 9.0, "sent": 9000, "kind": CHAT, "first_s": 2.0, "last_s": 6.0} | seen
    p.core.sampled("a", Seen(**told), last=True)
    p.core.ended("a", End.FINISHED, Usage(10, 41))
    assert ends(p).measured is None


def test_an_error_of_the_engines_is_no_first_token():
    p = Picking(workers=1)
    running(p, "a")
    seen = Seen(at_s=2.1, sent=90, kind=CHAT, asked_s=1.5, first_s=2.0, last_s=2.0)
    p.core.sampled("a", seen, last=True)
    p.core.ended("a", End.REJECTED)
    assert ends(p).measured is None


@pytest.mark.parametrize(("more", "usage"), [({"sequences": 2}, Usage(10, 41)), ({}, None)])
def test_without_counted_tokens_only_the_first_is_measured(more, usage):
    p = Picking(workers=1)
    running(p, "a", **more)
    seen = Seen(at_s=9.0, sent=9000, kind=CHAT, first_s=2.0, last_s=6.0)
    p.core.sampled("a", seen, last=True)
    p.core.ended("a", End.FINISHED, usage)
    times = ends(p).measured
    assert times.ttft_s == 2.0
    assert times.tpot_s is None


@given(
    once=st.integers(0, 2000),
    each=st.floats(5.0, 2000.0),
    lengths=st.lists(st.integers(1, 180), min_size=12, max_size=40, unique=True),
    odd=st.lists(st.floats(2.0, 50.0), max_size=2),
)
def test_bytes_of_a_token_are_found_whatever_streams_have_once(once, each, lengths, odd):
    found = TokenBytes()
    for index, length in enumerate(lengths):
        factor = odd[index] if index < len(odd) else 1.0
        found.learn("kind", 16 * length, int(once + factor * each * 16 * length))
    # A byte more or less, by rounding, over the tokens by which two streams differ at least.
    assert found.of("kind") == pytest.approx(each, abs=1 / 16)
    assert found.of("another") is None


def test_streams_of_one_length_tell_by_all_that_they_have():
    found = TokenBytes()
    for _ in range(3):
        found.learn("kind", 100, OPENING + 100 * EACH)
    assert found.of("kind") == pytest.approx(EACH + OPENING / 100)


def test_too_little_tells_nothing():
    found = TokenBytes()
    for tokens in (1, 2, 7, 50, 60):
        found.learn("kind", tokens, 0 if tokens == 60 else EACH * tokens)
    assert found.of("kind") is None


def test_kinds_are_forgotten_the_oldest_first():
    found = TokenBytes()
    for kind in range(100):
        for tokens in (50, 100, 150):
            found.learn(kind, tokens, EACH * tokens)
    assert found.of(0) is None
    assert found.of(99) == EACH


def body(**more) -> Body:
    return Body(**({"kind": COMPLETIONS, "prompts": ("a",), "stream": True} | more))


def requested(name: str) -> Requested:
    return Requested(name, Ask(name, 1), 0.0)


def test_so_many_are_watched_at_a_time():
    watched = Watched(2, "w")
    # Though nobody has come to the core yet of those that are read at once.
    assert [watched.named(name, body()) for name in "123"] == ["1w", "2w", "3"]
    for name in ("1w", "2w", "3"):
        watched.event(requested(name))
    assert watched.named("4", body()) == "4"
    watched.event(Ended("3", 0, End.FINISHED, None, 1.0, None, None))
    assert watched.named("5", body()) == "5"
    watched.event(Ended("1w", 0, End.FINISHED, None, 1.0, None, None))
    watched.event(Refusal("2w", Refused(429, "full")))
    assert len(watched) == 0
    assert watched.named("6", body()) == "6w"


@pytest.mark.parametrize(("most", "more"), [(0, {}), (4, {"stream": False}), (4, {"n": 2})])
def test_others_are_not_watched(most, more):
    assert Watched(most, "w").named("1", body(**more)) == "1"


def test_who_was_only_read_takes_no_place_for_ever():
    watched = Watched(1, "w")
    assert watched.named("1", body()) == "1w"
    names = [watched.named(str(index), body()) for index in range(2, 1200)]
    assert [name for name in names if name.endswith("w")] == ["1002w"]


def test_reader_marks_names_and_knows_them():
    watched = Watched(1, "w")
    reader = Reader(PickerParams(), watched=watched)
    content = b'{"model": "m", "prompt": "Once", "stream": true}'
    ask = reader.read("POST", "/v1/completions", content)
    assert ask.name.endswith("w")
    assert reader.named(ask.name)
    assert not reader.read("POST", "/v1/completions", content).name.endswith("w")
