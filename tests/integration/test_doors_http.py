"""The door's HTTP: whatever pieces a request comes in, it is the same; what is none is refused."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integration.doors._http import HEAD_LIMIT, MOST_QUEUED, Connection, Received, response

LIMIT = 1000
POST = (
    b"POST /v1/completions?x=1 HTTP/1.1\r\nhost: door\r\nX-Client: a\r\nx-client: b\r\n"
    b"content-length: 5\r\n\r\nhello"
)
CHUNKED = (
    b"POST /v1/completions HTTP/1.1\r\nhost: door\r\ntransfer-encoding: chunked\r\n\r\n"
    b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
)


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True


def connected(*, answer: bool = True) -> tuple[Connection, Transport, list[Received]]:
    """A connection whose requests are answered at once, or never."""
    seen: list[Received] = []

    def handle(connection: Connection, received: Received) -> None:
        seen.append(received)
        if answer:
            connection.reply(response(200, b"%d" % len(seen)))

    connection, transport = Connection(handle, body_limit=LIMIT), Transport()
    connection.connection_made(transport)
    return connection, transport, seen


@given(st.sampled_from([POST, CHUNKED]), st.lists(st.integers(0, 200), max_size=6))
def test_pieces_make_no_difference(request_, cuts):
    connection, transport, seen = connected()
    edges = [0, *sorted(min(cut, len(request_)) for cut in cuts), len(request_)]
    for begin, end in pairwise(edges):
        if begin < end:
            connection.data_received(request_[begin:end])
    (received,) = seen
    assert (received.method, received.path, received.body) == (
        "POST",
        "/v1/completions",
        b"hello",
    )
    assert transport.written.startswith(b"HTTP/1.1 200 ")
    assert not transport.closed


def test_of_a_header_that_came_twice_the_first_counts():
    connection, _, seen = connected()
    connection.data_received(POST)
    assert seen[0].header(b"x-client") == "a"
    assert seen[0].header(b"none") is None


def test_requests_that_are_sent_ahead_are_handled_one_after_another():
    async def run() -> None:
        connection, transport, seen = connected(answer=False)
        connection.data_received(POST + CHUNKED)
        assert len(seen) == 1
        connection.reply(response(200, b"first"))
        # Whoever replied comes to its end before there is another.
        assert len(seen) == 1
        await asyncio.sleep(0)
        assert len(seen) == 2
        connection.reply(response(200, b"second"))
        assert transport.written.index(b"first") < transport.written.index(b"second")

    asyncio.run(run())


def test_what_was_sent_ahead_is_not_handled_once_the_connection_is_lost():
    async def run() -> None:
        connection, _, seen = connected(answer=False)
        connection.data_received(POST + CHUNKED)
        connection.reply(response(200, b"first"))
        connection.connection_lost(None)
        await asyncio.sleep(0)
        assert len(seen) == 1

    asyncio.run(run())


def test_who_abandons_a_connection_is_told_first_and_once():
    connection, transport, _ = connected(answer=False)
    told: list[str] = []
    connection.data_received(POST)
    connection.on_lost = lambda: told.append("lost")
    connection.abandon()
    assert transport.closed
    connection.connection_lost(None)
    assert told == ["lost"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"no request at all\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 1x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 1001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001, 413),
        (b"GET / HTTP/1.1\r\nlong: " + b"x" * (HEAD_LIMIT + 1), 431),
    ],
)
def test_what_cannot_be_handled_is_refused_and_heard_no_more(sent, status):
    connection, transport, seen = connected()
    connection.data_received(sent)
    connection.data_received(POST)
    assert transport.written.startswith(b"HTTP/1.1 %d " % status)
    assert transport.written.count(b"HTTP/1.1 ") == 1
    assert transport.closed
    assert seen == []


def test_too_many_sent_ahead_end_the_connection_without_an_answer_out_of_turn():
    connection, transport, seen = connected(answer=False)
    connection.data_received(POST * (MOST_QUEUED + 2))
    assert len(seen) == 1
    assert transport.closed
    assert transport.written == b""


def test_a_lost_connection_is_told_once():
    connection, _, _ = connected(answer=False)
    told: list[str] = []
    connection.data_received(POST)
    connection.on_lost = lambda: told.append("lost")
    connection.on_end = lambda: told.append("end")
    connection.connection_lost(None)
    connection.connection_lost(None)
    connection.reply(response(200))
    assert told == ["lost", "end"]


@asynccontextmanager
async def listening():
    def handle(connection: Connection, received: Received) -> None:
        connection.reply(response(200, received.body))

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(handle, body_limit=LIMIT), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def test_a_real_connection_carries_one_request_after_another():
    async def run() -> list[bytes]:
        async with asyncio.timeout(60), listening() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            answers = []
            for request_ in (POST, CHUNKED, POST):
                writer.write(request_)
                await reader.readuntil(b"\r\n\r\n")
                answers.append(await reader.readexactly(5))
            writer.close()
            await writer.wait_closed()
            return answers

    assert asyncio.run(run()) == [b"hello"] * 3
