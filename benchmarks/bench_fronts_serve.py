"""A rollout batch through Ray Serve itself: fake replicas on a barrier clock, in real time.

Run ``python -m benchmarks.bench_fronts_serve``. An actor holds the simulator's ranks
(`integration.engines`) and lets their steps last as long as the hardware says, divided by
``--speed``; every replica is a rank of it and streams its first and last token. The same batch goes
through Ray Serve's own router and through `integration.ray_serve`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray import serve

from benchmarks._rollouts import Batch
from integration.engines.clock import Clock
from integration.engines.cluster import Cluster, Task
from integration.engines.params import EngineParams
from integration.ray_serve import router_config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

RANKS = "brsolver-bench-ranks"
_APPLICATIONS = count()
HARDWARE = "minimax-m2.7-h200-dp4"


class Counted(Cluster):
    """A cluster that adds up what its steps lasted, and what of that was lost at the barrier."""

    busy_s = lost_s = 0.0

    def begin(self) -> float:
        """Begin a step; see `Cluster.begin`."""
        lasts = super().begin()
        self.busy_s += lasts
        self.lost_s += sum(self._step.lost_s) if self._step is not None else 0.0
        return lasts


class Awaited:
    """Tells when a task has its first token, and all of them."""

    def __init__(self, tokens: int) -> None:
        self.first, self.all = asyncio.Event(), asyncio.Event()
        self._tokens = tokens

    def tokens(self, _first: int, end: int) -> None:
        """Take tokens in."""
        self.first.set()
        if end >= self._tokens:
            self.all.set()

    def lost(self) -> None:
        """Take in that the rank died."""
        self.all.set()


@ray.remote(num_cpus=0, max_concurrency=100_000)
class Ranks:
    """Ranks behind one barrier, for replicas to run requests at."""

    def __init__(self, ranks: int, slots: int, speed: float) -> None:
        self._params = EngineParams(ranks=ranks, slots=slots, hardware=HARDWARE, speed=speed)
        self._cluster = Counted(self._params)
        self._cluster.warm_up()
        self._clock: Clock | None = None
        self._free = list(range(ranks))
        self._waiters: dict[int, Awaited] = {}

    async def join(self) -> int:
        """Give a replica its rank."""
        return self._free.pop(0)

    async def first(self, rank: int, prompt: int, output: int) -> int:
        """Run a request until its first token; return what to wait for the last one with."""
        if self._clock is None:
            self._clock = Clock(self._cluster, self._params.speed)
        waiter = Awaited(output)
        task = Task(prompt, output, waiter, rank)
        self._cluster.submit(task)
        self._clock.wake()
        await waiter.first.wait()
        self._waiters[task.identity] = waiter
        return task.identity

    async def last(self, identity: int) -> None:
        """Wait for a request's last token."""
        await self._waiters[identity].all.wait()
        del self._waiters[identity]

    async def seconds(self) -> tuple[float, float]:
        """Return seconds of all steps, and those of them that were lost at the barrier."""
        return self._cluster.busy_s, self._cluster.lost_s


@serve.deployment(max_ongoing_requests=100_000, ray_actor_options={"num_cpus": 0})
class Replica:
    """A rank."""

    async def __init__(self) -> None:
        self._ranks = ray.get_actor(RANKS)
        self._rank = await self._ranks.join.remote()

    async def generate(self, prompt_ids: Sequence[int], tokens: int) -> AsyncIterator[int]:
        """Stream the first and the last token."""
        identity = await self._ranks.first.remote(self._rank, len(prompt_ids), tokens)
        yield 1
        await self._ranks.last.remote(identity)
        yield tokens


async def _through(handle: Any, batch: Batch) -> None:
    """Ask for all responses at once, and read them to their ends."""

    async def one(index: int) -> None:
        start = int(batch.group[index]) << 20
        prompt = range(start, start + int(batch.prompt_tokens[index]))
        async for _ in handle.remote(list(prompt), int(batch.output_tokens[index])):
            pass

    await asyncio.gather(*(one(index) for index in range(len(batch))))


def measured(batch: Batch, options: argparse.Namespace, config: Any, limit: int) -> list[float]:
    """Let a batch run; return its makespan and time lost, in seconds of the engine."""
    ranks = Ranks.options(name=RANKS).remote(options.ranks, options.slots, options.speed)
    ray.get(ranks.seconds.remote())
    settings = {} if config is None else {"request_router_config": config}
    app = Replica.options(num_replicas=options.ranks, max_ongoing_requests=limit, **settings).bind()
    # Ray Serve keeps the routers of an application that it knows.
    name = f"rollouts-{next(_APPLICATIONS)}"
    handle = serve.run(app, name=name, route_prefix=None)
    stream = handle.options(method_name="generate", stream=True)
    # The first request makes the router.
    asyncio.run(_through(stream, Batch.drawn(np.random.default_rng(0), groups=1, each=1, most=2)))
    before = ray.get(ranks.seconds.remote())
    asyncio.run(_through(stream, batch))
    after = ray.get(ranks.seconds.remote())
    serve.delete(name)
    ray.kill(ranks)
    return [late - early for early, late in zip(before, after, strict=True)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row per rule."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--each", type=int, default=8, help="responses to every prompt")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--median", type=float, default=100.0, help="tokens of a response")
    parser.add_argument("--most", type=int, default=400, help="tokens of the longest")
    parser.add_argument("--speed", type=float, default=0.5, help="of steps, than the hardware's")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args(arguments)
    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    serve.start(proxy_location="Disabled")
    slots = {"slots": options.slots, "hardware": HARDWARE}
    rules = {
        "Ray Serve, no limit": (None, 100_000),
        "Ray Serve, limit = slots": (None, options.slots),
        "`jsq-load`, pooled": (router_config(policy="jsq-load", **slots), 100_000),
        "`br-t`, pooled": (router_config(policy="br-t", **slots), 100_000),
    }
    print("| rule | batch took | lost at the barrier |\n|---|---|---|", flush=True)
    for rule, (config, limit) in rules.items():
        for seed in range(options.seeds):
            batch = Batch.drawn(
                np.random.default_rng([15, seed]),
                groups=options.requests // options.each,
                each=options.each,
                output_median=options.median,
                most=options.most,
            )
            took, lost = measured(batch, options, config, limit)
            print(f"| {rule} | {took:.1f} s | {lost / took:.1%} |", flush=True)
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
