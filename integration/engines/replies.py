"""Answers under way: they take tokens from the ranks and write them to their connection."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from integration.engines.events import Choice
    from integration.engines.faults import Fault, Faults

OK = 200
GARBAGE = b"\x00\xffno chunk of HTTP\r\n\r\n"
_LINGER_NOT = struct.pack("ii", 1, 0)


class Struck(Exception):  # noqa: N818 # what happened to it, asked for
    """An answer was spoilt on purpose, and nothing more is to be written."""


def reset(transport: asyncio.Transport | None) -> None:
    """Close a connection with RST."""
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    transport.abort()


async def spoil(fault: Fault, transport: asyncio.Transport | None) -> None:
    """Do to a connection what a fault says; of one that is half closed wait for the other half."""
    if transport is None or transport.is_closing():
        return
    if fault.kind == "reset":
        reset(transport)
    elif fault.kind == "garbage":
        transport.write(GARBAGE)
        transport.close()
    else:
        transport.write_eof()
        # Cancelled when the peer closes.
        await asyncio.Event().wait()


class Reply:
    """What all choices of an answer have given.

    Parameters
    ----------
    rank : int
    faults : Faults
    transport : asyncio.Transport or None
        Of the connection.
    choices : int
        How many there are.

    Attributes
    ----------
    done : asyncio.Future
        Set when all choices have all their tokens; `Struck` if something came between.
    tokens : int
        That were taken so far.
    came_s, first_s, last_s : float
        When it was asked for, and when its first and its last tokens were taken; 0 if none were.
        Of the monotonic clock, in seconds.
    begun : bool
        Whether its head has been written, before any of its tokens.
    """

    def __init__(
        self, rank: int, faults: Faults, transport: asyncio.Transport | None, choices: int
    ) -> None:
        self.rank, self.faults, self.transport = rank, faults, transport
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.tokens = 0
        self.came_s, self.first_s, self.last_s = time.monotonic(), 0.0, 0.0
        self.begun = False
        self.struck: Fault | None = None
        self._left = choices

    @property
    def status(self) -> int | None:
        """Status of HTTP that it has; None if its connection ended before that was written."""
        return OK if self.begun or self.complete else None

    @property
    def complete(self) -> bool:
        """Whether all choices have all their tokens."""
        done = self.done.done() and not self.done.cancelled()
        return done and self.done.exception() is None

    def take(self, choice: Choice, first: int, end: int) -> None:
        """Take tokens of a choice."""
        if self.done.done():
            return
        self.tokens += end - first
        self.last_s = time.monotonic()
        self.first_s = self.first_s or self.last_s
        self.write(choice, first, end)
        if end == choice.total:
            self._left -= 1
        if self.faults.any and (fault := self.faults.strike(self.rank, self.tokens)):
            self.strike(fault)
        elif self._left == 0:
            self.done.set_result(None)

    def write(self, choice: Choice, first: int, end: int) -> None:
        """Write tokens, where they are written as they come."""

    def strike(self, fault: Fault) -> None:
        """Let nothing more be written."""
        self.struck = fault
        self.done.set_exception(Struck())

    def lose(self) -> None:
        """Take in that the rank died."""
        if not self.done.done():
            reset(self.transport)
            self.done.set_exception(Struck())

    def forget(self) -> None:
        """Take in that nobody waits for it any more."""
        if not self.done.done():
            self.done.cancel()
        elif not self.done.cancelled():
            # Looked at, lest the loop complains.
            self.done.exception()


class Stream(Reply):
    """An answer whose tokens go to the connection as they come.

    They are written past the HTTP server, in chunks of one write: a task to wake for each token
    would cost more than all the rest.
    """

    def __init__(
        self,
        rank: int,
        faults: Faults,
        transport: asyncio.Transport | None,
        choices: int,
        *,
        chunked: bool,
    ) -> None:
        super().__init__(rank, faults, transport, choices)
        self._chunked = chunked

    def write(self, choice: Choice, first: int, end: int) -> None:
        """Write the events of a choice's tokens."""
        data = choice.events(first, end)
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def strike(self, fault: Fault) -> None:
        """Leave a chunk unfinished."""
        if self._chunked and fault.kind == "half-close" and self.transport is not None:
            self.transport.write(b"40\r\ndata: {")
        super().strike(fault)


class Part:
    """One choice of a reply, as the ranks tell of it."""

    __slots__ = ("_choice", "_reply")

    def __init__(self, reply: Reply, choice: Choice) -> None:
        self._reply, self._choice = reply, choice

    def tokens(self, first: int, end: int) -> None:
        """Take tokens `first` to `end`, the latter left out."""
        self._reply.take(self._choice, first, end)

    def lost(self) -> None:
        """Take in that the rank died."""
        self._reply.lose()
