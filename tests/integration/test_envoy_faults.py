"""What breaks around a real Envoy, and what clients see of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from front_door import (
    PATIENCE_S,
    Engine,
    FrontDoor,
    certificate,
    front_door,
    in_turn,
    to,
)
from small_http2 import connected

from integration.envoy import EnvoyAdmin
from integration.free_ports import free_port
from integration.messages import names
from integration.settings import Limits

if TYPE_CHECKING:
    from pathlib import Path

STREAM = {"stream": True, "gated": True}


def through(*engines: Any) -> dict[str, str]:
    """What the door says to try engines one after the other."""
    return {names.ENDPOINT: ",".join(engine.address for engine in engines), names.ID: "r1"}


def count(front: FrontDoor) -> list[int]:
    return [len(engine.requests) for engine in front.engines]


async def taken(front: FrontDoor) -> None:
    """Wait until a request is answered: Envoy's threads hear of workers one after the other."""
    async with asyncio.timeout(PATIENCE_S):
        while (await front.post({}))[0] != 200:
            pass


async def never() -> None:
    await asyncio.Event().wait()


def test_held_requests_of_a_dead_door_go_on_and_running_streams_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path) as front:
            front.door.decide = lambda request, body: to(front.engines[0])
            running = asyncio.create_task(front.post(STREAM))
            await front.engines[0].reached.wait()
            front.door.waiting.clear()
            front.door.decide = lambda request, body: never()
            held = [asyncio.create_task(front.post({"say": f"held {at}"})) for at in range(5)]
            await front.door.waiting.wait()
            await front.door.stop()
            async with asyncio.timeout(PATIENCE_S):
                answers = await asyncio.gather(*held)
            assert [answer[0] for answer in answers] == [200] * 5
            assert (await front.post({"say": "unasked"}))[0] == 200
            front.engines[0].gate.set()
            status, _, content = await running
            assert status == 200
            assert content.endswith(b"data: [DONE]\n\n")
            await front.door.start()
            front.door.decide = lambda request, body: to(front.engines[1])
            before = len(front.door.asked)
            assert (await front.post({}))[0] == 200
            assert len(front.door.asked) == before + 1

    asyncio.run(scenario())


def test_a_worker_that_breaks_before_its_first_byte_is_followed_by_the_next(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, engines=3) as front:
            first, second, third = front.engines
            front.door.decide = in_turn(second, third)
            second.breaks = True
            status, _, _ = await front.post({})
            assert (status, count(front)) == (200, [0, 1, 1])
            ready = await front.log.wait_for("UpstreamPoolReady", 3)
            ports = [
                e.common_properties.upstream_remote_address.socket_address.port_value for e in ready
            ]
            assert ports == [second.port, front.door.port, third.port]
            [end] = await front.log.wait_for("DownstreamEnd")
            assert end.request.request_headers[names.ID] == "r1"
            assert not first.requests

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", [{"fail": 503}, {"fail": 502}, {"die": "early"}])
def test_what_has_not_begun_is_tried_again_as_often_as_allowed(
    tmp_path: Path, fault: dict[str, Any]
) -> None:
    async def scenario() -> None:
        limits = Limits(retries=1, backoff_ms=1.0)
        async with front_door(tmp_path, engines=3, limits=limits) as front:
            front.door.decide = in_turn(*front.engines[:2], last=True)
            status, _, _ = await front.post(fault)
            assert status in {502, 503}
            assert count(front) == [1, 1, 0]

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", [{"fail": 500}, {"fail": 400}, {"fail": 429}])
def test_what_an_engine_answers_goes_out_and_is_not_tried_again(
    tmp_path: Path, fault: dict[str, Any]
) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path) as front:
            front.door.decide = lambda request, body: through(*front.engines)
            status, _, content = await front.post(fault)
            assert (status, content) == (fault["fail"], b"the engine says no")
            assert count(front) == [1, 0]

    asyncio.run(scenario())


def test_a_stream_that_tears_after_its_first_byte_is_not_tried_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path) as front:
            front.door.decide = lambda request, body: through(*front.engines)
            with pytest.raises(aiohttp.ClientError):
                await front.post({"stream": True, "die": "late"})
            assert count(front) == [1, 0]
            [end] = await front.log.wait_for("DownstreamEnd")
            flags = end.common_properties.response_flags
            assert (
                flags.upstream_protocol_error
                or flags.upstream_connection_termination
                or flags.upstream_remote_reset
            )

    asyncio.run(scenario())


def test_a_worker_silent_for_too_long_is_a_time_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = Limits(idle_s=0.3, retries=0)
        async with front_door(tmp_path, engines=1, limits=limits) as front:
            front.door.decide = lambda request, body: to(front.engines[0])
            with pytest.raises(aiohttp.ClientError):
                await front.post(STREAM)
            [end] = await front.log.wait_for("DownstreamEnd")
            assert end.request.request_headers[names.ID] == "r1"

    asyncio.run(scenario())


def test_a_worker_that_does_not_begin_is_followed_by_the_next(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, limits=Limits(idle_s=0.3)) as front:
            front.engines[0].silent = True
            front.door.decide = in_turn(*front.engines)
            assert (await front.post({}))[0] == 200
            assert count(front) == [1, 1]

    asyncio.run(scenario())


async def talks_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\x00\x01 nonsense\r\n\r\n")
    await writer.drain()
    writer.close()


async def half_closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write_eof()
    await reader.read()
    writer.close()


@pytest.mark.parametrize("behaviour", [talks_nonsense, half_closes])
def test_a_worker_that_speaks_no_http_is_followed_by_the_next(
    tmp_path: Path, behaviour: Any
) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, engines=1) as front:
            [engine] = front.engines
            async with await asyncio.start_server(behaviour, "127.0.0.1", 0) as server:
                bad = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
                front.endpoints.write([engine.address, bad])
                await listed(front, bad)
                wheres = [bad, engine.address]
                front.door.decide = lambda request, body: {
                    names.ENDPOINT: wheres.pop(0),
                    names.ID: "r",
                }
                assert (await front.post({}))[0] == 200
            assert not wheres
            assert len(engine.requests) == 1

    asyncio.run(scenario())


async def listed(front: FrontDoor, address: str) -> None:
    """Wait until Envoy has a worker."""
    async with asyncio.timeout(PATIENCE_S):
        while address not in {host.address for host in await front.envoy.admin.hosts()}:
            pass


def test_a_worker_that_is_not_there_is_passed_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path) as front:
            closed = free_port()
            gone = f"127.0.0.1:{closed}"
            front.endpoints.write([*(engine.address for engine in front.engines), gone])
            await listed(front, gone)
            second = front.engines[1].address
            front.door.decide = lambda request, body: {names.ENDPOINT: f"{gone},{second}"}
            assert (await front.post({}))[0] == 200
            assert count(front) == [0, 1]

    asyncio.run(scenario())


def test_a_picker_that_is_behind_loses_no_entry(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path) as front:
            turns = itertools.count()
            front.door.decide = lambda request, body: to(front.engines[0], f"r{next(turns)}")
            front.log.gate.clear()
            long = {"user-agent": "x" * 8000}  # which entries hold
            for _ in range(10):
                await asyncio.gather(*(front.post({}, headers=long) for _ in range(80)))
            assert not front.log.entries
            front.log.gate.set()
            for kind in ("UpstreamPoolReady", "DownstreamEnd"):
                entries = await front.log.wait_for(kind, 800)
                told = {entry.request.request_headers[names.ID] for entry in entries}
                assert told == {f"r{at}" for at in range(800)}
            dropped = "access_logs.grpc_access_log.logs_dropped"
            assert (await front.envoy.admin.figures(dropped)).get(dropped, 0) == 0

    asyncio.run(scenario())


def test_no_worker_is_one_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, engines=1) as front:
            front.endpoints.write([])
            await front.healthy(0)
            status, headers, content = await front.post({})
            assert (status, headers["retry-after"]) == (503, "1")
            assert b"no healthy upstream" in content
            async with front.client.get(f"{front.url}/health") as answer:
                assert answer.status == 503

    asyncio.run(scenario())


def test_workers_come_and_go_while_streams_run(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path) as front:
            old, new = front.engines
            front.endpoints.write([old.address])
            await front.healthy(1)
            front.door.decide = lambda request, body: to(old)
            running = [asyncio.create_task(front.post(STREAM)) for _ in range(20)]
            await front.log.wait_for("UpstreamPoolReady", 20)
            front.endpoints.write([new.address])
            async with asyncio.timeout(PATIENCE_S):
                while [h.address for h in await front.envoy.admin.hosts()] != [new.address]:
                    pass
            await front.healthy(1)
            # The door may still name who has gone: another takes it.
            await taken(front)
            assert new.requests
            old.gate.set()
            async with asyncio.timeout(PATIENCE_S):
                answers = await asyncio.gather(*running)
            assert all(content.endswith(b"[DONE]\n\n") for _, _, content in answers)
            assert len(old.requests) == 20

    asyncio.run(scenario())


def test_a_drain_lets_streams_end_and_takes_no_more(tmp_path: Path) -> None:
    async def refused(front: FrontDoor) -> None:
        while True:
            try:
                async with aiohttp.request("GET", f"{front.url}/v1/models"):
                    pass
            except aiohttp.ClientError:
                return

    async def scenario() -> None:
        async with front_door(tmp_path, engines=1) as front:
            front.door.decide = lambda request, body: to(front.engines[0])
            running = asyncio.create_task(front.post(STREAM))
            await front.engines[0].reached.wait()
            assert await front.envoy.admin.active() == 1
            draining = asyncio.create_task(front.envoy.drain(PATIENCE_S))
            async with asyncio.timeout(PATIENCE_S):
                await refused(front)
            assert not draining.done()
            front.engines[0].gate.set()
            assert (await running)[2].endswith(b"[DONE]\n\n")
            assert await draining == 0
            await front.envoy.stop()
            assert not front.envoy.running

    asyncio.run(scenario())


class Between:
    """Between us and an admin interface; cuts some connections instead of passing them on."""

    def __init__(self, port: int, cut: set[int]) -> None:
        self._port, self._cut = port, cut
        self.came = 0
        self.later = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came += 1
        if self.came in self._cut:
            writer.transport.abort()
            return
        if self.came > max(self._cut):
            self.later.set()
        there, ours = await asyncio.open_connection("127.0.0.1", self._port)
        ours.write(await reader.readuntil(b"\r\n\r\n"))
        head = await there.readuntil(b"\r\n\r\n")
        writer.write(head)
        if length := re.search(rb"content-length: (\d+)", head):
            writer.write(await there.readexactly(int(length[1])))
        else:
            writer.write(await there.readuntil(b"0\r\n\r\n"))
        await writer.drain()
        writer.close()
        ours.close()


@pytest.mark.parametrize("cut", [{1}, {2}, {3, 4, 5}])
def test_a_look_that_fails_ends_no_drain(tmp_path: Path, cut: set[int]) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, engines=1) as front:
            front.door.decide = lambda request, body: to(front.engines[0])
            running = asyncio.create_task(front.post(STREAM))
            await front.engines[0].reached.wait()
            between = Between(front.ports.admin, cut)
            server = await asyncio.start_server(between, "127.0.0.1", 0)
            front.envoy.admin = EnvoyAdmin(server.sockets[0].getsockname()[1])
            draining = asyncio.create_task(front.envoy.drain(PATIENCE_S))
            later = asyncio.create_task(between.later.wait())
            await asyncio.wait([draining, later], return_when=asyncio.FIRST_COMPLETED)
            assert not draining.done()
            front.engines[0].gate.set()
            assert (await running)[2].endswith(b"[DONE]\n\n")
            assert await draining == 0
            server.close()

    asyncio.run(scenario())


def test_a_drain_ends_with_the_process(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, engines=1) as front:
            front.door.decide = lambda request, body: to(front.engines[0])
            running = asyncio.create_task(front.post(STREAM))
            await front.engines[0].reached.wait()
            draining = asyncio.create_task(front.envoy.drain(3600.0))
            await front.envoy.kill()
            assert await draining == 0
            with pytest.raises(aiohttp.ClientError):
                await running

    asyncio.run(scenario())


def test_a_drain_that_takes_too_long_says_how_many_are_left(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, engines=1) as front:
            front.door.decide = lambda request, body: to(front.engines[0])
            running = asyncio.create_task(front.post(STREAM))
            await front.engines[0].reached.wait()
            assert await front.envoy.drain(0.1) == 1
            await front.envoy.stop()
            with pytest.raises(aiohttp.ClientError):
                await running

    asyncio.run(scenario())


async def figure(front: FrontDoor, name: str) -> int:
    name = f"cluster.workers.{name}"
    return (await front.envoy.admin.figures(name)).get(name, 0)


def test_a_worker_that_fails_several_times_in_a_row_is_left_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, limits=Limits(retries=0)) as front:
            first, second = front.engines
            front.door.decide = lambda request, body: to(first)
            # What an engine says of a request says nothing of the engine.
            for _ in range(10):
                assert (await front.post({"fail": 500}))[0] == 500
            assert not any(host.ejected for host in await front.envoy.admin.hosts())
            async with asyncio.timeout(PATIENCE_S):
                while not any(host.ejected for host in await front.envoy.admin.hosts()):
                    assert (await front.post({"fail": 503}))[0] == 503
            ejected = {h.address: h.ejected for h in await front.envoy.admin.hosts()}
            assert not ejected[second.address]
            assert await figure(front, "outlier_detection.ejections_total")
            assert len(first.requests) >= 15

    asyncio.run(scenario())


def test_more_requests_than_there_may_be_are_one_error_each(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, limits=Limits(connections=1)) as front:
            front.door.decide = in_turn(*front.engines, front.engines[1])
            async with asyncio.timeout(PATIENCE_S), connected(front.ports.listen) as client:
                client.post(1, "/v1/completions", json.dumps(STREAM).encode())
                await front.engines[0].reached.wait()
                client.post(3, "/v1/completions", b"{}")
                error = json.loads(await client.body(3))["error"]
                assert (error["type"], int(error["code"])) == ("overloaded_error", 503)
                assert "overflow" in error["message"]
                assert count(front) == [1, 0]
                # Nothing is taken from who was there before, and then there is room again.
                front.engines[0].gate.set()
                assert (await client.body(1)).endswith(b"data: [DONE]\n\n")
                client.post(5, "/v1/completions", b"{}")
                assert json.loads(await client.body(5))["choices"]

    asyncio.run(scenario())


def test_engines_are_spoken_to_by_tls_and_none_that_another_has_signed(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        certificate(folder)
    came: list[bytes] = []

    async def keeps(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.read(65_536))
        writer.close()

    async def refused(front: FrontDoor) -> None:
        status, _, content = await front.post({"say": "a secret"})
        assert (status, json.loads(content)["error"]["type"]) == (503, "overloaded_error")

    async def scenario() -> None:
        limits = Limits(retries=0)
        async with front_door(tmp_path, engines=1, secure=ours, limits=limits) as front:
            [engine] = front.engines
            front.door.decide = lambda request, body: to(engine)
            assert (await front.post({}))[0] == 200
            assert engine.requests[0][0].secure
            stranger = Engine()
            await stranger.start(theirs)
            try:
                front.endpoints.write([stranger.address])
                await listed(front, stranger.address)
                front.door.decide = lambda request, body: to(stranger)
                async with asyncio.timeout(PATIENCE_S):
                    while not await figure(front, "ssl.fail_verify_error"):
                        pass
                await refused(front)
                assert not stranger.requests
            finally:
                await stranger.stop()
            async with await asyncio.start_server(keeps, "127.0.0.1", 0) as server:
                plain = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
                front.endpoints.write([plain])
                await listed(front, plain)
                front.door.decide = lambda request, body: {names.ENDPOINT: plain, names.ID: "r"}
                await refused(front)
                async with asyncio.timeout(PATIENCE_S):
                    while not came:
                        await asyncio.sleep(0)
            # What begins TLS: whoever speaks none is told nothing else.
            assert all(piece.startswith(b"\x16\x03") for piece in came if piece)

    asyncio.run(scenario())
