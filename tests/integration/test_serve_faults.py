"""Whatever happens to a request, it reaches the books exactly once: with real Envoy and processes.

The table of what happened is printed by the last test (``pytest -s``).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest
from serve_stack import Stack, ask, idle

from integration.serve.traffic import Fate

TABLE = []
LONG = 300
"""Tokens of a request that is still under way when the test does something to it."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with Stack(tmp_path_factory.mktemp("serve")) as running:
        yield running


def fates(replies):
    return [str(reply.fate) for reply in replies]


async def entered(stack, what, before, after, replies, came):
    """Note a row: as many requests have ended in the books as came, and nothing is left."""
    ended = sum(after["ended"].values()) - sum(before["ended"].values())
    how = {k: n - before["ended"].get(k, 0) for k, n in after["ended"].items()}
    how = {k: n for k, n in how.items() if n}
    TABLE.append((what, ", ".join(sorted(set(fates(replies)))), came, ended, how))
    assert idle(after)
    assert after["begun"] - before["begun"] == came
    assert ended == came
    assert not any(reply.fate is Fate.WRONG for reply in replies), replies


def row(stack, what, outputs, **more):
    """Send requests, wait until the books are empty, note the row, return replies and ends."""

    async def run():
        before = await stack.until_idle()
        replies = await ask(stack, outputs, tag=what.replace(" ", "-"), **more)
        after = await stack.until_idle()
        await entered(stack, what, before, after, replies, len(outputs))
        return replies, TABLE[-1][-1]

    return asyncio.run(run())


def test_finish(stack):
    replies, ends = row(stack, "finish", [5, 1, 20, 8, 3, 11])
    assert fates(replies) == ["complete"] * 6
    assert ends == {"finished": 6}


def test_client_leaves_in_the_middle(stack):
    replies, ends = row(stack, "client leaves, streaming", [LONG, LONG], leave={0: 3, 1: 1})
    assert fates(replies) == ["left by the client"] * 2
    assert ends == {"disconnected": 2}


def test_client_leaves_while_held(stack):
    async def run():
        before = await stack.until_idle()
        running = asyncio.ensure_future(ask(stack, [LONG] * 4, tag="room"))
        await stack.until(lambda audit: audit["started"] == 4, what="full")
        replies = await ask(stack, [LONG], leave={0: 0}, tag="held")
        audit = await stack.until(lambda audit: audit["held"] == 0, what="without it")
        assert audit["ended"].get("disconnected", 0) - before["ended"].get("disconnected", 0) == 1
        replies += await running
        after = await stack.until_idle()
        await entered(stack, "client leaves, held", before, after, replies, 5)

    asyncio.run(run())


def test_reset_in_the_middle(stack):
    replies, ends = row(stack, "upstream reset, streaming", [LONG], mischief={0: "reset-mid"})
    assert fates(replies) == ["broken off"]
    assert ends.keys() <= {"reset", "worker_died"}


@pytest.mark.parametrize("kind", ["reset", "half-close", "garbage", "503"])
def test_before_the_first_byte_another_worker_answers(stack, kind):
    what = f"upstream {kind}, before the first byte"
    replies, ends = row(stack, what, [10], mischief={0: kind})
    assert fates(replies) == ["complete"]
    assert ends == {"finished": 1}


def test_error_of_the_engine_is_passed_on(stack):
    replies, ends = row(stack, "5xx", [10], mischief={0: "500"})
    assert fates(replies) == ["refused"]
    assert replies[0].status == 500
    assert ends == {"rejected": 1}


@pytest.mark.parametrize("kind", ["half-close-mid", "garbage-mid"])
def test_nonsense_in_the_middle_breaks_the_answer_off(stack, kind):
    replies, _ = row(stack, f"upstream {kind}", [LONG], mischief={0: kind})
    assert fates(replies) == ["broken off"]


def test_timeout_in_the_middle(stack):
    replies, ends = row(stack, "timeout, streaming", [LONG], mischief={0: "hang-mid"})
    assert fates(replies) == ["broken off"]
    assert ends.keys() <= {"timeout", "reset"}


def test_worker_dies(stack):
    async def run():
        before = await stack.until_idle()
        task = asyncio.ensure_future(ask(stack, [LONG] * 4, tag="death"))
        tags = [f"death-{index}" for index in range(4)]
        await stack.until(lambda _: all(stack.seen.answered[tag] for tag in tags), what="answered")
        await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(stack.relays[0].die(), stack._loop)
        )
        replies = await task
        assert fates(replies).count("broken off") == 2
        # What comes while it is dead goes to the other one.
        replies += await ask(stack, [5, 5], tag="while-dead")
        assert fates(replies[4:]) == ["complete"] * 2
        await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(stack.relays[0].revive(), stack._loop)
        )
        await stack.until(lambda audit: all(w["state"] == "up" for w in audit["workers"]))
        after = await stack.until_idle()
        await entered(stack, "worker dies", before, after, replies, 6)

    asyncio.run(run())


@pytest.mark.parametrize("name", ["KILL", "STOP"])
def test_picker_killed_or_frozen(stack, name):
    async def run():
        await stack.until_idle()
        picker = stack.picker
        running = asyncio.ensure_future(ask(stack, [LONG] * 4, tag=f"running-{name}"))
        await stack.until(lambda audit: audit["started"] == 4, what="full")
        held = asyncio.ensure_future(ask(stack, [6, 6], tag=f"held-{name}"))
        await stack.until(lambda audit: audit["held"] == 2, what="holding")
        os.kill(picker, getattr(signal, f"SIG{name}"))
        replies = [*await running, *await held]
        assert fates(replies) == ["complete"] * 6, replies
        # The new one knows of what it did not decide by the engines' figures, and then of nothing.
        after = await stack.until(
            lambda audit: idle(audit) and stack.picker not in {None, picker}, what="back"
        )
        what = f"picker {'killed' if name == 'KILL' else 'frozen'}"
        TABLE.append((what, "complete", 6, sum(after["ended"].values()), "books begin anew"))
        assert sum(after["ended"].values()) == after["begun"]
        tags = [
            tag
            for tag in stack.seen.finished
            if tag.startswith((f"running-{name}", f"held-{name}"))
        ]
        assert [stack.seen.finished[tag] for tag in tags] == [1] * 6

    asyncio.run(run())


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


def test_envoy_restarted(stack):
    async def run():
        before = await stack.until_idle()
        envoy = stack.envoy
        task = asyncio.ensure_future(ask(stack, [LONG] * 4, tag="envoy"))
        await stack.until(lambda audit: audit["started"] == 4, what="full")
        os.kill(envoy, signal.SIGKILL)
        replies = await task
        assert fates(replies) == ["broken off"] * 4
        after = await stack.until_idle()
        await entered(stack, "Envoy restarted", before, after, replies, 4)
        async with asyncio.timeout(60):
            while (again := await ask(stack, [3], tag="after"))[0].fate is not Fate.COMPLETE:
                pass
        assert fates(again) == ["complete"]

    asyncio.run(run())


def test_table():
    """Print what was seen: every row reached the books as often as it came."""
    lines = [f"{'what happened':44}{'clients saw':24}{'came':>6}{'ended':>7}  how"]
    lines += [f"{w:44}{saw:24}{came:>6}{ended:>7}  {how}" for w, saw, came, ended, how in TABLE]
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert len(TABLE) >= 11 or not TABLE
