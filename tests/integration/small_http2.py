"""Several requests at once in one connection, without encryption: as little of HTTP/2 as does it.

Headers of answers are not read: what Envoy answers itself has its status in its body.
"""

from __future__ import annotations

import asyncio
import struct
from collections import defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS = 0, 1, 3, 4
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
# Of the table of well-known headers, whole or by name.
_POST, _HTTP = b"\x83", b"\x86"
_AUTHORITY, _PATH, _TYPE = b"\x01", b"\x04", b"\x0f\x10"


def _frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content


def _named(name: bytes, value: bytes) -> bytes:
    return name + bytes([len(value)]) + value


class Http2:
    """A connection; requests of clients have odd numbers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._bodies: defaultdict[int, bytearray] = defaultdict(bytearray)
        self._ended: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)
        writer.write(_PREFACE + _frame(_SETTINGS, 0, 0))

    def post(self, stream: int, path: str, body: bytes) -> None:
        """Send a request."""
        head = _POST + _HTTP + _named(_PATH, path.encode()) + _named(_AUTHORITY, b"localhost")
        head += _named(_TYPE, b"application/json")
        self._writer.write(_frame(_HEADERS, _END_HEADERS, stream, head))
        self._writer.write(_frame(_DATA, _END_STREAM, stream, body))

    async def body(self, stream: int) -> bytes:
        """The body of an answer, once it has ended."""
        await self._ended[stream].wait()
        return bytes(self._bodies[stream])

    async def read(self) -> None:
        """Take in what comes, until the other side closes."""
        while True:
            head = await self._reader.readexactly(9)
            kind, flags, stream = struct.unpack(">BBI", head[3:])
            content = await self._reader.readexactly(int.from_bytes(head[:3]))
            if kind == _SETTINGS and not flags & _ACK:
                self._writer.write(_frame(_SETTINGS, _ACK, 0))
            if kind == _DATA:
                self._bodies[stream] += content
            if kind == _RESET or (kind in {_DATA, _HEADERS} and flags & _END_STREAM):
                self._ended[stream].set()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Http2]:
    """Connect to a server of this machine."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = Http2(reader, writer)
    reading = asyncio.create_task(connection.read())
    try:
        yield connection
    finally:
        reading.cancel()
        writer.close()
