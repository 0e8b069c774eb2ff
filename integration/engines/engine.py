"""A fake engine in this process: its cluster, its clock and its ports."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from aiohttp import web

from brsolver.errors import ParameterError
from integration.engines import transfer
from integration.engines.clock import Clock
from integration.engines.cluster import Cluster
from integration.engines.handlers import application
from integration.engines.journal import Journal
from integration.engines.replies import reset

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from integration.engines.faults import Fault
    from integration.engines.params import EngineParams

BACKLOG = 4096
_GRACE_S = 0.1


class FakeEngine:
    """A fake engine, which listens from entering to leaving it.

    Parameters
    ----------
    params : EngineParams

    Attributes
    ----------
    url : str
        Of all ranks together.
    rank_urls : list of str
        Of each rank alone; empty if ranks have no ports of their own.
    cluster : Cluster
    clock : Clock
    created : int
        Unix time of its start, in seconds.
    identity : str
        For other engines.
    journal : Journal or None
        Where its requests are written down.

    Raises
    ------
    ParameterError
        A port is taken, or the address is none of this machine.
    OutputError
        The log cannot be written.
    """

    def __init__(self, params: EngineParams) -> None:
        self.params = params
        self.cluster = Cluster(params)
        self.created = int(time.time())
        self.url = ""
        self.rank_urls: list[str] = []
        self.identity = ""
        self.journal: Journal | None = None
        self._names = 0
        self._sites: list[_Site] = []
        self._client: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self.clock = Clock(self.cluster, self.params.speed)
        # Whatever kernels there are compile before the first request comes.
        self.cluster.warm_up()
        self.journal = None if self.params.log is None else Journal(self.params.log)
        self._client = aiohttp.ClientSession()
        try:
            await self._listen()
        except ParameterError:
            await self.__aexit__()
            raise
        self.identity = f"fake-{self.url.rpartition(':')[2]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.clock.stop()
        for site in self._sites:
            await site.close()
        if self._client is not None:
            await self._client.close()
        if self.journal is not None:
            self.journal.close()

    def name(self, kind: str) -> str:
        """Return an answer's identity."""
        self._names += 1
        return f"{kind}-{self.identity}-{self._names}"

    async def fetch(self, kv: Mapping[str, Any]) -> bool:
        """Fetch the KV of a prompt from the engine that computed it."""
        return self._client is not None and await transfer.fetch(self._client, kv)

    async def prefill(self, where: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Let another engine compute a prompt; return its ``kv_transfer_params``."""
        return (
            {} if self._client is None else await transfer.prefill(self._client, where, path, body)
        )

    async def set_fault(self, rank: int, fault: Fault | None) -> None:
        """Let something be wrong with a rank, or right again."""
        self.cluster.faults.set(rank, fault)
        dead = fault is not None and fault.kind == "die"
        if dead:
            self.cluster.kill(rank)
        if self.rank_urls:
            site = self._sites[1 + rank]
            await (site.die() if dead else site.listen())
        if not self.clock.running:
            # What a rank held back may be all that there is left to hand out.
            self.cluster.deliver()

    async def _listen(self) -> None:
        self._sites.append(_Site(self, None, self.params.port))
        first = self.params.ports_per_rank
        if first is not None:
            ports = [first + rank if first else 0 for rank in range(self.params.ranks)]
            self._sites += [_Site(self, rank, port) for rank, port in enumerate(ports)]
        for site in self._sites:
            await site.listen()
        self.url, *self.rank_urls = (site.url for site in self._sites)


class _Site:
    """A port of an engine."""

    def __init__(self, engine: FakeEngine, rank: int | None, port: int) -> None:
        self._host, self._port = engine.params.host, port
        self._app = application(engine, rank)
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    async def listen(self) -> None:
        """Take connections, if it does not already."""
        if self._site is not None:
            return
        if self._runner is None:
            self._runner = web.AppRunner(
                self._app, handler_cancellation=True, access_log=None, shutdown_timeout=_GRACE_S
            )
            await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port, backlog=BACKLOG)
        try:
            await site.start()
        except socket.gaierror as error:
            reason = f"host is {self._host!r}, must be an address of this machine: {error.strerror}"
            raise ParameterError(reason) from error
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ParameterError(
                f"port is {self._port}, must be free to listen on at {self._host}: {reason}"
            ) from error
        self._site = site
        if self._port == 0:
            self._port = self._runner.addresses[0][1]

    async def die(self) -> None:
        """Take no more connections, and reset those that there are."""
        site, self._site = self._site, None
        if site is not None:
            await site.stop()
        if self._runner is not None and self._runner.server is not None:
            for connection in self._runner.server.connections:
                reset(connection.transport)

    async def close(self) -> None:
        """Take no more connections, and end those that there are."""
        if self._runner is not None:
            await self._runner.cleanup()
        self._site = self._runner = None


async def run(params: EngineParams, *, ready: Any, stopped: asyncio.Event) -> None:
    """Run a fake engine until it is to stop; `ready` is called with it once it listens."""
    async with FakeEngine(params) as engine:
        ready(engine)
        await stopped.wait()
