"""The life of an ext_proc stream: held, given up, closed early, or the request's whole life."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from door_support import house, to, until
from ext_proc_client import destination, picker, placed, streamed

from integration.messages import names
from integration.picker import End, Placed, Usage


def test_held_request_asks_for_more_time_once():
    async def scenario():
        home = house()
        async with picker(home, patience_s=1e-3, hold_s=60.0) as (_, stream):
            plane = stream()
            await plane.headers()
            await plane.answer()
            await plane.body()
            more = await plane.raw()
            assert more.WhichOneof("response") is None
            assert more.override_message_timeout.seconds == 60
            home.pump.answer(Placed(1))
            assert destination(await plane.answer()) == "10.0.0.2:8000"

    asyncio.run(scenario())


@pytest.mark.parametrize("ends", ["stream", "log"])
@pytest.mark.parametrize("how", ["cancel", "half-close"])
def test_client_that_leaves_while_held_withdraws(how, ends):
    async def scenario():
        home = house()
        async with picker(home, ends=ends) as (_, stream):
            plane = stream()
            await plane.headers()
            await plane.answer()
            await plane.body()
            await until(lambda: home.pump.held)
            if how == "cancel":
                plane.call.cancel()
            else:
                await plane.call.done_writing()
            await until(lambda: home.pump.withdrawn)
        assert home.pump.withdrawn == ["r0"]
        assert not home.ledger.places

    asyncio.run(scenario())


def test_stream_is_closed_with_the_decision_where_a_log_tells_of_start_and_end():
    async def scenario():
        home = house(to(0))
        async with picker(home, ends="log") as (_, stream):
            plane = stream()
            await plane.headers()
            await plane.answer()
            await plane.body()
            answer = await plane.answer()
            metadata = answer.dynamic_metadata.fields[names.LB].struct_value
            assert metadata.fields[names.ID].string_value == "r0"
            assert await plane.answer() is None
            assert (await plane.call.code()) is grpc.StatusCode.OK
        assert list(home.ledger.places) == ["r0"]
        assert not home.pump.ends

    asyncio.run(scenario())


def test_stream_is_closed_after_the_response_headers_where_the_body_came_in_parts():
    async def scenario():
        home = house(to(0))
        async with picker(home, ends="log") as (_, stream):
            plane = stream("FULL_DUPLEX_STREAMED")
            await plane.headers()
            await plane.body()
            await plane.answer()
            await plane.answer()
            await plane.response()
            assert (await plane.answer()).WhichOneof("response") == "response_headers"
            assert await plane.answer() is None
            assert (await plane.call.code()) is grpc.StatusCode.OK

    asyncio.run(scenario())


def test_decision_that_nobody_heard_is_given_up():
    async def scenario():
        home = house(to(0))
        async with picker(home, ends="log", start_s=1e-3) as (_, stream):
            plane = stream()
            await plane.headers()
            await plane.answer()
            await plane.body()
            await until(lambda: home.pump.ends)
        assert home.pump.ends == [("r0", End.DISCONNECTED, None)]

    asyncio.run(scenario())


def test_stream_with_response_bodies_both_ways_stays_open_to_the_end():
    usage = b'data: {"usage": {"prompt_tokens": 7, "completion_tokens": 9}}\n\n'

    async def scenario():
        home = house(to(0))
        async with picker(home, ends="log") as (door, stream):
            plane = stream("FULL_DUPLEX_STREAMED", "FULL_DUPLEX_STREAMED")
            await plane.headers()
            await plane.body()
            await plane.answer()
            await plane.answer()
            await plane.response()
            await plane.answer()
            await plane.response_body(usage, end=True)
            assert await streamed(plane, "response_body") == usage
            assert door.streams == 1
            await plane.call.done_writing()
            await until(lambda: not door.streams)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("status", "complete", "end"),
    [
        (200, True, End.FINISHED),
        (200, False, End.DISCONNECTED),
        (500, True, End.REJECTED),
        (None, False, End.DISCONNECTED),
    ],
)
def test_streams_end_is_the_requests_where_no_log_tells(status, complete, end):
    body = b'{"usage": {"prompt_tokens": 7, "completion_tokens": 9}}'

    async def scenario():
        home = house(to(0))
        async with picker(home) as (door, stream):
            plane = await placed(stream, "BUFFERED", "STREAMED")
            if status is not None:
                await plane.response(status, served="10.0.0.1:8000")
                await plane.answer()
                await plane.response_body(body, end=complete)
                assert (await plane.answer()).WhichOneof("response") == "response_body"
            await plane.call.done_writing()
            await until(lambda: not door.streams)
        usage = Usage(7, 9) if status is not None else None
        assert home.pump.ends == [("r0", end, usage)]
        assert home.pump.firsts == (["r0"] if status is not None else [])

    asyncio.run(scenario())


def test_request_that_trips_the_picker_goes_to_a_worker_all_the_same():
    def broken(ask):
        raise RuntimeError("unforeseen")

    async def scenario():
        home = house(broken)
        async with picker(home) as (door, stream):
            plane = stream()
            await plane.headers()
            await plane.answer()
            await plane.body()
            assert destination(await plane.answer())
            assert door.faults == 1
            assert [kind for kind, _ in home.pump.faults] == ["ext_proc"]

    asyncio.run(scenario())
