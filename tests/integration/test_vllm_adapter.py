from __future__ import annotations

import asyncio
import logging
import time
from types import SimpleNamespace

import numpy as np
import pytest
from fake_vllm import (
    Deployment,
    EngineCoreEventType,
    EngineCoreRequest,
    FinishReason,
    client_classes,
    messages,
    ranks,
    vllm_config,
)

from brsolver.cluster.view import Waiting
from integration.vllm import plugin
from integration.vllm.config import from_environment
from integration.vllm.plugin import _Attach
from integration.vllm.reload import switch
from integration.vllm.wrapping import adapter_of, wrap


def run(coroutine):
    return asyncio.run(coroutine)


class TestImmediate:
    def test_requests_go_where_the_policy_says_and_vllm_keeps_its_own_books(self):
        async def scenario():
            d = Deployment("jsq-load")
            await d.add("a", 100)
            await d.add("b", 10)
            await d.add("c", 10)
            assert d.sent() == {"a": 0, "b": 1, "c": 1}
            assert d.client.reqs_in_flight["b"] == (1).to_bytes(2, "little")
            assert d.client.own_choices == 0

        run(scenario())

    def test_the_request_is_handed_on_without_a_rank(self):
        async def scenario():
            d = Deployment("jsq-load")
            request = await d.add("a")
            assert request.data_parallel_rank is None

        run(scenario())

    def test_pinned_requests_stay_where_their_sender_wants_them_and_are_charged_there(self):
        async def scenario():
            d = Deployment("jsq-load")
            request = await d.add("a", 50, data_parallel_rank=1)
            assert request.data_parallel_rank == 1
            assert d.sent() == {"a": 1}
            assert d.books.state.load.tolist() == [0, 50]

        run(scenario())

    def test_pooling_requests_are_left_alone(self):
        async def scenario():
            d = Deployment("jsq-load")
            await d.add("a", pooling_params=object(), sampling_params=None)
            assert d.client.own_choices == 1
            assert len(d.books) == 0

        run(scenario())

    def test_embeddings_in_place_of_tokens_are_counted(self):
        async def scenario():
            d = Deployment("jsq-load")
            request = EngineCoreRequest("a", None, prompt_embeds=np.zeros((33, 4)))
            await d.client.add_request_async(request)
            assert d.books.state.load.tolist() == [33, 0]

        run(scenario())

    def test_the_decision_is_the_simulators(self):
        """The policy is given a view of the very state the simulator keeps, and its answer is
        taken as it is."""

        async def scenario():
            d = Deployment("br-h:horizon=4", count=3)
            seen = []
            inner = d.session.policy

            class Spy:
                horizon = 4

                def route(self, cluster, waiting):
                    answer = inner.route(cluster, waiting)
                    seen.append((cluster.table.copy(), waiting.prompt_tokens.copy(), answer))
                    return answer

            d.use(Spy())
            for i in range(5):
                await d.add(str(i), 10 * (i + 1))
            for (table, tokens, answer), (name, rank) in zip(seen, d.sent().items(), strict=True):
                assert table[0].sum() == sum(10 * (j + 1) for j in range(int(name)))
                assert tokens.tolist() == [10 * (int(name) + 1)]
                assert int(answer[0][1]) == rank

        run(scenario())


class TestAccounting:
    def test_tokens_are_added_as_reported_and_all_is_released_at_the_end(self):
        async def scenario():
            d = Deployment("jsq-load")
            await d.add("a", 100)
            await d.add("b", 10)
            await d.report(0, {"a": 3})
            await d.report(1, {"b": 1})
            assert d.books.state.load.tolist() == [103, 11]
            await d.report(0, {"a": 1}, {"a"}, finish_reason=FinishReason.STOP)
            assert d.books.state.load.tolist() == [0, 11]
            await d.report(1, {}, {"b"})
            assert d.books.state.load.tolist() == [0, 0]
            assert len(d.books) == 0

        run(scenario())

    def test_ranks_are_indices_while_reports_name_them_globally(self):
        async def scenario():
            d = Deployment("jsq-load", first=6)
            await d.add("a", 5)
            await d.report(0, {"a": 1})
            await d.report(0, {"a": 1})
            assert d.books.step == 2

        run(scenario())

    def test_more_requests_than_slots_are_queued_at_the_rank_until_one_ends(self):
        async def scenario():
            d = Deployment("jsq-load", slots=1)
            for name in "abc":
                await d.add(name, 10, data_parallel_rank=0)
            assert d.books.state.active.tolist() == [1, 0]
            assert d.books.state.view_table()[2].tolist() == [2, 0]
            await d.report(0, {"a": 1}, {"a"})
            assert d.books.state.active.tolist() == [1, 0]
            assert d.books.state.view_table()[2].tolist() == [1, 0]

        run(scenario())

    def test_a_queued_request_that_reports_a_token_runs(self):
        async def scenario():
            d = Deployment("jsq-load", slots=1)
            await d.add("a", 10, data_parallel_rank=0)
            await d.add("b", 20, data_parallel_rank=0)
            await d.report(0, {"b": 2})
            assert d.books.state.load.tolist() == [32, 0]

        run(scenario())

    def test_preemptions_and_cached_tokens_are_counted(self):
        async def scenario():
            d = Deployment("jsq-load", capacity=1000)
            await d.add("a", 100)
            events = [SimpleNamespace(type=EngineCoreEventType.PREEMPTED)]
            cached = SimpleNamespace(num_cached_tokens=64)
            await d.report(0, {"a": 1}, events=events, prefill_stats=cached)
            assert d.books.preemptions == [1, 0]
            assert d.books.cached_tokens == 64
            assert d.books.state.load.tolist() == [101, 0]

        run(scenario())

    def test_chunks_of_streamed_input_are_charged_to_the_rank_that_has_the_first(self):
        async def scenario():
            d = Deployment("jsq-load", mode="pooled")
            await d.add("a", 10, resumable=True)
            await d.add("a", 7, resumable=True)
            assert d.books.state.load.tolist() == [17, 0]
            await d.report(0, {}, {"a"})
            assert d.books.state.load.tolist() == [0, 0]

        run(scenario())

    def test_a_request_that_cannot_be_sent_is_not_charged(self):
        async def scenario():
            d = Deployment("jsq-load")
            d.client.refusing = True
            request = EngineCoreRequest("a", [1, 2])
            with pytest.raises(RuntimeError, match="no such engine"):
                await d.client.add_request_async(request)
            assert request.data_parallel_rank is None
            assert len(d.books) == 0
            assert d.books.state.load.sum() == 0

        run(scenario())

    def test_ranks_that_come_and_go(self):
        async def scenario():
            d = Deployment("jsq-load", count=2)
            await d.add("a", 10)
            await d.add("b", 20)
            d.client.core_engines.extend(ranks(1, 2))
            await d.add("c", 5)
            assert d.sent()["c"] == 2
            d.client.core_engines = d.client.core_engines[:1]
            await d.add("d", 5)
            assert d.sent()["d"] == 0
            assert d.books.state.load.tolist() == [15, 0, 0]
            await d.report(1, {"b": 1}, {"b"})
            await d.report(0, {"a": 1}, {"a", "d", "c"})
            assert d.books.state.load.tolist() == [0, 0, 0]
            d.client.core_engines = ranks(2)
            await d.add("e", 5)
            await d.add("f", 5)
            assert {d.sent()["e"], d.sent()["f"]} == {0, 1}

        run(scenario())


class TestPooled:
    def test_arrivals_with_free_slots_go_at_once_as_a_set(self):
        async def scenario():
            d = Deployment("br-0", "pooled")
            for i in range(4):
                await d.add(str(i), 10)
            assert d.sent() == {}
            await d.settle()
            assert sorted(d.sent().values()) == [0, 0, 1, 1]

        run(scenario())

    def test_what_finds_no_slot_is_held_until_one_frees(self):
        async def scenario():
            d = Deployment("br-0", "pooled", slots=1)
            for name in "abcd":
                await d.add(name, 10)
            await d.settle()
            assert set(d.sent()) == {"a", "b"}
            assert len(d.adapter.releaser.pool) == 2
            rank = d.sent()["a"]
            await d.report(rank, {"a": 1}, {"a"})
            await d.report(1 - rank, {"b": 1})
            await d.settle()
            assert set(d.sent()) == {"a", "b", "c"}
            assert d.sent()["c"] == rank

        run(scenario())

    def test_a_freed_slot_is_given_away_even_if_the_other_rank_never_reports(self):
        async def scenario():
            d = Deployment("br-0", "pooled", slots=1)
            for name in "abc":
                await d.add(name, 10)
            await d.settle()
            await d.report(d.sent()["a"], {"a": 1}, {"a"})
            await asyncio.sleep(0.02)
            assert "c" in d.sent()

        run(scenario())

    def test_a_held_request_that_is_cancelled_ends_in_vllms_eyes(self):
        async def scenario():
            d = Deployment("br-0", "pooled", slots=1)
            for name in "abc":
                await d.add(name, 10)
            await d.settle()
            await d.client.abort_requests_async(["c", "a"])
            assert d.client.aborted == ["a"]
            ended = d.client.outputs_queue.get_nowait()
            assert [(o.request_id, o.finish_reason) for o in ended.outputs] == [
                ("c", FinishReason.ABORT)
            ]
            assert d.client.outputs_queue.empty()
            await d.report(d.sent()["a"], {}, {"a"})
            await d.settle()
            assert "c" not in d.sent()

        run(scenario())

    def test_cancelled_between_release_and_sending(self):
        async def scenario():
            d = Deployment("br-0", "pooled")
            await d.add("a", 10)
            d.adapter.releaser._run()  # releases, but its task has not begun to send
            assert d.books.state.load.sum() == 10
            await d.client.abort_requests_async(["a"])
            await d.settle()
            assert d.sent() == {}
            assert d.books.state.load.sum() == 0
            assert d.client.outputs_queue.qsize() == 1

        run(scenario())

    def test_a_request_that_vllm_fails_to_send_ends_with_an_error(self):
        async def scenario():
            d = Deployment("br-0", "pooled")
            d.client.failing = True
            await d.add("a", 10)
            await d.settle()
            ended = d.client.outputs_queue.get_nowait()
            assert ended.outputs[0].finish_reason == FinishReason.ERROR
            assert d.books.state.load.sum() == 0

        run(scenario())

    def test_a_request_too_long_for_any_rank_is_not_held_forever(self):
        async def scenario():
            d = Deployment("br-0", "pooled", capacity=100)
            await d.add("a", 500)
            await d.settle()
            assert "a" in d.sent()

        run(scenario())

    def test_kv_capacity_holds_back_what_slots_would_allow(self):
        async def scenario():
            d = Deployment("br-0", "pooled", capacity=100)
            for name in "abc":
                await d.add(name, 60)
            await d.settle()
            assert len(d.sent()) == 2
            await d.report(0, {}, {name for name, rank in d.sent().items() if rank == 0})
            await asyncio.sleep(0.02)
            assert len(d.sent()) == 3

        run(scenario())

    def test_observing_changes_nothing_but_keeps_the_books(self):
        async def scenario():
            d = Deployment("br-0", "observe")
            for i in range(4):
                await d.add(str(i), 10)
            assert list(d.sent().values()) == [0, 1, 0, 1]
            assert d.books.state.load.tolist() == [20, 20]

        run(scenario())


class Raises:
    def route(self, cluster, waiting):
        raise ValueError("no idea")


class Hangs:
    def route(self, cluster, waiting):
        while True:
            time.sleep(0.001)


class SwallowsAndHangs:
    def route(self, cluster, waiting):
        while True:
            try:
                time.sleep(0.001)
            except Exception:  # noqa: BLE001, S112 # just what the failsafe must get past
                continue


class NamesNobody:
    def route(self, cluster, waiting):
        return [(0, 99)]


class PlacesNothing:
    def route(self, cluster, waiting):
        return np.empty((0, 2), np.int64)


class TwoAtOnce:
    def route(self, cluster, waiting):
        return [(0, 0), (0, 0)]


@pytest.mark.parametrize("mode", ["immediate", "pooled"])
@pytest.mark.parametrize(
    "policy", [Raises, Hangs, SwallowsAndHangs, NamesNobody, PlacesNothing, TwoAtOnce]
)
def test_a_router_that_fails_stands_down_while_all_requests_are_served(policy, mode, caplog):
    async def scenario():
        d = Deployment("br-0", mode, slots=2, count=2)
        d.adapter.failsafe._deadline.budget_s = 0.02
        d.use(policy())
        for i in range(24):
            await d.add(str(i), 10)
            await d.settle()
        for _ in range(12):
            for name, rank in d.sent().items():
                if name in d.client.reqs_in_flight:
                    await d.report(rank, {name: 1}, {name})
            await asyncio.sleep(0.005)
        assert len(d.sent()) == 24
        assert not d.adapter.failsafe.active
        assert d.books.state.load.sum() == 0
        return d

    with caplog.at_level(logging.WARNING, logger="vllm.brsolver"):
        run(scenario())
    said = [record.message for record in caplog.records]
    assert sum("decision failed" in text for text in said) == 1
    assert sum("stands down for good" in text for text in said) == 1


def test_a_router_that_fails_once_is_forgiven_and_vllm_decides_that_time():
    async def scenario():
        d = Deployment("jsq-load")
        policy = d.session.policy
        d.use(Raises())
        await d.add("a", 10)
        assert d.client.own_choices == 1
        d.use(policy)
        await d.add("b", 10)
        assert d.client.own_choices == 1
        assert d.adapter.failsafe.active
        assert d.books.state.load.tolist() == [10, 10]

    run(scenario())


def test_a_predictor_that_fails_does_not_stop_routing():
    class Broken:
        def predict(self, query, horizon):
            raise RuntimeError("no forecast")

        def observe(self, finished):
            raise RuntimeError("cannot learn")

    async def scenario():
        d = Deployment("br-h:horizon=4")
        forecaster = d.session.forecaster
        forecaster.predictor.observe = Broken().observe
        await d.add("a", 10)
        await d.report(0, {"a": 1}, {"a"})
        await d.add("b", 10)
        for _ in range(100):
            await d.report(0, {"b": 1})
        assert d.adapter.failsafe.active
        assert 1 <= d.adapter.failsafe.failures <= 4

    run(scenario())


def test_reports_that_make_no_sense_are_survived():
    async def scenario():
        d = Deployment("jsq-load")
        await d.add("a", 10)
        bad = SimpleNamespace(engine_index=0, outputs=[object()], finished_requests=None)
        for _ in range(10):
            await d.client.process_engine_outputs(d.client, bad)
        assert not d.adapter.failsafe.active
        await d.add("b", 10)
        assert d.client.own_choices == 1

    run(scenario())


def test_forecasts_learn_from_what_ended_by_itself():
    async def scenario():
        d = Deployment("br-h:horizon=8", slots=8)
        seen = []
        d.session.forecaster.predictor.observe = seen.append
        await d.add("a", 10)
        await d.add("b", 11)
        await d.add("c", 12, data_parallel_rank=0)
        await d.report(0, {"a": 5}, {"a"}, finish_reason=FinishReason.STOP)
        await d.report(0, {"b": 3})
        await d.report(0, {}, {"b"})
        for _ in range(40):
            await d.report(0, {"c": 1})
        rows = {
            (int(p), int(o), bool(c))
            for batch in seen
            for p, o, c in zip(
                batch.prompt_tokens, batch.output_tokens, batch.censored, strict=True
            )
        }
        assert rows == {(10, 5, False), (11, 3, True)}
        assert all((batch.max_tokens == 100).all() for batch in seen)

    run(scenario())


def test_another_policy_takes_over_while_serving():
    async def scenario():
        d = Deployment("br-0", "pooled", slots=1)
        for name in "abc":
            await d.add(name, 10)
        await d.settle()
        await d.report(0, {"a": 4})
        config = from_environment({"BRSOLVER_ROUTER": "br-h:horizon=3"})
        loads = d.books.state.load.tolist()
        switch(d.adapter, config)
        assert d.books.state.load.tolist() == loads
        assert d.session.policy.horizon == 3
        await d.report(d.sent()["a"], {"a": 1}, {"a"})
        await asyncio.sleep(0.02)
        assert set(d.sent()) == {"a", "b", "c"}
        for name, rank in d.sent().items():
            await d.report(rank, {}, {name})
        assert d.books.state.load.sum() == 0

    run(scenario())


def test_changing_to_immediate_mode_sends_what_is_held():
    async def scenario():
        d = Deployment("br-0", "pooled", slots=1)
        for name in "abcd":
            await d.add(name, 10)
        await d.settle()
        config = from_environment({"BRSOLVER_ROUTER": "br-0", "BRSOLVER_MODE": "immediate"})
        switch(d.adapter, config)
        await d.settle()
        assert set(d.sent()) == set("abcd")

    run(scenario())


def test_dense_models_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING, logger="vllm.brsolver"):
        run(_made(moe=False))
    assert "tail latency" in caplog.text


async def _made(**config):
    return Deployment(**config)


def test_a_policy_that_does_not_exist_leaves_vllm_alone(caplog):
    async def scenario():
        d = Deployment("no-such-policy")
        assert adapter_of(d.client) is None
        await d.add("a")
        assert d.client.own_choices == 1

    with caplog.at_level(logging.WARNING, logger="vllm.brsolver"):
        run(scenario())
    assert "not active" in caplog.text


def test_a_view_of_one_waiting_request_is_what_immediate_policies_get():
    async def scenario():
        d = Deployment("br-0")
        seen = []

        class Spy:
            def route(self, cluster, waiting):
                assert isinstance(waiting, Waiting)
                seen.append((cluster.immediate, len(waiting), cluster.room.tolist()))
                return [(0, 1)]

        d.use(Spy())
        await d.add("a")
        assert seen == [(True, 1, [1, 1])]
        assert d.sent() == {"a": 1}

    run(scenario())


@pytest.mark.parametrize("mode", ["immediate", "pooled"])
def test_two_api_servers_see_each_others_requests(mode, tmp_path):
    async def scenario():
        pair = [
            Deployment("jsq-load", mode, slots=2, clients=2, index=index, address=str(tmp_path))
            for index in range(2)
        ]
        await pair[0].add("a", 100)
        await pair[0].settle()
        await pair[1].add("b", 10)
        await pair[1].settle()
        assert pair[0].sent()["a"] != pair[1].sent()["b"]
        for i in range(6):
            await pair[i % 2].add(f"c{i}", 5)
            await pair[i % 2].settle()
        running = sum(d.books.state.active for d in pair)
        assert (running <= 2).all()
        if mode == "pooled":
            assert sum(len(d.adapter.releaser.pool) for d in pair) == 4
        # One server's requests end; the other looks for itself and fills the slots.
        for name, rank in pair[0].sent().items():
            await pair[0].report(rank, {name: 1}, {name})
        await asyncio.sleep(0.05)
        for _ in range(10):
            for d in pair:
                for name, rank in d.sent().items():
                    if name in d.client.reqs_in_flight:
                        await d.report(rank, {name: 1}, {name})
            await asyncio.sleep(0.01)
        assert sum(len(d.sent()) for d in pair) == 8
        assert all(d.adapter.failsafe.failures == 0 for d in pair)
        assert all(d.books.state.load.sum() == 0 for d in pair)

    run(scenario())


def test_two_api_servers_that_project_loads_see_each_others_projections(tmp_path):
    async def scenario():
        pair = [
            Deployment("br-h:horizon=4", slots=4, clients=2, index=i, address=str(tmp_path))
            for i in range(2)
        ]
        await pair[0].add("a", 1000)
        await pair[0].add("b", 10)
        await pair[1].add("c", 10)
        light = pair[0].sent()["b"]
        assert pair[1].sent() == {"c": light}
        await pair[1].add("d", 10)
        assert pair[1].sent()["d"] == light

    run(scenario())


def test_api_servers_that_cannot_share_are_told_to_be_one(monkeypatch, caplog):
    monkeypatch.setattr("integration.vllm.sharing.os.ftruncate", _refuse)

    async def scenario():
        d = Deployment("br-0", clients=2)
        assert adapter_of(d.client) is None
        await d.add("a")
        assert d.client.own_choices == 1

    with caplog.at_level(logging.WARNING, logger="vllm.brsolver"):
        run(scenario())
    assert "set --api-server-count 1" in caplog.text


def _refuse(*_):
    raise OSError("no space left")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("DPAsyncMPClient", "external load balancing"),
        ("AsyncMPClient", "a single data-parallel rank"),
    ],
)
def test_clients_with_nothing_to_route_are_told_of(name, told, caplog):
    classes = client_classes()
    config = from_environment({"BRSOLVER_ROUTER": "br-0"})
    assert config is not None
    wrap(classes, messages(), _Attach(config))

    async def scenario():
        client = getattr(classes, name)(vllm_config(), ranks(1))
        assert adapter_of(client) is None

    with caplog.at_level(logging.WARNING, logger="vllm.brsolver"):
        run(scenario())
    assert told in caplog.text


def test_wrapping_twice_wraps_once():
    classes = client_classes()
    assert wrap(classes, messages(), lambda *_: None)
    wrapped = classes.DPLBAsyncMPClient.get_core_engine_for_request
    assert not wrap(classes, messages(), lambda *_: None)
    assert classes.DPLBAsyncMPClient.get_core_engine_for_request is wrapped


def test_vllm_is_left_as_it_is_without_the_variable(monkeypatch):
    monkeypatch.delenv("BRSOLVER_ROUTER", raising=False)
    monkeypatch.setattr("integration.vllm.plugin.import_module", _refuse)
    plugin.register()


def test_registering_never_raises(monkeypatch, caplog):
    monkeypatch.setenv("BRSOLVER_ROUTER", "nowhere.toml")
    with caplog.at_level(logging.WARNING, logger="vllm.brsolver"):
        plugin.register()
    assert "nowhere.toml" in caplog.text


def test_the_rust_front_end_is_told_of(monkeypatch, caplog):
    monkeypatch.setenv("BRSOLVER_ROUTER", "br-0")
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    with caplog.at_level(logging.WARNING, logger="vllm.brsolver"):
        plugin.register()
    assert "Rust front end" in caplog.text


def test_predictors_that_go_by_keys_are_given_them():
    async def scenario():
        d = Deployment("br-h:horizon=4", environ={"BRSOLVER_PREDICTOR": "exact"}, slots=8)
        seen = []
        forecaster = d.session.forecaster

        def observe(batch):
            # Keys are gathered when they are looked at, and identities are used again.
            keys = (batch.keys[name].tolist() for name in ("prompt_hash", "session"))
            seen.append((batch.output_tokens.tolist(), *keys))

        forecaster.predictor.observe = observe
        for name, prompt in (("a", 10), ("b", 10), ("c", 11)):
            await d.add(name, prompt, data_parallel_rank=0, session_id="s" if name == "a" else None)
        await d.report(0, {"a": 5, "b": 6, "c": 7}, {"a", "b", "c"})
        await d.add("d")
        for _ in range(40):
            await d.report(0, {"d": 1})
        ((lengths, hashes, sessions),) = seen
        hash_of = dict(zip(lengths, hashes, strict=True))
        assert hash_of[5] == hash_of[6] != hash_of[7]
        assert dict(zip(lengths, sessions, strict=True)) == {5: "s", 6: "b", 7: "c"}
        assert d.adapter.failsafe.failures == 0

    run(scenario())
