"""Envoy's ext_authz over HTTP: each request is asked about, and held by answering late.

Envoy sends method, path, headers and body of a client's request. The answer 200 carries headers
that Envoy puts on the request: the workers to try, the rank it is pinned to, and our identity of
it, by which the access log tells of its end. An answer 4xx goes to the client as it is.

A request that a worker did not take comes here itself, with its identity. The answer 308 sends it
through Envoy once more, which asks about it again: it is placed anew, by books that know of all
that happened meanwhile.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from integration.doors._http import Connection, response
from integration.doors.answers import error_body, refusal_body, retry_after
from integration.messages.names import (
    AGAIN,
    CLIENT,
    ENDPOINT,
    HOST,
    ID,
    LAST,
    RANK,
    REFUSAL,
    RETRY_AFTER,
)
from integration.picker import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.doors._http import Received
    from integration.doors.reception import Destination, Reception
    from integration.picker import Answer

BODY_LIMIT = 64 * 2**20
"""Bytes of a body; Envoy is told its own limit."""
_AGAIN, _CLIENT, _ID = AGAIN.encode(), CLIENT.encode(), ID.encode()
GRACE_S = 2.0
"""A connection that ends this long before the start of its last request was told meant its end."""


class AuthzDoor:
    """Serves ext_authz.

    Parameters
    ----------
    reception : Reception
    body_limit : int
        Bytes of a body.
    grace_s : float
        Seconds after which an answered request whose connection ended, and of which the access log
        told no start, is given up: its client left while the answer was on its way. So is one that
        came back from a worker, and was not asked about again.

    Attributes
    ----------
    faults : int
        Requests that failed in here; they are answered as if they needed no reservation.
    """

    def __init__(
        self, reception: Reception, *, body_limit: int = BODY_LIMIT, grace_s: float = GRACE_S
    ) -> None:
        self._reception = reception
        self._body_limit = body_limit
        self._grace_s = grace_s
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self.faults = 0

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen.

        Parameters
        ----------
        host : str
        port : int
            0 for a free one.

        Returns
        -------
        int
            The port.

        Raises
        ------
        OSError
            If it is taken.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, host, port, backlog=4096)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Listen no more, and withdraw what is held."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abandon()

    def _connection(self) -> Connection:
        connection = Connection(self._asked, body_limit=self._body_limit)
        self._connections.add(connection)
        connection.on_end = lambda: self._ended(connection)
        return connection

    def _asked(self, connection: Connection, received: Received) -> None:
        try:
            self._answer(connection, received)
        except Exception as error:  # noqa: BLE001 # what trips us goes to a worker all the same
            self._tripped(error)
            withdraw = connection.on_lost
            connection.reply(passed(self._reception.anywhere()))
            if withdraw is not None:
                # It may be held all the same: its answer would go to who comes after it.
                withdraw()

    def _answer(self, connection: Connection, received: Received) -> None:
        failed, again = received.header(_ID), received.header(_AGAIN)
        if failed is not None:
            connection.reply(back(self._reception.ledger.back(failed, self._grace_s), received))
            return
        if again is not None and self._reception.ledger.is_back(again):
            name = self._reception.ledger.asked_again(again)
            self._begin(connection, name, partial(self._reception.again, name))
            return
        client = received.header(_CLIENT)
        ask = self._reception.read(received.method, received.path, received.body, client)
        if ask is None:
            connection.reply(passed(self._reception.anywhere()))
        elif isinstance(ask, Refused):
            connection.reply(passed(ask))
        else:
            self._begin(connection, ask.name, partial(self._reception.ask, ask))

    def _begin(
        self, connection: Connection, name: str, enter: Callable[[Callable[[Answer], None]], None]
    ) -> None:
        connection.on_lost = partial(self._withdraw, name)
        enter(partial(self._decided, connection, name))

    def _withdraw(self, name: str) -> None:
        try:
            self._reception.withdraw(name)
        except Exception as error:  # noqa: BLE001 # the connection is to be done with all the same
            self._tripped(error)

    def _decided(self, connection: Connection, name: str, answer: Answer) -> None:
        try:
            destination = self._reception.settle(name, answer)
        except Exception as error:  # noqa: BLE001 # the same
            self._tripped(error)
            destination = self._reception.anywhere()
        if not isinstance(destination, Refused):
            connection.last = destination.name
        connection.reply(passed(destination))

    def _tripped(self, error: Exception) -> None:
        self.faults += 1
        self._reception.ledger.tripped("ext_authz", error)

    def _ended(self, connection: Connection) -> None:
        """Look whether the last answer was heard, once the access log had time to say so."""
        self._connections.discard(connection)
        if connection.last is not None:
            self._reception.ledger.doubt(connection.last, self._grace_s)


def passed(destination: Destination | Refused) -> bytes:
    """Return the HTTP response that carries a destination, or a refusal."""
    if isinstance(destination, Refused):
        return refusal(destination)
    rank = "" if destination.rank is None else f"{RANK}: {destination.rank}\r\n"
    name = "" if destination.name is None else f"{ID}: {destination.name}\r\n"
    last = f"{LAST}: 1\r\n" if destination.last else ""
    return (
        f"HTTP/1.1 200 OK\r\n{ENDPOINT}: {destination.endpoints}\r\n{rank}{name}{last}"
        "content-length: 0\r\n\r\n"
    ).encode("latin-1")


def back(identity: str, received: Received) -> bytes:
    """Return the HTTP response that has Envoy ask again about a request.

    Parameters
    ----------
    identity : str
        By which it asks.
    received : Received
        The request. Whom its client had spoken to goes along by itself: in a location Envoy takes
        fewer names than clients may say.
    """
    scheme = "https" if received.header(b"x-forwarded-proto") == "https" else "http"
    lines = (
        f"location: {scheme}://again{received.target}",
        f"{AGAIN}: {identity}",
        f"{HOST}: {received.header(b'host') or ''}",
    )
    body = error_body(503, "The request is to be placed again.")
    return response(308, body, "".join(f"{line}\r\n" for line in lines))


def refusal(refused: Refused) -> bytes:
    """Return the HTTP response that a refused request's client gets.

    Envoy takes 5xx for a dead door, which would let the request pass; these it answers itself.
    """
    after = retry_after(refused)
    headers = "" if after is None else f"{RETRY_AFTER}: {after}\r\n"
    if refused.status >= 500:
        return response(200, headers=f"{headers}{REFUSAL}: {refused.status}\r\n")
    return response(refused.status, refusal_body(refused), headers)
