"""Asking an address what it is, before Ray does: it asks for half a minute, and says so throughout.

As much of HTTP/2 (RFC 9113, RFC 7541) and of gRPC as it takes to call a method without arguments.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

UNAUTHENTICATED = 16
"""gRPC's status of calls without a token that is taken."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD_BYTES = 9
_MOST_BYTES = 1 << 16
"""Of an answer, after which it is none that this module understands."""
_DATA, _HEADERS, _RESET, _SETTINGS, _AWAY, _CONTINUED = 0, 1, 3, 4, 7, 9
_END_STREAM, _END_HEADERS = 1, 4
_STATUS = re.compile(rb"grpc-status[\x01-\x03](\d+)")
"""As gRPC's servers write it: a text by its length, not coded any further."""
_EMPTY_MESSAGE = bytes(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What an address answers.

    Attributes
    ----------
    speaks : bool
        Whether it speaks HTTP/2, as gRPC's servers do.
    status : int or None
        gRPC's status of the call; None if it did not tell.
    """

    speaks: bool
    status: int | None = None


def greeted(address: tuple[str, int], method: str, token: str, timeout_s: float) -> Greeting:
    """Call a method.

    Parameters
    ----------
    address : (str, int)
    method : str
        ``/package.Service/Method``.
    token : str
        Value of the header ``authorization``; empty sends none.
    timeout_s : float
        Of the connection, and of every part of the answer.

    Raises
    ------
    OSError
        It cannot be reached, or says nothing at all.
    """
    with socket.create_connection(address, timeout=timeout_s) as stream:
        stream.sendall(_called(f"{address[0]}:{address[1]}", method, token))
        frames = _frames(stream)
        # The first frame of a server is of settings: section 3.4.
        first = next(frames, None)
        if first is None or first[0] != _SETTINGS:
            return Greeting(speaks=False)
        try:
            return Greeting(speaks=True, status=_status(frames))
        except OSError:
            return Greeting(speaks=True)


def reachable(address: tuple[str, int], timeout_s: float) -> None:
    """Raise `OSError` where nothing listens."""
    socket.create_connection(address, timeout=timeout_s).close()


def _called(authority: str, method: str, token: str) -> bytes:
    # By the static table: POST, http, :path, :authority, content-type.
    fields = b"\x83\x86" + _literal(b"\x04", method) + _literal(b"\x01", authority)
    fields += _literal(b"\x0f\x10", "application/grpc") + _literal(b"\x00\x02te", "trailers")
    if token:
        fields += _literal(b"\x0f\x08", token)
    return (
        _PREFACE
        + _frame(_SETTINGS, 0, 0, b"")
        + _frame(_HEADERS, _END_HEADERS, 1, fields)
        + _frame(_DATA, _END_STREAM, 1, _EMPTY_MESSAGE)
    )


def _literal(name: bytes, value: str) -> bytes:
    text = value.encode()
    length = len(text)
    if length < 127:  # what fits into seven bits
        return name + bytes([length]) + text
    rest, more = length - 127, b""
    while rest >= 128:
        more, rest = more + bytes([rest % 128 | 128]), rest // 128
    return name + b"\x7f" + more + bytes([rest]) + text


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload


def _frames(stream: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """Yield kind, flags and payload of frames until the stream ends."""
    left = _MOST_BYTES
    while left > 0 and len(head := _read(stream, _HEAD_BYTES)) == _HEAD_BYTES:
        length = int.from_bytes(head[:3], "big")
        # What is no frame has any length.
        known = head[3] <= _CONTINUED and length <= left
        payload = _read(stream, length) if known else b""
        left -= _HEAD_BYTES + length
        yield head[3], head[4], payload


def _read(stream: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count and (more := stream.recv(count - len(found))):
        found += more
    return found


def _status(frames: Iterator[tuple[int, int, bytes]]) -> int | None:
    fields = b""
    for kind, flags, payload in frames:
        if kind in (_HEADERS, _CONTINUED):
            fields += payload
            if found := _STATUS.search(fields):
                return int(found[1])
        ends = kind in (_HEADERS, _DATA) and flags & _END_STREAM
        if ends or kind in (_RESET, _AWAY):
            break
    return None
