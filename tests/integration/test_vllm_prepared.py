"""Projections are made when a rank has reported, not when a request waits for them."""

from __future__ import annotations

import asyncio

import pytest
from fake_vllm import Deployment

from brsolver.cluster._state_kernels import W_CHANGES
from brsolver.stand_ins import PredictorWrapper


class Watched(PredictorWrapper):
    """Counts how often the other's table is looked at."""

    looks = 0

    @property
    def table(self):
        self.looks += 1
        return self.base.table


async def deployment(mode: str = "immediate", requests: int = 4) -> Deployment:
    d = Deployment("br-h:horizon=8,guard=false", mode, slots=4)
    for i in range(requests):
        await d.add(str(i), 10 + i)
    await d.settle()
    return d


async def step(d: Deployment) -> None:
    """Let both ranks report a token of whatever runs there."""
    for rank in (0, 1):
        await d.report(rank, {name: 1 for name, at in d.sent().items() if at == rank})


def as_of(d: Deployment) -> list[int]:
    return d.session.forecaster._kept._as_of.tolist()


@pytest.mark.parametrize("mode", ["immediate", "pooled"])
def test_the_next_decision_finds_all_ranks_projected(mode):
    async def scenario():
        d = await deployment(mode)
        for _ in range(3):
            await step(d)
            assert as_of(d) == d.books.state.workers[W_CHANGES].tolist()
        await d.report(0, {}, {next(name for name, at in d.sent().items() if at == 0)})
        assert as_of(d) == d.books.state.workers[W_CHANGES].tolist()
        assert d.adapter.failsafe.failures == 0

    asyncio.run(scenario())


def test_the_predictor_is_not_asked_meanwhile():
    async def scenario():
        d = await deployment()
        forecaster = d.session.forecaster
        forecaster.predictor = Watched(forecaster.predictor)
        await d.add("more")
        looks = forecaster.predictor.looks
        assert looks > 0
        for _ in range(3):
            await step(d)
        assert forecaster.predictor.looks == looks

    asyncio.run(scenario())


def test_what_fails_is_counted_once_and_left_to_the_next_decision():
    async def scenario():
        d = await deployment()
        forecaster = d.session.forecaster
        calls = []

        def fail(*args):
            calls.append(args)
            raise ValueError("no projection")

        forecaster.prepare = fail
        for _ in range(5):
            await step(d)
        assert len(calls) == d.adapter.failsafe.failures == 1
        await d.add("more")
        for _ in range(5):
            await step(d)
        assert len(calls) == d.adapter.failsafe.failures == 2
        assert d.adapter.failsafe.active
        assert len(d.sent()) == 5

    asyncio.run(scenario())


@pytest.mark.parametrize("why", ["observe", "stood down"])
def test_nothing_is_projected_where_nothing_is_decided(why):
    async def scenario():
        d = await deployment("observe" if why == "observe" else "immediate")
        calls = []
        d.session.forecaster.prepare = lambda *args: calls.append(args)
        if why == "stood down":
            await step(d)
            assert calls
            calls.clear()
            d.adapter.failsafe.stand_down("a test")
        await step(d)
        assert not calls

    asyncio.run(scenario())
