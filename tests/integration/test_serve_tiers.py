"""Prompts computed by one tier and decoded by another: real Envoy, real core, fake engines.

Whatever happens to a request, the books of both tiers are empty afterwards.
"""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from aiohttp import web
from serve_stack import DEADLINE_S, ask, at
from small_http import http_server
from tier_stack import TierStack, all_idle, changed, posted, states

from integration.serve.processes import fetch

LONG = 300
"""Tokens of a request that is still under way when the test does something to it."""
PROMPT = 200


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with TierStack(tmp_path_factory.mktemp("tiers"), slots=8) as running:
        yield running


def fates(replies):
    return {str(reply.fate) for reply in replies}


def gained(before, after):
    """What became of prompts meanwhile."""
    was, now = before["prefill"]["prompts"], after["prefill"]["prompts"]
    return {what: n - was.get(what, 0) for what, n in now.items() if n != was.get(what, 0)}


def faults(stack):
    return [line for line in stack.door.lines if "Fault: kind prefill" in line]


def under_way(audit, address):
    """How many prompts a prefill worker has."""
    return sum(w["prompts"] for w in audit["prefill"]["workers"] if w["address"] == address)


async def thawed(relays):
    for relay in relays:
        relay.thaw()


async def seen(stack, posts):
    """Wait until so many calls have come to prefill workers."""
    await stack.until(lambda _: stack.prefill_seen.posts >= posts, what="calls")


def test_prompts_are_computed_by_one_tier_and_decoded_by_the_other(stack):
    async def run():
        before, calls = await stack.until_ready(), stack.prefill_seen.posts
        replies = await ask(stack, [20] * 6, tag="finish", prompts=PROMPT)
        assert fates(replies) == {"complete"}
        after = await stack.until_idle()
        assert gained(before, after) == {"computed": 6}
        assert stack.prefill_seen.posts - calls == 6
        # All that was kept for decode workers has been fetched.
        assert set(stack.kept()) == {0.0}
        assert 'brsolver_prefill_prompts_total{result="computed"}' in fetch(f"{stack.page}/metrics")

    asyncio.run(run())


def test_clients_that_leave_while_their_prompts_are_computed_leave_nothing(stack):
    async def run():
        before, calls = await stack.until_ready(), stack.prefill_seen.posts
        for relay in stack.prefill:
            relay.freeze()
        leaving = asyncio.ensure_future(
            ask(stack, [LONG] * 4, tag="left", leave=dict.fromkeys(range(4), 0))
        )
        await seen(stack, calls + 4)
        audit = await stack.until(lambda audit: audit["prefill"]["under_way"] == 4)
        # They are not in the books of the decode tier yet.
        assert audit["begun"] == before["begun"]
        assert fates(await leaving) == {"left by the client"}
        after = await stack.until_idle()
        assert after["begun"] == before["begun"]
        assert gained(before, after) == {}
        stack.call(thawed(stack.prefill))
        assert fates(await ask(stack, [5], tag="left-after")) == {"complete"}
        await stack.until_idle()

    asyncio.run(run())


def test_calls_that_a_dying_prefill_worker_breaks_off_are_made_elsewhere(stack):
    async def run():
        before, calls = await stack.until_ready(), stack.prefill_seen.posts
        first, second = stack.prefill
        first.freeze()
        asked = asyncio.ensure_future(ask(stack, [20] * 6, tag="die", prompts=PROMPT))
        # All have been made, those to the first worker without an answer.
        await seen(stack, calls + 6)
        stack.call(first.die())
        assert fates(await asked) == {"complete"}
        after = await stack.until(lambda audit: "down" in states(audit))
        assert gained(before, after) == {"computed": 6}
        assert stack.states()[f"127.0.0.1:{first.port}"] == "down"
        stack.call(second.die())
        await stack.until(lambda audit: states(audit) == ["down", "down"])
        before = await stack.until_idle()
        # Nobody computes prompts but the decode tier.
        assert fates(await ask(stack, [20] * 6, tag="alone", prompts=PROMPT)) == {"complete"}
        after = await stack.until_idle()
        assert gained(before, after) == {"decode": 6}
        stack.call(thawed(stack.prefill))
        for relay in stack.prefill:
            stack.call(relay.revive())
        await stack.until(lambda audit: states(audit) == ["up", "up"])
        # The log comes through a pipe, later than the audit.
        await stack.until(lambda _: "\n".join(faults(stack)).count("is up again") >= 2)
        said = "\n".join(faults(stack))
        assert "failed, the last: it does not answer" in said
        assert "decode workers compute prompts" in said

    asyncio.run(run())


def test_streams_of_a_decode_worker_that_dies_leave_nothing_in_either_tier(stack):
    async def run():
        before = await stack.until_ready()
        asked = asyncio.ensure_future(ask(stack, [LONG] * 8, tag="decode", prompts=PROMPT))
        await stack.until(lambda audit: audit["started"] == 8, what="busy")
        stack.call(stack.relays[0].die())
        assert fates(await asked) == {"complete", "broken off"}
        stack.call(stack.relays[0].revive())
        after = await stack.until_idle()
        assert gained(before, after) == {"computed": 8}
        assert after["begun"] - before["begun"] == 8
        assert sum(after["ended"].values()) - sum(before["ended"].values()) == 8

    asyncio.run(run())


def test_the_prefill_tier_is_changed_while_it_serves(stack):
    async def run():
        await stack.until_ready()
        first, second = (f"127.0.0.1:{relay.port}" for relay in stack.prefill)
        assert stack.states() == {first: "up", second: "up"}
        stack.configure(stack.addresses, [second])
        stack.door.signal(signal.SIGHUP)
        await stack.until(
            lambda _: (
                stack.states() == {second: "up"}
                and any("that compute prompts" in line for line in stack.door.lines)
            )
        )
        calls = first_calls(stack)
        assert fates(await ask(stack, [5] * 6, tag="one", prompts=PROMPT)) == {"complete"}
        assert first_calls(stack) == calls
        stack.configure(stack.addresses)
        stack.door.signal(signal.SIGHUP)
        await stack.until(lambda _: stack.states() == {first: "up", second: "up"})
        assert fates(await ask(stack, [5] * 6, tag="two", prompts=PROMPT)) == {"complete"}
        assert first_calls(stack) > calls
        await stack.until_idle()

    asyncio.run(run())


def test_prefill_workers_come_and_go_by_hand_and_stay_so_when_the_picker_dies(stack):
    async def run():
        await stack.until_ready()
        first, second = (f"127.0.0.1:{relay.port}" for relay in stack.prefill)
        assert await changed(stack, "DELETE", first) == (202, {"status": "draining"})
        await stack.until(lambda _: stack.states() == {second: "up"})
        calls = first_calls(stack)
        assert fates(await ask(stack, [5] * 6, tag="by-hand", prompts=PROMPT)) == {"complete"}
        assert first_calls(stack) == calls
        picker = stack.picker
        os.kill(picker, signal.SIGKILL)
        await stack.until(lambda _: stack.picker not in {None, picker})
        await stack.until(lambda _: stack.states() == {second: "up"}, what="drained still")
        # The same host by another name: what counts is its number.
        other = {"name": "again", "address": f"localhost:{first.rpartition(':')[2]}"}
        assert await changed(stack, "POST", "", other) == (
            201,
            {"status": "added", "name": "again"},
        )
        status, told = await changed(stack, "POST", "", {**other, "name": "twice"})
        assert (status, told["error"]) == (
            422,
            f"address is {first!r}, where there is a worker already",
        )
        picker = stack.picker
        os.kill(picker, signal.SIGKILL)
        await stack.until(lambda _: stack.picker not in {None, picker})
        await stack.until(lambda _: stack.states() == {first: "up", second: "up"})
        async with asyncio.timeout(DEADLINE_S):
            # Envoy may go by itself yet, and one worker may be fast enough for all.
            while not (await stack.until_idle())["prefill"]["calls"].get("again"):
                replies = await ask(stack, [5] * 6, tag="anew", prompts=PROMPT)
                assert fates(replies) == {"complete"}
        said = "\n".join(stack.door.lines)
        assert f"prefill worker {first} drains" in said
        assert "prefill worker again is added" in said
        # Back to what the file says.
        await changed(stack, "DELETE", "again")
        await changed(stack, "POST", "", {"name": first, "address": first})
        await stack.until_ready()

    asyncio.run(run())


@pytest.mark.parametrize("dies", [False, True], ids=["it answers", "it dies"])
def test_calls_in_flight_at_a_worker_that_is_taken_away_are_not_lost(stack, dies):
    async def run():
        before, calls = await stack.until_ready(), stack.prefill_seen.posts
        relay = stack.prefill[0]
        first, second = (f"127.0.0.1:{each.port}" for each in stack.prefill)
        at_first = before["prefill"]["calls"].get(first, {})
        relay.freeze()
        asked = asyncio.ensure_future(ask(stack, [20] * 6, tag=f"away-{dies}", prompts=PROMPT))
        await seen(stack, calls + 6)
        await changed(stack, "DELETE", first)
        audit = await stack.until(lambda audit: under_way(audit, second) == 0, what="half done")
        assert stack.states() == {first: "draining", second: "up"}
        there = under_way(audit, first)
        assert there > 0
        stack.call(relay.die() if dies else thawed([relay]))
        assert fates(await asked) == {"complete"}
        after = await stack.until_idle()
        assert gained(before, after) == {"computed": 6}
        # Nobody is to fetch from it any more.
        assert stack.states() == {second: "up"}
        what = "failed" if dies else "computed"
        assert after["prefill"]["calls"][first][what] - at_first.get(what, 0) == there
        stack.call(thawed([relay]))
        stack.call(relay.revive())
        await changed(stack, "POST", "", {"name": first, "address": first})
        await stack.until_ready()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"model": "none such"}, 404),
        ({"temperature": -3}, 400),
        ({"prompt": [[]]}, 400),
    ],
)
def test_an_engine_that_does_not_take_a_request_is_heard_by_the_client(stack, wrong, status):
    async def run():
        before = await stack.until_ready()
        calls, lines = stack.prefill_seen.posts, len(faults(stack))
        body = {"prompt": "a", "max_tokens": 3, **wrong}
        itself = f"http://{stack.engines.addresses[0]}/v1/completions"
        there = await asyncio.to_thread(posted, itself, body)
        for _ in range(4):
            told = await asyncio.to_thread(posted, f"{stack.url}/v1/completions", body)
            assert told == there
            assert (told[0], set(told[1])) == (status, {"error"})
        after = await stack.until_ready()
        assert gained(before, after) == {"rejected": 4}
        # Asked once each, and nothing is said against whom was asked.
        assert stack.prefill_seen.posts - calls == 4
        assert after["begun"] == before["begun"]
        assert len(faults(stack)) == lines
        assert 'result="rejected"} ' in fetch(f"{stack.page}/metrics")
        assert fates(await ask(stack, [5] * 3, tag="right")) == {"complete"}
        await stack.until_idle()

    asyncio.run(run())


@pytest.mark.parametrize("status", [413, 418, 422])
def test_an_engines_error_reaches_the_client_whatever_its_status_and_length(stack, status):
    said = {"error": {"message": "x" * 40_000, "type": "BadRequestError", "code": status}}

    async def engine(request):
        if request.method == "GET":
            return web.Response()
        return web.json_response(said, status=status)

    async def run():
        await stack.until_ready()
        others = list(stack.states())
        async with http_server(engine) as address:
            await changed(stack, "POST", "", {"name": "strict", "address": address})
            for each in others:
                await changed(stack, "DELETE", each)
            body = {"prompt": "a", "max_tokens": 3}
            told = await asyncio.to_thread(posted, f"{stack.url}/v1/completions", body)
            assert told == (status, said)
            for each in others:
                await changed(stack, "POST", "", {"name": each, "address": each})
            await changed(stack, "DELETE", "strict")
        await stack.until_ready()

    asyncio.run(run())


def first_calls(stack):
    """How many prompts the first prefill worker has computed, by the audit."""
    calls = stack.audit()["prefill"]["calls"]
    return calls.get(f"127.0.0.1:{stack.prefill[0].port}", {}).get("computed", 0)


SEVERAL = [
    ("completions", {"prompt": ["A prompt.", "And another one."]}, 2),
    ("completions", {"prompt": [[1, 2, 3], [4]], "n": 2}, 4),
    ("completions", {"prompt": "A prompt.", "n": 3}, 3),
    ("chat/completions", {"messages": [{"role": "user", "content": "Hm?"}], "n": 2}, 2),
]
"""Requests of several sequences, and how many."""


async def of_several(stack):
    """Send them; see that the decode tier alone has to do with them."""
    before, calls = await stack.until_ready(), stack.prefill_seen.posts
    said = faults(stack)
    for path, body, sequences in SEVERAL:
        url, asked = f"{stack.url}/v1/{path}", {"model": "fake", "max_tokens": 4, **body}
        status, told = await asyncio.to_thread(posted, url, asked)
        assert (status, len(told.get("choices", ()))) == (200, sequences), told
    after = await stack.until_idle()
    assert gained(before, after) == {"undivided": len(SEVERAL)}
    assert stack.prefill_seen.posts == calls
    assert faults(stack) == said


def test_several_sequences_are_never_decoded_on_what_was_computed_for_one(stack):
    asyncio.run(of_several(stack))
    assert 'brsolver_prefill_prompts_total{result="undivided"}' in fetch(f"{stack.page}/metrics")


def test_a_named_prefill_worker_is_done_when_the_answer_begins(tmp_path):
    async def run():
        await of_several(other)
        before = await other.until_idle()
        asked = asyncio.ensure_future(ask(other, [LONG] * 2, tag="named", prompts=PROMPT))
        audit = await other.until(
            lambda audit: audit["started"] == 2 and not audit["prefill"]["under_way"]
        )
        assert gained(before, audit) == {"named": 2}
        assert not asked.done()
        assert fates(await asked) == {"complete"}
        await other.until_idle()
        assert set(other.kept()) == {0.0}
        # What an engine does not take is no fault of either worker's.
        wrong = {"model": "none such", "prompt": "a", "max_tokens": 3}
        itself = f"http://{other.engines.addresses[0]}/v1/completions"
        there = await asyncio.to_thread(posted, itself, wrong)
        told = await asyncio.to_thread(posted, f"{other.url}/v1/completions", wrong)
        assert told == there
        assert told[0] == 404
        after = await other.until_ready()
        assert after["ended"]["rejected"] == 1
        assert faults(other) == []

    named = TierStack(tmp_path, connector="x-prefiller-host-port", slots=4, speed=1.0)
    with named as other:
        asyncio.run(run())


def test_tiers_cannot_be_left_out_while_serving(stack):
    async def run():
        await stack.until_idle()
        text = stack.config.read_text()
        addresses = ", ".join(f'"{each}"' for each in stack.addresses)
        left, _, _ = text.partition("[tiers]")
        stack.config.write_text(left.replace("addresses = []", f"addresses = [{addresses}]"))
        stack.door.signal(signal.SIGHUP)
        await stack.until(
            lambda _: any("[tiers] was left out, must stay" in line for line in stack.door.lines)
        )
        assert fates(await ask(stack, [5] * 3, tag="stay")) == {"complete"}
        assert all_idle(await stack.until_idle())

    asyncio.run(run())


def test_tiers_that_stand_in_files_follow_them(tmp_path):
    async def run():
        await other.until_ready()
        before = other.audit()
        assert fates(await ask(other, [5] * 4, tag="both", prompts=PROMPT)) == {"complete"}
        assert gained(before, await other.until_idle()) == {"computed": 4}
        other.configure(other.addresses[:1], at(other.prefill)[1:])
        await other.until(
            lambda audit: (
                [each["state"] for each in audit["workers"]] == ["up", "gone"]
                and [each["address"] for each in audit["prefill"]["workers"]]
                == at(other.prefill)[1:]
            ),
            what="one of each",
        )
        assert fates(await ask(other, [5] * 4, tag="one", prompts=PROMPT)) == {"complete"}
        assert all_idle(await other.until_idle())

    with TierStack(tmp_path, in_files=True, slots=4) as other:
        asyncio.run(run())
