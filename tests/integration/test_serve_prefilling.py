"""The prefill tier as the settings want it, and as it is changed while it serves."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from aiohttp import web
from door_support import house, to, until
from small_http import http_server

from brsolver.errors import ParameterError
from integration.doors.poller import PollerParams
from integration.picker import Ask, PickerParams, Refused, WorkerSpec
from integration.serve.prefilling import Prefilling, prefill_workers
from integration.settings import Tiers

BODY = b'{"prompt":"a"}'
ROUTER = PickerParams(wait_max_s=0.0, retry_after_s=9.0, pool_max=1, capacity=50)


def engine(kv_usage):
    """Return an engine that computes prompts, and says that its cache is so full."""

    async def answer(request):
        if request.path == "/metrics":
            return web.Response(text=f'vllm:kv_cache_usage_perc{{engine="0"}} {kv_usage}\n')
        return web.json_response({})

    return answer


@contextlib.asynccontextmanager
async def serving(*usages, router=ROUTER):
    async with contextlib.AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(http_server(engine(u))) for u in usages]
        said = []
        made = Prefilling(
            Tiers(prefill=tuple(addresses), decode=("127.0.0.1:1",)),
            house(to(1)).reception,
            PollerParams(interval_s=0.05),
            router=router,
            fault=said.append,
        )
        await made.start()
        stack.push_async_callback(made.stop)
        await until(lambda: all(each.kv_usage is not None for each in workers(made)))
        yield made, addresses


def workers(made):
    return made.tiers.figures().workers


async def route(made, name="r", tokens=10):
    routed = await made.tiers.route(Ask(name, tokens), "/v1/completions", BODY, {})
    return routed.destination


def test_the_routers_settings_say_how_long_requests_wait():
    async def scenario():
        async with serving(0.95) as (made, _):
            refused = await route(made)
            assert isinstance(refused, Refused)
            assert (refused.status, refused.retry_after_s) == (429, 9.0)
            assert refused.message == "no prefill worker had room for 0 s"

    asyncio.run(scenario())


def test_the_routers_settings_say_how_many_requests_wait():
    async def scenario():
        router = PickerParams(pool_max=1, wait_max_s=60.0)
        async with serving(0.95, router=router) as (made, _):
            first = asyncio.create_task(route(made, "first"))
            await until(lambda: made.tiers.figures().waiting == 1)
            refused = await route(made, "second")
            assert refused.status == 429
            assert refused.message == "too many requests are waiting for a prefill worker"
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            assert made.tiers.figures().waiting == 0

    asyncio.run(scenario())


def test_the_routers_settings_say_how_much_a_cache_holds_that_does_not_say():
    async def scenario():
        async with serving(0.5) as (made, _):
            assert workers(made)[0].capacity == 50

    asyncio.run(scenario())


def test_workers_come_and_go_while_it_serves():
    async def scenario():
        async with serving(0.1, 0.95) as (made, (first, second)):
            assert not isinstance(await route(made, "a"), Refused)
            tiers = [Tiers(prefill=each, decode=("127.0.0.1:1",)) for each in ((second,), (first,))]
            made.set(prefill_workers(tiers[0]))
            assert [each.address for each in workers(made)] == [second]
            assert isinstance(await route(made, "b"), Refused)
            made.set(prefill_workers(tiers[1]))
            assert [(each.address, each.state) for each in workers(made)] == [(first, "up")]
            assert not isinstance(await route(made, "c"), Refused)
            # It is asked how it is, as those from the start on are.
            await until(lambda: workers(made)[0].kv_usage == 0.1)

    asyncio.run(scenario())


def test_a_prefill_worker_of_another_capacity_is_the_same_worker():
    async def scenario():
        async with serving(0.5) as (made, (address,)):
            made.set([WorkerSpec(name=address, address=address, capacity=100)])
            await until(lambda: workers(made)[0].capacity == 100)
            assert [each.address for each in workers(made)] == [address]

    asyncio.run(scenario())


def test_a_name_that_nobody_knows_is_one_line_that_names_the_setting(monkeypatch):
    def lookup(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    table = Tiers(prefill=("nowhere.invalid:80",), decode=("127.0.0.1:1",))
    with pytest.raises(ParameterError, match=r"^\[tiers\] prefill: .*nowhere\.invalid"):
        prefill_workers(table)
