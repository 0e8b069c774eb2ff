"""How many tokens a request has had where its engine does not say: most clients do not ask."""

from __future__ import annotations

import pytest
from picking import Picking

from integration.picker import End, Seen, Usage
from integration.picker.bodies import COMPLETIONS
from integration.picker.events import Ended
from integration.picker.sampling import TokenBytes

OPENING, EACH, USAGE = 60, 210, 200
"""Bytes of a stream: once, with each token, and of its usage where that is asked for."""


def sent(tokens: int, *, asked: bool = False, each: int = EACH, **more) -> Seen:
    size = OPENING + each * tokens + USAGE * asked
    return Seen(at_s=1.0, sent=size, kind=COMPLETIONS, **({"first_s": 0.4, "last_s": 0.9} | more))


def started(p: Picking, name: str, **more) -> None:
    p.request(name, **({"stream": True} | more))
    p.run(0.0)
    p.core.started(name, p.worker_of(name))


def tokens(p: Picking, name: str, end: End, usage: Usage | None = None, seen=None) -> int:
    """End a request; return how many tokens listeners are told."""
    if seen is not None:
        p.core.sampled(name, seen, last=True)
    p.core.ended(name, end, usage)
    return p.log.of(Ended)[-1].tokens


def calibrated(p: Picking, each: int = EACH) -> None:
    """Let some end that say how many tokens they had."""
    for index, count in enumerate((20, 60, 90, 140)):
        started(p, f"asked{index}")
        seen = sent(count, asked=True, each=each)
        assert tokens(p, f"asked{index}", End.FINISHED, Usage(10, count), seen) == count


@pytest.mark.parametrize("end", [End.FINISHED, End.DISCONNECTED, End.RESET])
@pytest.mark.parametrize("count", [1, 7, 100, 1000])
def test_streams_that_do_not_tell_are_counted_by_their_bytes(end, count):
    p = Picking(workers=1)
    calibrated(p)
    started(p, "a")
    # The model is elsewhere altogether.
    p.run(5.0)
    assert tokens(p, "a", end, seen=sent(count)) == pytest.approx(count, abs=1)


def test_bytes_say_no_more_tokens_than_were_allowed():
    p = Picking(workers=1)
    calibrated(p)
    started(p, "a", max_tokens=30)
    assert tokens(p, "a", End.FINISHED, seen=sent(31)) == 30


def test_bytes_teach_no_pace():
    p = Picking(workers=1)
    calibrated(p)
    started(p, "a")
    p.run(2.0)
    scale = p.core.step_scale
    assert tokens(p, "a", End.FINISHED, seen=sent(5000)) == pytest.approx(5000, abs=1)
    assert p.core.step_scale == scale


@pytest.mark.parametrize(
    "more",
    [{"stream": False}, {"stream": False, "sequences": 2}, {"model": "other"}],
    ids=["whole", "several", "of another kind"],
)
def test_where_bytes_tell_nothing_the_model_counts(more):
    p = Picking(workers=1)
    calibrated(p)
    started(p, "a", **more)
    p.run(2.0)
    by_model = p.core._books.generated(p.core._books.known["a"]) * more.get("sequences", 1)
    assert by_model > 10
    assert tokens(p, "a", End.FINISHED, seen=sent(100)) == by_model


@pytest.mark.parametrize("sequences", [2, 4, 9], ids=["two", "four", "beyond slots"])
@pytest.mark.parametrize("end", [End.FINISHED, End.DISCONNECTED])
def test_streams_of_several_sequences_are_counted_by_their_bytes(end, sequences):
    p = Picking(workers=1)
    calibrated(p)
    started(p, "a", sequences=sequences)
    # To the end of the longest, which says nothing of the others.
    p.run(5.0)
    lengths = [10 + 30 * index for index in range(sequences)]
    whole = sum(sent(count).sent for count in lengths)
    seen = Seen(at_s=1.0, sent=whole, kind=COMPLETIONS, first_s=0.4, last_s=0.9)
    assert tokens(p, "a", end, seen=seen) == pytest.approx(sum(lengths), abs=sequences)


def test_the_model_counts_what_came_of_slots_where_sequences_take_turns():
    p = Picking(workers=1, slots=4)
    started(p, "a", stream=False, sequences=10)
    p.run(2.0)
    each = p.core._books.generated(p.core._books.known["a"])
    assert each > 10
    began_s = p.core._books.known["a"].begun[0]
    assert tokens(p, "a", End.FINISHED) == 4 * each
    # Of each slot, in which they come one after another.
    ended = p.log.of(Ended)[-1]
    assert ended.tpot_s == pytest.approx((ended.at_s - began_s) / (each - 1))


def test_each_sequence_that_has_finished_had_a_token_and_none_more_than_allowed():
    p = Picking(workers=1)
    started(p, "a", prompt_tokens=100_000, sequences=3)
    assert tokens(p, "a", End.FINISHED) == 3
    started(p, "b", stream=False, sequences=3, max_tokens=5)
    p.run(3.0)
    assert tokens(p, "b", End.FINISHED) == 15


@pytest.mark.parametrize("end", [End.REJECTED, End.REFUSED])
def test_an_error_is_no_token(end):
    p = Picking(workers=1)
    calibrated(p)
    started(p, "a")
    p.run(2.0)
    assert tokens(p, "a", end, seen=sent(1)) == 0


def test_what_broke_before_any_byte_had_no_token():
    p = Picking(workers=1)
    calibrated(p)
    for name, end in (("a", End.DISCONNECTED), ("b", End.WORKER_DIED), ("c", End.TIMEOUT)):
        started(p, name)
        p.run(2.0)
        # The error is the proxy's own.
        assert tokens(p, name, end, seen=sent(1, first_s=None, last_s=None)) == 0


def test_what_no_worker_took_had_no_token():
    p = Picking(workers=1)
    p.request("a", stream=True)
    p.run(2.0)
    assert tokens(p, "a", End.DISCONNECTED) == 0


def test_what_has_finished_had_a_token_however_far_the_model_is():
    p = Picking(workers=1)
    started(p, "a", prompt_tokens=100_000)
    assert tokens(p, "a", End.FINISHED) == 1


def test_engines_that_count_a_prompt_alone_have_generated_nothing():
    p = Picking(workers=1)
    started(p, "a", stream=False, max_tokens=1)
    p.run(1.0)
    assert tokens(p, "a", End.FINISHED, Usage(10, None)) == 0


def test_streams_of_one_length_tell_of_another():
    found = TokenBytes()
    for _ in range(3):
        found.learn("kind", 100, OPENING + 100 * EACH + USAGE)
    assert found.tokens("kind", OPENING + 100 * EACH) == pytest.approx(100, abs=1)
    assert found.tokens("kind", OPENING + 50 * EACH) == pytest.approx(50, abs=1)
    assert found.tokens("another", OPENING + 50 * EACH) is None
