"""Whether ranks of one server get what is pinned to them: with a real Envoy, and processes."""

from __future__ import annotations

import asyncio

import numpy as np
from serve_stack import DEADLINE_S, Stack, ask

from integration.serve.processes import fetch
from integration.serve.traffic import Fate

RANKS, SLOTS = 2, 4
ONE_SERVER = {"ranks": RANKS}
EACH = 60
"""Requests that are sent before the page is looked at again."""


def reported(stack):
    return 'brsolver_faults_total{kind="pin-ignored"}' in fetch(f"{stack.page}/metrics")


async def send(stack, turn):
    """Keep all slots full, with requests of many lengths, until these have been answered."""
    outputs = np.random.default_rng(turn).integers(10, 150, EACH).tolist()
    replies = await ask(stack, outputs, tag=str(turn), concurrency=3 * RANKS * SLOTS)
    assert {reply.fate for reply in replies} == {Fate.COMPLETE}


def test_an_engine_that_places_by_load_is_reported_and_one_that_keeps_pins_is_not(tmp_path):
    async def until_reported(stack):
        turns = 0
        async with asyncio.timeout(5 * DEADLINE_S):
            while not await asyncio.to_thread(reported, stack):
                await send(stack, turns)
                turns += 1
        return turns

    async def as_often(stack, turns):
        for turn in range(turns):
            await send(stack, turn)
        await stack.until_idle()
        assert not reported(stack)

    shape = {"ranks": RANKS, "slots": SLOTS, "workers": ONE_SERVER}
    (tmp_path / "kept").mkdir()
    with Stack(tmp_path, engine=("--ignore-pin",), **shape) as stack:
        turns = asyncio.run(until_reported(stack))
    assert turns > 0
    with Stack(tmp_path / "kept", **shape) as stack:
        asyncio.run(as_often(stack, turns + 2))
