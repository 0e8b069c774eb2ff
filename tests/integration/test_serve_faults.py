"""What goes wrong before a real Envoy and around a picker, and is made good or told.

How each kind of end reaches the books is `test_serve_table`'s.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import urllib.request

import pytest
from serve_stack import DEADLINE_S, Stack, ask, fates, idle, in_the_books

from integration.serve.processes import fetch

LONG = 300
"""Tokens of a request that is still under way when the test does something to it."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with Stack(tmp_path_factory.mktemp("serve")) as running:
        yield running


def output_tokens(stack):
    metrics = fetch(f"{stack.page}/metrics")
    return float(re.search(r"^brsolver_output_tokens_total (\S+)$", metrics, re.MULTILINE)[1])


def sent(stack, what, outputs, **more):
    """Send requests, wait until the books are empty; return replies and ends."""
    return asyncio.run(in_the_books(stack, lambda _: ask(stack, outputs, tag=what, **more)))


@pytest.mark.parametrize("kind", ["reset", "half-close", "garbage", "503"])
def test_before_the_first_byte_another_worker_answers(stack, kind):
    replies, ends = sent(stack, f"first-{kind}", [10], mischief={0: kind})
    assert fates(replies) == ["complete"]
    assert ends == {"finished": 1}


def retried_when_all_slots_are_taken(stack, kind):
    """Have one of four requests fail where it is first, while the other worker has no slot."""
    outputs = [10, LONG, LONG, LONG]
    replies, ends = sent(stack, f"full-{kind}", outputs, mischief={0: kind})
    assert fates(replies) == ["complete"] * 4
    assert ends == {"finished": 4}
    assert stack.most_live == 2


@pytest.mark.parametrize("kind", ["reset", "half-close", "garbage", "503", "hang"])
def test_a_retry_waits_for_a_slot(stack, kind):
    retried_when_all_slots_are_taken(stack, kind)


def test_a_retry_waits_for_a_slot_under_ext_proc(tmp_path):
    with Stack(tmp_path, picker={"door": "ext_proc"}) as other:
        retried_when_all_slots_are_taken(other, "reset")
        assert other.seen.posts == 5


@pytest.mark.parametrize("kind", ["half-close-mid", "garbage-mid"])
def test_nonsense_in_the_middle_breaks_the_answer_off(stack, kind):
    replies, _ = sent(stack, kind, [LONG], mischief={0: kind})
    assert fates(replies) == ["broken off"]


def test_picker_that_is_back_knows_what_runs(stack):
    async def run():
        await stack.until_idle()
        picker = stack.picker
        running = asyncio.ensure_future(ask(stack, [20 * LONG] * 4, tag="before"))
        await stack.until(lambda audit: audit["started"] == 4, what="full")
        os.kill(picker, signal.SIGKILL)
        audit = await stack.until(lambda audit: audit["reserved"] == 4, what="what ran, entered")
        assert stack.picker not in {None, picker}
        assert audit["begun"] == audit["started"] == 4
        assert [each["sequences"] for each in audit["workers"]] == [2, 2]
        # No slot is given twice.
        held = asyncio.ensure_future(ask(stack, [6, 6], tag="after"))
        audit = await stack.until(lambda audit: audit["held"] == 2, what="holding")
        assert audit["reserved"] == 4
        assert not any(each["foreign"] for each in audit["workers"])
        running.cancel()
        assert fates(await held) == ["complete"] * 2
        audit = await stack.until_idle()
        assert audit["ended"] == {"finished": 2, "disconnected": 4}

    asyncio.run(run())


@pytest.mark.parametrize("door", ["ext_authz", "ext_proc"])
def test_what_envoy_routed_while_there_was_no_picker_ends_as_what_it_was(tmp_path, door):
    async def run(stack):
        await stack.until_idle()
        running = asyncio.ensure_future(ask(stack, [8 * LONG] * 4, tag="running"))
        await stack.until(lambda audit: audit["started"] == 4, what="full")
        held = asyncio.ensure_future(ask(stack, [6] * 3, tag="alone"))
        left = asyncio.ensure_future(ask(stack, [6], tag="left"))
        await stack.until(lambda audit: audit["held"] == 4, what="holding")
        picker = stack.picker
        for relay in stack.relays:
            # Until there is a picker again nothing ends.
            stack._loop.call_soon_threadsafe(relay.freeze)
        os.kill(picker, signal.SIGKILL)
        await stack.until(lambda audit: audit["reserved"] == 8, what="what runs, entered")
        assert stack.picker not in {None, picker}
        left.cancel()
        await stack.until(lambda audit: audit["ended"] == {"disconnected": 1}, what="left")
        before = output_tokens(stack)
        for relay in stack.relays:
            stack._loop.call_soon_threadsafe(relay.thaw)
        assert fates([*await running, *await held]) == ["complete"] * 7
        audit = await stack.until_idle()
        assert audit["ended"] == {"finished": 7, "disconnected": 1}
        # As the engines counted them.
        assert output_tokens(stack) - before == 4 * 8 * LONG + 3 * 6

    # Streams stand still for as long as a picker takes to start.
    with Stack(tmp_path, limits={"idle_s": 120.0}, picker={"door": door}) as other:
        asyncio.run(run(other))


def test_what_was_drained_and_added_stays_so_when_the_picker_dies(stack):
    def changed(method, path="", body=None):
        request = urllib.request.Request(  # noqa: S310 # the page of this test
            f"{stack.page}/admin/workers{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:  # noqa: S310
            return json.load(answer)

    def up(audit):
        return sorted(each["name"] for each in audit["workers"] if each["state"] == "up")

    async def run():
        first, second = (each["name"] for each in (await stack.until_idle())["workers"])
        other = f"localhost:{first.rpartition(':')[2]}"
        await asyncio.to_thread(changed, "DELETE", f"/{first}")
        await stack.until(lambda audit: up(audit) == [second], what="drained")
        picker = stack.picker
        os.kill(picker, signal.SIGKILL)
        await stack.until(lambda audit: stack.picker not in {None, picker} and audit["balanced"])
        await stack.until(lambda audit: up(audit) == [second], what="drained still")
        told = await asyncio.to_thread(changed, "POST", body={"name": "again", "address": other})
        assert told == {"status": "added", "name": "again"}
        picker = stack.picker
        os.kill(picker, signal.SIGKILL)
        await stack.until(
            lambda audit: (
                stack.picker not in {None, picker} and up(audit) == sorted(["again", second])
            ),
            what="added still",
        )
        assert fates(await ask(stack, [6] * 4, tag="by-hand")) == ["complete"] * 4
        await stack.until_idle()

    asyncio.run(run())


def test_envoy_that_is_frozen_is_ended_and_started_again(tmp_path):
    async def run(stack):
        envoy = stack.envoy
        running = asyncio.ensure_future(ask(stack, [LONG] * 2, tag="frozen"))
        await stack.until(lambda audit: audit["started"] == 2, what="streaming")
        os.kill(envoy, signal.SIGSTOP)
        assert fates(await running) == ["broken off"] * 2
        await stack.until(
            lambda audit: any("Envoy is back" in line for line in stack.door.lines) and idle(audit)
        )
        assert fates(await ask(stack, [6], tag="thawed")) == ["complete"]
        assert "Envoy has not answered for 1 s and is killed" in "\n".join(stack.door.lines)

    with Stack(tmp_path, envoy={"watchdog_s": 1.0}) as other:
        asyncio.run(run(other))


def test_no_key_is_left_where_envoy_has_read_it(tmp_path):
    keys, folder = tmp_path / "keys", tmp_path / "envoy"
    keys.write_text("one=very-secret\n")
    tables = {"auth": {"keys_file": "keys"}, "envoy": {"folder": "envoy"}}
    with Stack(tmp_path, **tables) as other:
        assert other.envoy is not None
        written = [path.read_text(errors="replace") for path in folder.iterdir()]
    assert any("static_resources" in text for text in written)
    assert not any("very-secret" in text for text in written)


def test_clients_that_leave_under_ext_proc_leave_no_traceback(tmp_path):
    async def run(stack):
        running = asyncio.ensure_future(ask(stack, [LONG] * 4, tag="room", leave={0: 3, 1: 1}))
        # Who leaves early may be gone before anybody looks.
        await stack.until(
            lambda audit: audit["started"] + sum(audit["ended"].values()) == 4, what="full"
        )
        left = await ask(stack, [6] * 8, tag="held", leave=dict.fromkeys(range(8), 0))
        assert fates(left) == ["left by the client"] * 8
        await running
        audit = await stack.until_idle()
        assert audit["ended"]["finished"] == 2
        assert sum(audit["ended"].values()) == audit["begun"]

    with Stack(tmp_path, picker={"door": "ext_proc"}) as other:
        asyncio.run(run(other))
    assert "Traceback" not in "\n".join(other.door.lines)
    assert "exception" not in "\n".join(other.door.lines).lower()
