"""HTTP/1.1 as Envoy's ext_authz client speaks it, parsed by httptools.

Every request of every client passes here, and nothing is needed of a framework: Envoy has parsed,
normalised and bounded what clients sent, and of its headers one is read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, cast

import httptools

from integration.doors.answers import REASONS, error_body

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD_LIMIT = 128 * 1024
"""Bytes of a request's head; Envoy's own limit is 60 KiB."""
MOST_QUEUED = 16
"""Requests that a connection may send ahead; Envoy sends none."""


class Received(NamedTuple):
    """A request as it came.

    Attributes
    ----------
    method, path : str
        The path without its query.
    target : str
        The path with it.
    headers : dict of bytes to bytes
        By name in lower case; of a name that came twice, the first.
    body : bytes
    """

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes
    target: str = ""

    def header(self, name: bytes) -> str | None:
        """Return a header; None if the request has none of that name."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


def response(status: int, body: bytes = b"", headers: str = "") -> bytes:
    """Return a response with a JSON body, or with none.

    Parameters
    ----------
    status : int
    body : bytes
    headers : str
        Further lines, each ended by CR LF.
    """
    kind = "content-type: application/json\r\n" if body else ""
    reason = REASONS.get(status, "OK")
    head = f"HTTP/1.1 {status} {reason}\r\n{headers}{kind}content-length: {len(body)}\r\n\r\n"
    return head.encode("latin-1") + body


class Connection(asyncio.Protocol):
    """A connection of Envoy's: hands each request to `handle`, and has `reply` called for it.

    Parameters
    ----------
    handle : callable
        Takes the connection and a request. Calls `reply` now or later.
    body_limit : int
        Bytes of a body.

    Attributes
    ----------
    on_lost : callable or None
        Called once if the connection is lost before the reply is made.
    on_end : callable or None
        Called once when the connection is lost, whatever was replied.
    last : str or None
        Whatever `handle` keeps of its last request.
    """

    def __init__(self, handle: Callable[[Connection, Received], None], *, body_limit: int) -> None:
        self._handle = handle
        self._body_limit = body_limit
        self._parser = httptools.HttpRequestParser(self)
        self._queued: deque[Received] = deque()
        self._busy = False
        self._refused = False
        self._transport: asyncio.Transport | None = None
        self.on_lost: Callable[[], object] | None = None
        self.on_end: Callable[[], object] | None = None
        self.last: str | None = None
        self._in_head, self._head_bytes = True, 0
        self.on_message_begin()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; asyncio calls this."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 # asyncio's signature
        """Tell who waits for a reply; asyncio calls this."""
        self._transport = None
        lost, self.on_lost = self.on_lost, None
        end, self.on_end = self.on_end, None
        if lost is not None:
            lost()
        if end is not None:
            end()

    def data_received(self, data: bytes) -> None:
        """Take bytes in; asyncio calls this."""
        if self._refused:
            return
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._refuse(400, f"this is no HTTP request: {error}")
        if self._in_head and self._head_bytes > HEAD_LIMIT:
            self._refuse(431, f"the head is over {HEAD_LIMIT} bytes")

    def on_message_begin(self) -> None:
        """Begin a request; the parser calls this."""
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []
        self._length = 0

    def on_url(self, url: bytes) -> None:
        """Take in a piece of the target; the parser calls this."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take in a header; the parser calls this."""
        self._headers.setdefault(name.lower(), value)

    def on_headers_complete(self) -> None:
        """Refuse a body that says it will be too long; the parser calls this."""
        self._in_head = False
        self._bound(int(self._headers.get(b"content-length", b"0")))

    def on_body(self, body: bytes) -> None:
        """Take in a piece of the body; the parser calls this."""
        self._length += len(body)
        if self._bound(self._length):
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        """Hand the request over, or let it wait for the one before; the parser calls this."""
        self._in_head, self._head_bytes = True, 0
        if self._refused:
            return
        method = self._parser.get_method().decode("latin-1")
        target = self._url.decode("latin-1")
        path, body = target.partition("?")[0], b"".join(self._pieces)
        self._queued.append(Received(method, path, self._headers, body, target))
        self._pieces = []
        if len(self._queued) > MOST_QUEUED:
            self._refuse(400, f"more than {MOST_QUEUED} requests were sent ahead")
        self._next()

    def _next(self) -> None:
        if self._queued and not self._busy and self._transport is not None:
            self._busy = True
            self._handle(self, self._queued.popleft())

    def reply(self, payload: bytes) -> None:
        """Answer the request under way; nothing happens if there is none, or no connection."""
        busy, self._busy = self._busy, False
        self.on_lost = None
        if self._transport is None or not busy:
            return
        self._transport.write(payload)
        if self._queued:
            # Whoever replies may be in the middle of deciding.
            asyncio.get_running_loop().call_soon(self._next)

    def abandon(self) -> None:
        """Close the connection; who waits for a reply is told so first."""
        lost, self.on_lost = self.on_lost, None
        if lost is not None:
            lost()
        self.close()

    def close(self) -> None:
        """Close the connection, after what has been replied."""
        if self._transport is not None:
            self._transport.close()

    def _bound(self, length: int) -> bool:
        """Tell whether a body is short enough; refuse it if not."""
        if length > self._body_limit:
            self._refuse(413, f"the body is {length} bytes, must be at most {self._body_limit}")
        return not self._refused

    def _refuse(self, status: int, message: str) -> None:
        """Answer what cannot be handled, and hear no more; whoever waits is told by the close."""
        if self._refused or self._transport is None:
            return
        self._refused = True
        self._queued.clear()
        self._pieces = []
        if not self._busy:
            refusal = error_body(status, message)
            self._transport.write(response(status, refusal, "connection: close\r\n"))
        self.close()
