"""A real Envoy between client and engines, with the doors over a pump of the test's."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
from aiohttp import web
from door_support import PATIENCE_S, House, house
from small_http import http_server

from integration.doors.access_log import AccessLog
from integration.doors.authz import AuthzDoor
from integration.doors.ext_proc import ExtProc, ExtProcParams
from integration.doors.grpc_server import GrpcServer
from integration.doors.reconcile import Reconciler
from integration.envoy import (
    Endpoints,
    EnvoyAdminError,
    EnvoyProcess,
    Ports,
    bootstrap,
    find_envoy,
)
from integration.free_ports import LOOPBACK, free_ports
from integration.picker import WorkerSpec
from integration.settings import Door, Limits, ServeConfig, Workers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

USAGE = {"prompt_tokens": 7, "completion_tokens": 3}


@dataclass
class Engine:
    """An engine: `mode` says what becomes of a request."""

    mode: str = "whole"
    seen: list[tuple[dict[str, str], Any]] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/health":
            return web.Response()
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append((headers, json.loads(body or b"null")))
        if self.mode == "whole":
            return web.json_response({"choices": [], "usage": USAGE})
        if self.mode == "error":
            return web.json_response({"error": {"message": "no"}}, status=500)
        return await self._stream(request)

    async def _stream(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices": []}\n\n')
        if self.mode == "broken":
            assert request.transport is not None
            request.transport.abort()
            return response
        if self.mode == "waits":
            await self.release.wait()
        await response.write(b'data: {"usage": %s}\n\n' % json.dumps(USAGE).encode())
        await response.write(b"data: [DONE]\n\n")
        return response


@dataclass
class Front:
    """All of it."""

    home: House
    engines: list[Engine]
    client: httpx.AsyncClient
    envoy: EnvoyProcess
    reconciler: Reconciler
    log: AccessLog

    def post(self, **body: Any) -> asyncio.Task[httpx.Response]:
        """Begin a completion."""
        asked = {"model": "m", "prompt": "Once"} | body
        return asyncio.create_task(self.client.post("/v1/completions", json=asked))


def _have_patience(config: dict[str, Any]) -> None:
    """Let Envoy wait for a picker that shares a busy process with its test: none is dead here."""
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    for part in manager["typed_config"]["http_filters"]:
        if "message_timeout" in part["typed_config"]:
            part["typed_config"]["message_timeout"] = f"{PATIENCE_S:.0f}s"


@contextlib.asynccontextmanager
async def front(
    folder: Path,
    door: str,
    decide: Callable[..., Any] | None = None,
    *,
    modes: tuple[str, ...] = ("whole", "whole"),
    dead: bool = False,
    change: Callable[[dict[str, Any]], object] | None = None,
    tiers: Callable[[House], Any] | None = None,
    **ext_proc: Any,
) -> AsyncIterator[Front]:
    """Start engines, doors and Envoy.

    With `dead` nothing listens at the first worker's address; `change` may edit Envoy's
    configuration; `tiers` makes the prefill tier, `ext_proc` goes to its door.
    """
    async with contextlib.AsyncExitStack() as stack:
        engines = [Engine(mode) for mode in modes]
        addresses = [await stack.enter_async_context(http_server(each)) for each in engines]
        listen, admin, nobody = free_ports([LOOPBACK] * 3)
        if dead:
            addresses[0] = f"127.0.0.1:{nobody}"
        specs = [WorkerSpec(name=f"w{n}", address=a) for n, a in enumerate(addresses)]
        home = house(decide, specs, retries=2)
        process: list[EnvoyProcess] = []

        async def active() -> dict[str, int] | None:
            try:
                return {host.address: host.active for host in await process[0].admin.hosts()}
            except EnvoyAdminError:
                return None

        reconciler = Reconciler(home.ledger, home.fleet, active, grace_s=0.05)
        log = AccessLog(home.ledger, broken=reconciler.broken)
        authz = AuthzDoor(home.reception, grace_s=0.5)
        made = ExtProc(
            home.reception,
            ExtProcParams(**({"ends": "log"} | ext_proc)),
            tiers=None if tiers is None else tiers(home),
        )
        grpc = GrpcServer([log.handler(), made.handler()])
        ports = Ports(listen=listen, admin=admin, door=await authz.start(), grpc=await grpc.start())
        stack.push_async_callback(reconciler.stop)
        stack.push_async_callback(grpc.stop)
        stack.push_async_callback(authz.stop)
        config = ServeConfig(
            workers=Workers(addresses=tuple(addresses)),
            picker=Door(door=door),  # type: ignore[arg-type]
            limits=Limits(connect_s=0.5),
        )
        endpoints = Endpoints(folder / "endpoints.json")
        endpoints.write(addresses)
        made_config = bootstrap(config, ports, endpoints=endpoints.path)
        _have_patience(made_config)
        if change is not None:
            change(made_config)
        envoy = EnvoyProcess(find_envoy(), made_config, admin_port=admin, folder=folder, threads=1)
        process.append(envoy)
        await envoy.start()
        stack.push_async_callback(envoy.stop)
        url = f"http://127.0.0.1:{listen}"
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=url, timeout=PATIENCE_S)
        )
        yield Front(home, engines, client, envoy, reconciler, log)
