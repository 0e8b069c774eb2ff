"""The HTTP door: what Envoy's ext_authz asks, what it is answered, and when it is held."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest
from door_support import house, http_client, refusing, to, until, workers
from hypothesis import given, settings
from hypothesis import strategies as st

from integration.doors.authz import AuthzDoor
from integration.picker import End, Placed


@contextlib.asynccontextmanager
async def door(home, **more):
    served = AuthzDoor(home.reception, **more)
    port = await served.start()
    try:
        yield served, port
    finally:
        await served.stop()


def test_answer_names_the_workers_and_our_identity():
    async def scenario():
        home = house(to(1, 0, 2))
        async with door(home) as (_, port), http_client(port) as client:
            client.ask()
            reply = await client.reply()
        assert reply.status == 200
        assert reply.headers["x-gateway-destination-endpoint"] == (
            "10.0.0.2:8000,10.0.0.1:8000,10.0.0.3:8000"
        )
        assert reply.headers["x-brsolver-id"] == "r0"
        assert "x-data-parallel-rank" not in reply.headers
        assert list(home.ledger.places) == ["r0"]

    asyncio.run(scenario())


def test_rank_of_a_server_of_several_is_pinned():
    async def scenario():
        home = house(to(2, 0), workers(4, ranks=True))
        async with door(home) as (_, port), http_client(port) as client:
            client.ask()
            reply = await client.reply()
        assert reply.headers["x-data-parallel-rank"] == "2"
        assert reply.headers["x-gateway-destination-endpoint"] == "10.0.0.1:8000"

    asyncio.run(scenario())


def test_clients_name_reaches_the_picker():
    async def scenario():
        home = house(to(0))
        async with door(home) as (_, port), http_client(port) as client:
            client.ask(headers="X-Other: 1\r\nx-brsolver-client: team-a\r\n")
            await client.reply()
        assert home.pump.asked[0].key == "team-a"

    asyncio.run(scenario())


def test_held_request_is_answered_when_it_is_decided():
    async def scenario():
        home = house()
        async with door(home) as (_, port), http_client(port) as client:
            client.ask()
            await until(lambda: home.pump.held)
            home.pump.answer(Placed(1))
            assert (await client.reply()).status == 200
            client.ask()
            await until(lambda: home.pump.held)
            home.pump.answer(Placed(0))
            assert (await client.reply()).headers["x-brsolver-id"] == "r1"
        assert not home.pump.withdrawn

    asyncio.run(scenario())


def test_connection_closed_while_held_withdraws():
    async def scenario():
        home = house()
        async with (
            door(home) as (_, port),
            http_client(port) as client,
            http_client(port) as other,
        ):
            client.ask()
            await until(lambda: home.pump.held)
            other.ask()
            await until(lambda: len(home.pump.held) == 2)
            await client.close()
            await until(lambda: home.pump.withdrawn)
            home.pump.answer(Placed(0))
            assert (await other.reply()).status == 200
        assert home.pump.withdrawn == ["r0"]
        assert list(home.ledger.places) == ["r1"]

    asyncio.run(scenario())


@pytest.mark.parametrize("started", [True, False])
def test_connection_closed_after_the_answer(started):
    async def scenario():
        home = house(to(0))
        async with door(home, grace_s=1e-3) as (_, port):
            async with http_client(port) as client:
                client.ask()
                await client.reply()
                if started:
                    home.ledger.started("r0", "10.0.0.1:8000")
            if started:
                home.ledger.ended("r0", End.FINISHED)
            await until(lambda: home.pump.ends)
        end = End.FINISHED if started else End.DISCONNECTED
        assert home.pump.ends == [("r0", end, None)]
        assert not home.ledger.places

    asyncio.run(scenario())


def test_refusals_are_openai_errors():
    async def scenario():
        home = house(refusing(429, "too many are held", 1.2))
        async with door(home) as (_, port), http_client(port) as client:
            client.ask()
            reply = await client.reply()
            client.ask(b"bad")
            bad = await client.reply()
        assert (reply.status, reply.headers["retry-after"]) == (429, "2")
        assert reply.error["message"] == "too many are held"
        assert reply.error["type"] == "rate_limit_error"
        assert (bad.status, bad.error["type"]) == (400, "invalid_request_error")

    asyncio.run(scenario())


def test_server_errors_are_left_to_envoy_which_would_take_them_for_a_dead_door():
    async def scenario():
        home = house(refusing(503, "no worker", 3.0))
        async with door(home) as (_, port), http_client(port) as client:
            client.ask()
            reply = await client.reply()
        assert reply.status == 200
        assert reply.headers["x-brsolver-refusal"] == "503"
        assert reply.headers["retry-after"] == "3"
        assert "x-gateway-destination-endpoint" not in reply.headers

    asyncio.run(scenario())


def test_other_requests_go_to_live_workers_in_turn_without_a_reservation():
    async def scenario():
        home = house()
        home.shut.add(0)
        async with door(home) as (_, port), http_client(port) as client:
            seen = set()
            for _ in range(4):
                client.ask(b"", method="GET")
                reply = await client.reply()
                assert "x-brsolver-id" not in reply.headers
                seen.add(reply.headers["x-gateway-destination-endpoint"])
        assert seen == {"10.0.0.2:8000", "10.0.0.3:8000"}
        assert not home.pump.asked
        assert not home.ledger.places

    asyncio.run(scenario())


def test_request_that_trips_the_picker_goes_to_a_worker_all_the_same():
    def broken(ask):
        raise RuntimeError("a prompt")

    async def scenario():
        home = house(broken)
        async with door(home) as (served, port), http_client(port) as client:
            client.ask()
            reply = await client.reply()
        assert reply.status == 200
        assert reply.headers["x-gateway-destination-endpoint"]
        assert served.faults == 1
        [(kind, text)] = home.pump.faults
        assert kind == "ext_authz"
        assert text.startswith("RuntimeError in broken, line ")
        assert "prompt" not in text

    asyncio.run(scenario())


def test_decision_that_trips_the_door_goes_to_a_worker_all_the_same():
    async def scenario():
        home = house()
        async with door(home) as (served, port), http_client(port) as client:
            client.ask()
            await until(lambda: home.pump.held)
            home.pump.answer(Placed(99))
            reply = await client.reply()
        assert reply.status == 200
        assert reply.headers["x-gateway-destination-endpoint"]
        assert served.faults == 1

    asyncio.run(scenario())


def test_trip_after_the_answer_answers_no_second_time():
    async def scenario():
        home = house()
        asked = home.pump.ask

        def trips(ask, told):
            asked(ask, told)
            home.pump.answer(Placed(1))
            raise RuntimeError

        home.pump.ask = trips
        async with door(home) as (served, port), http_client(port) as client:
            for name in ("r0", "r1"):
                client.ask()
                assert (await client.reply()).headers["x-brsolver-id"] == name
        assert served.faults == 2

    asyncio.run(scenario())


def test_trip_of_one_that_is_held_leaves_nothing_of_it():
    async def scenario():
        home = house()
        asked = home.pump.ask

        def trips(ask, told):
            asked(ask, told)
            home.pump.ask = asked
            raise RuntimeError

        home.pump.ask = trips
        async with door(home) as (served, port), http_client(port) as client:
            client.ask()
            assert "x-brsolver-id" not in (await client.reply()).headers
            assert home.pump.withdrawn == ["r0"]
            # A late answer would go to the next one.
            client.ask()
            await until(lambda: home.pump.held)
            home.pump.answer(Placed(1))
            assert (await client.reply()).headers["x-brsolver-id"] == "r1"
        assert served.faults == 1

    asyncio.run(scenario())


def test_trip_as_a_client_leaves_costs_no_other():
    async def scenario():
        home = house()

        def broken(*_):
            raise RuntimeError

        async with door(home) as (served, port), http_client(port) as other:
            other.ask()
            await until(lambda: home.pump.held)
            async with http_client(port) as client:
                client.ask()
                await until(lambda: len(home.pump.held) == 2)
                ended, home.pump.ended = home.pump.ended, broken
            await until(lambda: served.faults)
            home.pump.ended = ended
            assert len(served._connections) == 1
            home.pump.answer(Placed(1))
            assert (await other.reply()).headers["x-brsolver-id"] == "r0"

    asyncio.run(scenario())


def test_stopping_withdraws_what_is_held():
    async def scenario():
        home = house()
        async with door(home) as (served, port), http_client(port) as client:
            client.ask()
            await until(lambda: home.pump.held)
            await served.stop()
            assert home.pump.withdrawn == ["r0"]
            await client.closed()

    asyncio.run(scenario())


@settings(max_examples=40, deadline=None)
@given(
    bodies=st.lists(st.binary(max_size=200), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 900), max_size=6),
)
def test_requests_are_the_same_however_they_are_cut(bodies, cuts):
    async def scenario():
        home = house(to(1))
        whole = b"".join(
            b"POST /v1/x HTTP/1.1\r\nhost: a\r\nContent-Length:  %d\r\n\r\n" % len(body) + body
            for body in bodies
        )
        marks = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
        async with door(home) as (_, port), http_client(port) as client:
            for begin, end in itertools.pairwise(marks):
                client.send(whole[begin:end])
                await asyncio.sleep(0)
            statuses = [(await client.reply()).status for _ in bodies]
        assert statuses == [400 if body == b"bad" else 200 for body in bodies]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n" + b"a" * 1001, 413),
        (b"POST / HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: -3\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nx: " + b"a" * 200_000, 431),
    ],
)
def test_what_envoy_never_sends_is_refused_and_the_connection_closed(head, status):
    async def scenario():
        home = house(to(1))
        async with door(home, body_limit=1000) as (_, port), http_client(port) as client:
            client.send(head)
            assert (await client.reply()).status == status
            await client.closed()
        assert not home.pump.asked

    asyncio.run(scenario())


def test_a_body_in_chunks_is_a_body():
    async def scenario():
        home = house(to(1))
        chunks = b"1\r\nb\r\n2\r\nad\r\n0\r\n\r\n"
        async with door(home) as (_, port), http_client(port) as client:
            client.send(b"POST /v1/x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + chunks)
            assert (await client.reply()).status == 400
            client.ask()
            assert (await client.reply()).status == 200
        assert len(home.pump.asked) == 1

    asyncio.run(scenario())


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_harms_nobody_else(garbage):
    async def scenario():
        home = house(to(1))
        async with (
            door(home) as (_, port),
            http_client(port) as noise,
            http_client(port) as client,
        ):
            noise.send(garbage + b"\r\n\r\n")
            await asyncio.sleep(0)
            client.ask()
            assert (await client.reply()).status == 200

    asyncio.run(scenario())
