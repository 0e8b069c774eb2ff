"""A policy cannot write into the adapter's books, whatever it does to what it is given."""

from __future__ import annotations

import asyncio
from dataclasses import fields

import numpy as np
import pytest
from fake_vllm import Deployment, FinishReason
from hypothesis import given, settings
from hypothesis import strategies as st

SLOTS, CAPACITY = 3, 200
PATIENT = {"BRSOLVER_PREDICTOR": "survival"}


class Vandal:
    """Decides as another does, and then writes into everything it was given, now and later."""

    def __init__(self, inner):
        self.inner = inner
        self.horizon = inner.horizon
        self.kept = []

    def route(self, cluster, waiting):
        for array in self.kept:
            array.flags.writeable = array.flags.writeable or array.flags.owndata
            array[...] = 3
        pairs = np.array(self.inner.route(cluster, waiting), np.int64).reshape(-1, 2)
        projected = cluster.projection(self.horizon) if self.horizon else cluster.load
        active = cluster.active()
        given = [waiting.prompt_tokens, waiting.request, waiting.since, cluster.table, projected]
        given += [
            each
            for field in fields(active)
            if isinstance(each := getattr(active, field.name), np.ndarray)
        ]
        self.kept = [whole(array) for array in given]
        for array in self.kept:
            array[...] = -7
        cluster.table.flags.writeable = False
        cluster.table = waiting.prompt_tokens = None
        cluster.step, cluster.clock_s, cluster.trust, cluster.immediate = 10**6, -1.0, -5.0, None
        return pairs


def whole(array):
    """The array that another is a part of."""
    return whole(array.base) if isinstance(array.base, np.ndarray) else array


async def traffic(spec, mode, seed, *, hostile):
    """Serve the same random requests; return where each went, and the books at every turn."""
    rng = np.random.default_rng(seed)
    d = Deployment(spec, mode, count=3, slots=SLOTS, capacity=CAPACITY, environ=PATIENT)
    d.adapter.failsafe._deadline.budget_s = 60.0
    if hostile:
        d.use(Vandal(d.session.policy))
    log = []
    for serial in range(40):
        await d.add(str(serial), int(rng.integers(5, 120)))
        await d.settle()
        for rank in range(3):
            here = [n for n, at in d.sent().items() if at == rank and n in d.client.reqs_in_flight]
            ended = {name for name in here[:SLOTS] if rng.random() < 0.3}
            tokens = {name: int(rng.integers(0, 3)) for name in here[:SLOTS]}
            await d.report(rank, tokens, ended or None, finish_reason=FinishReason.STOP)
        await d.settle()
        state = d.books.state
        log.append((d.sent(), state.view_table().tolist(), d.client.own_choices))
        if mode == "pooled":
            assert (state.active <= SLOTS).all()
            # Tokens generated since may take a rank over it, placements never.
            assert (state.load <= CAPACITY + 2 * 40).all()
    assert d.adapter.failsafe.failures == 0
    return log


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["jsq-load", "br-0", "br-h:horizon=6", "br-ramp", "phi"]),
    st.sampled_from(["immediate", "pooled"]),
)
def test_vandals_change_nothing(seed, spec, mode):
    plain = asyncio.run(traffic(spec, mode, seed, hostile=False))
    assert asyncio.run(traffic(spec, mode, seed, hostile=True)) == plain


class Believes:
    """First come first served as it believes, having made all requests as small as it likes."""

    def __init__(self, change):
        self.change = change

    def route(self, cluster, waiting):
        self.change(cluster, waiting)
        pairs, room, left = [], cluster.room.copy(), cluster.token_room.copy()
        for i, tokens in enumerate(waiting.prompt_tokens):
            fits = np.flatnonzero((room > 0) & (left >= tokens))
            if fits.size:
                pairs.append((i, int(fits[0])))
                room[fits[0]] -= 1
                left[fits[0]] -= tokens
        return pairs


def sort(_cluster, waiting):
    waiting.prompt_tokens.sort()


def zero(_cluster, waiting):
    waiting.prompt_tokens[:] = 0
    waiting.request[:] = 0


def widen(cluster, _waiting):
    cluster.table[...] = 1 << 40


@pytest.mark.parametrize("change", [sort, zero, widen])
def test_what_is_decided_by_figures_of_its_own_is_refused(change, caplog):
    async def scenario():
        d = Deployment("br-0", "pooled", count=1, slots=4, capacity=1200)
        d.use(Believes(change))
        for name, prompt in (("a", 900), ("b", 880), ("c", 40), ("d", 30), ("e", 20)):
            await d.add(name, prompt)
        d.adapter.releaser._run()
        # As many as there are slots are left to vLLM's own rule; the last finds one free.
        assert d.adapter.failsafe.failures == 1
        assert d.books.state.load.tolist() == [0]
        await d.settle()
        assert set(d.sent()) == set("abcde")
        assert d.client.own_choices == 4
        requests = [d.books.get(name) for name in "abcde"]
        assert [each.prompt_tokens for each in requests] == [900, 880, 40, 30, 20]
        assert len({each.identity for each in requests}) == 5

    asyncio.run(scenario())
    assert "PolicyError: policy Believes at step 0 " in caplog.text


class Liar(np.ndarray):
    """Says something else than it holds, when it is asked in Python."""

    def tolist(self):
        return [[0, 1], [1, 1]]


@pytest.mark.parametrize("kind", ["subclass", "read-only", "other order"])
def test_what_is_carried_out_is_what_was_checked(kind):
    answer = np.array([[0, 0], [1, 1]], np.int64, order="F" if kind == "other order" else "C")
    if kind == "subclass":
        answer = answer.view(Liar)
    if kind == "read-only":
        answer.flags.writeable = False

    class Fixed:
        def route(self, _cluster, _waiting):
            return answer

    async def scenario():
        d = Deployment("br-0", "pooled", count=2, slots=1)
        d.use(Fixed())
        await d.add("a", 10)
        await d.add("b", 10)
        await d.settle()
        assert d.sent() == {"a": 0, "b": 1}
        assert d.adapter.failsafe.failures == 0

    asyncio.run(scenario())
