"""The doors over the picker's own core: whatever happens, each request ends once in its books."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import pytest
from door_support import http_client, until, workers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_access_log_door import ENDS, batch, entry

from integration.doors.access_log import AccessLog
from integration.doors.authz import AuthzDoor
from integration.doors.fleet import Fleet
from integration.doors.ledger import Ledger
from integration.doors.reception import Reception, by_client
from integration.messages import names
from integration.picker import Ask, Core, End, PickerParams, Pump, Reader

BODY = json.dumps({"model": "m", "prompt": "Once upon", "max_tokens": 9}).encode()


class Whole:
    """Core, pump, ledger and the HTTP door."""

    def __init__(self, **params):
        specs = workers(2)
        self.params = PickerParams(policy="jsq", predictor="none", prefill=False, **params)
        self.core = Core(self.params, specs, clock=time.monotonic)
        self.pump = Pump(self.core)
        fleet = Fleet(self.pump, specs)
        self.ledger = Ledger(self.pump, fleet, clock=time.monotonic)
        reader = Reader(self.params)
        self.core.listeners.append(reader)
        reception = Reception(self.pump, fleet, self.ledger, read=by_client(reader))
        self.door = AuthzDoor(reception, grace_s=1e-3)
        self.log = AccessLog(self.ledger)

    async def __aenter__(self):
        self.port = await self.door.start()
        return self

    async def __aexit__(self, *_):
        await self.door.stop()
        self.pump.stop()

    def empty(self):
        audit = self.core.audit()
        return not (audit.reserved or audit.held or audit.wrong or self.ledger.places)


@pytest.mark.parametrize("kind", ENDS)
def test_every_end_is_one_entry(kind):
    code, flags, expected = ENDS[kind]

    async def scenario():
        async with Whole() as whole, http_client(whole.port) as client:
            client.ask(BODY)
            reply = await client.reply()
            name = reply.headers[names.ID]
            where = reply.headers[names.ENDPOINT].split(",")[0]
            assert whole.core.audit().reserved == 1
            whole.log.take(batch(entry(name, "UpstreamPoolReady", worker=where)))
            assert whole.core.audit().started == 1
            ended = entry(name, code=code, flags=flags, worker=where)
            whole.log.take(batch(ended, ended))
            assert whole.empty()
            assert dict(whole.core.audit().ended) == {expected: 1}

    asyncio.run(scenario())


def test_held_and_withdrawn_is_one_entry():
    async def scenario():
        async with Whole(slots=1) as whole, contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(http_client(whole.port)) for _ in range(3)]
            for client in clients[:2]:
                client.ask(BODY)
                await client.reply()
            clients[2].ask(BODY)
            await until(lambda: whole.core.audit().held)
            await clients[2].close()
            await until(lambda: not whole.core.audit().held)
            assert whole.core.audit().ended[End.DISCONNECTED] == 1
            assert whole.core.audit().reserved == 2

    asyncio.run(scenario())


def test_one_that_cannot_enter_leaves_its_namesake_be():
    async def scenario():
        async with Whole(slots=1) as whole, contextlib.AsyncExitStack() as stack:
            first, second = [await stack.enter_async_context(http_client(whole.port)) for _ in "12"]
            # Whoever reads requests in a way of their own may name two of them alike.
            whole.door._reception.read = lambda *_: Ask("same", prompt_tokens=1)
            first.ask(BODY)
            name = (await first.reply()).headers[names.ID]
            second.ask(BODY)
            assert names.ID not in (await second.reply()).headers
            assert whole.core.audit().reserved == whole.door.faults == 1
            whole.ledger.ended(name, End.FINISHED)
            assert whole.empty()
            assert dict(whole.core.audit().ended) == {End.FINISHED: 1}

    asyncio.run(scenario())


def test_full_pool_is_refused_as_openai_does():
    async def scenario():
        async with Whole(slots=1, pool_max=1) as whole, contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(http_client(whole.port)) for _ in range(4)]
            for client in clients:
                client.ask(BODY)
            refused = [asyncio.create_task(client.reply()) for client in clients]
            await until(lambda: sum(task.done() for task in refused) == 3)
            done = [task.result() for task in refused if task.done()]
            (reply,) = [each for each in done if each.status != 200]
            assert reply.status == 429
            assert reply.error["type"] == "rate_limit_error"
            assert int(reply.headers["retry-after"]) >= 1
            for task in refused:
                task.cancel()
            await asyncio.gather(*refused, return_exceptions=True)

    asyncio.run(scenario())


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.sampled_from([*ENDS, "left", "left, told"]), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
def test_books_are_empty_whatever_happened(fates):
    async def one(whole, fate, started):
        async with http_client(whole.port) as client:
            client.ask(BODY)
            reply = await client.reply()
        name = reply.headers[names.ID]
        where = reply.headers[names.ENDPOINT].split(",")[0]
        if started:
            whole.log.take(batch(entry(name, "UpstreamPoolReady", worker=where)))
        code, flags, _ = ENDS.get(fate, ENDS["client gone"])
        if fate != "left" or started:
            whole.log.take(batch(entry(name, code=code, flags=flags, worker=where)))

    async def scenario():
        async with Whole(slots=2, down_after=100) as whole:
            await asyncio.gather(*(one(whole, *fate) for fate in fates))
            await until(whole.empty)
            assert sum(whole.core.audit().ended.values()) == len(fates)

    asyncio.run(scenario())
