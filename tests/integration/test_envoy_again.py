"""What a worker did not take goes through a real Envoy once more, and the picker decides again."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from front_door import PATIENCE_S, FrontDoor, certificate, front_door, in_turn, raw, to

from integration.envoy import routes
from integration.messages import names
from integration.settings import Limits, Listen, load

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = Limits(backoff_ms=1.0, max_backoff_ms=5.0)
HOSTS = ("my_engine:8000", "a:b:c", "user@there", "[::1]:80", "%41", "!$&'()*+,;=")
"""Whom clients may say that they speak to; URLs may not name all of them."""


def seen(front: FrontDoor, at: int) -> tuple[dict[str, str], bytes]:
    """Headers and body of the one request that an engine got."""
    [(request, body)] = front.engines[at].requests
    return {name.lower(): value for name, value in request.headers.items()}, body


@pytest.mark.parametrize("size", [10, 3 * 2**20])
def test_the_picker_is_asked_again_and_nothing_is_lost(tmp_path: Path, size: int) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, limits=LIMITS) as front:
            first, second = front.engines
            first.breaks = True
            decisions = [to(first, "r0", **{names.RANK: "3"}), to(second, "r0.1")]
            front.door.decide = lambda request, body: decisions.pop(0)
            path = "/v1/completions?a=%20b&c=http://d/e"
            status, headers, content = await front.post({"say": "x" * size}, path=path)
            assert status == 200
            assert content.count(b"x" * size) == 1
            [came_back] = front.door.returned
            assert came_back.headers[names.ID] == "r0"
            asked, again = front.door.asked
            assert names.AGAIN not in asked.headers
            assert again.headers[names.AGAIN] == "r0"
            assert asked.headers["x-request-id"] == again.headers["x-request-id"]
            assert front.door.bodies[0] == front.door.bodies[1]
            (before, body), (after, body_again) = seen(front, 0), seen(front, 1)
            assert body == body_again == front.door.bodies[0]
            assert second.requests[0][0].raw_path == path
            assert before[names.RANK] == "3"
            differ = {names.RANK, names.ID}
            assert {k: v for k, v in before.items() if k not in differ} == {
                k: v for k, v in after.items() if k not in differ
            }
            assert after[names.ID] == "r0.1"
            assert names.RANK not in after
            assert not any(name.startswith(names.OWN) for name in map(str.lower, headers))
            # Of the stream that began anew nothing is told.
            await front.log.wait_for("UpstreamPoolReady", 3)
            [end] = await front.log.wait_for("DownstreamEnd")
            assert end.request.request_headers[names.ID] == "r0.1"

    asyncio.run(scenario())


def test_it_is_asked_as_often_as_a_request_may_be_tried(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = Limits(retries=3, backoff_ms=1.0, max_backoff_ms=5.0)
        async with front_door(tmp_path, engines=5, limits=limits) as front:
            front.door.decide = in_turn(*front.engines[:4], last=True)
            status, _, content = await front.post({"fail": 503})
            # What the last one answered.
            assert (status, content) == (503, b"the engine says no")
            assert [len(each.requests) for each in front.engines] == [1, 1, 1, 1, 0]
            assert len(front.door.asked) == 4
            assert len(front.door.returned) == 3

    asyncio.run(scenario())


def test_clients_may_name_whom_they_like(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, limits=LIMITS) as front:
            first, second = front.engines
            first.breaks = True
            for host in HOSTS:
                second.requests.clear()
                front.door.decide = in_turn(first, second)
                head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-length: 2"
                answer = await raw(front, head.encode() + b"\r\n\r\n{}")
                assert answer.startswith(b"HTTP/1.1 200 "), (host, answer)
                assert seen(front, 1)[0]["host"] == host

    asyncio.run(scenario())


def test_under_tls_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        certificate(tmp_path)
        pair = {"certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
        async with front_door(tmp_path / "envoy", limits=LIMITS, listen=Listen(**pair)) as front:
            front.engines[0].breaks = True
            front.door.decide = in_turn(*front.engines)
            assert (await front.post({}, ssl=False))[0] == 200
            assert seen(front, 1)[0]["x-forwarded-proto"] == "https"

    asyncio.run(scenario())


def test_key_and_rate_are_looked_at_once(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("one=very-secret\n")
    (tmp_path / "serve.toml").write_text(
        '[workers]\naddresses = ["127.0.0.1:1"]\n[auth]\nkeys_file = "keys"\n'
    )
    keys = load(tmp_path / "serve.toml").keys

    async def scenario() -> None:
        limits = Limits(rate=0.01, burst=1, backoff_ms=1.0)
        async with front_door(tmp_path / "envoy", limits=limits, keys=keys) as front:
            front.engines[0].breaks = True
            front.door.decide = in_turn(*front.engines)
            headers = {"authorization": "Bearer very-secret", names.AGAIN: "forged"}
            assert (await front.post({}, headers=headers))[0] == 200
            assert "authorization" not in seen(front, 1)[0]
            assert names.CLIENT not in seen(front, 1)[0]
            assert names.AGAIN not in front.door.asked[0].headers
            assert (await front.post({}, headers=headers))[0] == 429
            # The way past the key is no client's.
            for forged in ({names.AGAIN: "r0"}, {names.AGAIN: "r0", names.ID: "r0"}):
                assert (await front.post({}, headers=forged))[0] == 401
            assert len(front.door.asked) == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [307, 308])
def test_what_an_engine_answers_leads_nobody_anywhere(tmp_path: Path, status: int) -> None:
    async def redirects(request: web.Request) -> web.Response:
        if request.path == "/health":
            return web.Response()
        came.append(request)
        headers = {
            "location": f"http://{request.headers['host']}/v1/embeddings",
            names.AGAIN: "r0",
            names.ID: "r7",
            names.HOST: "elsewhere",
        }
        return web.Response(status=status, headers=headers, text="over there")

    came: list[web.Request] = []

    async def scenario() -> None:
        async with front_door(tmp_path, engines=1, limits=LIMITS) as front:
            [engine] = front.engines
            await engine.stop()
            await engine._start(redirects)
            await front.healthy(1)
            front.door.decide = in_turn(engine)
            answer, headers, content = await front.post({}, allow_redirects=False)
            assert (answer, content) == (status, b"over there")
            assert headers["location"].endswith("/v1/embeddings")
            assert not any(name.startswith(names.OWN) for name in map(str.lower, headers))
            assert len(came) == len(front.door.asked) == 1
            assert not front.door.returned

    asyncio.run(scenario())


def test_a_picker_that_dies_in_between_is_done_without(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, engines=3, limits=LIMITS) as front:
            gone = asyncio.Event()

            async def dies(request: web.Request, body: bytes) -> Any:
                asyncio.ensure_future(front.door.stop()).add_done_callback(lambda _: gone.set())
                return to(front.engines[0], **{names.RANK: "3"})

            front.engines[0].silent = True
            front.door.decide = dies
            running = asyncio.create_task(front.post({}))
            async with asyncio.timeout(PATIENCE_S):
                await gone.wait()
                while not front.engines[0].requests:
                    await asyncio.sleep(0)
            # Only now it breaks; nobody answers the question.
            transport = front.engines[0].requests[0][0].transport
            assert transport is not None
            transport.abort()
            assert (await running)[0] == 200
            assert sum(len(each.requests) for each in front.engines[1:]) == 1

    asyncio.run(scenario())


def test_a_picker_that_dies_before_it_is_asked_again_is_done_without(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, engines=3, limits=LIMITS) as front:
            first = front.engines[0]
            first.breaks = True

            def decide(request: web.Request, body: bytes) -> Any:
                if names.AGAIN not in request.headers:
                    return to(first, **{names.RANK: "3"})
                assert request.transport is not None
                request.transport.abort()
                return {}

            front.door.decide = decide
            # Whom it has in mind Envoy does not know: perhaps the one that breaks, too.
            first.breaks = True
            assert (await front.post({}))[0] == 200
            others = [each for each in front.engines[1:] if each.requests]
            assert len(others) == 1
            [(request, _)] = others[0].requests
            # Nothing is left of what was decided once.
            assert not {names.ID, names.RANK, names.AGAIN} & set(request.headers)

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [429, 503])
def test_where_nobody_else_can_take_it_there_is_one_error(tmp_path: Path, status: int) -> None:
    error = b'{"error": {"message": "no"}}'

    def decide(request: web.Request, body: bytes) -> Any:
        if names.AGAIN not in request.headers:
            return {names.ENDPOINT: "", names.ID: "r0"}
        if status == 503:
            return {names.REFUSAL: "503", names.RETRY_AFTER: "1"}
        return web.Response(status=429, body=error, content_type="application/json")

    async def scenario() -> None:
        async with front_door(tmp_path, limits=LIMITS) as front:
            for each in front.engines:
                each.breaks = True
            front.door.decide = decide
            answer, headers, content = await front.post({})
            assert answer == status
            assert headers["content-type"] == "application/json"
            assert content.count(b'"error"') == 1
            assert len(front.door.asked) == 2

    asyncio.run(scenario())


def test_a_redirect_that_leads_no_further_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "_REDIRECTS", 3)

    async def scenario() -> None:
        async with front_door(tmp_path, limits=LIMITS) as front:
            for each in front.engines:
                each.breaks = True
            # A picker that does not count.
            front.door.decide = lambda request, body: to(front.engines[0])
            status, headers, content = await front.post({}, allow_redirects=False)
            assert len(front.door.returned) == 4
            assert status == 503
            assert json.loads(content)["error"]["type"] == "overloaded_error"
            assert headers["retry-after"] == "1"
            assert "location" not in headers
            # It harms nobody after it.
            front.engines[0].breaks = False
            assert (await front.post({}))[0] == 200

    asyncio.run(scenario())


def test_one_that_holds_it_again_may_take_its_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, limits=Limits(idle_s=0.3, backoff_ms=1.0)) as front:
            held, let_go = asyncio.Event(), asyncio.Event()

            async def decide(request: web.Request, body: bytes) -> Any:
                if names.AGAIN not in request.headers:
                    return to(front.engines[0])
                held.set()
                await let_go.wait()
                return to(front.engines[1], "r2")

            front.engines[0].silent = True
            front.door.decide = decide
            running = asyncio.create_task(front.post({}))
            leaving = asyncio.create_task(front.post({}))
            await held.wait()
            async with asyncio.timeout(PATIENCE_S):
                while len(front.door.asked) < 4:
                    await asyncio.sleep(0)
            leaving.cancel()
            with pytest.raises((asyncio.CancelledError, aiohttp.ClientError)):
                await leaving
            let_go.set()
            assert (await running)[0] == 200

    asyncio.run(scenario())
