"""Bodies and headers that nobody should send: no 5xx of the front door's own making, no crash.

Bodies are made from what vLLM publishes of its API. ``make fuzz`` sends thousands; a few of each
kind are among the other tests.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rig import openapi
from serve_stack import DEADLINE_S, Stack, idle

from integration.picker.bodies import kind_of

schemathesis = pytest.importorskip("schemathesis")

PUBLISHED = openapi.kept()
API = schemathesis.openapi.from_dict(PUBLISHED)
MODES = schemathesis.GenerationMode
STORMS = [
    (path, method.upper(), mode)
    for path, operations in PUBLISHED["paths"].items()
    for method, operation in operations.items()
    for mode in (MODES if "requestBody" in operation else [MODES.POSITIVE])
]
READ = [storm for storm in STORMS if kind_of(storm[0])]
"""Of what the picker reads; the rest passes it."""
BESIDE = [storm for storm in STORMS if storm not in READ]
QUICK = [
    *(storm for storm in READ if storm[0] == "/v1/completions"),
    ("/v1/responses", "POST", MODES.POSITIVE),
]
"""Whose bodies are soon made."""
OURS = ("x-gateway-destination-endpoint", "x-data-parallel-rank", "x-brsolver-id")
FORGED = (
    *OURS,
    "x-prefiller-host-port",
    "x-brsolver-anything",
    "x-gateway-destination-endpoint-subset",
)
BODY = json.dumps({"model": "fake", "prompt": "a", "max_tokens": 2}).encode()
REFUSED = (b"HTTP/1.1 4", b"HTTP/1.1 501")
"""501 is what HTTP asks for where a transfer coding is not known."""
FEW, SOME, BYTES = 12, 8, 400
MANY = {MODES.POSITIVE: 860, MODES.NEGATIVE: 150}
"""What a description does not allow takes seconds to think of where it says much."""
ENOUGH = 5000
ENGINE = ("--mean-output", "3", "--max-model-len", "256")
"""Answers are short, even those that are asked not to end."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    limits = {"upload_s": 1.0}
    with Stack(folder, slots=16, speed=500.0, engine=ENGINE, limits=limits) as running:
        yield running


@pytest.fixture(scope="module")
def answered():
    """How often which status came, by what was sent."""
    return Counter()


def examples(count):
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def unhurt(stack, before):
    """Nothing is left of all that, and nobody had to be started again."""
    audit = stack.audit()
    assert audit["balanced"]
    assert [w["state"] for w in audit["workers"]] == ["up", "up"]
    assert stack.picker == before
    assert not [line for line in stack.door.lines if "starting another" in line]


def named(storm):
    path, method, mode = storm
    return f"{method} {path} {mode.value}"


def send(stack, storm, count, answered):
    before = stack.picker
    path, method, mode = storm

    # No description says how the model is called that is served, and no other gets far.
    @given(case=API[path][method].as_strategy(generation_mode=mode), served=st.booleans())
    @examples(count)
    def bodies(case, served):
        if served and isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = "fake"
        answer = case.call(base_url=stack.url, timeout=DEADLINE_S)
        answered[named(storm), answer.status_code] += 1
        assert answer.status_code < 500, (answer.status_code, answer.text[:300], case.body)
        if answer.status_code >= 400:
            error = json.loads(answer.text)["error"]
            assert error["message"]
            assert "type" in error

    bodies()
    unhurt(stack, before)


def raw(stack, request):
    """Send bytes; return what came back, which may be nothing."""
    host, _, port = stack.url.removeprefix("http://").partition(":")
    received = b""
    with (
        socket.create_connection((host, int(port)), timeout=DEADLINE_S) as connection,
        contextlib.suppress(OSError),
    ):
        connection.sendall(request)
        while piece := connection.recv(65536):
            received += piece
    return received


def request(headers=(), *, body=BODY, length=True, target=b"/v1/completions"):
    lines = [b"POST " + target + b" HTTP/1.1", b"host: fuzz", b"connection: close"]
    lines.append(b"content-type: application/json")
    if length:
        lines.append(b"content-length: %d" % len(body))
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join([*lines, b"", b""]) + body


def send_bytes(stack, count, answered):
    before = stack.picker
    names = st.one_of(st.sampled_from([name.encode() for name in FORGED]), st.binary(max_size=20))
    headers = st.lists(st.tuples(names, st.binary(max_size=60)), max_size=6)
    targets = st.binary(max_size=30).map(lambda rest: b"/v1/completions" + rest)

    @given(headers=headers, body=st.one_of(st.just(BODY), st.binary(max_size=200)), target=targets)
    @examples(count)
    def headers_and_bodies(headers, body, target):
        first = raw(stack, request(headers, body=body, target=target))[:12]
        answered["bytes", first[9:].decode() or "closed"] += 1
        assert first.startswith(REFUSED) or not first.startswith(b"HTTP/1.1 5"), first

    headers_and_bodies()
    unhurt(stack, before)


@pytest.mark.parametrize("storm", QUICK, ids=named)
def test_bodies(stack, storm, answered):
    send(stack, storm, FEW, answered)


def test_headers_and_bytes(stack, answered):
    send_bytes(stack, 24, answered)


@pytest.mark.fuzz
@pytest.mark.parametrize("storm", READ, ids=named)
def test_many_bodies(stack, storm, answered):
    send(stack, storm, MANY[storm[-1]], answered)


@pytest.mark.fuzz
@pytest.mark.parametrize("storm", BESIDE, ids=named)
def test_many_bodies_that_pass_the_picker(stack, storm, answered):
    send(stack, storm, SOME, answered)


@pytest.mark.fuzz
def test_many_headers_and_bytes(stack, answered):
    send_bytes(stack, BYTES, answered)


@pytest.mark.fuzz
def test_enough_was_sent(answered):
    by_status = Counter()
    for (what, status), count in answered.items():
        sys.stdout.write(f"\n{count:6} {status} {what}")
        by_status[str(status)] += count
    sys.stdout.write(f"\n{by_status.total()} in all: {dict(by_status)}\n")
    assert by_status.total() >= ENOUGH


SMUGGLED = b"0\r\n\r\nPOST /v1/completions HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize(
    "smuggling",
    [
        request([(b"transfer-encoding", b"chunked")], body=SMUGGLED),
        request([(b"content-length", b"1")]),
        request([(b"transfer-encoding", b"chunked, identity")], body=SMUGGLED, length=False),
        request([(b"transfer-encoding", b"xchunked")], body=SMUGGLED, length=False),
        request([(b"x_forged", b"underscored")]),
        request([(b"x-a", b"b\r\nx-data-parallel-rank: 1\x00")]),
        request([(b"content-length", b"-1")], length=False),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused_and_reaches_no_worker(stack, smuggling):
    before = stack.seen.posts
    answer = raw(stack, smuggling)
    assert answer.startswith(REFUSED) or answer == b""
    assert answer.count(b"HTTP/1.1") <= 1
    assert stack.seen.posts == before


@pytest.mark.parametrize("name", FORGED)
@pytest.mark.parametrize("spelled", [str.lower, str.upper, str.title])
def test_forged_headers_reach_no_worker_and_decide_nothing(stack, name, spelled):
    tag = f"forged-{spelled(name)}"
    headers = [
        (spelled(name).encode(), b"10.255.255.1:1"),
        (b"x-tag", tag.encode()),
        (spelled(name).encode(), b"7"),
    ]
    answer = raw(stack, request(headers))
    assert answer.startswith(b"HTTP/1.1 200")
    (head,) = stack.seen.heads[tag]
    assert b"10.255.255.1" not in head
    lines = [line for line in head.lower().split(b"\r\n") if line.startswith(name.encode() + b":")]
    assert all(line.partition(b":")[2].strip() != b"7" for line in lines)


def test_nothing_is_left_at_the_end(stack):
    import asyncio

    assert idle(asyncio.run(stack.until_idle()))
