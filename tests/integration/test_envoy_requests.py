"""Requests through a real Envoy: what is taken off, added, refused and told."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from front_door import USAGE, front_door, in_turn, raw, to
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integration.messages import names
from integration.settings import ApiKey, Auth, Door, Limits

if TYPE_CHECKING:
    from pathlib import Path

LINES = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
FORGED = {
    "X-Gateway-Destination-Endpoint": "127.0.0.1:1",
    "x-gateway-destination-endpoint-served": "127.0.0.1:1",
    "x-gateway-destination-endpoint-subset": "127.0.0.1:1",
    "X-Data-Parallel-Rank": "7",
    "x-prefiller-host-port": "127.0.0.1:1",
    "X-BRSolver-Id": "forged",
    "x-brsolver-client": "forged",
    "x-brsolver-refusal": "503",
    "x-envoy-max-retries": "9",
    "x-envoy-upstream-rq-timeout-ms": "1",
}


def error(status: int, content: bytes) -> dict[str, Any]:
    """The error that an answer holds in OpenAI's format."""
    found = json.loads(content)
    assert set(found) == {"error"}
    assert set(found["error"]) == {"message", "type", "param", "code"}
    assert found["error"]["code"] == status
    assert found["error"]["message"]
    return found["error"]


def fields(entry: Any, namespace: str) -> dict[str, Any]:
    """What a namespace of an entry's metadata holds."""
    values = entry.common_properties.metadata.filter_metadata[namespace].fields
    return {name: getattr(v, v.WhichOneof("kind")) for name, v in values.items()}


def test_forged_headers_reach_neither_door_nor_engine(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path) as front:
            front.door.decide = lambda request, body: to(front.engines[1], **{names.RANK: "3"})
            asked = {"x-request-id": "the client's own", **FORGED}
            status, headers, _ = await front.post({"a": 1}, headers=asked)
            assert (status, headers["x-request-id"]) == (200, "the client's own")
            [request] = front.door.asked
            [(reached, body)] = front.engines[1].requests
            assert not front.engines[0].requests
            for name, value in FORGED.items():
                assert value not in request.headers.getall(name, [])
                assert value not in reached.headers.getall(name, [])
            assert body == front.door.bodies[0] == b'{"a": 1}'
            assert reached.headers[names.RANK] == "3"
            assert reached.headers[names.ID] == "r1"
            assert reached.headers["x-request-id"] == "the client's own"
            assert names.ENDPOINT not in reached.headers
            assert (request.method, request.path) == ("POST", "/v1/completions")

    asyncio.run(scenario())


@pytest.mark.parametrize("streamed", [True, False])
def test_starts_ends_identity_and_usage_arrive(tmp_path: Path, streamed: bool) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path) as front:
            front.door.decide = lambda request, body: to(front.engines[0], "own-1")
            posted = asyncio.create_task(front.post({"stream": streamed, "gated": streamed}))
            [start] = await front.log.wait_for("UpstreamPoolReady")
            assert start.request.request_headers[names.ID] == "own-1"
            where = start.common_properties.upstream_remote_address.socket_address
            assert where.port_value == front.engines[0].port
            front.engines[0].gate.set()
            assert (await posted)[0] == 200
            [end] = await front.log.wait_for("DownstreamEnd")
            assert end.request.request_headers[names.ID] == "own-1"
            assert fields(end, names.AUTHZ)[names.ID] == "own-1"
            assert fields(end, names.LB)[names.SERVED] == front.engines[0].address
            assert fields(end, names.USAGE) == {
                names.PROMPT: USAGE["prompt_tokens"],
                names.COMPLETION: USAGE["completion_tokens"],
            }
            assert end.common_properties.duration.ToNanoseconds() > 0

    asyncio.run(scenario())


@pytest.mark.parametrize("door", ["ext_authz", "ext_proc"])
@pytest.mark.parametrize(
    ("path", "often"), [("/v1/completions", 5 * 2**20), ("/v1/embeddings?a=b", 40 * 2**20)]
)
def test_long_answers_pass_whole(tmp_path: Path, door: Any, path: str, often: int) -> None:
    async def scenario() -> None:
        limits, picker = Limits(body_bytes=1024), Door(door=door)
        async with front_door(tmp_path, engines=1, limits=limits, picker=picker) as front:
            front.door.decide = lambda request, body: to(front.engines[0])
            status, _, content = await front.post({"say": "x", "often": often}, path)
            assert status == 200
            assert content.count(b"x") == often + 1  # and that of "text"

    asyncio.run(scenario())


def test_what_the_picker_has_not_placed_is_told_of_only_where_it_has_tokens(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, engines=1) as front:
            assert (await front.post({}, "/nowhere"))[0] == 404
            # As one that Envoy routed while there was no picker.
            assert (await front.post({}))[0] == 200
            front.door.decide = lambda request, body: to(front.engines[0], "placed")
            assert (await front.post({}))[0] == 200
            ends = await front.log.wait_for("DownstreamEnd", 2)
            assert [end.request.request_headers[names.ID] for end in ends] == ["", "placed"]

    asyncio.run(scenario())


def test_a_client_that_leaves_is_told_of(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path) as front:
            front.door.decide = lambda request, body: to(front.engines[0])
            posted = asyncio.create_task(front.post({"stream": True, "gated": True}))
            await front.engines[0].reached.wait()
            posted.cancel()
            [end] = await front.log.wait_for("DownstreamEnd")
            assert end.common_properties.response_flags.downstream_connection_termination

    asyncio.run(scenario())


SMUGGLED = {
    "length and chunks": b"content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nX",
    "two lengths": b"content-length: 6\r\ncontent-length: 5\r\n\r\n{}    ",
    "two encodings": b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
    "another encoding": b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a blank before the colon": b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "a signed length": b"content-length: +2\r\n\r\n{}",
    "an underscore": b"content-length: 2\r\nx_data_parallel_rank: 1\r\n\r\n{}",
    "a nought": b"content-length: 2\r\na: b\0c\r\n\r\n{}",
    "many headers": b"".join(b"a%d: b\r\n" % at for at in range(120))
    + b"content-length: 0\r\n\r\n",
    "long headers": b"a: " + b"x" * 70_000 + b"\r\ncontent-length: 2\r\n\r\n{}",
}


def test_what_smuggles_is_refused_in_openai_format(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, engines=1) as front:
            for name, lines in SMUGGLED.items():
                answer = await raw(front, LINES + lines)
                head, _, content = answer.partition(b"\r\n\r\n")
                status = int(head.split()[1])
                assert status in {400, 431, 501}, name
                error(status, content)
            assert not front.door.asked
            assert not front.engines[0].requests

    asyncio.run(scenario())


def test_headers_hidden_in_lines_are_seen(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, engines=1) as front:
            front.door.decide = lambda request, body: to(front.engines[0])
            for lines in (b"content-length: 2\n", b"content-length: 2\r\na: b\r\n "):
                rank = names.RANK.encode() + b": 4\r\n\r\n{}"
                assert b" 200 OK" in await raw(front, LINES + lines + rank)
            for request, _ in front.engines[0].requests:
                assert names.RANK not in request.headers

    asyncio.run(scenario())


OURS = st.builds(
    "{}{}".format,
    st.sampled_from([names.OWN, "x-envoy-"]),
    st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12),
)
CASES = st.lists(st.tuples(OURS, st.booleans()), min_size=30, max_size=30)


@given(drawn=CASES)
@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_header_of_ours_comes_from_outside(
    tmp_path: Path, drawn: list[tuple[str, bool]]
) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, engines=1) as front:
            for name, shouted in drawn:
                forged = {name.upper() if shouted else name: "forged"}
                assert (await front.post({}, headers=forged))[0] == 200
            for request in (*front.door.asked, *(r for r, _ in front.engines[0].requests)):
                assert "forged" not in request.headers.values()

    asyncio.run(scenario())


def test_a_body_that_does_not_come_is_408(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, engines=1, limits=Limits(upload_s=0.2)) as front:
            answer = await raw(front, LINES + b"content-length: 9\r\n\r\n{")
            assert answer.startswith(b"HTTP/1.1 408 ")
            error(408, answer.partition(b"\r\n\r\n")[2])
            assert not front.engines[0].requests

    asyncio.run(scenario())


def test_upgrades_and_tunnels_are_refused_in_words(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, engines=1) as front:
            upgrade = b"GET /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\n"
            for lines in (
                upgrade + b"upgrade: websocket\r\n",
                b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n",
            ):
                answer = await raw(front, lines + b"\r\n")
                error(int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2])
            assert not front.engines[0].requests

    asyncio.run(scenario())


def test_headers_that_an_engine_sends_back_stay_here(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, engines=1) as front:
            front.door.decide = lambda request, body: to(front.engines[0], **{names.RANK: "1"})
            status, headers, _ = await front.post({"echo": True})
            assert (status, headers["x-of-the-engine"]) == (200, "1")
            assert not {names.ID, names.RANK, names.ENDPOINT} & {name.lower() for name in headers}

    asyncio.run(scenario())


def test_paths_that_are_not_offered(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, engines=1) as front:
            asked = {
                ("GET", "/metrics"): 404,
                ("POST", "/v1/../sleep"): 404,
                ("POST", "/v1%2f..%2fsleep"): 400,
                ("TRACE", "/v1/models"): 404,
                ("GET", "/v1/models"): 200,
                ("GET", "/health"): 200,
            }
            for (method, path), expected in asked.items():
                line = f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
                answer = await raw(front, line.encode())
                assert int(answer.split()[1]) == expected, path
                if expected >= 400:
                    error(expected, answer.partition(b"\r\n\r\n")[2])
            assert [request.path for request, _ in front.engines[0].requests] == ["/v1/models"]
            assert not front.door.asked

    asyncio.run(scenario())


@pytest.mark.parametrize("door", ["ext_authz", "ext_proc"])
def test_a_body_over_the_limit_is_413(tmp_path: Path, door: Any) -> None:
    async def scenario() -> None:
        limits = Limits(body_bytes=100_000)
        async with front_door(tmp_path, engines=1, limits=limits, picker=Door(door=door)) as front:
            status, _, content = await front.post(b"x" * 100_001)
            assert error(status, content)["type"] == "invalid_request_error"
            assert status == 413
            status, _, _ = await front.post(b"x" * 99_999)
            assert status == 200
            [(_, body)] = front.engines[0].requests
            assert body == b"x" * 99_999

    asyncio.run(scenario())


@pytest.mark.parametrize("door", ["ext_authz", "ext_proc"])
def test_headers_up_to_the_limit_leave_room_for_the_pickers(tmp_path: Path, door: Any) -> None:
    limits = Limits(headers=40, header_bytes=4096, backoff_ms=1.0)

    async def scenario() -> None:
        async with front_door(tmp_path, limits=limits, picker=Door(door=door)) as front:
            for more in (*range(30, 60), *range(3000, 7000, 100)):
                # Nobody is at ext_proc's door here: Envoy goes by itself, maybe there every time.
                front.engines[0].breaks = door == "ext_authz"
                front.door.decide = in_turn(*front.engines)
                # Three lines are there already.
                lines = [b"a%d: b" % n for n in range(more - 3)] if more < 100 else []
                lines = lines or [b"a: " + b"x" * more]
                lines = [b"content-length: 2", *lines, b"", b"{}"]
                head, _, content = (await raw(front, LINES + b"\r\n".join(lines))).partition(
                    b"\r\n\r\n"
                )
                status = int(head.split()[1])
                fits = more <= 40 or 100 < more <= 3900
                assert status in ({200} if fits else {200, 431}), (more, head)
                if status == 431:
                    assert error(431, content)["type"] == "invalid_request_error"
            assert status == 431

    asyncio.run(scenario())


def test_keys_and_their_rates(tmp_path: Path) -> None:
    async def scenario() -> None:
        keys = (ApiKey("anna", "sk-1"), ApiKey("bert", "sk-2"))
        limits = Limits(rate=0.05, burst=3)
        async with front_door(tmp_path, engines=1, limits=limits, keys=keys) as front:
            for headers in ({}, {"authorization": "Bearer sk-3"}, {"authorization": "sk-"}):
                status, got, content = await front.post({}, headers=headers)
                assert (status, got["www-authenticate"]) == (401, "Bearer")
                assert error(401, content)["type"] == "authentication_error"
            anna = {"authorization": "Bearer sk-1"}
            answers = [await front.post({}, headers=anna) for _ in range(4)]
            assert [answer[0] for answer in answers] == [200, 200, 200, 429]
            assert answers[-1][1]["retry-after"] == "20"
            assert error(429, answers[-1][2])["type"] == "rate_limit_error"
            assert (await front.post({}, headers={"x-api-key": "sk-2"}))[0] == 200
            told = [request.headers[names.CLIENT] for request in front.door.asked]
            assert told == ["anna"] * 3 + ["bert"]
            for request, _ in front.engines[0].requests:
                assert "authorization" not in request.headers
                assert "x-api-key" not in request.headers
                assert names.CLIENT not in request.headers

    asyncio.run(scenario())


def test_rates_of_clients_without_keys_and_keys_that_go_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path / "a", engines=1, limits=Limits(rate=0.01)) as front:
            assert [(await front.post({}))[0] for _ in range(2)] == [200, 429]
        keys, auth = (ApiKey("anna", "sk-1"),), Auth(forward=True)
        async with front_door(tmp_path / "b", engines=1, keys=keys, auth=auth) as front:
            assert (await front.post({}, headers={"authorization": "Bearer sk-1"}))[0] == 200
            [(request, _)] = front.engines[0].requests
            assert request.headers["authorization"] == "Bearer sk-1"
            assert "authorization" not in front.door.asked[0].headers

    asyncio.run(scenario())


def test_what_the_door_refuses_goes_out_as_it_is(tmp_path: Path) -> None:
    refused = {"error": {"message": 'full: "a"\n', "type": "t", "param": None, "code": 429}}

    async def scenario() -> None:
        async with front_door(tmp_path, engines=1) as front:
            front.door.decide = lambda request, body: web.json_response(
                refused, status=429, headers={"retry-after": "7"}
            )
            status, headers, content = await front.post({})
            assert (status, headers["retry-after"], json.loads(content)) == (429, "7", refused)
            front.door.decide = lambda request, body: {names.REFUSAL: "503"}
            status, headers, content = await front.post({})
            assert (status, headers["retry-after"]) == (503, "1")
            assert error(503, content)["type"] == "overloaded_error"
            assert not front.engines[0].requests

    asyncio.run(scenario())


TEXTS = st.text(
    st.characters(codec="latin-1", exclude_characters="\r\n\0"), min_size=1, max_size=60
)


@given(texts=st.lists(TEXTS, min_size=20, max_size=20))
@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_local_replies_are_json_whatever_the_path_says(tmp_path: Path, texts: list[str]) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, engines=1) as front:
            for text in texts:
                line = b"GET /" + text.encode("latin-1") + b" HTTP/1.1\r\nhost: x\r\n"
                answer = await raw(front, line + b"connection: close\r\n\r\n")
                status = int(answer.split()[1])
                assert status in {400, 404}
                error(status, answer.partition(b"\r\n\r\n")[2])

    asyncio.run(scenario())
