"""Workers that only compute prompts, and which of them is asked next."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from integration.picker import Gauges, WorkerSpec


MISSES = 3
"""Probes in a row after which a worker is down."""


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
    kv_usage : float
        Share of its KV cache in use, as it said last: prompts that no decode worker fetched yet.
    tokens : dict of str to int
        Prompt tokens under way there, by request.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.live = True
        self.retired = False
        self.missed = 0
        self.kv_usage = 0.0
        self.tokens: dict[str, int] = {}

    @property
    def load(self) -> int:
        """Prompt tokens under way."""
        return sum(self.tokens.values())


class PrefillPool:
    """Prefill workers, with the part of the pump's methods that fleet and poller call.

    Parameters
    ----------
    specs : sequence of WorkerSpec
    kv_limit : float
        Share of its KV cache above which a worker is given no prompt.

    Attributes
    ----------
    workers : list of Prefiller
    """

    def __init__(self, specs: list[WorkerSpec], *, kv_limit: float = 0.9) -> None:
        self.workers = [Prefiller(spec) for spec in specs]
        self._kv_limit = kv_limit
        self._changed = asyncio.Event()

    @property
    def any_live(self) -> bool:
        """Whether any worker is there at all."""
        return any(worker.live for worker in self.workers)

    def choose(self, without: set[str]) -> Prefiller | None:
        """Return the worker with the fewest prompt tokens under way.

        Parameters
        ----------
        without : set of str
            Addresses not to ask.

        Returns
        -------
        Prefiller or None
            None if all are down or over their limit.
        """
        able = [
            worker
            for worker in self.workers
            if worker.live
            and worker.kv_usage < self._kv_limit
            and worker.spec.address not in without
        ]
        return min(able, key=lambda worker: worker.load, default=None)

    async def wait(self) -> None:
        """Wait until some worker's state has changed."""
        await self._changed.wait()

    def told(self, worker: int, gauges: Gauges) -> None:
        """Take in what a worker says of itself."""
        if gauges.kv_usage is not None:
            self.workers[worker].kv_usage = gauges.kv_usage
            self.touch()

    def add_worker(self, spec: WorkerSpec) -> int:
        """Add a worker; return its number."""
        self.workers.append(Prefiller(spec))
        self.touch()
        return len(self.workers) - 1

    def retire(self, worker: int) -> None:
        """Give a worker no more prompts."""
        self.workers[worker].retired = True
        self.workers[worker].live = False
        self.touch()

    def is_open(self, worker: int) -> bool:
        """Tell whether a worker takes prompts."""
        return self.workers[worker].live

    def reported(self, worker: int, *, ok: bool, why: str = "") -> None:  # noqa: ARG002 # the pump's signature
        """Note that a worker answered a probe, or that it did not."""
        found = self.workers[worker]
        found.missed = 0 if ok else found.missed + 1
        live = not found.retired and found.missed < MISSES
        if live != found.live:
            found.live = live
            self.touch()

    def touch(self) -> None:
        """Wake whoever waits for a change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
