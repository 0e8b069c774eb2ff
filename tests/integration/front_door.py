"""A real Envoy between small engines and a small picker, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import shutil
import ssl
import subprocess
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc.aio
import pytest
from aiohttp import web

from integration.envoy import (
    ENDPOINTS,
    Endpoints,
    EnvoyProcess,
    Ports,
    bootstrap,
    find_envoy,
)
from integration.free_ports import LOOPBACK, free_ports
from integration.messages import accesslog, names, services
from integration.settings import Door, ServeConfig, Workers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

PATIENCE_S = 30.0
PINGED = (
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
)
"""Envoy looks each second whether the picker is there."""
USAGE = {"prompt_tokens": 7, "completion_tokens": 3}


class Served:
    """An aiohttp server at a port of its own."""

    def __init__(self) -> None:
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def _start(
        self,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
        secure: Path | None = None,
    ) -> None:
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{tail:.*}", handler)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        context = None if secure is None else showing(secure)
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


class Engine(Served):
    """Answers as an OpenAI API would; what a request's body says decides how.

    ``echo``: headers of the request come back. ``stream``: server-sent events, with usage at the
    end. ``gated``: after the first chunk it waits for `gate`. ``fail``: a status to answer.
    ``die``: the connection ends, before (``"early"``) or after (``"late"``) the first chunk.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[web.Request, bytes]] = []
        self.gate = asyncio.Event()
        self.reached = asyncio.Event()
        self.well = True
        self.breaks = False
        self.silent = False

    async def start(self, secure: Path | None = None) -> None:
        await self._start(self._answer, secure)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/health":
            return web.Response(status=200 if self.well else 503)
        body = await request.read()
        self.requests.append((request, body))
        asked = json.loads(body) if body.startswith(b"{") else {}
        if self.breaks:
            return _break(request)
        if asked.get("echo"):
            back = {names.ENDPOINT: self.address, "x-of-the-engine": "1"}
            for name in (names.ID, names.RANK):
                back[name] = request.headers[name]
            return web.Response(headers=back)
        if self.silent:
            await asyncio.Event().wait()
        if "fail" in asked:
            return web.Response(status=asked["fail"], text="the engine says no")
        if asked.get("die") == "early":
            return _break(request)
        return await self._stream(request, asked) if asked.get("stream") else _whole(asked)

    async def _stream(self, request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b'data: {"choices": [{"text": "a"}], "usage": null}\n\n')
        self.reached.set()
        if asked.get("gated"):
            await self.gate.wait()
        if asked.get("die") == "late":
            return _break(request)
        last = {"choices": [{"text": "b"}], "usage": USAGE}
        await answer.write(f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n".encode())
        await answer.write_eof()
        return answer


def certificate(folder: Path) -> None:
    """Make a certificate for loopback: ``cert.pem``, and ``key.pem``."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed, which makes the test's certificate")
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def showing(folder: Path) -> ssl.SSLContext:
    """TLS of a server that shows a folder's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def _whole(asked: dict[str, Any]) -> web.Response:
    return web.json_response(
        {"choices": [{"text": asked.get("say", "ab") * asked.get("often", 1)}], "usage": USAGE}
    )


def _break(request: web.Request) -> web.Response:
    """End the connection with a reset."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


class HttpDoor(Served):
    """The picker's HTTP door: answers what `decide` says.

    What a worker did not take is sent through Envoy again; `returned` has the requests.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[web.Request] = []
        self.returned: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.waiting = asyncio.Event()
        self.decide: Callable[[web.Request, bytes], Any] = lambda request, body: {}

    async def start(self) -> None:
        await self._start(self._answer)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if names.ID in request.headers:
            self.returned.append(request)
            return sent_again(request)
        self.asked.append(request)
        self.bodies.append(body)
        self.waiting.set()
        decided = self.decide(request, body)
        if asyncio.iscoroutine(decided):
            decided = await decided
        return decided if isinstance(decided, web.Response) else web.Response(headers=decided)


def sent_again(request: web.Request) -> web.Response:
    """As the picker answers what a worker did not take."""
    target = f"{request.headers['x-forwarded-proto']}://again{request.raw_path}"
    name = request.headers[names.ID]
    headers = {"location": target, names.AGAIN: name, names.HOST: request.headers["host"]}
    return web.Response(status=308, headers=headers)


class LogSink:
    """Takes Envoy's access log, and lets tests wait for entries."""

    def __init__(self) -> None:
        self.entries: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._changed = asyncio.Condition()
        self._server: grpc.aio.Server | None = None
        self.port = 0

    async def start(self, *handlers: Any, secure: Path | None = None) -> None:
        self._server = grpc.aio.server(options=PINGED)
        handler = services.handler(services.ACCESS_LOG, StreamAccessLogs=self._take)
        self._server.add_generic_rpc_handlers((handler, *handlers))
        self.port = self._listen(f"127.0.0.1:{self.port}", secure)
        await self._server.start()

    def _listen(self, address: str, secure: Path | None) -> int:
        assert self._server is not None
        if secure is None:
            return self._server.add_insecure_port(address)
        pair = [((secure / "key.pem").read_bytes(), (secure / "cert.pem").read_bytes())]
        return self._server.add_secure_port(address, grpc.ssl_server_credentials(pair))

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)

    async def _take(self, messages: Any, context: Any) -> Any:
        await self.gate.wait()
        async for message in messages:
            self.entries.extend(message.http_logs.log_entry)
            async with self._changed:
                self._changed.notify_all()
        return accesslog.StreamAccessLogsResponse()

    def of(self, kind: str) -> list[Any]:
        """Entries of a kind so far."""
        number = accesslog.TYPES[kind]
        return [e for e in self.entries if e.common_properties.access_log_type == number]

    async def wait_for(self, kind: str, count: int = 1) -> list[Any]:
        """Entries of a kind, once there are so many."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: len(self.of(kind)) >= count)
        return self.of(kind)


@dataclass
class FrontDoor:
    """All of it, running."""

    config: ServeConfig
    engines: list[Engine]
    door: HttpDoor
    log: LogSink
    envoy: EnvoyProcess
    endpoints: Endpoints
    ports: Ports
    client: aiohttp.ClientSession
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        scheme = "http" if self.config.listen.certificate is None else "https"
        return f"{scheme}://127.0.0.1:{self.ports.listen}"

    async def post(
        self, body: Any, path: str = "/v1/completions", **more: Any
    ) -> tuple[int, Any, Any]:
        """Status, headers and content of an answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        # As a file: aiohttp warns of long ones as bytes.
        file = io.BytesIO(data)
        async with self.client.post(self.url + path, data=file, **more) as answer:
            return answer.status, answer.headers, await answer.read()

    async def healthy(self, count: int) -> None:
        """Wait until Envoy has so many workers, all of them well."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                hosts = await self.envoy.admin.hosts()
                if len(hosts) == count and all(host.healthy for host in hosts):
                    return


async def raw(front: FrontDoor, data: bytes) -> bytes:
    """What comes back for bytes as they are."""
    reader, writer = await asyncio.open_connection("127.0.0.1", front.ports.listen)
    writer.write(data)
    async with asyncio.timeout(PATIENCE_S):
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length is not None
        content = await reader.readexactly(int(length[1]))
    writer.close()
    return head + content


def to(engine: Engine, name: str = "r1", **more: str) -> dict[str, str]:
    """Headers by which the door sends a request somewhere."""
    return {names.ENDPOINT: engine.address, names.ID: name, **more}


def in_turn(*engines: Engine, last: bool = False) -> Callable[[web.Request, bytes], dict[str, str]]:
    """Decide for an engine after the other; with `last` nobody is asked about the last of them."""
    turns = list(enumerate(engines))

    def decide(_request: web.Request, _body: bytes) -> dict[str, str]:
        turn, engine = turns.pop(0)
        return to(engine, f"r{turn}", **({} if turns or not last else {names.LAST: "1"}))

    return decide


@asynccontextmanager
async def front_door(
    folder: Path,
    *,
    engines: int = 2,
    handlers: Callable[[], tuple[Any, ...]] = tuple,
    secure: Path | None = None,
    **tables: Any,
) -> AsyncIterator[FrontDoor]:
    """Run Envoy with the tables given, as ``serve.toml`` has them.

    Engines show the certificate of the folder `secure`, if there is one, and Envoy trusts it.
    """
    running = [Engine() for _ in range(engines)]
    door, log = HttpDoor(), LogSink()
    async with contextlib.AsyncExitStack() as stack:
        for each in running:
            stack.push_async_callback(each.stop)
            await each.start(secure)
        stack.push_async_callback(door.stop)
        await door.start()
        stack.push_async_callback(log.stop)
        shown = tables.get("picker", Door()).certificate is not None
        await log.start(*handlers(), secure=folder if shown else None)
        addresses = tuple(engine.address for engine in running)
        listen, admin = free_ports([LOOPBACK] * 2)
        ports = Ports(listen=listen, admin=admin, door=door.port, grpc=log.port)
        trusted = {} if secure is None else {"tls": True, "ca": str(secure / "cert.pem")}
        workers = Workers(addresses=addresses, health_interval_s=0.1, **trusted)
        config = ServeConfig(workers=workers, **tables)
        folder.mkdir(exist_ok=True)
        endpoints = Endpoints(folder / ENDPOINTS)
        endpoints.write(addresses)
        configuration = bootstrap(config, ports, endpoints=endpoints.path)
        envoy = EnvoyProcess(
            find_envoy(), configuration, admin_port=admin, folder=folder, threads=1
        )
        stack.push_async_callback(envoy.stop)
        await envoy.start()
        client = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        front = FrontDoor(config, running, door, log, envoy, endpoints, ports, client)
        await front.healthy(engines)
        yield front
