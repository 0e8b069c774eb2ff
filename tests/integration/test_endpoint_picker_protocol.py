"""The endpoint-picker protocol of the Gateway API Inference Extension, sentence by sentence.

``SENTENCES`` has what its description (proposal 004) demands of pickers, in our words, each with
the test that holds it; a test here goes through the table.
"""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest
from door_support import house, refusing, to, until, workers
from ext_proc_client import destination, picker, placed, set_headers, streamed
from hypothesis import given, settings
from hypothesis import strategies as st

from integration.doors.grpc_server import GrpcServer
from integration.doors.health import Health
from integration.messages import names, services
from integration.messages.health import STATUSES, HealthCheckRequest, HealthListRequest
from integration.picker import End

SENTENCES = {
    "must implement ext_proc": "test_buffered_request",
    "must support streaming of requests and responses": "test_full_duplex_request",
    "must pick from the subset in the metadata, if it is set": "test_subset_is_kept_to",
    "must answer 503 if none of the subset is eligible": "test_subset_without_anybody_ready",
    "must answer 503 if the subset is empty": "test_empty_subset",
    "must pick from the pool if there is no subset": "test_buffered_request",
    "must set the header to one or more endpoints": "test_buffered_request",
    "must set the metadata under envoy.lb": "test_buffered_request",
    "endpoints are separated by commas, the first is tried first": "test_fallbacks",
    "header and metadata must not differ": "test_fallbacks",
    "must answer 503 if no endpoint is ready": "test_no_worker_ready",
    "must answer 429 if the request is dropped": "test_dropped_request",
    "is told by metadata which endpoint served": "test_served_endpoint",
    "must implement health checks": "test_health",
    "liveness does not depend on readiness": "test_health",
    "readiness tells whether it can pick": "test_health",
    "the service's own name is as readiness": "test_health",
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_every_sentence_has_its_test(sentence):
    assert callable(globals()[SENTENCES[sentence]])


def test_buffered_request():
    async def scenario():
        home = house(to(1))
        async with picker(home) as (_, stream):
            plane = stream()
            await plane.headers(**{"x-brsolver-client": "team-a"})
            first = await plane.answer()
            assert first.WhichOneof("response") == "request_headers"
            await plane.body()
            answer = await plane.answer()
            assert answer.WhichOneof("response") == "request_body"
            assert destination(answer) == "10.0.0.2:8000"
            assert answer.request_body.response.clear_route_cache
            assert not answer.request_body.response.HasField("body_mutation")
            removed = answer.request_body.response.header_mutation.remove_headers
            assert list(removed) == [names.RANK, names.PREFILLER]
        assert home.pump.asked[0].key == "team-a"

    asyncio.run(scenario())


def test_fallbacks():
    async def scenario():
        home = house(to(2, 0, 1))
        async with picker(home) as (_, stream):
            plane = stream()
            await plane.headers()
            await plane.answer()
            await plane.body()
            assert destination(await plane.answer()) == (
                "10.0.0.3:8000,10.0.0.1:8000,10.0.0.2:8000"
            )

    asyncio.run(scenario())


def test_rank_is_set_whatever_the_client_sent():
    async def scenario():
        home = house(to(3), workers(4, ranks=True))
        async with picker(home) as (_, stream):
            plane = stream()
            await plane.headers(**{names.RANK: "0"})
            await plane.answer()
            await plane.body()
            assert set_headers(await plane.answer())[names.RANK] == "3"

    asyncio.run(scenario())


@settings(max_examples=15, deadline=None)
@given(st.lists(st.binary(max_size=100_000), min_size=1, max_size=3))
def test_full_duplex_request(parts):
    async def scenario():
        home = house(to(0))
        async with picker(home) as (_, stream):
            plane = stream("FULL_DUPLEX_STREAMED", "FULL_DUPLEX_STREAMED")
            await plane.headers()
            for part in parts[:-1]:
                await plane.body(part, end=False)
            assert not home.pump.asked
            await plane.body(parts[-1])
            first = await plane.answer()
            assert first.WhichOneof("response") == "request_headers"
            assert destination(first) == "10.0.0.1:8000"
            assert await streamed(plane, "request_body") == b"".join(parts)

    asyncio.run(scenario())


def test_trailers_end_a_streamed_body():
    async def scenario():
        home = house(to(0))
        async with picker(home) as (_, stream):
            plane = stream("FULL_DUPLEX_STREAMED")
            await plane.headers()
            await plane.body(b"{}", end=False)
            await plane.trailers()
            assert destination(await plane.answer()) == "10.0.0.1:8000"
            body = await plane.answer()
            part = body.request_body.response.body_mutation.streamed_response
            assert (part.body, part.end_of_stream) == (b"{}", False)
            assert (await plane.answer()).WhichOneof("response") == "request_trailers"

    asyncio.run(scenario())


@pytest.mark.parametrize("mode", ["NONE", "STREAMED", "BUFFERED_PARTIAL"])
def test_without_a_body_that_can_be_held_headers_decide(mode):
    async def scenario():
        home = house(to(1))
        async with picker(home) as (_, stream):
            plane = stream(mode)
            await plane.headers()
            answer = await plane.answer()
            assert answer.WhichOneof("response") == "request_headers"
            assert destination(answer) == "10.0.0.2:8000"
            if mode != "NONE":
                await plane.body()
                assert (await plane.answer()).WhichOneof("response") == "request_body"

    asyncio.run(scenario())


def test_request_without_body_goes_anywhere_without_a_reservation():
    async def scenario():
        home = house()
        async with picker(home) as (_, stream):
            plane = stream("FULL_DUPLEX_STREAMED")
            await plane.headers("GET", end=True)
            assert destination(await plane.answer()).startswith("10.0.0.")
        assert not home.ledger.places

    asyncio.run(scenario())


@pytest.mark.parametrize("form", [list, ",".join])
def test_subset_is_kept_to(form):
    async def scenario():
        home = house(to(0, 1, 2))
        async with picker(home) as (_, stream):
            plane = stream()
            await plane.headers(subset=form(["10.0.0.3:8000", "10.0.0.2:8000", "10.9.9.9:1"]))
            await plane.answer()
            await plane.body()
            found = destination(await plane.answer()).split(",")
            assert set(found) == {"10.0.0.2:8000", "10.0.0.3:8000"}
        moved = home.fleet.worker(found[0])
        assert set(home.pump.starts) == {("r0", moved)}

    asyncio.run(scenario())


def test_subset_without_anybody_ready():
    async def scenario():
        home = house(to(0))
        home.shut.add(2)
        async with picker(home) as (_, stream):
            plane = stream()
            await plane.headers(subset=["10.0.0.3:8000", "10.9.9.9:1"])
            await plane.answer()
            await plane.body()
            _refused(await plane.answer(), 503)
        assert not home.pump.asked

    asyncio.run(scenario())


def test_empty_subset():
    async def scenario():
        home = house(to(0))
        async with picker(home) as (_, stream):
            plane = stream()
            await plane.headers(subset=[])
            await plane.answer()
            await plane.body()
            _refused(await plane.answer(), 503)

    asyncio.run(scenario())


def _refused(answer, status):
    assert answer.WhichOneof("response") == "immediate_response"
    immediate = answer.immediate_response
    assert immediate.status.code == status
    error = json.loads(immediate.body)["error"]
    assert error["code"] == status
    headers = set_headers(answer)
    assert headers["content-type"] == "application/json"
    return headers


def test_no_worker_ready():
    async def scenario():
        home = house(refusing(503, "no worker is ready", 1.0))
        async with picker(home) as (_, stream):
            plane = stream("FULL_DUPLEX_STREAMED")
            await plane.headers()
            await plane.body()
            assert _refused(await plane.answer(), 503)["retry-after"] == "1"
            for worker in range(3):
                home.shut.add(worker)
            other = stream()
            await other.headers("GET", end=True)
            _refused(await other.answer(), 503)

    asyncio.run(scenario())


def test_dropped_request():
    async def scenario():
        home = house(refusing(429, "too many are held", 2.0))
        async with picker(home) as (_, stream):
            plane = stream()
            await plane.headers()
            await plane.answer()
            await plane.body()
            assert _refused(await plane.answer(), 429)["retry-after"] == "2"
        assert not home.ledger.places

    asyncio.run(scenario())


def test_too_large_and_bad_bodies_are_refused():
    async def scenario():
        home = house(to(0))
        async with picker(home, body_limit=10) as (_, stream):
            for body, status in ((b"bad", 400), (b"x" * 11, 413)):
                plane = stream("FULL_DUPLEX_STREAMED")
                await plane.headers()
                await plane.body(body)
                _refused(await plane.answer(), status)

    asyncio.run(scenario())


def test_served_endpoint():
    async def scenario():
        home = house(to(0, 1))
        async with picker(home) as (_, stream):
            plane = await placed(stream)
            await plane.response(served="10.0.0.2:8000")
            assert (await plane.answer()).WhichOneof("response") == "response_headers"
            assert home.pump.starts == [("r0", 0), ("r0", 1)]
            await plane.call.done_writing()
            await until(lambda: home.pump.ends)
        assert home.pump.ends == [("r0", End.FINISHED, None)]

    asyncio.run(scenario())


def test_health():
    async def scenario():
        health = Health()
        server = GrpcServer([health.handler()])
        port = await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            check = services.call(channel, services.HEALTH, "Check")
            watch = services.call(channel, services.HEALTH, "Watch")

            async def status(service):
                return (await check(HealthCheckRequest(service=service))).status

            ready = ("readiness", services.EXTERNAL_PROCESSOR, "")
            watching = watch(HealthCheckRequest(service="readiness"))
            assert (await watching.read()).status == STATUSES["NOT_SERVING"]
            assert await status("liveness") == STATUSES["SERVING"]
            assert [await status(name) for name in ready] == [STATUSES["NOT_SERVING"]] * 3
            health.ready = True
            assert (await watching.read()).status == STATUSES["SERVING"]
            assert [await status(name) for name in ready] == [STATUSES["SERVING"]] * 3
            listed = await services.call(channel, services.HEALTH, "List")(HealthListRequest())
            assert {one.status for one in listed.statuses.values()} == {STATUSES["SERVING"]}
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await status("nobody")
            assert error.value.code() is grpc.StatusCode.NOT_FOUND
            watching.cancel()
        await server.stop()

    asyncio.run(scenario())
