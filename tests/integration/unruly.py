"""Workers that misbehave: relays before well-behaved engines, which do as a request's header asks.

A request with ``x-mischief: KIND`` is treated so by whichever relay gets it, once: when it comes
again, by a retry, it is passed on. What relays see is kept for the test to look at.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections import Counter

HEADER = "x-mischief"
TAG = "x-tag"
KINDS = (
    "reset",  # before anything is answered
    "reset-mid",  # in the middle of the stream
    "half-close",
    "half-close-mid",
    "garbage",
    "garbage-mid",
    "500",
    "503",
    "hang",
    "hang-mid",
    "slow",
)
TURNS = 10
"""Of the loop, in which all is taken in that has come."""
PIECES = 3
"""Pieces of an answer that are passed on before mischief in the middle of it."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MISCHIEF = re.compile(rb"\r\nx-mischief: *([\w-]+)", re.IGNORECASE)
_TAG = re.compile(rb"\r\nx-tag: *([\w-]+)", re.IGNORECASE)


class Seen:
    """What all relays saw.

    Attributes
    ----------
    answered, finished : Counter
        How often a request's answer was begun, and passed on to its end, by tag.
    done : set of str
        Tags whose mischief has been done.
    posts : int
        Requests for tokens that came to any worker.
    heads : dict of str to list of bytes
        Requests as they came, without bodies, by tag.
    had : dict of str to set of Relay
        Who got a request, frozen or not, by tag.
    """

    def __init__(self):
        self.answered, self.finished, self.done = Counter(), Counter(), set()
        self.heads, self.had, self.posts = {}, {}, 0


class Relay:
    """Passes requests on to an engine, or does worse.

    Attributes
    ----------
    port : int
        Where it listens; the same after a death.
    most_live : int
        Requests for tokens that were under way at most: those of whom the front door has hung up
        are not.
    """

    def __init__(self, engine_port, seen):
        self._engine_port, self._seen = engine_port, seen
        self._server = None
        self._writers = set()
        self._tasks = set()
        self._frozen = asyncio.Event()
        self._frozen.set()
        self.port = 0
        self._live = {}
        self.most_live = 0

    async def start(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def die(self):
        """Listen no more, and reset every connection."""
        if self._server is None:
            return
        server, self._server = self._server, None
        # Whoever has been let in is served first: a server that closes leaves their sockets open.
        for sock in server.sockets:
            asyncio.get_running_loop().remove_reader(sock.fileno())
        for _ in range(TURNS):
            await asyncio.sleep(0)
        server.close()
        for writer in list(self._writers):
            reset(writer)

    async def revive(self):
        if self._server is None:
            await self.start()

    def freeze(self):
        """Pass nothing on from now on."""
        self._frozen.clear()

    def thaw(self):
        self._frozen.set()

    async def stop(self):
        self.thaw()
        await self.die()
        # Connections that were reset are closed in the loop's next turns, in which some may come
        # that had been taken before.
        for _ in range(TURNS):
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for writer in list(self._writers):
                reset(writer)
            await asyncio.sleep(0)

    async def _serve(self, reader, writer):
        connection = Connection(reader, writer)
        tasks = {asyncio.current_task(), asyncio.ensure_future(connection.collect())}
        self._tasks |= tasks
        self._writers.add(writer)
        # Whatever breaks a connection, to the engine or from the front door, ends this one.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while request := await connection.requests.get():
                if not await self._request(request, connection):
                    break
        self._writers.discard(writer)
        self._tasks -= tasks
        writer.close()

    async def _request(self, request, connection):
        if not request.startswith(b"POST"):
            await self._frozen.wait()
            return await self._answer(request, connection)
        self._seen.posts += 1
        self._seen.had.setdefault(_of(_TAG, request), set()).add(self)
        mark = object()
        self._live[mark] = connection
        looks = asyncio.ensure_future(self._count())
        self._tasks.add(looks)
        looks.add_done_callback(self._tasks.discard)
        try:
            await self._frozen.wait()
            return await self._answer(request, connection)
        finally:
            del self._live[mark]

    async def _count(self):
        # Whoever hung up before this request was sent is heard by then.
        for _ in range(TURNS):
            await asyncio.sleep(0)
        live = sum(not each.gone.is_set() for each in self._live.values())
        self.most_live = max(self.most_live, live)

    async def _answer(self, request, connection):
        head = request[: request.index(b"\r\n\r\n") + 2]
        tag, kind = _of(_TAG, head), _of(_MISCHIEF, head)
        if tag:
            self._seen.heads.setdefault(tag, []).append(head)
        if kind and tag not in self._seen.done:
            self._seen.done.add(tag)
        else:
            kind = ""
        if kind and not kind.endswith("-mid") and kind != "slow":
            return await _instead(kind, connection)
        await self._passed_on(request, kind, tag, connection)
        return not kind.endswith("-mid")

    async def _passed_on(self, request, kind, tag, connection):
        engine_reader, engine = await asyncio.open_connection("127.0.0.1", self._engine_port)
        left = asyncio.ensure_future(connection.close_when_gone(engine))
        try:
            engine.write(request)
            await self._pieces(engine_reader, kind, tag, connection)
        finally:
            left.cancel()
            engine.close()

    async def _pieces(self, engine_reader, kind, tag, connection):
        left, pieces, kept = None, 0, []
        while piece := await engine_reader.read(65536):
            await self._frozen.wait()
            pieces += 1
            if pieces == 1:
                self._seen.answered[tag] += 1
                left = _length_left(piece)
            elif left is not None:
                left -= len(piece)
            over = left == 0 if left is not None else piece.endswith(b"0\r\n\r\n")
            # Once it has all of it, the front door may hang up at any moment.
            there = not connection.gone.is_set()
            kept.append(piece)
            # A slow one passes on what it has only now and then.
            if kind != "slow" or over or pieces % 8 == 0:
                connection.writer.write(b"".join(kept))
                kept.clear()
                await connection.writer.drain()
            if over:
                # One that was frozen may have an answer for somebody who has left long ago.
                self._seen.finished[tag] += there
                return
            if kind.endswith("-mid") and pieces >= PIECES:
                await _break(kind, connection)
                return


class Connection:
    """The front door's end: requests as they come, and whether it has gone."""

    def __init__(self, reader, writer):
        self._reader, self.writer = reader, writer
        self.requests, self.gone = asyncio.Queue(), asyncio.Event()

    async def collect(self):
        try:
            while True:
                head = await self._reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await self._reader.readexactly(int(length[1])) if length else b""
                self.requests.put_nowait(head + body)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.gone.set()
            self.requests.put_nowait(None)

    async def close_when_gone(self, engine):
        await self.gone.wait()
        engine.close()


async def _instead(kind, connection):
    if not kind.isdigit():
        await _break(kind, connection)
        return False
    body = b'{"error":{"message":"unruly","type":"server_error","code":%s}}' % kind.encode()
    head = "HTTP/1.1 %s Unruly\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    connection.writer.write((head % (kind, len(body))).encode() + body)
    await connection.writer.drain()
    return True


async def _break(kind, connection):
    if kind.startswith("reset"):
        reset(connection.writer)
        return
    if kind.startswith("half-close"):
        connection.writer.write_eof()
    elif kind.startswith("garbage"):
        connection.writer.write(b"\x00\xfe\xffzz\r\n\r\nnothing of HTTP\r\n" * 4)
    # All but resets, hanging too, go on until the other side has had enough.
    await connection.gone.wait()


def _length_left(piece):
    head, _, body = piece.partition(b"\r\n\r\n")
    found = _LENGTH.search(head)
    return int(found[1]) - len(body) if found else None


def _of(pattern, head):
    found = pattern.search(head)
    return found[1].decode() if found else ""


def reset(writer):
    """Close a connection with a reset instead of an end."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
