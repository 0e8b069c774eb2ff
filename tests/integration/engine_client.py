"""A fake engine in the test's own event loop, and requests to it."""

from __future__ import annotations

import asyncio
import json
import re

import aiohttp

from integration.engines.engine import FakeEngine
from integration.engines.params import EngineParams

PATIENCE_S = 60.0
FAST = 10_000.0
SAMPLE = re.compile(r"^vllm:(\w+)\{([^}]*)\} (\S+)$", re.MULTILINE)


def engine_of(**params) -> FakeEngine:
    return FakeEngine(EngineParams(**({"port": 0, "speed": FAST} | params)))


def with_engine(scenario, **params):
    """Run ``scenario(engine, client)`` to its end, with a fake engine and an HTTP client."""

    async def run():
        async with (
            asyncio.timeout(PATIENCE_S),
            engine_of(**params) as engine,
            aiohttp.ClientSession(engine.url) as client,
        ):
            return await scenario(engine, client)

    return asyncio.run(run())


async def post(client, path, body, **headers):
    """The status and the JSON of an answer."""
    async with client.post(path, json=body, headers=headers) as answer:
        return answer.status, await answer.json()


async def stream(client, path, body, **headers):
    """The events of a streamed answer, without the last one, that must be there."""
    async with client.post(path, json=body | {"stream": True}, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        text = (await answer.read()).decode()
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


async def figures(client, url=""):
    """The metrics: (name, rank) -> value, of histograms the count."""
    async with client.get(f"{url}/metrics") as answer:
        text = await answer.text()
    found = {}
    for name, labels, value in SAMPLE.findall(text):
        rank = int(re.search(r'engine="(\d+)"', labels)[1])
        if not name.endswith("_bucket") and "finished_reason" not in labels:
            found[name, rank] = float(value)
    return found


async def await_figures(client, condition):
    """The metrics as soon as a condition holds of them; the test's patience ends all waiting."""
    while not condition(found := await figures(client)):
        pass
    return found


def exactly(tokens, prompt="a prompt", **more):
    return {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True} | more


def counted(tokens):
    """The text of an output that is whole."""
    return "".join(f" {k}" for k in range(tokens))
