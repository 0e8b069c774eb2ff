"""What is made of a stream's bytes, however they are cut."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from load_servers import DONE, event, token, usage

from integration.load.answers import MAX_LINE, Answer, reason_of

ROLE = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
WORD = event({"choices": [{"index": 0, "delta": {"content": "a"}}]})


def fed(*pieces: str | bytes, chat: bool = False) -> Answer:
    answer = Answer(chat=chat)
    for at, piece in enumerate(pieces, 1):
        answer.feed(piece.encode() if isinstance(piece, str) else piece, float(at))
    answer.close(len(pieces) + 1.0)
    return answer


@given(data=st.data(), tokens=st.integers(1, 20), breaks=st.sampled_from(["\n", "\r\n"]))
def test_cuts_and_line_ends_change_nothing(data, tokens, breaks):
    text = ": ping\n\n" + token('quotes "usage":{ and "error"') * tokens + usage(tokens, 7) + DONE
    raw = text.replace("\n", breaks).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    pieces = [raw[a:b] for a, b in pairwise([0, *cuts, len(raw)])]
    answer = fed(*pieces)
    assert answer.chunks == tokens
    assert answer.count("completion_tokens") == tokens
    assert answer.count("prompt_tokens") == 7
    assert (answer.done, answer.malformed, answer.error) == (1, "", "")
    assert list(answer.chunk_s) == sorted(answer.chunk_s)
    assert (answer.first_s, answer.last_s) == (answer.chunk_s[0], answer.chunk_s[-1])


def test_times_are_those_of_the_first_and_the_last_chunk_with_tokens():
    answer = fed(": nothing\n\n", token(), token() + token(), usage(3), DONE)
    assert (answer.first_s, answer.last_s) == (2.0, 3.0)
    assert list(answer.chunk_s) == [2.0, 3.0, 3.0]


def test_a_role_alone_is_no_token_of_a_chat():
    answer = fed(ROLE, WORD, WORD, usage(2), DONE, chat=True)
    assert (answer.first_s, answer.chunks) == (2.0, 2)


def test_thoughts_and_calls_of_tools_are_tokens():
    thought = event({"choices": [{"delta": {"role": "assistant", "reasoning_content": "so"}}]})
    assert fed(ROLE, thought, chat=True).first_s == 2.0
    call = event({"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]})
    assert fed(ROLE, call, chat=True).first_s == 2.0


def test_a_chat_that_says_nothing_began_all_the_same():
    answer = fed(ROLE, usage(1), DONE, chat=True)
    assert (answer.first_s, answer.chunks) == (1.0, 1)


def test_usage_in_every_chunk_is_not_counted_twice():
    chunk = {"choices": [{"text": "a"}]}
    running = [event(chunk | {"usage": {"completion_tokens": k}}) for k in (1, 2, 3)]
    answer = fed(*running)
    assert not answer.ended
    answer = fed(*running, DONE)
    assert answer.ended
    assert (answer.chunks, answer.count("completion_tokens")) == (3, 3)


@pytest.mark.parametrize(
    "bad",
    [
        "data: {broken\n\n",
        "data: 17\n\n",
        "<html>\n",
        token() + "data: cut off}\n\n",
        token() + 'data: {"choices":[\n\n',
    ],
)
def test_what_is_none_of_a_streams_is_kept(bad):
    assert fed(bad, DONE).malformed != ""


def test_a_line_without_end_is_not_kept_for_ever():
    answer = fed(*[b"x" * 2**20] * 9)
    assert answer.malformed.startswith("xxx")
    assert len(answer._tail) <= MAX_LINE


@pytest.mark.parametrize(
    "told", [{"error": {"message": "engine died"}}, {"object": "error", "message": "engine died"}]
)
def test_an_error_in_the_stream_is_kept(told):
    answer = fed(token(), event(told))
    assert reason_of(answer.error) == "engine died"


def test_what_is_heeded_can_end_it():
    class EnoughError(Exception):
        pass

    def heed(answer):
        if answer.chunks == 2:
            raise EnoughError

    answer = Answer(heed=heed)
    answer.feed(token().encode(), 1.0)
    with pytest.raises(EnoughError):
        answer.feed((token() * 5).encode(), 2.0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"error": {"message": "too\\nlong"}}', "too long"),
        ('{"detail": "Not Found"}', "Not Found"),
        ('{"error": "busy"}', "busy"),
        ("<html>\n no </html>", "<html> no </html>"),
        ("", ""),
        ("\x1b[2Jgone\x00", "\ufffd[2Jgone\ufffd"),
        ("[" * 100_000, "[" * 400 + "…"),
    ],
)
def test_errors_are_told_in_one_line(text, reason):
    assert reason_of(text) == reason


def test_usage_that_is_no_number_counts_as_none():
    answer = fed(token(), 'data: {"usage":{"completion_tokens":true}}\n\n')
    assert answer.count("completion_tokens") is None
    assert json.dumps(answer.usage) == '{"completion_tokens": true}'
