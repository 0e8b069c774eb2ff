"""Requests to a real server, and what its metrics say of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
from rig.servers import MODEL

if TYPE_CHECKING:
    from pathlib import Path

_SAMPLE = re.compile(r"^(brsolver_\w+)(?:\{(.*)\})? ([-+.\deE]+)$", re.MULTILINE)
PATIENCE_S = 240.0
KINDS = ("plain", "cancelled", "stopped", "two", "pinned", "sampled")


def figures(server) -> dict[str, float]:
    """The adapter's figures, summed over labels: name -> value."""
    total: Counter[str] = Counter()
    for name, labels, value in _SAMPLE.findall(server.get("/metrics")):
        if not name.endswith(("_bucket", "_created")):
            total[name] += float(value)
            if labels:
                total[f"{name}{{{labels}}}"] += float(value)
    return dict(total)


def await_figures(server, condition, patience_s: float = 60.0) -> dict[str, float]:
    """The figures as soon as `condition` holds of them, or as they are when patience ends."""
    deadline = time.monotonic() + patience_s
    while True:
        found = figures(server)
        if condition(found) or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


async def await_figures_meanwhile(server, condition) -> dict[str, float]:
    """`await_figures` for who has requests under way, which it lets run on."""
    return await asyncio.to_thread(await_figures, server, condition)


def empty(found: dict[str, float]) -> bool:
    """Whether the adapter's books say that nothing runs, queues or is held."""
    names = ("kv_tokens", "running_requests", "queued_requests", "held_requests")
    return all(found.get(f"brsolver_{name}", 1.0) == 0.0 for name in names)


def at_ranks(found: dict[str, float]) -> float:
    """How many requests the adapter's books have at the ranks."""
    return found["brsolver_running_requests"] + found["brsolver_queued_requests"]


def reconfigure(server, path: Path, text: str) -> None:
    """Give a running server another configuration, and wait until it is taken in."""
    before = figures(server)["brsolver_reloads_total"]
    part = path.with_suffix(".part")
    part.write_text(text)
    os.replace(part, path)  # noqa: PTH105 # replaces at once
    servers = server.params.api_servers
    # What the policy needs is compiled first, if nobody has yet.
    found = await_figures(
        server, lambda now: now["brsolver_reloads_total"] >= before + servers, PATIENCE_S
    )
    assert found["brsolver_reloads_total"] == before + servers, server.log_text()[-3000:]


def prompts(count: int, seed: int = 0, longest: int = 40) -> list[list[int]]:
    """Prompts of random tokens."""
    rng = random.Random(seed)  # noqa: S311 # a test's draw
    return [[rng.randint(3, 1000) for _ in range(rng.randint(3, longest))] for _ in range(count)]


async def complete(
    client: httpx.AsyncClient, prompt: list[int], *, rank: int | None = None, **body: Any
) -> list[str]:
    """The texts that the server answers to one request."""
    headers = {} if rank is None else {"X-data-parallel-rank": str(rank)}
    asked = {"model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 12} | body
    answer = await client.post("/v1/completions", json=asked, headers=headers)
    assert answer.status_code == 200, answer.text
    return [choice["text"] for choice in answer.json()["choices"]]


def session(server) -> httpx.AsyncClient:
    """A client with connections enough for everything at once."""
    limits = httpx.Limits(max_connections=300)
    return httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S, limits=limits)


def complete_all(server, asked: list[list[int]], **body: Any) -> list[list[str]]:
    """The texts of many requests sent at once."""

    async def scenario():
        async with session(server) as client:
            return await asyncio.gather(*(complete(client, each, **body) for each in asked))

    return asyncio.run(scenario())


def mixed(server, count: int, seed: int = 0, longest: int = 40) -> Counter[str]:
    """Send requests of all kinds at once; return how many of each were served."""
    rng = random.Random(seed)  # noqa: S311 # a test's draw

    async def scenario() -> list[Any]:
        asked = [(rng.choice(KINDS), each) for each in prompts(count, seed, longest)]
        async with session(server) as client:
            tasks = (_send(client, rng, kind, each) for kind, each in asked)
            return await asyncio.gather(*tasks)

    return Counter(asyncio.run(scenario()))


async def _send(client: httpx.AsyncClient, rng: random.Random, kind: str, prompt: list[int]) -> str:
    length = rng.randint(8, 60)
    if kind == "cancelled":
        with contextlib.suppress(TimeoutError, httpx.TimeoutException):
            async with asyncio.timeout(rng.uniform(0.02, 3.0)):
                await complete(client, prompt, max_tokens=150, ignore_eos=True)
    elif kind == "two":
        texts = await complete(client, prompt, n=2, temperature=1.0, max_tokens=length)
        assert len(texts) == 2
    else:
        more: dict[str, Any] = {
            "stopped": {"stop": ["w1", "w5", "w7"]},
            "pinned": {"rank": rng.randint(0, 1)},
            "sampled": {"temperature": 1.0, "ignore_eos": True},
            "plain": {"ignore_eos": True},
        }[kind]
        await complete(client, prompt, max_tokens=length, **more)
    return kind
