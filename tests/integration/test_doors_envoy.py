"""The doors behind a real Envoy: who gets a request, what clients see, what reaches the books."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import replace

import httpx
import pytest
from aiohttp import web
from door_support import refusing, to, until
from envoy_front import USAGE, front
from small_http import http_server

from integration.doors.prefill_pool import PrefillPool
from integration.doors.tiers import Tiers
from integration.messages.names import UNREAD, WATCHED
from integration.picker import End, Placed, Refused, Usage, WorkerSpec
from integration.settings import Limits

DOORS = ("ext_authz", "ext_proc")
COUNTED = Usage(USAGE["prompt_tokens"], USAGE["completion_tokens"])


@pytest.fixture(params=DOORS)
def door(request):
    return request.param


async def _ended(home, count=1):
    await until(lambda: len(home.pump.ends) == count)
    assert not home.ledger.places
    return [(name, end) for name, end, _ in home.pump.ends]


def test_chosen_worker_gets_it_and_usage_reaches_the_books(tmp_path, door):
    async def scenario():
        async with front(tmp_path, door, to(1), modes=("whole", "stream")) as f:
            reply = await f.post(stream=True)
            assert reply.status_code == 200
            assert reply.text.endswith("[DONE]\n\n")
            assert not f.engines[0].seen
            assert f.engines[1].seen[0][1]["prompt"] == "Once"
            assert await _ended(f.home) == [("r0", End.FINISHED)]
            assert f.home.pump.ends[0][2] == COUNTED
            assert f.home.pump.starts == [("r0", 1)]
            f.home.pump.decide = to(0)
            assert (await f.post()).json()["usage"] == USAGE
            await _ended(f.home, 2)
            assert f.home.pump.ends[1][2] == COUNTED
            assert f.log.faults == 0

    asyncio.run(scenario())


def test_no_request_goes_past_the_picker_for_its_headers(tmp_path):
    """Envoy drops an answer that would take a request's headers beyond its bound."""
    count, size = Limits().with_ours

    async def scenario():
        bounds = {"header_count": count, "header_limit": size}
        async with front(tmp_path, "ext_proc", to(1), **bounds) as f:
            placed, refused = 0, 0
            many = [{f"a{n}": "b" for n in range(more)} for more in range(85, 125)]
            long = [{f"a{n}": "x" * size for n in range(10)} for size in range(6400, 6800, 10)]
            for headers in (*many, *long):
                asked = {"model": "m", "prompt": "Once"}
                reply = await f.client.post("/v1/completions", json=asked, headers=headers)
                assert reply.status_code in {200, 431}, (len(headers), reply.text)
                if reply.status_code == 431:
                    error = reply.json()["error"]
                    assert (error["code"], error["type"]) == (431, "invalid_request_error")
                placed += reply.status_code == 200
                refused += reply.status_code == 431
            await until(lambda: len(f.home.pump.ends) == placed)
            assert not f.engines[0].seen
            assert len(f.engines[1].seen) == placed
            assert min(placed, refused) > 10

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("mark", "counted"),
    [(WATCHED, COUNTED), (UNREAD, None), (WATCHED + UNREAD, None), (f"{UNREAD}.1", COUNTED)],
)
def test_streams_are_read_unless_their_identity_says_they_need_not(tmp_path, door, mark, counted):
    async def scenario():
        async with front(tmp_path, door, to(0), modes=("stream",)) as f:
            read = f.home.reception.read
            f.home.reception.read = lambda *asked: replace(read(*asked), name=f"r{mark}")
            reply = await f.post(stream=True)
            assert reply.text.endswith("[DONE]\n\n")
            await _ended(f.home)
            assert f.home.pump.ends == [(f"r{mark}", End.FINISHED, counted)]

    asyncio.run(scenario())


def test_held_answer_and_client_that_leaves_while_held(tmp_path, door):
    async def scenario():
        async with front(tmp_path, door) as f:
            held, left = f.post(), f.post()
            await until(lambda: len(f.home.pump.held) == 2)
            left.cancel()
            await until(lambda: f.home.pump.withdrawn)
            f.home.pump.answer(Placed(0))
            assert (await held).status_code == 200
            assert len(await _ended(f.home)) == 1
            assert len(f.engines[0].seen) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [429, 503, 400])
def test_refusals_reach_clients_as_openai_errors(tmp_path, door, status):
    async def scenario():
        async with front(tmp_path, door, refusing(status, "not now", 2.0)) as f:
            reply = await f.post()
            assert reply.status_code == status
            assert reply.headers["content-type"] == "application/json"
            # Envoy's own answer, in place of a 5xx of the HTTP door, always says a second.
            own = status == 503 and door == "ext_authz"
            assert reply.headers["retry-after"] == ("1" if own else "2")
            error = reply.json()["error"]
            assert error["message"]
            assert error["type"]
            assert not any(engine.seen for engine in f.engines)

    asyncio.run(scenario())


def test_client_that_leaves_in_the_middle(tmp_path, door):
    async def scenario():
        async with front(tmp_path, door, to(0), modes=("waits", "whole")) as f:
            async with f.client.stream("POST", "/v1/completions", json={}) as reply:
                assert reply.status_code == 200
                await until(lambda: f.home.pump.starts)
            assert await _ended(f.home) == [("r0", End.DISCONNECTED)]
            f.engines[0].release.set()

    asyncio.run(scenario())


@pytest.mark.parametrize(("mode", "end"), [("broken", End.RESET), ("error", End.REJECTED)])
def test_engine_that_fails(tmp_path, door, mode, end):
    async def scenario():
        async with front(tmp_path, door, to(0), modes=(mode, "whole")) as f:
            with contextlib.suppress(httpx.HTTPError):
                assert (await f.post()).status_code in {200, 500, 502}
            assert await _ended(f.home) == [("r0", end)]

    asyncio.run(scenario())


def test_a_request_to_a_worker_that_is_not_there_is_placed_anew(tmp_path, door):
    async def scenario():
        decisions = [Placed(0, (1,)), Placed(0, (1,)), Placed(1)]
        async with front(tmp_path, door, lambda ask: decisions.pop(0), dead=True) as f:
            assert (await f.post()).status_code == 200
            assert await _ended(f.home) == [("r0", End.FINISHED)]
            assert f.home.pump.starts[-1] == ("r0", 1)
            assert f.home.pump.returned == ["r0"] * 2
            [(headers, _)] = f.engines[1].seen
            assert headers["x-brsolver-id"] == "r0.2"
            assert "x-brsolver-last" not in headers

    asyncio.run(scenario())


def test_the_last_attempt_is_the_last(tmp_path, door):
    async def scenario():
        async with front(tmp_path, door, to(0, 1), dead=True) as f:
            reply = await f.post()
            assert reply.status_code == 503
            assert reply.json()["error"]["type"] == "overloaded_error"
            assert await _ended(f.home) == [("r0", End.WORKER_DIED)]
            assert f.home.pump.returned == ["r0"] * 2
            assert not f.engines[1].seen

    asyncio.run(scenario())


def test_envoy_that_dies_ends_what_it_had(tmp_path, door):
    async def scenario():
        async with front(tmp_path, door, to(0), modes=("waits", "whole")) as f:
            task = f.post()
            await until(lambda: f.home.pump.starts and f.log.streams)
            await f.envoy.stop(timeout_s=0.01)
            with pytest.raises(httpx.HTTPError):
                await task
            (ended,) = await _ended(f.home)
            assert ended[1] in {End.RESET, End.DISCONNECTED}
            f.engines[0].release.set()

    asyncio.run(scenario())


def test_requests_that_generate_nothing_take_no_reservation(tmp_path, door):
    async def scenario():
        async with front(tmp_path, door) as f:
            assert (await f.client.get("/v1/models")).status_code == 200
            assert not f.home.pump.asked
            assert sum(len(engine.seen) for engine in f.engines) == 1

    asyncio.run(scenario())


def test_forged_headers_reach_nobody(tmp_path, door):
    async def scenario():
        async with front(tmp_path, door, to(1)) as f:
            forged = {
                "x-gateway-destination-endpoint": "127.0.0.1:1",
                "x-data-parallel-rank": "7",
                "x-brsolver-id": "r99",
                "x-brsolver-refusal": "503",
            }
            reply = await f.client.post("/v1/completions", json={}, headers=forged)
            assert reply.status_code == 200
            seen = f.engines[1].seen[0][0]
            assert "x-data-parallel-rank" not in seen
            assert await _ended(f.home) == [("r0", End.FINISHED)]

    asyncio.run(scenario())


@pytest.mark.parametrize("ends", ["log", "stream"])
def test_bodies_as_full_duplex_streams(tmp_path, ends):
    def duplex(config):
        manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
        for part in manager["typed_config"]["http_filters"]:
            if part["name"].endswith("ext_proc"):
                mode = part["typed_config"]["processing_mode"]
                mode["request_body_mode"] = "FULL_DUPLEX_STREAMED"
                mode["request_trailer_mode"] = "SEND"
                if ends == "stream":
                    mode["response_header_mode"] = mode["response_trailer_mode"] = "SEND"
                    mode["response_body_mode"] = "FULL_DUPLEX_STREAMED"

    async def scenario():
        modes = ("whole", "stream")
        async with front(tmp_path, "ext_proc", to(1), modes=modes, change=duplex, ends=ends) as f:
            prompt = "x" * 300_000
            reply = await f.post(prompt=prompt)
            assert reply.status_code == 200
            assert reply.text.endswith("[DONE]\n\n")
            assert f.engines[1].seen[0][1]["prompt"] == prompt
            assert await _ended(f.home) == [("r0", End.FINISHED)]
            assert f.home.pump.ends[0][2] == COUNTED

    asyncio.run(scenario())


def test_tiers_change_the_body_and_its_length(tmp_path):
    handed = {"remote_engine_id": "e", "remote_block_ids": [1]}

    async def prefill(request):
        asked = await request.json()
        assert asked["max_tokens"] == 1
        return web.json_response({"choices": [], "kv_transfer_params": handed})

    async def scenario():
        async with http_server(prefill) as address:
            pool = PrefillPool([WorkerSpec(name="p", address=address)])

            made = []

            def tiers(home):
                made.append(Tiers(home.reception, pool))
                return made[0]

            async with front(tmp_path, "ext_proc", to(1), tiers=tiers) as f:
                reply = await f.post(max_tokens=40, temperature=0.5)
                assert reply.status_code == 200
                headers, body = f.engines[1].seen[0]
                assert body == {
                    "model": "m",
                    "prompt": "Once",
                    "max_tokens": 40,
                    "temperature": 0.5,
                    "kv_transfer_params": handed,
                }
                assert int(headers["content-length"]) > 60
                assert await _ended(f.home) == [("r0", End.FINISHED)]
            await made[0].close()

    asyncio.run(scenario())


def test_many_at_once_with_clients_that_leave_end_once_each(tmp_path, door):
    draw = random.Random(5)  # noqa: S311 # a test's draw

    async def one(f):
        task = f.post(stream=True)
        if draw.random() < 0.4:
            for _ in range(draw.randrange(200)):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def decide(ask):
        if draw.random() < 0.1:
            return Refused(429, "full", 1.0)
        return None if draw.random() < 0.3 else Placed(draw.randrange(2))

    async def scenario():
        modes = ("stream", "whole")
        async with front(tmp_path, door, decide, modes=modes, start_s=5.0) as f:
            tasks = [asyncio.create_task(one(f)) for _ in range(120)]
            while not all(task.done() for task in tasks):
                f.home.pump.answer(Placed(draw.randrange(2)))
                await asyncio.sleep(0)
            await until(lambda: not f.home.ledger.places and not f.home.pump.held)
            ended = [name for name, _, _ in f.home.pump.ends]
            assert len(set(ended)) == len(ended)
            assert f.home.ledger.unknown == 0
            assert not any(f.home.ledger.running.values())
            assert f.log.faults == 0

    asyncio.run(scenario())
