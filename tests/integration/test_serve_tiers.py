"""Prompts computed by one tier and decoded by another: real Envoy, real core, fake engines.

Whatever happens to a request, the books of both tiers are empty afterwards.
"""

from __future__ import annotations

import asyncio
import signal

import pytest
from serve_stack import ask, at
from tier_stack import TierStack, all_idle, states

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
        said = "\n".join(faults(stack))
        assert "failed, the last: it does not answer" in said
        assert "decode workers compute prompts" in said
        assert said.count("is up again") >= 2

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
        await stack.until(lambda _: stack.states() == {second: "up"})
        assert any("that compute prompts" in line for line in stack.door.lines)
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


def first_calls(stack):
    """How many prompts the first prefill worker has computed, by the audit."""
    calls = stack.audit()["prefill"]["calls"]
    return calls.get(f"127.0.0.1:{stack.prefill[0].port}", {}).get("computed", 0)


def test_a_named_prefill_worker_is_done_when_the_answer_begins(tmp_path):
    async def run():
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
