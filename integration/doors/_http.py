"""HTTP/1.1 as Envoy's ext_authz client speaks it: one request at a time, its length in its head.

Every request of every client passes here, so nothing is done that Envoy has done already: it has
parsed, normalised and bounded what clients sent. A framework would take 100 µs of processor time
per request for that a second time; this takes a third.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, cast

from integration.doors.answers import REASONS, error_body

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD_LIMIT = 128 * 1024
"""Bytes of a request's head; Envoy's own limit is 60 KiB."""
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*(?=\r\n)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)


def header(head: bytes, name: bytes) -> str | None:
    """Return a header of a request's head; None if it has none of that name.

    Parameters
    ----------
    head : bytes
        Request line and headers, the empty line included.
    name : bytes
        In lower case, as Envoy writes them.
    """
    at = head.find(b"\r\n" + name + b":")
    if at < 0:
        return None
    begin = at + len(name) + 3
    return head[begin : head.index(b"\r\n", begin)].strip().decode("latin-1")


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
        Takes the connection, the request's head and its body. Calls `reply` now or later.
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

    __slots__ = (
        "_body_limit",
        "_busy",
        "_handle",
        "_needed",
        "_received",
        "_transport",
        "last",
        "on_end",
        "on_lost",
    )

    def __init__(
        self, handle: Callable[[Connection, bytes, bytes], None], *, body_limit: int
    ) -> None:
        self._handle = handle
        self._body_limit = body_limit
        self._received = bytearray()
        self._needed = 0
        self._busy = False
        self._transport: asyncio.Transport | None = None
        self.on_lost: Callable[[], object] | None = None
        self.on_end: Callable[[], object] | None = None
        self.last: str | None = None

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
        if not self._received and not self._busy and self._whole(data):
            return
        self._received += data
        self._advance()

    def _whole(self, data: bytes) -> bool:
        """Handle a request that came in one piece, as nearly all do, without copying it."""
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            return False
        found = _LENGTH.search(data, 0, end)
        if found is None or len(data) != end + int(found[1]):
            return False
        self._begin(data[:end], data[end:])
        return True

    def _advance(self) -> None:
        if self._busy or len(self._received) < self._needed:
            return
        end = self._received.find(b"\r\n\r\n") + 4
        if end < 4:
            if len(self._received) > HEAD_LIMIT:
                self._refuse(431, f"the head is over {HEAD_LIMIT} bytes")
            return
        head = bytes(self._received[:end])
        length = self._length(head)
        if length is None:
            return
        self._needed = end + length
        if len(self._received) < self._needed:
            return
        body = bytes(self._received[end : self._needed])
        del self._received[: self._needed]
        self._needed = 0
        self._begin(head, body)

    def _length(self, head: bytes) -> int | None:
        """Return the body's length, or refuse what says none that can be trusted."""
        lengths = _LENGTH.findall(head)
        if _CHUNKED.search(head) or len(set(lengths)) > 1:
            self._refuse(411, "the body's length is not in the head")
            return None
        length = int(lengths[0]) if lengths else 0
        if length > self._body_limit:
            self._refuse(413, f"the body is {length} bytes, must be at most {self._body_limit}")
            return None
        return length

    def _begin(self, head: bytes, body: bytes) -> None:
        self._busy = True
        self._handle(self, head, body)

    def reply(self, payload: bytes) -> None:
        """Answer the request under way; nothing happens if the connection is lost."""
        self.on_lost = None
        self._busy = False
        if self._transport is None:
            return
        self._transport.write(payload)
        if self._received:
            self._advance()

    def close(self) -> None:
        """Close the connection, after what has been replied."""
        if self._transport is not None:
            self._transport.close()

    def _refuse(self, status: int, message: str) -> None:
        self._received.clear()
        self.reply(response(status, error_body(status, message), "connection: close\r\n"))
        self._busy = True
        self.close()
