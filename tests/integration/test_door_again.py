"""The HTTP door, when a request that a worker did not take comes to it."""

from __future__ import annotations

import asyncio

import pytest
from door_support import PATIENCE_S, house, http_client, refusing, to, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_access_log_door import ENDS, batch, entry
from test_authz_door import door
from test_doors_core import BODY, Whole

from integration.doors.access_log import AccessLog
from integration.messages import names
from integration.picker import End

ID, AGAIN, LAST, HOST = names.ID, names.AGAIN, names.LAST, names.HOST


async def said(client, body=b"{}", **headers):
    """What is answered to a request with headers of ours."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    client.ask(body, headers=lines)
    return await client.reply()


def own(name, value):
    return {name: value}


def test_it_is_sent_through_envoy_again_and_placed_anew():
    async def scenario():
        home = house(to(1), retries=2)
        log = AccessLog(home.ledger)
        async with door(home) as (_, port), http_client(port) as client:
            first = await said(client)
            assert first.headers[ID] == "r0"
            log.take(batch(entry("r0", "UpstreamPoolReady", worker="10.0.0.2:8000")))
            back = await said(client, **own(ID, "r0"), **own("x-forwarded-proto", "https"))
            assert back.status == 308
            assert back.headers["location"] == "https://again/v1/completions?x=1"
            assert back.headers[HOST] == "a"
            assert back.headers[AGAIN] == "r0.1"
            home.pump.decide = to(2)
            second = await said(client, **own(AGAIN, "r0.1"))
            assert second.headers[names.ENDPOINT] == "10.0.0.3:8000"
            assert second.headers[ID] == "r0.1"
            assert LAST not in second.headers
            assert home.pump.returned == ["r0"]
            assert +home.ledger.running == {2: 1}
            # What is told late of the first time moves and ends nothing.
            log.take(batch(entry("r0", "UpstreamPoolReady", worker="10.0.0.2:8000")))
            log.take(batch(entry("r0", code=503)))
            assert list(home.ledger.places) == ["r0.1"]
            assert home.pump.starts == [("r0", 1)]
            log.take(batch(entry("r0.1", "UpstreamPoolReady", worker="10.0.0.3:8000")))
            log.take(batch(entry("r0.1", code=200)))
            assert home.pump.starts == [("r0", 1), ("r0", 2)]
            assert [(name, end) for name, end, _ in home.pump.ends] == [("r0", End.FINISHED)]
            assert not home.ledger.places
            assert not home.ledger._turns

    asyncio.run(scenario())


@pytest.mark.parametrize("retries", [1, 3])
def test_the_last_time_is_said_to_be_the_last(retries):
    async def scenario():
        home = house(to(0), retries=retries)
        async with door(home) as (_, port), http_client(port) as client:
            answer = await said(client)
            for turn in range(retries):
                assert LAST not in answer.headers
                back = await said(client, **own(ID, answer.headers[ID]))
                answer = await said(client, **own(AGAIN, back.headers[AGAIN]))
                assert answer.headers[ID] == f"r0.{turn + 1}"
            assert answer.headers[LAST] == "1"

    asyncio.run(scenario())


def test_one_that_is_not_asked_about_again_has_been_left():
    async def scenario():
        home = house(to(0), retries=2)
        async with door(home, grace_s=1e-3) as (_, port), http_client(port) as client:
            await said(client)
            assert (await said(client, **own(ID, "r0"))).status == 308
            await until(lambda: not home.ledger.places)
            assert home.pump.ends == [("r0", End.DISCONNECTED, None)]
            assert home.ledger.running[0] == 0
            # If it is asked after all, it is a request like any other.
            assert (await said(client, **own(AGAIN, "r0.1"))).headers[ID] == "r1"

    asyncio.run(scenario())


@pytest.mark.parametrize("identity", ["br-0-1", "r7", "r0.1", "", "x" * 500, "r0.x", "."])
def test_one_of_a_picker_before_is_a_new_one(identity):
    async def scenario():
        home = house(to(0), retries=2)
        async with door(home) as (served, port), http_client(port) as client:
            await said(client)
            back = await said(client, **own(ID, identity))
            assert back.status == 308
            assert back.headers[AGAIN] == identity
            answer = await said(client, **own(AGAIN, identity))
            assert answer.headers[ID] == "r1"
            assert list(home.ledger.places) == ["r0", "r1"]
            assert served.faults == 0

    asyncio.run(scenario())


def test_a_client_that_leaves_while_it_is_held_again_is_withdrawn():
    async def scenario():
        home = house(to(0), retries=2)
        async with door(home) as (_, port), http_client(port) as other:
            async with http_client(port) as client:
                await said(client)
                back = await said(client, **own(ID, "r0"))
                home.pump.decide = None
                client.ask(headers=f"{AGAIN}: {back.headers[AGAIN]}\r\n")
                await until(lambda: "r0" in home.pump.held)
            await until(lambda: home.pump.withdrawn == ["r0"])
            assert not home.ledger.places
            home.pump.decide = refusing(429, "full", 2.0)
            assert (await said(other)).status == 429

    asyncio.run(scenario())


def test_a_refusal_goes_out_like_any():
    async def scenario():
        home = house(to(0), retries=2)
        async with door(home) as (_, port), http_client(port) as client:
            await said(client)
            back = await said(client, **own(ID, "r0"))
            home.pump.decide = refusing(503, "nobody")
            answer = await said(client, **own(AGAIN, back.headers[AGAIN]))
            assert (answer.status, answer.headers[names.REFUSAL]) == (200, "503")
            assert ID not in answer.headers

    asyncio.run(scenario())


def test_a_connection_that_ends_says_nothing_of_a_time_before():
    async def scenario():
        home = house(to(0), retries=2)
        async with door(home, grace_s=60.0) as (served, port), http_client(port) as other:
            async with http_client(port) as client:
                await said(client)
                back = await said(other, **own(ID, "r0"))
                await said(other, **own(AGAIN, back.headers[AGAIN]))
            await until(lambda: len(served._connections) == 1)
            # What was answered there was of the first time.
            home.ledger.lost("r0")
            assert list(home.ledger.places) == ["r0.1"]
            assert not home.pump.ends

    asyncio.run(scenario())


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*ENDS, "left"]),
            st.lists(st.sampled_from(["told", "told late", "silent"]), max_size=3),
        ),
        min_size=1,
        max_size=10,
    )
)
def test_books_are_empty_and_slots_kept_however_often_they_come_back(fates):
    async def one(whole, fate, times):
        async with http_client(whole.port) as client:
            reply, late = await said(client, BODY), []
            for told in times:
                if reply.status != 200:
                    return
                name, where = reply.headers[ID], reply.headers[names.ENDPOINT].split(",")[0]
                ready = entry(name, "UpstreamPoolReady", worker=where)
                if told == "told":
                    whole.log.take(batch(ready))
                elif told == "told late":
                    late.append(ready)
                back = await said(client, **own(ID, name))
                reply = await said(client, BODY, **own(AGAIN, back.headers[AGAIN]))
                whole.log.take(batch(*late))
                audit = whole.core.audit()
                assert audit.balanced, audit.wrong
                assert all(each.sequences <= each.slots for each in audit.workers)
            if reply.status != 200:
                return
            code, flags, _ = ENDS.get(fate, ENDS["client gone"])
            if fate != "left":
                whole.log.take(batch(entry(reply.headers[ID], code=code, flags=flags)))

    async def scenario():
        async with Whole(slots=2, down_after=1000) as whole:
            # What is asked about again too late is a new request.
            back = whole.ledger.back
            whole.ledger.back = lambda identity, _: back(identity, PATIENCE_S)
            await asyncio.gather(*(one(whole, *fate) for fate in fates))
            await until(whole.empty)
            audit = whole.core.audit()
            assert sum(audit.ended.values()) == audit.begun == len(fates)

    asyncio.run(scenario())
