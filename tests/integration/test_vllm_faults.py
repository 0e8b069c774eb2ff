"""What goes wrong inside the adapter costs nobody a request, and leaves the books right."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
from fake_vllm import Deployment, EngineCoreOutput, EngineCoreOutputs, FinishReason
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.cluster.view import (
    CAPACITY,
    LOAD,
    QUEUED,
    REQUEST,
    RUNNING,
    SINCE,
    TOKEN_ROOM,
    TOKENS,
)
from integration.vllm.config import from_environment
from integration.vllm.pool import Held, Pool
from integration.vllm.reload import switch
from integration.vllm.requests import Request


def run(coroutine):
    return asyncio.run(coroutine)


def failing(call, at: int):
    """Let a function raise at its `at`-th call, from 1."""
    calls = 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError("out of luck")
        return call(*args, **kwargs)

    return wrapped


async def serve_all(d: Deployment, rounds: int = 40) -> None:
    """Let everything in flight end, and what is released into its place."""
    for _ in range(rounds):
        await d.settle()
        for name, rank in d.sent().items():
            if name in d.client.reqs_in_flight:
                await d.report(rank, {name: 1}, {name})


def nothing_is_left(d: Deployment) -> bool:
    books = d.books
    table = books.state.view_table()[[LOAD, RUNNING, QUEUED]]
    return not (table.any() or len(books) or len(d.adapter.releaser.pool))


class TestEveryRequestIsSent:
    @pytest.mark.parametrize(("what", "at"), [("charge", 1), ("charge", 4), ("publish", 2)])
    def test_when_charging_or_telling_others_fails(self, what, at):
        async def scenario():
            d = Deployment("br-0", "pooled", slots=2)
            owner = d.books if what == "charge" else d.router
            setattr(owner, what, failing(getattr(owner, what), at))
            for i in range(12):
                await d.add(str(i), 10 + i)
            await serve_all(d)
            assert sorted(d.sent(), key=int) == [str(i) for i in range(12)]
            assert d.adapter.failsafe.failures == 1
            assert d.adapter.failsafe.active
            assert nothing_is_left(d)

        run(scenario())

    def test_when_ending_a_lost_one_fails_too(self):
        async def scenario():
            d = Deployment("br-0", "pooled", slots=4)
            d.client.failing = True
            d.client.outputs_queue.put_nowait = failing(d.client.outputs_queue.put_nowait, 1)
            for i in range(3):
                await d.add(str(i))
            await d.settle()
            assert [name for name, _ in d.client.sent] == ["0", "1", "2"]
            assert d.client.outputs_queue.qsize() == 2
            assert nothing_is_left(d)

        run(scenario())

    @pytest.mark.parametrize("spec", ["br-0", "br-h:horizon=8"])
    @pytest.mark.parametrize("prompt", [600, 900])
    def test_when_its_prompt_is_large_and_small_ones_keep_coming(self, spec, prompt):
        async def scenario():
            d = Deployment(spec, "pooled", slots=4, capacity=1000)
            for i in range(8):
                await d.add(f"first{i}", 240)
            await d.settle()
            await d.add("large", prompt)
            for i in range(200):
                await d.add(f"small{i}", 240)
                await d.settle()
                if "large" in d.sent():
                    break
                running = [n for n in d.sent() if n in d.client.reqs_in_flight]
                await d.report(d.sent()[running[0]], {running[0]: 1}, {running[0]})
            # Four times the eight slots may be refilled before.
            assert "large" in d.sent()
            assert 20 < i < 60

        run(scenario())


class LastFirst:
    """Places whoever came last."""

    def route(self, cluster, waiting):
        return [(len(waiting) - 1, int(np.argmax(cluster.room)))]


def test_whom_a_policy_passes_over_is_its_own_affair():
    async def scenario():
        d = Deployment("br-0", "pooled", slots=1)
        d.use(LastFirst())
        for i in range(4):
            await d.add(str(i))
        await d.settle()
        for i in range(4, 60):
            await d.add(str(i))
            name, rank = next((n, r) for n, r in d.sent().items() if n in d.client.reqs_in_flight)
            await d.report(rank, {name: 1}, {name})
            await d.settle()
        assert len(d.sent()) > 50
        assert "0" not in d.sent()
        assert d.adapter.failsafe.failures == 0

    run(scenario())


class PlacesOneOnly:
    """Places the first request it sees, and never another."""

    def __init__(self):
        self.placed = False

    def route(self, cluster, waiting):
        if self.placed:
            return []
        self.placed = True
        return [(0, 0)]


def test_slots_left_unused_for_long_are_a_failure():
    async def scenario():
        d = Deployment("br-0", "pooled", slots=4)
        d.use(PlacesOneOnly())
        for i in range(4):
            await d.add(str(i))
        await d.settle()
        assert len(d.sent()) == 1
        await d.report(0, {"0": 1})
        await d.settle()
        # Time passes; the clock is the adapter's own affair.
        rounds = d.adapter.rounds
        assert rounds.patience.unused_since_s is not None
        rounds.patience.unused_since_s -= d.adapter.desk.config.params.stall_s
        await d.report(0, {"0": 1})
        await d.settle()
        assert len(d.sent()) == 4
        assert d.adapter.failsafe.failures == 1

    run(scenario())


def test_slots_that_nothing_held_would_fit_into_are_not_unused():
    async def scenario():
        d = Deployment("br-0", "pooled", slots=4, capacity=100)
        await d.add("a", 80)
        await d.add("b", 80)
        await d.add("c", 90)
        await d.settle()
        await d.report(0, {"a": 1})
        await d.settle()
        assert set(d.sent()) == {"a", "b"}
        assert d.adapter.rounds.patience.unused_since_s is None

    run(scenario())


@pytest.mark.parametrize("spec", ["fcfs", "jsq-load", "br-0:patience=5"])
def test_to_wait_for_room_for_the_oldest_is_no_failure(spec):
    async def scenario():
        d = Deployment(spec, "pooled", slots=4, capacity=1000)
        for name, prompt in (("a", 700), ("b", 700), ("large", 900), ("c", 20), ("d", 30)):
            await d.add(name, prompt)
            await d.settle()
        rounds = d.adapter.rounds
        for _ in range(20):
            await d.report(0, {"a": 1})
            await d.report(1, {"b": 1})
            await d.settle()
            if rounds.patience.unused_since_s is not None:
                rounds.patience.unused_since_s -= 10 * d.adapter.desk.config.params.stall_s
        assert d.adapter.failsafe.failures == 0
        await d.report(0, {}, {"a"})
        await d.settle()
        assert "large" in d.sent()

    run(scenario())


class TestBooksHeal:
    def test_after_a_charge_that_failed_halfway(self):
        async def scenario():
            d = Deployment("jsq-load", slots=4)
            await d.add("a", 100)
            d.books.state.admit = failing(d.books.state.admit, 1)
            await d.add("b", 10)
            # vLLM's own rule chose, the first rank.
            assert d.sent() == {"a": 0, "b": 0}
            assert d.adapter.failsafe.failures == 1
            assert d.books.state.load.tolist() == [110, 0]
            await serve_all(d)
            assert nothing_is_left(d)

        run(scenario())

    def test_after_a_release_that_failed(self):
        async def scenario():
            d = Deployment("jsq-load", slots=4)
            for i in range(6):
                await d.add(str(i), 10)
            books = d.books
            books.state.finish = failing(books.state.finish, 2)
            by_rank = [[n for n, r in d.sent().items() if r == rank] for rank in (0, 1)]
            await d.report(0, {}, set(by_rank[0]))
            assert d.adapter.failsafe.failures == 1
            assert len(books) == 3
            assert books.state.load.tolist() == [0, 30]
            await d.report(1, dict.fromkeys(by_rank[1], 2), set(by_rank[1]))
            assert nothing_is_left(d)

        run(scenario())

    def test_after_outputs_that_could_not_be_entered(self):
        async def scenario():
            d = Deployment("br-h:horizon=8", slots=4)
            await d.add("a", 10)
            await d.add("b", 20)
            bad = EngineCoreOutput("a", None)  # type: ignore[arg-type] # just that
            batch = EngineCoreOutputs(0, [bad], None, None)
            await d.client.process_engine_outputs(d.client, batch)
            assert d.adapter.failsafe.failures == 1
            assert sorted(d.books.state.load.tolist()) == [10, 20]
            await d.report(0, {"a": 3})
            assert sorted(d.books.state.load.tolist()) == [13, 20]
            await d.add("c", 5)
            await serve_all(d)
            assert nothing_is_left(d)

        run(scenario())

    def test_books_that_cannot_be_mended_are_given_up_and_vllm_routes(self):
        async def scenario():
            d = Deployment("br-0", "pooled", slots=1)
            for i in range(4):
                await d.add(str(i), 10)
            await d.settle()
            d.books.progress = failing(d.books.progress, 1)
            d.books.rebuild = failing(d.books.rebuild, 1)
            await d.report(0, {"0": 1})
            await d.settle()
            assert not d.adapter.failsafe.active
            assert len(d.sent()) == 4

        run(scenario())

    def test_when_ranks_go_between_release_and_sending(self):
        async def scenario():
            d = Deployment("br-0", "pooled", slots=2, count=3)
            for i in range(6):
                await d.add(str(i), 10)
            d.adapter.releaser._run()  # released, but not sent yet
            del d.client.core_engines[1:]
            await d.settle()
            assert len(d.sent()) == 6
            assert set(d.sent().values()) == {0}
            assert d.books.state.load.tolist()[1:] == [0, 0]
            await serve_all(d)
            assert nothing_is_left(d)
            assert d.adapter.failsafe.failures == 0

        run(scenario())

    def test_chunks_of_streamed_input_survive_a_change_of_policy(self):
        async def scenario():
            d = Deployment("jsq-load", slots=4)
            await d.add("a", 10, resumable=True)
            await d.report(0, {"a": 1})
            await d.add("a", 700, resumable=True)
            config = from_environment({"BRSOLVER_ROUTER": "br-0", "BRSOLVER_MODE": "pooled"})
            switch(d.adapter, config)
            assert d.books.state.load.tolist() == [711, 0]

        run(scenario())


class TestNothingGrows:
    @pytest.mark.parametrize("mode", ["immediate", "pooled", "observe"])
    @pytest.mark.parametrize("spec", ["vllm", "br-0", "br-h:horizon=8"])
    def test_with_the_requests_served(self, spec, mode):
        async def scenario():
            d = Deployment(spec, mode, slots=4)
            free = len(d.books._identities._free)
            for i in range(300):
                await d.add(str(i), 10)
                await d.settle()
                rank = d.sent()[str(i)]
                await d.report(rank, {str(i): 2}, {str(i)}, finish_reason=FinishReason.STOP)
            await d.report(0, {})
            d.router.refresh()
            assert len(d.books.admitted) == 0
            assert len(d.books._finished) == 0
            assert len(d.books._identities._free) == free
            assert not d.adapter.desk.held

        run(scenario())

    def test_once_it_has_stood_down(self):
        async def scenario():
            d = Deployment("br-h:horizon=8", "pooled", slots=4)
            free = len(d.books._identities._free)
            d.adapter.failsafe.stand_down("a test says so")
            for i in range(100):
                await d.add(str(i), 10)
                rank = d.sent()[str(i)]
                await d.report(rank, {str(i): 2}, {str(i)}, finish_reason=FinishReason.STOP)
            assert len(d.books.admitted) == 0
            assert len(d.books._finished) == 0
            assert len(d.books._identities._free) == free

        run(scenario())

    def test_when_a_policy_is_changed_between_release_and_sending(self):
        async def scenario():
            d = Deployment("br-0", "pooled", slots=4)
            for i in range(4):
                await d.add(str(i), 10)
            d.adapter.releaser._run()
            config = from_environment({"BRSOLVER_ROUTER": "br-0", "BRSOLVER_MODE": "pooled"})
            switch(d.adapter, config)
            await serve_all(d)
            known = d.books._identities
            assert len(known._free) == known._limits.shape[0]
            assert nothing_is_left(d)

        run(scenario())


def test_a_held_request_whose_books_fail_still_ends_when_cancelled():
    async def scenario():
        d = Deployment("br-0", "pooled", slots=1)
        for i in range(4):
            await d.add(str(i), 10)
        await d.settle()
        held = sorted(set("0123") - set(d.sent()))
        d.books.release = failing(d.books.release, 1)
        await d.client.abort_requests_async([held[0], "0"])
        assert d.client.aborted == ["0"]
        ended = d.client.outputs_queue.get_nowait().outputs[0]
        assert ended.request_id == held[0]
        assert ended.finish_reason == FinishReason.ABORT

    run(scenario())


def test_it_does_not_call_itself_active_over_a_decision_that_failed(caplog):
    async def scenario():
        d = Deployment("br-0", "pooled", slots=4)
        d.router.decide = failing(d.router.decide, 1)
        with caplog.at_level("INFO", "vllm.brsolver"):
            await d.add("a", 10)
            await d.settle()
            assert not [each for each in caplog.messages if "active: policy" in each]
            await d.add("b", 10)
            await d.settle()
        assert [each for each in caplog.messages if "active: policy" in each]

    run(scenario())


class TestHeadroom:
    """Capacity follows what the engine says of its blocks."""

    def stats(self, usage: float, waiting: int = 0) -> SimpleNamespace:
        return SimpleNamespace(kv_cache_usage=usage, num_waiting_reqs=waiting)

    async def say(self, d: Deployment, tokens: dict[str, int], stats: SimpleNamespace) -> None:
        outputs = [EngineCoreOutput(name, [7] * count) for name, count in tokens.items()]
        batch = EngineCoreOutputs(0, outputs, stats, None)
        await d.client.process_engine_outputs(d.client, batch)

    def capacity(self, d: Deployment) -> int:
        return int(d.books.state.view_table()[CAPACITY][0])

    def test_what_is_shared_or_filled_in_part_shows_in_the_blocks(self):
        async def scenario():
            d = Deployment("jsq-load", capacity=1000, count=1)
            await d.add("a", 400)
            await d.add("b", 400)
            # 300 tokens are shared: 502 of the 1000 are taken.
            await self.say(d, {"a": 1, "b": 1}, self.stats(0.502))
            assert self.capacity(d) == 802 + 498
            # Without sharing, but in blocks that are not full.
            await self.say(d, {"a": 1, "b": 1}, self.stats(0.9))
            assert self.capacity(d) == 804 + 100

        run(scenario())

    def test_a_prompt_that_the_engine_has_not_begun_takes_up_its_room(self):
        async def scenario():
            d = Deployment("jsq-load", capacity=1000, count=1)
            await d.add("a", 400)
            await self.say(d, {"a": 1}, self.stats(0.401))
            await d.add("b", 300)
            await self.say(d, {"a": 1}, self.stats(0.402, waiting=1))
            assert d.books.state.view_table()[TOKEN_ROOM].tolist() == [1000 - 702]
            await self.say(d, {"a": 1, "b": 1}, self.stats(0.704))
            assert self.capacity(d) == 1000

        run(scenario())

    def test_blocks_of_a_prompt_that_is_being_computed_are_not_counted_twice(self):
        async def scenario():
            d = Deployment("jsq-load", capacity=1000, count=1)
            await d.add("a", 400)
            for usage in (0.0, 0.2, 0.4):
                await self.say(d, {}, self.stats(usage))
                assert d.books.state.view_table()[TOKEN_ROOM].tolist() == [600]

        run(scenario())

    def test_nothing_is_free_while_a_preempted_request_waits(self):
        async def scenario():
            d = Deployment("jsq-load", capacity=1000, count=1)
            await d.add("a", 400)
            await d.add("b", 500)
            await self.say(d, {"a": 1, "b": 1}, self.stats(0.902))
            await self.say(d, {"a": 1}, self.stats(0.402, waiting=1))
            assert d.books.state.view_table()[TOKEN_ROOM].tolist() == [0]

        run(scenario())

    def test_an_empty_rank_has_all_of_it(self):
        async def scenario():
            d = Deployment("jsq-load", capacity=1000, count=1)
            await d.add("a", 400)
            await self.say(d, {"a": 1}, self.stats(0.7))
            assert self.capacity(d) == 701
            await d.report(0, {}, {"a"})
            assert self.capacity(d) == 1000

        run(scenario())


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["add", "drop", "offer"]), st.integers(0, 400))))
def test_a_pool_offers_what_it_holds_in_order_of_arrival(events):
    pool, plain = Pool(), {}
    for kind, number in events:
        if kind == "add" and str(number) not in plain:
            request = Request(str(number), number + 1, 10, 0.0)
            request.identity = number * 7
            plain[str(number)] = request
            pool.add(Held(None, request, number * 3))
        elif kind == "drop":
            gone = plain.pop(str(number), None)
            dropped = pool.drop(str(number))
            assert (dropped and dropped.request) is gone
        held, queue = pool.offer()
        assert [each.request for each in held] == list(plain.values())
        assert queue[TOKENS].tolist() == [r.prompt_tokens for r in plain.values()]
        assert queue[REQUEST].tolist() == [r.identity for r in plain.values()]
        assert queue[SINCE].tolist() == [int(r.name) * 3 for r in plain.values()]
        assert len(pool) == len(plain)
