"""The prefill tier as the settings want it, and as it is changed while it serves."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from aiohttp import web
from door_support import house, to, until
from small_http import http_server

from brsolver.errors import ParameterError, UnknownNameError
from integration.doors.poller import PollerParams
from integration.picker import Ask, End, PickerParams, Refused, WorkerSpec
from integration.serve.by_hand import ByHand
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
async def serving(*usages, router=ROUTER, home=None, **more):
    async with contextlib.AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(http_server(engine(u))) for u in usages]
        home = house(to(1)) if home is None else home
        made = Prefilling(
            Tiers(prefill=tuple(addresses), decode=("127.0.0.1:1",)),
            home.reception,
            PollerParams(interval_s=0.05),
            router=router,
            **{"fault": print, "others": home.fleet, **more},
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
    home = house(to(1))

    async def scenario():
        async with serving(0.1, 0.95, home=home) as (made, (first, second)):
            assert not isinstance(await route(made, "a"), Refused)
            home.ledger.ended("a", End.FINISHED)
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


def states(made):
    return {each.name: each.state for each in workers(made)}


def test_workers_are_added_and_drained_by_hand_and_stay_so(tmp_path):
    hands = tmp_path / "by-hand.json"

    async def scenario():
        async with (
            http_server(engine(0.1)) as more,
            serving(0.95, 0.95, hands=ByHand(hands)) as (made, (first, second)),
        ):
            assert isinstance(await route(made, "full"), Refused)
            assert await made.add(WorkerSpec(name="more", address=more, capacity=9)) == "more"
            assert states(made) == {first: "up", second: "up", "more": "up"}
            assert not isinstance(await route(made, "a"), Refused)
            assert made.tiers.figures().calls == {"more": {"computed": 1}}
            # It is asked how it is, as those from the start on are.
            await until(lambda: workers(made)[2].kv_usage == 0.1)
            assert workers(made)[2].capacity == 9
            await made.drain(first)
            await made.drain(second)
            assert states(made) == {"more": "up"}
            # Settings that are read again name those that were drained, and not the one added.
            table = Tiers(prefill=(first, second), decode=("127.0.0.1:1",))
            made.set(prefill_workers(table))
            assert states(made) == {"more": "up"}
            later = Prefilling(
                table, house(to(1)).reception, PollerParams(), router=ROUTER, fault=print,
                hands=ByHand(hands),
            )  # fmt: skip
            await later.start()
            assert states(later) == {"more": "up"}
            await later.stop()
            # Another at the place of one that was drained is that one, by its own name.
            await made.add(WorkerSpec(name="again", address=first))
            later = Prefilling(
                table, house(to(1)).reception, PollerParams(), router=ROUTER, fault=print,
                hands=ByHand(hands),
            )  # fmt: skip
            await later.start()
            assert states(later) == {"again": "up", "more": "up"}
            await later.stop()
            await made.drain("again")
            await made.add(WorkerSpec(name=first, address=first))
            assert states(made) == {"more": "up", first: "up"}

    asyncio.run(scenario())


def test_one_that_drains_is_there_until_nobody_is_to_fetch_from_it():
    home, faults = house(to(1)), []

    async def scenario():
        async with serving(0.1, home=home, fault=faults.append) as (made, (first,)):
            assert not isinstance(await route(made, "a"), Refused)
            await made.drain(first)
            await made.drain(first)
            assert states(made) == {first: "draining"}
            assert faults == [
                f"{first} drains; no prefill worker is up: decode workers compute prompts"
            ]
            # Whoever takes its place is called otherwise: figures go by names.
            assert await made.add(WorkerSpec(name=first, address=first)) == f"{first}~2"
            assert states(made) == {first: "draining", f"{first}~2": "up"}
            assert "its successor is called" in faults[-1]
            await made.drain(first)
            assert states(made) == {first: "draining", f"{first}~2": "up"}
            home.ledger.ended("a", End.FINISHED)
            assert states(made) == {f"{first}~2": "up"}
            await made.drain(f"{first}~2")
            assert states(made) == {}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("name", "address", "line"),
    [
        ("x", None, "address is '{first}', where there is a worker already"),
        (None, "127.0.0.1:7", "name is '{first}', as the worker at {first} is called; must differ"),
        ("x", "10.0.0.1:8000", "where there is a worker of the other tier; must be in one of them"),
    ],
)
def test_a_worker_that_cannot_be_is_refused_and_changes_nothing(tmp_path, name, address, line):
    hands = ByHand(tmp_path / "by-hand.json")

    async def scenario():
        async with serving(0.1, hands=hands) as (made, (first,)):
            spec = WorkerSpec(name=name or first, address=address or first)
            with pytest.raises(ParameterError) as caught:
                await made.add(spec)
            assert line.format(first=first) in str(caught.value)
            with pytest.raises(UnknownNameError, match="unknown prefill worker 'nobody'"):
                await made.drain("nobody")
            assert states(made) == {first: "up"}
            assert not hands

    asyncio.run(scenario())


def test_a_name_that_nobody_knows_is_one_line_that_names_the_setting(monkeypatch):
    def lookup(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    table = Tiers(prefill=("nowhere.invalid:80",), decode=("127.0.0.1:1",))
    with pytest.raises(ParameterError, match=r"^\[tiers\] prefill: .*nowhere\.invalid"):
        prefill_workers(table)
