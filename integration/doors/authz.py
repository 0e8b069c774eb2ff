"""Envoy's ext_authz over HTTP: each request is asked about, and held by answering late.

Envoy sends method, path, headers and body of a client's request. The answer 200 carries headers
that Envoy puts on the request: the workers to try, the rank it is pinned to, and our identity of
it, by which the access log tells of its end. An answer 4xx goes to the client as it is.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from integration.doors._http import Connection, response
from integration.doors.answers import error_body, retry_after
from integration.messages.names import CLIENT, ENDPOINT, ID, RANK, REFUSAL, RETRY_AFTER
from integration.picker import Refused

if TYPE_CHECKING:
    from integration.doors._http import Received
    from integration.doors.reception import Destination, Reception
    from integration.picker import Answer, Ask

BODY_LIMIT = 64 * 2**20
"""Bytes of a body; Envoy is told its own limit."""
_CLIENT = CLIENT.encode()
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
        told no start, is given up: its client left while the answer was on its way.

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
            connection.reply(passed(self._reception.anywhere()))

    def _answer(self, connection: Connection, received: Received) -> None:
        client = received.header(_CLIENT)
        ask = self._reception.read(received.method, received.path, received.body, client)
        if ask is None:
            connection.reply(passed(self._reception.anywhere()))
        elif isinstance(ask, Refused):
            connection.reply(passed(ask))
        else:
            connection.on_lost = partial(self._reception.withdraw, ask)
            self._reception.ask(ask, partial(self._decided, connection, ask))

    def _decided(self, connection: Connection, ask: Ask, answer: Answer) -> None:
        try:
            destination = self._reception.settle(ask, answer)
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
    return (
        f"HTTP/1.1 200 OK\r\n{ENDPOINT}: {destination.endpoints}\r\n{rank}{name}"
        "content-length: 0\r\n\r\n"
    ).encode("latin-1")


def refusal(refused: Refused) -> bytes:
    """Return the HTTP response that a refused request's client gets.

    Envoy takes 5xx for a dead door, which would let the request pass; these it answers itself.
    """
    after = retry_after(refused)
    headers = "" if after is None else f"{RETRY_AFTER}: {after}\r\n"
    if refused.status >= 500:
        return response(200, headers=f"{headers}{REFUSAL}: {refused.status}\r\n")
    return response(refused.status, error_body(refused.status, refused.message), headers)
