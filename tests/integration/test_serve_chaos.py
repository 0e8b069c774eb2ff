"""Workers that die, hang, reset and talk nonsense at random; a picker that is killed and frozen.

``make chaos`` runs the large one; the small one is among the other tests.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections import Counter

import pytest
from serve_stack import Stack, ask
from unruly import KINDS

from integration.serve.traffic import Fate

DEADLINE_S = 300
SLOTS = 16
SHARE_UNRULY, SHARE_LEAVING = 0.15, 0.03


class Chaos:
    """What is done to a stack, whenever so many requests have been answered.

    Attributes
    ----------
    done : Counter
        How often what was done.
    """

    def __init__(self, stack, every, seed):
        self._stack, self._every, self._rng = stack, every, random.Random(seed)  # noqa: S311 # no secret
        self._replies, self._came = 0, asyncio.Event()
        self._broken = None
        self.looks = 0
        self.done = Counter()

    def answered(self, reply):
        self._replies += 1
        self._came.set()

    async def go_on(self, total, *, picker):
        """Do something at every so many answers; to the picker after a third and two thirds.

        The books are looked at again and again.
        """
        due = {total // 3: "KILL", 2 * total // 3: "STOP"} if picker else {}
        looked = 0
        try:
            while self._replies < total:
                await self._came.wait()
                self._came.clear()
                there = await self._look()
                for at in [at for at in due if self._replies >= at]:
                    # One that is just coming back does not count as frozen yet.
                    if there:
                        self._to_picker(due.pop(at))
                if self._replies - looked >= self._every:
                    looked = self._replies
                    await self._to_workers()
        finally:
            await self._mend()

    def _to_picker(self, name):
        pid = self._stack.picker
        if pid is not None:
            self._stack.alone = True
            os.kill(pid, getattr(signal, f"SIG{name}"))
            self.done[f"picker {name}"] += 1

    async def _look(self):
        try:
            await asyncio.to_thread(self._stack.audit)
        except OSError:
            return False
        self.looks += not self._stack.alone
        return True

    async def _to_workers(self):
        await self._mend()
        relay = self._rng.choice(self._stack.relays)
        what = self._rng.choice(["die", "freeze", "nothing"])
        if what == "die":
            await self._in_loop(relay.die())
        elif what == "freeze":
            relay.freeze()
        self._broken = (relay, what)
        self.done[f"worker {what}"] += what != "nothing"

    async def _mend(self):
        if self._broken is None:
            return
        (relay, what), self._broken = self._broken, None
        if what == "die":
            await self._in_loop(relay.revive())
        elif what == "freeze":
            self._stack._loop.call_soon_threadsafe(relay.thaw)

    async def _in_loop(self, coroutine):
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._stack._loop))


async def storm(stack, requests, concurrency, *, every, picker, seed=0):
    """Send requests through all that; return replies, what was done, and who was unruly."""
    rng = random.Random(seed)  # noqa: S311 # no secret
    kinds = {i: rng.choice(KINDS) for i in range(requests) if rng.random() < SHARE_UNRULY}
    leave = {i: rng.randint(0, 3) for i in range(requests) if rng.random() < SHARE_LEAVING}
    outputs = [rng.randint(4, 40) for _ in range(requests)]
    chaos = Chaos(stack, every, seed)
    doing = asyncio.ensure_future(chaos.go_on(requests, picker=picker))
    async with asyncio.timeout(DEADLINE_S):
        replies = await ask(
            stack,
            outputs,
            mischief=kinds,
            leave=leave,
            tag="storm",
            concurrency=concurrency,
            progress=chaos.answered,
        )
        await doing
    return replies, chaos, kinds


def judge(replies, chaos, kinds, stack):
    """Hold what came of it against what must be, and print what it was.

    An answer with anything twice in it would have too many tokens, and so be wrong.
    """
    counts = Counter(str(reply.fate) for reply in replies)
    wrong = [reply for reply in replies if reply.fate is Fate.WRONG]
    broken = [reply for reply in replies if reply.fate is Fate.BROKEN]
    refused = Counter((r.status, r.why) for r in replies if r.fate is Fate.REFUSED)
    for (status, why), count in refused.most_common():
        sys.stdout.write(f"\n{count} times {status}: {why}")
    sys.stdout.write(
        f"\n{len(replies)} requests, {len(kinds)} of them unruly: {dict(counts)}\n"
        f"done besides: {dict(chaos.done)}; over slots by the books in {chaos.looks} looks: "
        f"{Counter(stack.over)}; at a worker at once: {stack.most_live}\n"
    )
    assert chaos.looks
    assert not stack.over
    assert not wrong, wrong[:3]
    # An answer that has begun breaks off visibly; what has not begun is one error, in full.
    assert all(reply.status == 200 for reply in broken), [r for r in broken if r.status != 200][:3]


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chaos")
    with Stack(folder, ranks=8, slots=SLOTS, speed=1.0, limits={"idle_s": 4.0}) as running:
        yield running


def run(stack, requests, concurrency, *, every, picker):
    async def whole():
        stack.forget()
        replies, chaos, kinds = await storm(
            stack, requests, concurrency, every=every, picker=picker
        )
        await stack.until_idle()
        judge(replies, chaos, kinds, stack)
        # While the picker is away Envoy knows of no slots.
        assert picker or stack.most_live <= SLOTS

    asyncio.run(whole())


def test_without_faults_no_worker_ever_has_more_than_its_slots(stack):
    async def calm():
        looks = []

        def look(reply):
            if reply.index % 5 == 0:
                looks.append(asyncio.ensure_future(asyncio.to_thread(stack.audit)))

        stack.forget()
        # Far more than the slots there are.
        replies = await ask(stack, [8] * 300, concurrency=200, tag="calm", progress=look)
        watched = await asyncio.gather(*looks)
        await stack.until_idle()
        assert {reply.fate for reply in replies} == {Fate.COMPLETE}
        assert any(audit["held"] for audit in watched)
        assert max(w["sequences"] for audit in watched for w in audit["workers"]) == SLOTS
        assert stack.over == []
        assert stack.most_live == SLOTS

    asyncio.run(calm())


def test_small_storm(stack):
    # More at a time than there are slots.
    run(stack, 320, 180, every=40, picker=False)


@pytest.mark.chaos
def test_storm_with_a_picker_that_is_killed_and_frozen(stack):
    run(stack, 1000, 300, every=50, picker=True)
