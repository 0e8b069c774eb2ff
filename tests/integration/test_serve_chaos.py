"""Workers that die, hang, reset and talk nonsense at random; a picker that is killed and frozen.

``make chaos`` runs the large one; the small one is among the other tests.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import random
import signal
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
from serve_stack import Stack, ask
from unruly import KINDS, Seen

from integration.serve.traffic import Fate, Reply

DEADLINE_S = 300
SLOTS = 16
SHARE_UNRULY, SHARE_LEAVING = 0.15, 0.03
LEAST = 0.5
"""Share of the requests that is answered completely, whatever is done to workers and picker."""
OWN = {
    Fate.BROKEN: {"reset-mid", "half-close-mid", "garbage-mid", "hang-mid"},
    Fate.REFUSED: {"500"},
}
"""Mischief that a client sees; from all other another worker saves a request."""
PICKER = "picker"
HUNG = "no answer in time"


class Course:
    """In which order requests came and ended, and what was done meanwhile. No clock is read."""

    def __init__(self):
        self._turn = itertools.count()
        self._lives, self._blows = {}, []

    def sent(self, index):
        self._lives[index] = [next(self._turn), math.inf]

    def ended(self, index):
        self._lives[index][1] = next(self._turn)

    def begin(self, whom):
        """Note that something is done to a relay, or to the picker; return the note."""
        blow = [whom, next(self._turn), math.inf]
        self._blows.append(blow)
        return blow

    def over(self, blow):
        blow[2] = next(self._turn)

    def struck(self, index):
        """Whom anything was done to while a request was under way."""
        sent, ended = self._lives[index]
        return {whom for whom, began, over in self._blows if began < ended and sent < over}


class Chaos:
    """What is done to a stack, whenever so many requests have been answered.

    Attributes
    ----------
    tag : str
        Of the requests.
    course : Course
    done : Counter
        How often what was done.
    """

    def __init__(self, stack, tag, every, seed):
        self._stack, self._every, self._rng = stack, every, random.Random(seed)  # noqa: S311 # no secret
        self._replies, self._came = 0, asyncio.Event()
        self._broken = self._away = None
        self.tag, self.course = tag, Course()
        self.looks = 0
        self.done = Counter()

    def answered(self, reply):
        self.course.ended(reply.index)
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
            self._away = pid, self.course.begin(PICKER)
            os.kill(pid, getattr(signal, f"SIG{name}"))
            self.done[f"picker {name}"] += 1

    async def _look(self):
        try:
            await asyncio.to_thread(self._stack.audit)
        except OSError:
            return False
        self.looks += not self._stack.alone
        self._back()
        return True

    def _back(self):
        """Note that there is another picker, and that all has ended that was sent without one."""
        if self._away is None or self._stack.alone:
            return
        pid, blow = self._away
        if self._stack.picker not in {None, pid}:
            self.course.over(blow)
            self._away = None

    async def _to_workers(self):
        await self._mend()
        relay = self._rng.choice(self._stack.relays)
        what = self._rng.choice(["die", "freeze", "nothing"])
        if what == "nothing":
            return
        self._broken = (relay, what, self.course.begin(relay))
        if what == "die":
            await self._in_loop(relay.die())
        else:
            relay.freeze()
        self.done[f"worker {what}"] += 1

    async def _mend(self):
        if self._broken is None:
            return
        (relay, what, blow), self._broken = self._broken, None
        if what == "die":
            await self._in_loop(relay.revive())
        else:
            self._stack._loop.call_soon_threadsafe(relay.thaw)
        self.course.over(blow)

    async def _in_loop(self, coroutine):
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._stack._loop))


async def storm(stack, requests, concurrency, *, every, picker, seed=0):
    """Send requests through all that; return replies, what was done, and who was unruly."""
    rng = random.Random(seed)  # noqa: S311 # no secret
    kinds = {i: rng.choice(KINDS) for i in range(requests) if rng.random() < SHARE_UNRULY}
    leave = {i: rng.randint(0, 3) for i in range(requests) if rng.random() < SHARE_LEAVING}
    outputs = [rng.randint(4, 40) for _ in range(requests)]
    chaos = Chaos(stack, f"storm-of-{requests}", every, seed)
    doing = asyncio.ensure_future(chaos.go_on(requests, picker=picker))
    async with asyncio.timeout(DEADLINE_S):
        replies = await ask(
            stack,
            outputs,
            mischief=kinds,
            leave=leave,
            tag=chaos.tag,
            concurrency=concurrency,
            sent=chaos.course.sent,
            progress=chaos.answered,
        )
        await doing
    return replies, chaos, kinds


def show(replies, chaos, kinds, stack):
    """Print what came of a storm."""
    counts = Counter(str(reply.fate) for reply in replies)
    refused = Counter((r.status, r.why) for r in replies if r.fate is Fate.REFUSED)
    for (status, why), count in refused.most_common():
        sys.stdout.write(f"\n{count} times {status}: {why}")
    sys.stdout.write(
        f"\n{len(replies)} requests, {len(kinds)} of them unruly: {dict(counts)}\n"
        f"done besides: {dict(chaos.done)}; over slots by the books in {chaos.looks} looks: "
        f"{Counter(stack.over)}; at a worker at once: {stack.most_live}\n"
    )


def judge(replies, chaos, kinds, stack):
    """Hold what came of a storm against what must be.

    An answer with anything twice in it would have too many tokens, and so be wrong.
    """
    assert chaos.looks
    assert not stack.over
    none(replies, lambda reply: reply.fate is Fate.WRONG)
    # An answer that has begun breaks off visibly; what has not begun is one error, in full.
    none(replies, lambda reply: reply.fate is Fate.BROKEN and reply.status != 200)
    none(replies, lambda reply: reply.fate is Fate.BROKEN and reply.why == HUNG)
    none(replies, lambda reply: stack.seen.finished[f"{chaos.tag}-{reply.index}"] > 1)
    none(replies, lambda reply: not explained(reply, chaos, kinds, stack))
    complete = sum(reply.fate is Fate.COMPLETE for reply in replies)
    assert complete >= LEAST * len(replies)


def none(replies, holds):
    found = [reply for reply in replies if holds(reply)]
    assert not found, (len(found), found[:3])


def explained(reply, chaos, kinds, stack):
    """Whether a request that was not answered had mischief of its own, or was struck.

    An answer breaks off where it runs; one that is refused may have found nobody.
    """
    if reply.fate not in OWN or kinds.get(reply.index) in OWN[reply.fate]:
        return True
    struck = chaos.course.struck(reply.index)
    if reply.fate is Fate.BROKEN:
        struck &= {PICKER, *stack.seen.had.get(f"{chaos.tag}-{reply.index}", ())}
    return bool(struck)


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
        show(replies, chaos, kinds, stack)
        judge(replies, chaos, kinds, stack)
        # While the picker is away Envoy knows of no slots.
        assert picker or stack.most_live <= SLOTS

    asyncio.run(whole())


def told(fate=Fate.COMPLETE, *, those=(7,), status=200, why="", kind="", blow="", finished=1):
    """What a storm of ten comes to in which those requests had that fate, and all others none."""
    course, seen = Course(), Seen()
    course.over(course.begin("its own"))
    if blow:
        course.begin(blow)
    replies = []
    for index in range(10):
        course.sent(index)
        seen.had[f"any-{index}"] = {"its own"}
        seen.finished[f"any-{index}"] = finished
        its = {"fate": fate, "status": status, "why": why} if index in those else {}
        replies.append(Reply(index=index, **{"fate": Fate.COMPLETE, "status": 200, **its}))
        course.ended(index)
    chaos = SimpleNamespace(looks=1, done=Counter(), tag="any", course=course)
    stack = SimpleNamespace(over=[], most_live=1, seen=seen)
    return replies, chaos, dict.fromkeys(those, kind), stack


GOOD = {
    "all complete": told(),
    "its own mischief": told(Fate.BROKEN, kind="reset-mid"),
    "refused for its own mischief": told(Fate.REFUSED, status=500, kind="500"),
    "its worker died": told(Fate.BROKEN, blow="its own"),
    "the picker was killed": told(Fate.BROKEN, blow=PICKER),
    "refused when some worker died": told(Fate.REFUSED, status=503, blow="another"),
}
BAD = {
    "all refused": told(Fate.REFUSED, status=503, blow="its own", those=range(10)),
    "refused for nothing": told(Fate.REFUSED, status=503),
    "refused for what others make good": told(Fate.REFUSED, status=503, kind="503"),
    "broken for nothing": told(Fate.BROKEN),
    "broken when another worker died": told(Fate.BROKEN, blow="another"),
    "hung": told(Fate.BROKEN, why=HUNG, blow="its own"),
    "finished twice": told(finished=2),
}


@pytest.mark.parametrize("what", GOOD)
def test_what_has_a_cause_is_let_pass(what):
    judge(*GOOD[what])


@pytest.mark.parametrize("what", BAD)
def test_what_must_not_be_is_seen(what):
    with pytest.raises(AssertionError):
        judge(*BAD[what])


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
