"""The whole front door for tests: fake engines, relays that misbehave on demand, Envoy, picker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import threading
from pathlib import Path

import numpy as np
from unruly import Relay, Seen

from integration.bench.workload import Workload, random_prompts
from integration.serve.comparison import Cluster
from integration.serve.demo import Engines, FrontDoor
from integration.serve.processes import fetch
from integration.serve.traffic import Fate, TrafficParams, send

DEADLINE_S = 60
ROUTER = {"policy": "br-t", "wait_max_s": 60.0, "start_max_s": 20.0, "down_after": 1000}
TAG = re.compile(r"[\w-]*")
LIMITS = {"idle_s": 5.0, "drain_s": 20.0, "backoff_ms": 5.0, "max_backoff_ms": 20.0}


def toml(**tables):
    """Write tables as TOML; values are texts, numbers, booleans or lists of texts."""
    lines = []
    for name, values in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


class Stack:
    """A front door before relays before fake engines; leaving the context ends all of it.

    There is a server for each rank; where the table of workers says how many `ranks` there are
    behind one address, one for all of them.

    Attributes
    ----------
    url, page : str
    relays : list of Relay
    seen : Seen
        What the relays saw.
    door : FrontDoor
    over : list of str
        Workers that had more sequences than slots, whenever the books were looked at.
    alone : bool
        Whether the picker was taken away: Envoy knows of no slots. It ends when a picker is back
        and all that Envoy had sent beyond them has ended.
    """

    def __init__(self, folder, *, ranks=2, slots=2, speed=5.0, router=None, engine=(), **tables):
        self._folder, self._ranks, self._slots, self._speed = Path(folder), ranks, slots, speed
        self._router = {"slots": slots, **ROUTER, **(router or {})}
        self._tables, self._engine = tables, engine
        self._exits = contextlib.ExitStack()
        self.seen, self.relays = Seen(), []
        self.over = []
        self.alone = False

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self._exits.close()
            raise
        return self

    def __exit__(self, *_):
        self._exits.close()

    def _start(self):
        self._start_loop()
        self.engines = self._started_engines(*self._engine)
        self.relays = self._started_relays(self.engines, self.seen)
        self._start_door()

    def _start_loop(self):
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        self._exits.callback(self._end_loop, thread)

    def _started_engines(self, *more):
        cluster = Cluster(ranks=self._ranks, slots=self._slots, budget=4096, concurrency=1)
        engines = Engines(cluster, "--speed", str(self._speed), *more)
        return self._exits.enter_context(engines)

    def _started_relays(self, engines, seen):
        one = "ranks" in self._tables.get("workers", {})
        servers = [engines.together] if one else engines.addresses
        relays = [Relay(int(a.rpartition(":")[2]), seen) for a in servers]
        for relay in relays:
            self.call(relay.start())
            self._exits.callback(lambda relay=relay: self.call(relay.stop()))
        return relays

    def _start_door(self):
        self.config = self._folder / "serve.toml"
        self.configure(self.addresses)
        self.door = self._exits.enter_context(FrontDoor(self.config))
        self.url, self.page = self.door.url, self.door.page

    @property
    def addresses(self):
        return at(self.relays)

    def configure(self, addresses):
        tables = {
            "listen": {"port": 0},
            "admin": {"port": 0, "shadows": []},
            "workers": {"addresses": list(addresses), "health_interval_s": 0.2},
            "router": self._router,
            "limits": LIMITS,
        }
        for name, values in self._tables.items():
            tables[name] = {**tables.get(name, {}), **values}
        self.config.write_text(toml(**tables))

    def _end_loop(self, thread):
        self._loop.call_soon_threadsafe(self._loop.stop)
        thread.join()
        self._loop.close()

    def call(self, coroutine):
        """Run a coroutine where the relays are."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE_S)

    def audit(self):
        audit = json.loads(fetch(f"{self.page}/admin/audit"))
        over = [
            w["name"]
            for w in audit["workers"]
            if w["sequences"] + w["foreign"] * self.alone > w["slots"]
        ]
        if not self.alone:
            self.over += over
        self.alone = self.alone and bool(over)
        return audit

    def forget(self):
        """Begin anew to look who is over slots."""
        self.over.clear()
        for relay in self.relays:
            relay.most_live = 0

    @property
    def most_live(self):
        """Requests for tokens that any worker had at once."""
        return max(relay.most_live for relay in self.relays)

    def process(self, words):
        """Return the identity of a child of the supervisor whose command has these words."""
        listed = subprocess.run(
            ["/bin/ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
        )
        for line in listed.stdout.splitlines():
            pid, parent, *command = line.split()
            if int(parent) == self.door.pid and words in " ".join(command):
                return int(pid)
        return None

    @property
    def picker(self):
        return self.process("integration.serve.child")

    @property
    def envoy(self):
        return self.process("envoy")

    async def until(self, holds, *, what=""):
        """Wait until the audit is as it should be; return it."""
        audit = None
        try:
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    # A picker that is just coming back does not answer yet.
                    with contextlib.suppress(OSError):
                        audit = await asyncio.to_thread(self.audit)
                        if holds(audit):
                            return audit
        except TimeoutError:
            said = self.door.last_words()
            raise AssertionError(f"not {what or 'as it should be'}: {audit}; {said}") from None

    async def until_idle(self):
        return await self.until(idle, what="idle")


def at(relays):
    """Return where relays listen."""
    return [f"127.0.0.1:{relay.port}" for relay in relays]


def idle(audit):
    return (
        audit["balanced"]
        and audit["reserved"] == audit["held"] == 0
        and all(each["foreign"] == 0 and each["state"] != "down" for each in audit["workers"])
    )


def fates(replies):
    return [str(reply.fate) for reply in replies]


def ends_between(before, after):
    """How many requests ended how between two looks at the books."""
    many = {how: n - before["ended"].get(how, 0) for how, n in after["ended"].items()}
    return {how: n for how, n in many.items() if n}


async def in_the_books(stack, act):
    """Do something that sends requests; return replies and how they ended in the books.

    Each has ended there once, and nothing is left.
    """
    before = await stack.until_idle()
    stack.forget()
    replies = await act(stack)
    after = await stack.until_idle()
    ends = ends_between(before, after)
    assert after["begun"] - before["begun"] == sum(ends.values()) == len(replies), (ends, replies)
    assert stack.over == []
    assert not any(reply.fate is Fate.WRONG for reply in replies), replies
    return replies, ends


def workload(outputs, prompts=8, seed=0):
    """Return requests of these many output tokens; prompts of a few tokens, or as given."""
    rng = np.random.default_rng(seed)
    outputs = np.asarray(outputs)
    lengths = np.broadcast_to(prompts, outputs.shape)
    return Workload(prompts=random_prompts(rng, lengths), output_tokens=outputs, trace=None)


async def ask(
    stack,
    outputs,
    *,
    mischief=None,
    leave=None,
    tag="",
    concurrency=None,
    headers=None,
    sent=None,
    progress=None,
    **more,
):
    """Send requests, all at once unless told otherwise.

    `mischief` and `leave` are by index; `sent` is told of each index as it is sent.
    """
    assert TAG.fullmatch(tag), "a relay would not know it from others"
    mischief = mischief or {}

    def headers_of(index):
        if sent is not None:
            sent(index)
        extra = {"x-mischief": mischief[index]} if index in mischief else {}
        return {"x-tag": f"{tag}-{index}", **extra}

    params = TrafficParams(
        url=stack.url,
        concurrency=concurrency or len(outputs),
        headers=headers or {},
        headers_of=headers_of,
        leave=leave or {},
        timeout_s=DEADLINE_S,
    )
    return await send(params, workload(outputs, **more), progress=progress)
