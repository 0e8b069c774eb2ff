"""Workers that only compute prompts: which of them is asked next, and who waits for one.

What a worker says of its KV cache is as old as the last look at it. What it was sent since counts
as if it filled the cache already, so that a worker that has room again gets as many prompts as it
has room for, and not all that wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from brsolver.errors import ParameterError
from integration.doors.prefill_figures import PrefillWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from integration.picker import Ask, Gauges, WorkerSpec


MISSES = 3
"""Probes in a row after which a worker is down; or that it answers without figures of its cache."""
UNTOLD = 32
"""Prompts that are taken to fill the cache of a worker of which nobody says how much it holds."""
SAY_AGAIN_S = 30.0
"""After which it is said again that a worker's calls fail."""
REST_S = 5.0
"""For which a worker whose call failed is asked after all others."""
COMPUTED: Final = "computed"
FAILED: Final = "failed"
REJECTED: Final = "rejected"
WITHDRAWN: Final = "withdrawn"
NAMED: Final = "named"
_NONE_UP: Final = "; no prefill worker is up: decode workers compute prompts"


class Prefiller:
    """A worker that computes prompts.

    Attributes
    ----------
    spec : WorkerSpec
    live : bool
        Neither down nor retired.
    retired : bool
    missed : int
        Probes in a row that it did not answer.
    silent : int
        Probes since it last said how full its cache is.
    kv_usage : float or None
        Share of its KV cache in use, as it said last: prompts that no decode worker fetched yet.
    capacity : int or None
        KV tokens that it holds.
    tokens : dict of str to int
        Prompt tokens under way there, by request.
    load : int
        Their sum.
    kept : set of str
        Requests whose prompt it has computed and that, for all that is known, have yet to be
        decoded: its KV is to be fetched from here.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.live = True
        self.retired = False
        self.missed = self.silent = 0
        self.kv_usage: float | None = None
        self.capacity = spec.capacity
        self.tokens: dict[str, int] = {}
        self.load = 0
        self.kept: set[str] = set()
        self._since = (0, 0)
        self._unsaid = 0
        self._said_s = self._failed_s = float("-inf")

    @property
    def there(self) -> bool:
        """Whether it is of use yet: to new prompts, or to those that it was given."""
        return not self.retired or bool(self.tokens or self.kept)

    @property
    def state(self) -> str:
        """What pages call its state."""
        if self.retired:
            return "draining"
        return "up" if self.live else "down"

    @property
    def usage(self) -> float:
        """Share of its cache in use once all that it was sent is there; 0 if it does not say.

        What is under way may be in what it said already: it counts twice then, which keeps prompts
        back a little early rather than late.
        """
        if self.kv_usage is None:
            return 0.0
        prompts, tokens = self._since
        if self.capacity is None:
            return self.kv_usage + (prompts + len(self.tokens)) / UNTOLD
        return self.kv_usage + (tokens + self.load) / self.capacity

    def told(self, kv_usage: float | None, capacity: int | None) -> None:
        """Take in how full its cache is: prompts that were done by then are in that."""
        self.kv_usage, self.capacity = kv_usage, capacity
        self.silent, self._since = 0, (0, 0)

    def take(self, name: str, tokens: int) -> None:
        """Enter a prompt."""
        self.tokens[name] = tokens
        self.load += tokens

    def let_go(self, name: str, *, kept: bool) -> None:
        """Take a prompt out; `kept`: its KV stays here until a decode worker fetches it."""
        tokens = self.tokens.pop(name)
        self.load -= tokens
        if kept:
            self.kept.add(name)
            self._since = self._since[0] + 1, self._since[1] + tokens

    def rests(self, now: float) -> bool:
        """Tell whether a call has failed of late."""
        return now - self._failed_s < REST_S

    def failures(self, now: float) -> int:
        """Count a failed call; return how many there were since it was said, 0 to say nothing."""
        self._unsaid, self._failed_s = self._unsaid + 1, now
        if now - self._said_s < SAY_AGAIN_S:
            return 0
        count, self._unsaid, self._said_s = self._unsaid, 0, now
        return count


class _Waiter(NamedTuple):
    """A request that waits for a worker with room."""

    ask: Ask
    without: Collection[str]
    told: asyncio.Future[Prefiller | None]


class PrefillPool:
    """Prefill workers, with the part of the pump's methods that fleet and poller call.

    Parameters
    ----------
    specs : sequence of WorkerSpec
    kv_limit : float
        Share of its KV cache above which a worker is given no prompt.
    capacity : int, optional
        KV tokens of a worker that does not say how many it holds.
    fault : callable, optional
        Told in one line what goes wrong.
    say : callable, optional
        Told in one line which workers come and go.
    clock : callable, optional
        Seconds, monotonic.

    Attributes
    ----------
    workers : list of Prefiller
    calls : Counter of (str, str)
        Calls so far, by the worker's name and how they ended.
    settle : callable
        Called at every probe, to take back what is done and of which nobody tells.
    """

    def __init__(
        self,
        specs: list[WorkerSpec],
        *,
        kv_limit: float = 0.9,
        capacity: int | None = None,
        fault: Callable[[str], object] = lambda _: None,
        say: Callable[[str], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.workers = [Prefiller(spec) for spec in specs]
        self.calls: Counter[tuple[str, str]] = Counter()
        self.settle: Callable[[], None] = lambda: None
        self._kv_limit, self._capacity = kv_limit, capacity
        self._fault, self._say, self._clock = fault, say, clock
        self._waiting: dict[str, _Waiter] = {}

    @property
    def any_live(self) -> bool:
        """Whether any worker is there at all."""
        return self.is_left(())

    @property
    def waiting(self) -> int:
        """Requests that wait for a worker with room."""
        return len(self._waiting)

    def is_left(self, without: Collection[str]) -> bool:
        """Tell whether there is a worker, full or not, beside those not to ask."""
        return any(each.live and each.spec.address not in without for each in self.workers)

    def give(self, ask: Ask, without: Collection[str] = ()) -> Prefiller | None:
        """Give a prompt to the worker with room that has the fewest prompt tokens under way.

        Parameters
        ----------
        ask : Ask
        without : collection of str, optional
            Addresses not to ask.

        Returns
        -------
        Prefiller or None
            None if all are down or over their limit. Else `take_back` is to follow.
        """
        able = [
            worker
            for worker in self.workers
            if worker.live and worker.usage < self._kv_limit and worker.spec.address not in without
        ]
        now = self._clock()
        # One that fails at once would always be the one with the least to do.
        chosen = min(able, key=lambda worker: (worker.rests(now), worker.load), default=None)
        if chosen is not None:
            chosen.take(ask.name, ask.prompt_tokens)
        return chosen

    async def wait(self, ask: Ask, without: Collection[str] = ()) -> Prefiller | None:
        """Wait until a worker has room for a prompt, and give it that; first come, first served.

        Cancelled, the prompt is withdrawn.

        Returns
        -------
        Prefiller or None
            None once none is left to ask.
        """
        told: asyncio.Future[Prefiller | None] = asyncio.get_running_loop().create_future()
        self._waiting[ask.name] = _Waiter(ask, without, told)
        try:
            return await told
        except asyncio.CancelledError:
            given = None if told.cancelled() or not told.done() else told.result()
            if given is not None:
                self.take_back(given, ask.name, WITHDRAWN)
            raise
        finally:
            self._waiting.pop(ask.name, None)

    def take_back(self, worker: Prefiller, name: str, result: str) -> None:
        """Note how a prompt ended at a worker; whoever waits may have its place.

        Parameters
        ----------
        worker : Prefiller
        name : str
            Of the request.
        result : str
            `COMPUTED`, `FAILED`, `REJECTED`, `WITHDRAWN` or `NAMED`; of the last the KV has been
            fetched.
        """
        if name not in worker.tokens:
            return
        worker.let_go(name, kept=result == COMPUTED)
        self.calls[worker.spec.name, result] += 1
        self.touch()

    def keep(self, worker: int, spec: WorkerSpec) -> None:
        """Take in how many KV tokens a worker holds, from when it next says how full it is."""
        found = self.workers[worker]
        found.spec = replace(found.spec, slots=spec.slots, capacity=spec.capacity)

    def failed(self, worker: Prefiller, why: str) -> None:
        """Say that a call failed; of one that fails on and on that is said now and then."""
        count = worker.failures(self._clock())
        if count:
            calls = "a prefill call" if count == 1 else f"{count} prefill calls"
            self._fault(f"{worker.spec.name}: {calls} failed, the last: {why}")

    def told(self, worker: int, gauges: Gauges) -> None:
        """Take in what a worker says of itself."""
        if gauges.kv_usage is None:
            return
        found = self.workers[worker]
        found.told(gauges.kv_usage, gauges.capacity or found.spec.capacity or self._capacity)
        self.touch()

    def add_worker(self, spec: WorkerSpec) -> int:
        """Add a worker; return its number.

        Raises
        ------
        ParameterError
            There is one of that name: figures go by names.
        """
        if any(each.there and each.spec.name == spec.name for each in self.workers):
            raise ParameterError(f"prefill worker {spec.name!r} is there already")
        gone = (at for at, each in enumerate(self.workers) if not each.there)
        worker = next(gone, len(self.workers))
        replaced = [each.spec.name for each in self.workers[worker : worker + 1]]
        self.workers[worker : worker + 1] = [Prefiller(spec)]
        for name in replaced:
            self._forget(name)
        self._say(f"prefill worker {spec.name} is added")
        self.touch()
        return worker

    def _forget(self, name: str) -> None:
        """Take away the figures of a worker that has gone: pods have new names every time."""
        if not any(each.spec.name == name for each in self.workers):
            for key in [key for key in self.calls if key[0] == name]:
                del self.calls[key]

    def retire(self, worker: int) -> None:
        """Give a worker no more prompts; those that it has run on."""
        found = self.workers[worker]
        found.retired, found.live = True, False
        self._say(f"prefill worker {found.spec.name} drains")
        if not self.any_live:
            self._fault(f"{found.spec.name} drains{_NONE_UP}")
        self.touch()

    def is_open(self, worker: int) -> bool:
        """Tell whether a worker takes prompts."""
        return self.workers[worker].live

    def reported(self, worker: int, *, ok: bool, why: str = "") -> None:
        """Note that a worker answered a probe, or that it did not."""
        self.settle()
        found = self.workers[worker]
        found.missed = 0 if ok else found.missed + 1
        found.silent += 1
        if found.silent > MISSES and found.kv_usage is not None:
            # Nothing would take off again what it is sent.
            found.told(None, found.capacity)
            self.touch()
        live = not found.retired and found.missed < MISSES
        if live != found.live:
            found.live = live
            self._say_changed(found, why)
            self.touch()

    def _say_changed(self, worker: Prefiller, why: str) -> None:
        if worker.live:
            self._fault(f"{worker.spec.name} is up again")
            return
        self._fault(f"{worker.spec.name} is down: {why}{'' if self.any_live else _NONE_UP}")

    def touch(self) -> None:
        """Give prompts that wait to workers that have room, the oldest first."""
        for waiter in list(self._waiting.values()):
            if waiter.told.done():
                continue
            given = self.give(waiter.ask, waiter.without)
            if given is None and self.is_left(waiter.without):
                if waiter.without:
                    continue
                # Whoever came later is no better off.
                return
            del self._waiting[waiter.ask.name]
            waiter.told.set_result(given)

    def figures(self) -> tuple[PrefillWorker, ...]:
        """Return the workers that there are: those that are retired, while they are of use."""
        return tuple(
            PrefillWorker(
                name=each.spec.name,
                address=each.spec.address,
                state=each.state,
                prompts=len(each.tokens),
                tokens=each.load,
                kept=len(each.kept),
                kv_usage=each.kv_usage,
                capacity=each.capacity,
            )
            for each in self.workers
            if each.there
        )
