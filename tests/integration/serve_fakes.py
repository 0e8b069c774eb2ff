"""Replicas of Ray Serve whose streams go on when a gate is opened."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import ray
from ray import serve

GATE = "brsolver-test-gate"


@ray.remote(num_cpus=0)
class Gate:
    """Lets streams end, and remembers who ran where."""

    def __init__(self) -> None:
        self._open: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._began: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._running: defaultdict[str, set[str]] = defaultdict(set)
        self.most: defaultdict[str, int] = defaultdict(int)
        self.where: dict[str, str] = {}

    async def begin(self, name: str, replica: str) -> None:
        """Take in that a replica runs a request."""
        self.where[name] = replica
        self._running[replica].add(name)
        self.most[replica] = max(self.most[replica], len(self._running[replica]))
        self._began[name].set()

    async def end(self, name: str, replica: str) -> None:
        """Take in that it runs it no more."""
        self._running[replica].discard(name)

    async def passed(self, name: str) -> None:
        """Wait until a request may end."""
        await self._open[name].wait()

    async def let(self, names: list[str]) -> None:
        """Let requests end."""
        for name in names:
            self._open[name].set()

    async def began(self, names: list[str]) -> dict[str, str]:
        """Wait until replicas run these requests; return which."""
        for name in names:
            await self._began[name].wait()
        return {name: self.where[name] for name in names}

    async def seen(self) -> dict[str, str]:
        """Return where each request that ever ran was."""
        return dict(self.where)

    async def concurrency(self) -> dict[str, int]:
        """Return how many requests each replica had at most."""
        return dict(self.most)


@serve.deployment(
    max_ongoing_requests=8,
    ray_actor_options={"num_cpus": 0},
    graceful_shutdown_wait_loop_s=0.1,
    graceful_shutdown_timeout_s=60.0,
)
class Streams:
    """Streams a token, then another once the gate is open."""

    def __init__(self) -> None:
        self._replica = serve.get_replica_context().replica_id.unique_id
        self._gate = ray.get_actor(GATE)

    async def generate(self, name: str, prompt_ids: list[int], max_tokens: int = 2):
        """Stream tokens."""
        await self._gate.begin.remote(name, self._replica)
        try:
            yield f"{name}:first"
            await self._gate.passed.remote(name)
            yield f"{name}:last"
        finally:
            self._gate.end.remote(name, self._replica)

    async def whole(self, name: str, prompt: str) -> str:
        """Answer at once, without a stream."""
        if prompt == "raise":
            raise ValueError(prompt)
        return self._replica
