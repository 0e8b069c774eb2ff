"""What a load measures encloses what the server itself wrote down of the same requests."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from engine_client import PATIENCE_S, engine_of
from load_servers import params

from brsolver.errors import OutputError
from brsolver.traces.trace import Trace
from integration.load.params import Pace
from integration.load.running import load


def logged(trace, path, *, speed=200.0, **more):
    """Load a fake engine; return what was loaded and what the engine wrote, by lengths."""

    async def run():
        async with asyncio.timeout(PATIENCE_S), engine_of(log=str(path), speed=speed) as engine:
            return await load(trace, params(engine.url, **more))

    found = asyncio.run(run())
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return found, {(row["prompt_tokens"], row["output_tokens"]): row for row in rows}


@pytest.mark.parametrize("pace", [Pace(), Pace(concurrency=4), Pace(rate=500.0)])
def test_each_request_is_timed_around_what_the_server_did(tmp_path, pace):
    count = 24
    trace = Trace(
        prompt_tokens=np.arange(30, 30 + count),
        output_tokens=1 + np.arange(count) % 7,
        arrival_s=0.002 * np.arange(count),
        name="distinct",
    )
    found, rows = logged(trace, tmp_path / "log.jsonl", pace=pace)
    assert len(found.replies) == len(rows) == count
    for reply in found.replies:
        row = rows[reply.prompt_tokens, reply.tokens]
        # All of it is on one clock of the machine, so this holds however slow the machine is.
        order = [reply.sent_s, row["came_s"], row["first_s"], reply.first_s]
        assert order == sorted(order)
        assert row["first_s"] <= row["last_s"] <= reply.last_s
        assert reply.due_s <= reply.sent_s
        assert row["complete"]


def test_a_log_has_what_failed_and_is_added_to(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"prompt_tokens": 0, "output_tokens": 0}\n')

    async def run():
        async with asyncio.timeout(PATIENCE_S), engine_of(log=str(path), speed=20.0) as engine:
            trace = Trace(
                prompt_tokens=np.array([5]), output_tokens=np.array([100_000]), name="long"
            )
            loading = asyncio.create_task(load(trace, params(engine.url, pace=Pace(concurrency=1))))
            async with asyncio.timeout(PATIENCE_S):
                while not engine.cluster.figures[0].generation_tokens:
                    await asyncio.sleep(0)
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            async with asyncio.timeout(PATIENCE_S):
                while len(path.read_text().splitlines()) < 2:
                    await asyncio.sleep(0)

    asyncio.run(run())
    kept, row = map(json.loads, path.read_text().splitlines())
    assert kept == {"prompt_tokens": 0, "output_tokens": 0}
    assert (row["prompt_tokens"], row["complete"]) == (5, False)
    assert 0 < row["output_tokens"] < 100_000
    assert row["came_s"] <= row["first_s"] <= row["last_s"]


def test_a_log_that_cannot_be_written_is_told_of(tmp_path):
    with pytest.raises(OutputError, match=r"nowhere/log.jsonl: cannot be written: No such file"):
        asyncio.run(_enter(tmp_path / "nowhere" / "log.jsonl"))


async def _enter(path):
    async with engine_of(log=str(path)):
        pass
