"""What ranks have in their prefix caches, as the adapter's books see it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from fake_vllm import Deployment, EngineCoreRequest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.cluster._state_kernels import W_BACKLOG
from integration.vllm.messages import read
from integration.vllm.prefixes import LEAST_TOKENS, RankPrefixes, joined_blocks
from integration.vllm.reload import switch
from integration.vllm.requests import Request

SHARED = list(range(1000, 1256))
"""A prefix of four blocks."""


def deployment(policy: str = "prefix-affinity", mode: str = "immediate", **more) -> Deployment:
    return Deployment(policy, mode, **{"caching": True, "slots": 8, "budget": 512, **more})


def backlog(d: Deployment) -> list[int]:
    return d.books.state.workers[W_BACKLOG].tolist()


def ended(cached: int) -> SimpleNamespace:
    return SimpleNamespace(num_cached_tokens=cached)


def test_a_prompt_goes_where_its_prefix_is():
    async def scenario():
        d = deployment()
        await d.add("a", [*SHARED, 1, 2])
        first = d.sent()["a"]
        await d.add("other", list(range(40)))
        await d.add("b", [*SHARED, 3, 4, 5])
        await d.add("c", [*SHARED, 6])
        sent = d.sent()
        assert sent["b"] == sent["c"] == first
        assert sent["other"] != first

    asyncio.run(scenario())


def test_what_a_rank_has_is_not_owed():
    async def scenario():
        d = deployment()
        await d.add("a", [*SHARED, 1, 2])
        rank = d.sent()["a"]
        assert backlog(d)[rank] == 258
        await d.report(rank, {"a": 1}, prefill_stats=ended(0))
        assert backlog(d)[rank] == 0
        await d.add("b", [*SHARED, 3, 4, 5])
        assert backlog(d)[rank] == 3
        # Its engine found less: that is known with the first token, and nothing stays owed.
        await d.report(rank, {"b": 1}, prefill_stats=ended(64))
        assert backlog(d) == [0, 0]

    asyncio.run(scenario())


def test_of_a_prompt_that_is_there_the_last_token_is_owed():
    async def scenario():
        d = deployment()
        await d.add("a", SHARED)
        await d.add("b", SHARED)
        assert sum(backlog(d)) == len(SHARED) + 1

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("policy", "more"),
    [("prefix-affinity", {"caching": False}), ("br-0", {}), ("jsq-load", {})],
)
def test_nothing_is_hashed_without_caches_or_who_asks(policy, more):
    async def scenario():
        d = deployment(policy, **more)
        await d.add("a", SHARED)
        assert d.router.block_tokens == 0
        assert d.session.cached is None
        assert d.books.get("a").blocks == ()

    asyncio.run(scenario())


def test_br_t_asks():
    d = deployment("br-t", "pooled")
    assert d.router.block_tokens == LEAST_TOKENS
    assert d.session.cached is not None


def message(tokens=SHARED, **fields) -> EngineCoreRequest:
    return EngineCoreRequest("a", tokens, **fields)


def test_what_vllm_keeps_apart_is_kept_apart():
    def blocks(**fields):
        return read(message(**fields), keyed=False, block_tokens=64).blocks

    plain = blocks()
    assert len(plain) == 4
    assert blocks() == plain
    assert not set(blocks(cache_salt="tenant")) & set(plain)
    assert not set(blocks(lora_request=SimpleNamespace(lora_name="mine"))) & set(plain)
    assert blocks(mm_features=["an image"]) == ()
    assert read(message(None), keyed=False, block_tokens=64).blocks == ()


@pytest.mark.parametrize(("engine", "ours"), [(0, 0), (16, 64), (48, 96), (64, 64), (128, 128)])
def test_small_blocks_are_joined(engine, ours):
    assert joined_blocks(engine) == ours


def test_the_oldest_is_left_out_when_a_rank_is_full():
    prefixes = RankPrefixes(64, capacity=128)

    def sent(*blocks: int) -> int:
        request = Request("r", 1000, 10, 0.0)
        request.blocks = blocks
        return prefixes.sent(request, 0)

    assert [sent(1, 2), sent(1, 2), sent(3), sent(1, 2)] == [0, 128, 0, 64]


def test_a_rank_that_comes_back_has_nothing():
    async def scenario():
        d = deployment()
        for name in "ab":
            await d.add(name, [*SHARED, 1])
        rank = d.sent()["a"]
        assert d.books.get("b").expected_tokens == 256
        d.books.resize(0)
        d.books.resize(2)
        request = Request("c", 257, 10, 0.0)
        request.blocks = read(message(), keyed=False, block_tokens=64).blocks
        d.books.charge(request, rank)
        assert request.expected_tokens == 0

    asyncio.run(scenario())


def test_ranks_that_come_have_nothing_and_are_asked_about():
    async def scenario():
        d = deployment()
        await d.add("a", [*SHARED, 1])
        d.client.core_engines.append((2).to_bytes(2, "little"))
        await d.add("b", [*SHARED, 2])
        assert d.sent()["b"] == d.sent()["a"]

    asyncio.run(scenario())


def test_a_router_takes_over_what_the_one_before_knew():
    async def scenario():
        d = deployment()
        await d.add("a", [*SHARED, 1, 2])
        before = d.router
        switch(d.adapter, d.adapter.desk.config)
        assert d.router is not before
        await d.add("b", [*SHARED, 3])
        assert d.books.get("b").expected_tokens == 256

    asyncio.run(scenario())


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 300), st.integers(0, 400)),
        min_size=1,
        max_size=12,
    )
)
def test_whatever_is_found_the_ranks_owe_nothing_in_the_end(requests):
    async def scenario():
        d = deployment(slots=16)
        for number, (kind, length, found) in enumerate(requests):
            name = str(number)
            await d.add(name, [kind] * length + [number])
            owed = backlog(d)
            assert min(owed) >= 0
            rank = d.sent()[name]
            assert 0 <= d.books.get(name).expected_tokens <= length
            if found % 2:
                await d.report(rank, {name: 1}, prefill_stats=ended(min(found, length)))
        for name, rank in d.sent().items():
            await d.report(rank, {name: 1}, {name}, prefill_stats=ended(0))
        assert backlog(d) == [0, 0]

    asyncio.run(scenario())
