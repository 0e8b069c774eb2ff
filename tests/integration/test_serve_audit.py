"""The audit of a front door beside a real Envoy: what the books have is what runs."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

import httpx
from aiohttp import web
from serve_stack import DEADLINE_S, Stack, ask, idle, toml
from small_http import http_server

from integration.envoy import ENDPOINTS, EnvoyProcess, Ports, bootstrap, find_envoy
from integration.picker import End
from integration.serve.places import Places
from integration.serve.wiring import Picker
from integration.settings import load


@dataclass
class Engine:
    """An engine without metrics, whose streams go on until they are let end."""

    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method != "POST":
            return web.Response(status=200 if request.path == "/health" else 404)
        await request.read()
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices": [{"text": "a"}]}\n\n')
        await self.release.wait()
        await response.write(b"data: [DONE]\n\n")
        return response


@dataclass
class Serving:
    """All of it."""

    picker: Picker
    engine: Engine
    address: str
    client: httpx.AsyncClient
    page: str

    def stream(self) -> asyncio.Task[httpx.Response]:
        """Begin a stream."""
        body = {"model": "m", "prompt": "Once", "stream": True}
        return asyncio.create_task(self.client.post("/v1/completions", json=body))

    async def running(self) -> asyncio.Task[httpx.Response]:
        """Begin a stream; return it once all know of it."""
        begun = self.stream()
        await self.until(lambda audit: audit["started"] == audit["workers"][0]["at_envoy"] == 1)
        return begun

    async def until(self, holds) -> dict[str, Any]:
        """Wait until the audit is as it should be; return it."""
        audit: Any = None
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not holds(audit := (await self.client.get(self.page)).json()):
                    pass
                return audit
        except TimeoutError:
            raise AssertionError(f"not so: {audit}") from None


@contextlib.asynccontextmanager
async def serving(folder):
    """Serve before one engine, the picker in this loop."""
    engine = Engine()
    async with contextlib.AsyncExitStack() as stack:
        address = await stack.enter_async_context(http_server(engine))
        path = folder / "serve.toml"
        path.write_text(
            toml(
                listen={"port": 0},
                admin={"port": 0, "shadows": []},
                workers={"addresses": [address]},
                router={"policy": "jsq-load", "mode": "immediate", "slots": 2},
            )
        )
        config = load(path)
        places = Places.choose(config, folder)
        picker = await Picker.found(config, places)
        picker._comparing._look_s = 0.05
        stack.push_async_callback(picker.stop, at_once=asyncio.Event())
        await picker.start()
        ports = Ports(
            listen=places.listen, admin=places.envoy_admin, door=places.door, grpc=places.grpc
        )
        made = bootstrap(config, ports, endpoints=folder / ENDPOINTS)
        envoy = EnvoyProcess(
            find_envoy(), made, admin_port=places.envoy_admin, folder=folder, threads=1
        )
        stack.push_async_callback(envoy.stop)
        await envoy.start()
        url = f"http://127.0.0.1:{places.listen}"
        client = httpx.AsyncClient(base_url=url, timeout=DEADLINE_S)
        await stack.enter_async_context(client)
        page = f"http://127.0.0.1:{places.admin}/admin/audit"
        yield Serving(picker, engine, address, client, page)


def test_a_stream_that_the_books_have_lost_shows(tmp_path):
    async def scenario():
        async with serving(tmp_path) as here:
            stream = await here.running()
            (name,) = here.picker.core._books.known
            here.picker.core.ended(name, End.DISCONNECTED)
            audit = await here.until(lambda audit: not audit["balanced"])
            text = f"{here.address}: 1 requests are there by Envoy, 0 by the books"
            assert audit["wrong"] == [text]
            assert (audit["reserved"], audit["workers"][0]["at_envoy"]) == (0, 1)
            here.engine.release.set()
            assert (await stream).text.endswith("[DONE]\n\n")
            audit = await here.until(lambda audit: audit["balanced"])
            assert (audit["begun"], audit["ended"]) == (1, {"disconnected": 1})

    asyncio.run(scenario())


def test_an_end_that_the_ledger_cannot_tell_of_shows(tmp_path):
    async def scenario():
        async with serving(tmp_path) as here:
            stream = await here.running()
            here.picker._ledger.places.clear()
            here.engine.release.set()
            await stream
            audit = await here.until(lambda audit: not audit["balanced"])
            text = f"{here.address}: 0 requests are there by Envoy, 1 by the books"
            assert audit["wrong"] == [text]
            here.picker.core.abandon(End.RESET)
            await here.until(lambda audit: audit["balanced"])

    asyncio.run(scenario())


def test_what_takes_no_slot_is_not_missed(tmp_path):
    async def scenario():
        async with serving(tmp_path) as here:
            stream = await here.running()
            # The picker lets it pass: it generates nothing that the picker knows of.
            rerank = asyncio.create_task(here.client.post("/v1/rerank", json={"query": "Once"}))
            await here.until(lambda audit: audit["workers"][0]["at_envoy"] == 2)
            looks = here.picker._comparing._looks
            for _ in range(8):
                # Each look makes a new one.
                await here.until(lambda _, old=looks: here.picker._comparing._looks is not old)
                looks = here.picker._comparing._looks
            audit = await here.until(lambda _: True)
            assert (audit["balanced"], audit["reserved"]) == (True, 1)
            here.engine.release.set()
            await asyncio.gather(stream, rerank)
            await here.until(lambda audit: audit["balanced"] and audit["reserved"] == 0)

    asyncio.run(scenario())


def test_envoy_and_the_books_have_the_same(tmp_path):
    def both(audit, count):
        rows = audit["workers"]
        return all(row["at_envoy"] == row["started"] == row["reserved"] == count for row in rows)

    async def scenario(stack):
        running = asyncio.create_task(ask(stack, [3000] * 4))
        audit = await stack.until(lambda audit: both(audit, 2), what="both full")
        assert audit["balanced"]
        running.cancel()
        await stack.until(lambda audit: idle(audit) and both(audit, 0), what="both empty")

    with Stack(tmp_path) as stack:
        asyncio.run(scenario(stack))
