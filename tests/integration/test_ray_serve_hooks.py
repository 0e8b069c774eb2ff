"""The router by itself, its hooks called as Ray Serve calls them."""

from __future__ import annotations

import asyncio
import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray.serve", reason="Ray Serve is not installed")

from ray.exceptions import ActorDiedError, ActorUnavailableError, TaskCancelledError
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, RequestMetadata
from ray.serve.request_router import PendingRequest, ReplicaID

from integration.picker import End, Gauges
from integration.ray_serve import SessionRouter
from integration.ray_serve import router as router_module
from integration.ray_serve.ends import end_of

PATIENCE_S = 60.0
DEPLOYMENT = DeploymentID("engine", "app")
SETTINGS = {"policy": "jsq", "predictor": "none", "slots": 2, "budget": 64, "budget_ms": 60_000.0}


class Replica:
    """What a router knows of a replica."""

    def __init__(self, name: str, *, most: int = 8) -> None:
        self.replica_id = ReplicaID(name, DEPLOYMENT)
        self.max_ongoing_requests = most
        self.node_id, self.availability_zone = "node", None
        self.multiplexed_model_ids: set[str] = set()
        self.routing_stats: dict[str, Any] = {}

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return 0


class Result:
    """A result whose end is told when a test says so."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def add_done_callback(self, call: Any) -> None:
        self.calls.append(call)

    async def over(self, left: object) -> None:
        for call in self.calls:
            call(left)
        await turns()


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def pending(name: str, **more: Any) -> PendingRequest:
    metadata = RequestMetadata(request_id=name, internal_request_id=name, is_streaming=True, **more)
    return PendingRequest(args=[[1] * 8], kwargs={}, metadata=metadata)


def routing(scenario: Any, *replicas: Replica, **settings: Any) -> None:
    """Run a scenario with a router that is ready, and its replicas."""

    async def run() -> None:
        router = SessionRouter(
            deployment_id=DEPLOYMENT,
            handle_source=DeploymentHandleSource.REPLICA,
            use_replica_queue_len_cache=True,
        )
        router.initialize_state(**{**SETTINGS, **settings})
        router.update_replicas(list(replicas))
        if router._opening is not None and router._settings.ready_s:
            await router._opening
        await scenario(router)

    asyncio.run(run())


def held(router: SessionRouter) -> int:
    audit = router.audit()
    assert audit is not None
    assert audit.wrong == ()
    return audit.held


def test_calls_of_one_request_share_its_name_and_each_ends_once():
    async def scenario(router):
        calls = [pending("same") for _ in range(4)]
        found = [await router._choose_replica_for_request(each) for each in calls]
        assert sorted(each.replica_id.unique_id for each in found) == ["a", "a", "b", "b"]
        results = [Result() for _ in calls]
        for call, replica, result in zip(calls, found, results, strict=True):
            router.on_request_routed(call, replica.replica_id, result)
        waits = asyncio.ensure_future(router._choose_replica_for_request(pending("same")))
        await turns()
        assert held(router) == 1
        for replica, result in zip(found, results, strict=True):
            # In Ray Serve's order: its own hook, then what was added to the result.
            router.on_request_completed(replica.replica_id, "same")
            await result.over(None)
        last = await waits
        router.on_request_completed(last.replica_id, "same")
        audit = router.audit()
        assert audit.reserved == 0
        # The last one had not been taken by anybody.
        assert audit.ended == {End.FINISHED: 4, End.DISCONNECTED: 1}
        assert len(router._attempts) == 0

    routing(scenario, Replica("a"), Replica("b"))


def test_who_is_turned_away_twice_goes_where_ray_serve_finds_room():
    async def scenario(router):
        call, tried = pending("r"), []
        for attempt in range(3):
            replica = await router._choose_replica_for_request(call, is_retry=attempt > 0)
            tried.append(replica.replica_id)
        audit = router.audit()
        assert (audit.reserved, audit.ended) == (0, {End.REJECTED: 2})
        # Completions of what was turned away come when they come, and end nothing.
        again = await router._choose_replica_for_request(pending("r"))
        for replica_id in tried[:2]:
            router.on_request_completed(replica_id, "r")
        assert router.audit().reserved == 1
        router.on_request_completed(again.replica_id, "r")
        assert router.audit().reserved == 0
        assert len(router._attempts) == 0

    routing(scenario, Replica("a"), Replica("b"))


def test_requests_of_other_handles_count():
    async def scenario(router):
        a, b = (ReplicaID(name, DEPLOYMENT) for name in "ab")
        for _ in range(2):
            router.on_new_queue_len_info(a, 2)
        found = [await router._choose_replica_for_request(pending(str(i))) for i in range(2)]
        assert [each.replica_id for each in found] == [b, b]
        waits = asyncio.ensure_future(router._choose_replica_for_request(pending("held")))
        await turns()
        assert held(router) == 1
        waits.cancel()
        await turns()
        assert held(router) == 0

    routing(scenario, Replica("a"), Replica("b"))


def test_what_replicas_tell_of_themselves_is_taken_in():
    first, second = Replica("a"), Replica("b")

    async def scenario(router):
        first.routing_stats = {"running": 2, "kv_usage": 0.5, "steps": 7, "mood": "good"}
        second.routing_stats = {"running": "many"}
        router.update_replicas([first, second])
        router.update_replicas([first, second])
        gauges = router._front._core.workers[0].gauges
        assert (gauges.running, gauges.kv_usage, gauges.steps) == (2, 0.5, 7)
        assert router._front._core.workers[1].gauges is None
        # Counts that come with every request would overwrite the rest.
        router.on_new_queue_len_info(first.replica_id, 1)
        assert router._front._core.workers[0].gauges.steps == 7

    routing(scenario, first, second)


def test_what_replicas_cannot_have_is_not_taken_in():
    first, second = Replica("a"), Replica("b")

    async def scenario(router):
        nan, endless = float("nan"), float("inf")
        first.routing_stats = {"running": nan, "waiting": endless, "steps": -1, "kv_usage": 7.0}
        second.routing_stats = {"running": 3.0, "waiting": True, "prefill_s": 0.5}
        router.update_replicas([first, second])
        workers = router._front._core.workers
        assert workers[0].gauges is None
        assert workers[1].gauges == Gauges(running=3, prefill_s=0.5)

    routing(scenario, first, second)


def test_a_multiplexed_model_is_ray_serves_to_place():
    first, second = Replica("a"), Replica("b")
    second.multiplexed_model_ids = {"lora"}

    async def scenario(router):
        for index in range(5):
            call = pending(str(index), multiplexed_model_id="lora")
            assert (await router._choose_replica_for_request(call)) is second
        assert router.audit().begun == 0

    routing(scenario, first, second)


def test_nobody_waits_for_kernels_longer_than_is_said(monkeypatch):
    compiled, opens = threading.Event(), router_module.open_front

    def slow(*args, **kwargs):
        compiled.wait(PATIENCE_S)
        return opens(*args, **kwargs)

    monkeypatch.setattr(router_module, "open_front", slow)

    async def scenario(router):
        replica = await router._choose_replica_for_request(pending("r"))
        assert replica.replica_id.unique_id == "a"
        assert router._front is None
        compiled.set()
        await router._opening
        await router._choose_replica_for_request(pending("next"))
        assert router.audit().reserved == 1

    routing(scenario, Replica("a"), ready_s=0)


def test_a_replica_runs_no_more_than_it_takes():
    async def scenario(router):
        await router._choose_replica_for_request(pending("r"))
        waits = asyncio.ensure_future(router._choose_replica_for_request(pending("held")))
        await turns()
        assert held(router) == 1
        router.on_replica_actor_died(ReplicaID("a", DEPLOYMENT))
        audit = router.audit()
        assert audit.ended[End.WORKER_DIED] == 1
        router.update_replicas([Replica("b")])
        assert (await waits).replica_id.unique_id == "b"

    routing(scenario, Replica("a", most=1))


def test_settings_found_wrong_late_are_one_line_and_ray_serve_routes(caplog):
    async def scenario(router):
        replica = await router._choose_replica_for_request(pending("r"))
        assert replica.replica_id.unique_id == "a"
        assert router.audit() is None

    with caplog.at_level(logging.ERROR, "brsolver.ray_serve"):
        routing(scenario, Replica("a"), policy="none-such")
    [record] = [each for each in caplog.records if each.name == "brsolver.ray_serve"]
    assert "routes nothing (unknown policy 'none-such'" in record.getMessage()
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize(
    ("left", "end"),
    [
        (None, End.FINISHED),
        ({"text": "hello"}, End.FINISHED),
        (TaskCancelledError(), End.DISCONNECTED),
        (SimpleNamespace(cancelled=lambda: True), End.DISCONNECTED),
        (SimpleNamespace(cancelled=lambda: False), End.FINISHED),
        (ActorDiedError(), End.WORKER_DIED),
        (ActorUnavailableError("gone", b"0" * 16), End.RESET),
        (ValueError("bad"), End.REJECTED),
    ],
)
def test_ends_are_told_by_what_is_left_of_a_result(left, end):
    assert end_of(left) is end
