"""Whatever becomes of a request, it reaches the books exactly once: a table, at either door.

All rows are in one test, so that the table is whole wherever tests run; ``pytest -s`` prints it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import pytest
from serve_stack import Stack, ask, fates, idle, in_the_books

from integration.serve.traffic import Fate

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = (
    "finish",
    "client abort, held",
    "client abort, mid-stream",
    "upstream reset",
    "5xx",
    "timeout",
    "worker death",
    "picker killed",
    "picker frozen",
    "Envoy restart",
)
LONG = 300
"""Tokens of a request that is still under way when the test does something to it."""
AGAIN_S = 60
COMPLETE, LEFT, BROKEN, REFUSED = "complete", "left by the client", "broken off", "refused"


class Row(NamedTuple):
    """What is done, what clients see of it, and how many requests end how in the books.

    Ends that are as good as each other share a number, with ``|`` between them. None stands for
    books that begin anew.
    """

    act: Callable
    saw: dict
    how: dict | None


ROWS = {}


def row(name, saw, how):
    """Keep a function as what is done in a row."""

    def kept(act):
        ROWS[name] = Row(act, saw, how)
        return act

    return kept


@row("finish", {COMPLETE: 6}, {"finished": 6})
async def finish(stack):
    return await ask(stack, [5, 1, 20, 8, 3, 11], tag="finish")


@row("client abort, held", {LEFT: 1, COMPLETE: 4}, {"disconnected": 1, "finished": 4})
async def leave_while_held(stack):
    running = await full(stack, "room")
    replies = await ask(stack, [LONG], leave={0: 0}, tag="held")
    await stack.until(lambda audit: audit["held"] == 0, what="without it")
    return [*replies, *await running]


@row("client abort, mid-stream", {LEFT: 2}, {"disconnected": 2})
async def leave_in_the_middle(stack):
    return await ask(stack, [LONG, LONG], leave={0: 3, 1: 1}, tag="leaves")


@row("upstream reset", {BROKEN: 1}, {"reset|worker-died": 1})
async def reset(stack):
    return await ask(stack, [LONG], mischief={0: "reset-mid"}, tag="reset")


@row("5xx", {REFUSED: 1}, {"rejected": 1})
async def error(stack):
    replies = await ask(stack, [10], mischief={0: "500"}, tag="error")
    assert replies[0].status == 500
    return replies


@row("timeout", {BROKEN: 1}, {"timeout|reset": 1})
async def hang(stack):
    return await ask(stack, [LONG], mischief={0: "hang-mid"}, tag="hang")


@row("worker death", {BROKEN: 2, COMPLETE: 4}, {"worker-died|reset": 2, "finished": 4})
async def die(stack):
    running = await full(stack, "death")
    tags = [f"death-{index}" for index in range(4)]
    await stack.until(lambda _: all(stack.seen.answered[tag] for tag in tags), what="answered")
    await at_relays(stack, stack.relays[0].die())
    replies = await running
    assert fates(replies).count(BROKEN) == 2
    # What comes while it is dead goes to the other one.
    replies += await ask(stack, [5, 5], tag="while-dead")
    await at_relays(stack, stack.relays[0].revive())
    await stack.until(lambda audit: all(w["state"] == "up" for w in audit["workers"]), what="up")
    return replies


@row("picker killed", {COMPLETE: 6}, None)
async def kill_picker(stack):
    return await without_picker(stack, signal.SIGKILL)


@row("picker frozen", {COMPLETE: 6}, None)
async def freeze_picker(stack):
    return await without_picker(stack, signal.SIGSTOP)


@row("Envoy restart", {BROKEN: 4}, {"disconnected|reset|worker-died": 4})
async def restart_envoy(stack):
    running = await full(stack, "envoy")
    os.kill(stack.envoy, signal.SIGKILL)
    return await running


async def full(stack, tag):
    """Take all slots; return what will have the replies."""
    running = asyncio.ensure_future(ask(stack, [LONG] * 4, tag=tag))
    await stack.until(lambda audit: audit["started"] == 4, what="full")
    return running


async def at_relays(stack, coroutine):
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, stack._loop))


async def without_picker(stack, number):
    """Take the picker away while four run and two are held."""
    running = await full(stack, f"running-{number}")
    held = asyncio.ensure_future(ask(stack, [6, 6], tag=f"held-{number}"))
    await stack.until(lambda audit: audit["held"] == 2, what="holding")
    os.kill(stack.picker, number)
    replies = [*await running, *await held]
    tags = [f"running-{number}-{index}" for index in range(4)]
    tags += [f"held-{number}-{index}" for index in range(2)]
    assert [stack.seen.finished[tag] for tag in tags] == [1] * 6, replies
    return replies


async def in_new_books(stack, act):
    """As `in_the_books`, where there is another picker afterwards.

    It knows of what it did not decide by the engines' figures and Envoy's, and then of nothing.
    """
    await stack.until_idle()
    picker = stack.picker
    replies = await act(stack)
    after = await stack.until(
        lambda audit: idle(audit) and stack.picker not in {None, picker}, what="back"
    )
    assert sum(after["ended"].values()) == after["begun"] <= len(replies)
    return replies, after["ended"]


async def seen(stack, row):
    """Do what a row says, hold what comes of it against it, and return replies and ends."""
    if row.how is None:
        replies, ends = await in_new_books(stack, row.act)
    else:
        replies, ends = await in_the_books(stack, row.act)
        found = {either: sum(ends.get(end, 0) for end in either.split("|")) for either in row.how}
        assert found == row.how, ends
    assert Counter(fates(replies)) == row.saw, replies
    # Looks at an engine's health and figures have no tag.
    assert not [tag for tag, times in stack.seen.finished.items() if tag and times > 1]
    return replies, ends


async def serving_again(stack):
    async with asyncio.timeout(AGAIN_S):
        while (await ask(stack, [3], tag="after"))[0].fate is not Fate.COMPLETE:
            pass


def lines(table):
    """The table as text."""
    yield f"{'what happened':28}{'clients saw':34}{'came':>6}{'ended':>7}  how"
    for name, (replies, ends) in table.items():
        saw = ", ".join(f"{n} {fate}" for fate, n in sorted(Counter(fates(replies)).items()))
        how = ", ".join(f"{n} {end}" for end, n in sorted(ends.items()))
        anew = " (books begin anew)" if ROWS[name].how is None else ""
        yield f"{name:28}{saw:34}{len(replies):>6}{sum(ends.values()):>7}  {how}{anew}"


@pytest.mark.parametrize("door", ["ext_authz", "ext_proc"])
def test_each_request_reaches_the_books_once(tmp_path, door):
    table = {}

    async def all_of_them(stack):
        for name in NAMES:
            table[name] = await seen(stack, ROWS[name])
        await serving_again(stack)

    try:
        # Engines have room for what Envoy sends without a picker: a busy machine lets nobody wait
        # there for longer than an answer may be silent.
        with Stack(tmp_path, slots=4, router={"slots": 2}, picker={"door": door}) as stack:
            asyncio.run(all_of_them(stack))
    finally:
        sys.stdout.write("\n".join([f"\n{door}", *lines(table), ""]))
    assert set(table) == set(ROWS) == set(NAMES)
