"""What a load makes of endpoints, good and bad, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import resource
from dataclasses import replace

import aiohttp
import numpy as np
import pytest
from engine_client import engine_of
from load_servers import (
    DONE,
    EVENTS,
    PATIENCE_S,
    Cut,
    answer,
    loaded,
    params,
    requests,
    stream,
    token,
    usage,
    whole,
)
from rich.console import Console

from brsolver.errors import TraceError
from integration.load import http
from integration.load.http import open_session
from integration.load.kinds import Kind, excused
from integration.load.notes import notes_on
from integration.load.params import ContentParams, LoadError, Objectives, Pace
from integration.load.running import load
from integration.load.showing import counts_table

HEAD = f"HTTP/1.1 200 OK\r\n{EVENTS}"


def refusal(status, message):
    return answer({"error": {"message": message, "type": "x"}}, status=status)


CUT = Cut(f"{HEAD}Content-Length: 9999\r\n\r\n{token()}".encode())
FAILURES = {
    "cut in the stream": (CUT, Kind.BROKEN, "ClientPayloadError"),
    "no [DONE]": (stream(token()), Kind.BROKEN, r"without \[DONE\]"),
    "no token": (stream(DONE), Kind.BROKEN, "without a token"),
    "hangs up": (Cut(), Kind.BROKEN, "Server|reset|Disconnected"),
    "no HTTP": (Cut(b"what?\r\n\r\n"), Kind.MALFORMED, "ClientResponseError"),
    "no event": (stream("hello\n\n", token(), DONE), Kind.MALFORMED, "no event of a stream: hello"),
    "broken JSON": (stream('data: {"choices"\n\n', DONE), Kind.MALFORMED, "choices"),
    "error in the stream": (
        stream(token(), 'data: {"error":{"message":"out of memory"}}\n\n', DONE),
        Kind.SERVER_ERROR,
        "^out of memory$",
    ),
    "no stream": (
        answer({"choices": [{"text": "a"}], "usage": {"completion_tokens": 2}}),
        Kind.NOT_STREAMED,
        "answered with application/json and no stream",
    ),
    "no key": (refusal("401 Unauthorized", "who?"), Kind.UNAUTHORISED, "status 401: who"),
    "no model": (refusal("404 Not Found", "no such model"), Kind.NOT_FOUND, "no such model"),
    "too long": (
        refusal("400 Bad Request", "This model's maximum context length is 8 tokens."),
        Kind.TOO_LONG,
        "maximum context length",
    ),
    "refused": (refusal("422 Unprocessable", "ignore_eos?"), Kind.REFUSED, "status 422"),
    "too many": (refusal("429 Too Many Requests", "slower"), Kind.OVERLOADED, "slower"),
    "not ready": (answer("<html>", status="503 Busy"), Kind.OVERLOADED, "status 503: <html>"),
    "breaks": (refusal("500 Internal", "oops"), Kind.SERVER_ERROR, "status 500: oops"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_counted_by_kind_when_only_some_fail(name):
    bad, kind, why = FAILURES[name]
    found, _ = loaded(lambda asked, number: bad if number == 1 else whole(asked))
    assert found.figures.failed == {kind: 1}
    assert found.figures.complete == 3
    assert found.figures.output_tokens == 6
    (failed,) = [reply for reply in found.replies if not reply.complete]
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(failed.why)


@pytest.mark.parametrize("name", FAILURES)
def test_a_first_request_that_fails_ends_the_load_in_one_line(name):
    bad, kind, why = FAILURES[name]
    with pytest.raises(LoadError, match=why.strip("^$")) as error:
        loaded(lambda asked, number: bad, warm_up=1)
    assert f"the first request was {kind}: " in str(error.value)
    assert "\n" not in str(error.value)


def unended(*events):
    """A stream that says that it goes on."""
    return f"{HEAD}Content-Length: 9999\r\n\r\n{''.join(events)}".encode()


@pytest.mark.parametrize("given", [unended, lambda *events: Cut(unended(*events))])
def test_what_becomes_of_a_connection_after_done_is_no_failure(given, monkeypatch):
    monkeypatch.setattr(http, "REST_S", 0.05)
    found, _ = loaded(lambda asked, number: given(token(), token(), usage(2), DONE))
    assert (found.figures.complete, found.figures.output_tokens) == (4, 8)
    # But an error that came before is one.
    error = 'data: {"error":{"message":"out of memory"}}\n\n'
    found, _ = loaded(lambda asked, number: given(token(), error, DONE))
    assert found.figures.failed == {Kind.SERVER_ERROR: 4}


@contextlib.contextmanager
def no_more_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for each in held:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_client_that_may_open_no_more_files_does_not_blame_the_server():
    async def scenario():
        async with open_session(timeout_s=5.0, headers={}, tls=None) as session:
            with no_more_files():
                try:
                    await session.get("http://127.0.0.1:1/")
                except aiohttp.ClientError as error:
                    return excused(error)

    assert asyncio.run(scenario()) == (
        Kind.OUT_OF_FILES,
        "this client may have no more open files",
    )
    found, _ = loaded(lambda asked, number: whole(asked))
    figures = replace(found.figures, failed={Kind.OUT_OF_FILES: 3})
    (note,) = [each for each in notes_on(figures, params("http://127.0.0.1:1")) if "files" in each]
    assert note.startswith("3 requests could not be sent")
    assert "ulimit -n" in note


def test_a_redirection_that_drops_the_body_is_told_of():
    moved = answer("", status="302 Found", headers="Location: /v1/models\r\n")
    with pytest.raises(LoadError, match="was refused: status 302: redirects to http"):
        loaded(lambda asked, number: moved, warm_up=1)


def test_a_redirection_that_keeps_it_is_followed():
    moved = answer("", status="307 Moved", headers="Location: /v1/completions\r\n")
    found, _ = loaded(lambda asked, number: whole(asked) if number % 2 else moved, requests(1))
    assert found.figures.complete == 1


@pytest.mark.parametrize("said", ["[/b] [bold]", "\x1b[2J\ud800 \x07"])
def test_what_a_server_says_is_shown_as_text(said):
    found, _ = loaded(
        lambda asked, number: refusal("500 Internal", f"so {said} it is"),
        models={"data": [{"id": f"m{said}"}]},
    )
    screen = io.StringIO()
    Console(file=screen, width=200, highlight=False).print(counts_table(found))
    shown = "".join(each if each.isprintable() else "\ufffd" for each in said)
    assert f"so {shown} it is" in screen.getvalue()
    assert f"m{shown} on test" in screen.getvalue()


def test_what_takes_too_long_timed_out():
    found, _ = loaded(lambda asked, number: None, requests(2), timeout_s=0.05)
    assert found.figures.failed == {Kind.TIMEOUT: 2}
    assert found.figures.complete == 0
    assert found.figures.ttft.count == 0


def test_an_endpoint_that_is_not_there_is_one_line():
    with pytest.raises(LoadError, match=r"/v1/models: cannot be reached: ClientConnectorError"):
        asyncio.run(load(requests(), params("http://127.0.0.1:1")))


MODELS = {
    "none given": (answer("{}", status="404 Not Found"), None, "name the model with --model"),
    "several": ({"data": [{"id": "a"}, {"id": "b"}]}, None, "serves a, b; say which with --model"),
    "another": ({"data": [{"id": "a"}]}, "m", "model 'm' is not served, must be one of a"),
    "no key": (answer("", status="401 No"), "m", "not authorised .status 401., put a key into"),
    "no list": ({"data": 3}, None, "no list of models"),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_wrong_with_the_model_is_one_line(name):
    models, model, says = MODELS[name]
    with pytest.raises(LoadError, match=says):
        loaded(lambda asked, number: whole(asked), models=models, model=model)


def test_an_endpoint_without_a_list_of_models_is_believed():
    nothing = answer("{}", status="404 Not Found")
    found, got = loaded(lambda asked, _: whole(asked), models=nothing, model="mine")
    assert found.figures.complete == 4
    assert {asked.body["model"] for asked in got} == {"mine"}


def test_a_server_that_ends_early_is_told_of():
    told = []
    found, _ = loaded(
        lambda asked, number: stream(token(), usage(1), DONE),
        requests(3, output=5),
        warm_up=1,
        tell=told.append,
    )
    assert (found.figures.short, found.figures.complete) == (3, 3)
    assert told == [
        "the server ended the first request after 1 of 5 tokens: it does not heed ignore_eos"
    ]
    assert any("3 requests got fewer tokens than were asked for" in note for note in found.notes)


def test_ends_of_their_own_are_none_of_the_servers_faults():
    found, got = loaded(
        lambda asked, number: stream(token(), usage(1), DONE),
        requests(3, output=5),
        content=ContentParams(ignore_eos=False),
    )
    assert "ignore_eos" not in got[0].body
    assert not any("fewer tokens" in note for note in found.notes)


def test_without_usage_tokens_are_counted_and_that_is_said():
    told = []
    found, _ = loaded(
        lambda asked, number: stream(token(), token(), DONE), warm_up=1, tell=told.append
    )
    assert found.figures.output_tokens == 8
    assert found.figures.counted == 4
    assert told == ["the server tells no usage: tokens are counted from chunks"]
    assert any("counted from chunks" in note for note in found.notes)


@pytest.mark.parametrize("told", [-3, 0, 10**25])
def test_usage_that_cannot_be_is_none(told):
    found, _ = loaded(lambda asked, number: stream(token(), token(), usage(told, -7), DONE))
    assert (found.figures.output_tokens, found.figures.prompt_tokens) == (8, 12)
    assert found.figures.counted == 4


def test_tokens_are_the_usages_where_chunks_hold_several():
    found, _ = loaded(lambda asked, number: stream(token(), token(), usage(7, 11), DONE))
    assert (found.figures.output_tokens, found.figures.prompt_tokens) == (28, 44)
    assert found.figures.short == found.figures.counted == 0


def test_a_key_and_headers_go_with_every_request():
    found, got = loaded(
        lambda asked, number: whole(asked), key="sesame", headers={"X-Tenant": "me"}, warm_up=2
    )
    assert len(got) == 6
    assert {asked.headers["authorization"] for asked in got} == {"bearer sesame"}
    assert {asked.headers["x-tenant"] for asked in got} == {"me"}
    assert "sesame" not in repr(found)


def test_a_chat_is_asked_as_one():
    chunk = {"choices": [{"index": 0, "delta": {"content": "a"}}]}
    line = f"data: {json.dumps(chunk)}\n\n"
    found, got = loaded(
        lambda asked, number: stream(line * 2, usage(2), DONE),
        chat=True,
        content=ContentParams(prompts="text"),
    )
    assert found.figures.complete == 4
    assert {asked.path for asked in got} == {"/v1/chat/completions"}


def test_no_more_connections_than_allowed_and_waiting_counts():
    there = most = 0
    both = asyncio.Event()

    async def slow(asked, number):
        nonlocal there, most
        there += 1
        most = max(most, there)
        if number == 1:
            both.set()
        await both.wait()
        there -= 1
        return whole(asked)

    found, _ = loaded(slow, requests(6), max_connections=2)
    assert most == 2
    assert found.figures.complete == 6
    assert found.figures.peak == 2
    # All were due at once: whoever waited for a connection, waited.
    for reply in found.replies:
        assert reply.ttft_s > reply.first_s - reply.sent_s
        assert reply.ttft_s == pytest.approx(reply.late_s + reply.first_s - reply.sent_s)


def test_requests_that_are_too_long_are_told_of_or_left_out():
    told = []
    trace = requests(4, prompt=990, output=[5, 50, 10, 11])
    found, got = loaded(lambda asked, number: whole(asked), trace, tell=told.append)
    assert told == [
        "2 of 4 requests are longer than the context of m, 1000 tokens, and will fail; "
        "--drop-oversized leaves them out"
    ]
    assert len(got) == 4
    _, got = loaded(lambda asked, number: whole(asked), trace.take(np.array([1, 0])), warm_up=2)
    assert [asked.body["max_tokens"] for asked in got] == [5, 5, 50, 5]
    found, got = loaded(lambda asked, number: whole(asked), trace, fit=True)
    assert [asked.body["max_tokens"] for asked in got] == [5, 10]
    assert found.figures.requests == 2
    assert found.notes[0].endswith("1000 tokens: left out")
    with pytest.raises(LoadError, match="all 2 requests are longer than the context of m"):
        loaded(lambda asked, number: whole(asked), requests(2, prompt=2000))


def test_goodput_is_what_keeps_the_objectives():
    never, always = Objectives(ttft_s=1e-6), Objectives(ttft_s=1e5, tpot_s=1e5)
    assert loaded(lambda a, _: whole(a), objectives=never)[0].figures.good == 0
    assert loaded(lambda a, _: whole(a), objectives=always)[0].figures.good == 4
    assert loaded(lambda a, _: whole(a))[0].figures.good is None


def test_blocks_that_are_not_the_traces_are_refused_before_anything_is_sent():
    trace = requests(
        2, prompt=8, hash_offsets=np.array([0, 3, 6]), hash_values=np.array([1, 2, 3, 1, 2, 4])
    )
    got = []
    with pytest.raises(TraceError, match="must have at most 1"):
        loaded(lambda asked, _: got.append(asked), trace, content=ContentParams(block=8))
    assert not got


def test_prompts_share_what_the_trace_says():
    trace = requests(
        2, prompt=8, hash_offsets=np.array([0, 2, 4]), hash_values=np.array([1, 2, 1, 3])
    )
    _, got = loaded(lambda asked, _: whole(asked), trace, content=ContentParams(block=4))
    first, second = (asked.body["prompt"] for asked in got)
    assert first[:4] == second[:4]
    assert first[4:] != second[4:]


@pytest.mark.parametrize("pace", [Pace(), Pace(rate=500.0), Pace(concurrency=3)])
@pytest.mark.parametrize("chat", [False, True])
def test_a_fake_engine_gives_every_token(pace, chat):
    rng = np.random.default_rng(7)
    n = 40
    trace = requests(n, output=rng.integers(1, 30, n), arrival_s=np.linspace(0, 0.2, n))
    content = ContentParams(prompts="text" if chat else "ids")

    async def run():
        async with asyncio.timeout(PATIENCE_S), engine_of() as engine:
            given = params(engine.url, pace=pace, chat=chat, content=content, warm_up=1)
            return await load(trace, given)

    found = asyncio.run(run())
    figures = found.figures
    assert (figures.complete, figures.failures, figures.short) == (n, 0, 0)
    assert figures.output_tokens == trace.output_tokens.sum()
    assert figures.prompt_tokens == (trace.prompt_tokens.sum() + 4 * n * chat)
    assert figures.tpot.count == np.count_nonzero(trace.output_tokens > 1)
    for reply in found.replies:
        assert reply.due_s <= reply.sent_s <= reply.first_s <= reply.last_s <= reply.end_s
        assert len(reply.chunk_s) == reply.wanted
