"""Ray Serve itself, with replicas that stream: who goes where, what the books say, who is lost."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'brsolver[ray-serve]'")
pytest.importorskip("ray.serve", reason="Ray Serve is not installed")

from ray import serve  # noqa: E402
from ray.exceptions import RayError  # noqa: E402
from serve_fakes import GATE, Gate, Streams  # noqa: E402

from brsolver.errors import BrsolverError  # noqa: E402
from integration.picker import End  # noqa: E402
from integration.picker.events import Stepped  # noqa: E402
from integration.ray_serve import SessionRouter, router_config  # noqa: E402

if TYPE_CHECKING:
    from integration.picker.events import Event

PATIENCE_S = 60.0
APPLICATIONS = count()
SETTINGS = {"policy": "jsq", "predictor": "none", "slots": 2, "budget": 64, "budget_ms": 60_000.0}


@pytest.fixture(scope="module")
def cluster():
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=100_000_000,
    )
    serve.start(proxy_location="Disabled")
    yield
    serve.shutdown()
    ray.shutdown()


@pytest.fixture(scope="module")
def gate(cluster):
    actor = Gate.options(name=GATE).remote()
    yield actor
    ray.kill(actor)


@pytest.fixture(scope="module")
def shared(gate):
    """An application that several tests use, one after the other; each leaves it empty."""
    return Serving(gate)


@pytest.fixture
def serving(shared):
    shared.begin()
    return shared


class Serving:
    """An application, its handle, and the router of that handle."""

    def __init__(
        self, gate: Any, *, replicas: int = 2, options: Any = None, **settings: Any
    ) -> None:
        self.gate = gate
        self._changed = threading.Event()
        self._settings = {**SETTINGS, **settings}
        # Ray Serve keeps the routers of an application that it knows.
        self.name = f"rollouts-{next(APPLICATIONS)}"
        self.handle = self.deploy(replicas, **(options or {}))
        self.unary = self.handle.options(method_name="whole")
        self.stream = self.handle.options(method_name="generate", stream=True)
        # The first request makes the router, and waits for its kernels.
        self.unary.remote("warm", "up").result(timeout_s=PATIENCE_S)
        self.router: SessionRouter = self.stream._router._asyncio_router.request_router
        self.loop = self.stream._router._asyncio_router._event_loop
        self.on_loop(self.router._front._core.listeners.append, self)
        self.until(lambda books: books.reserved == 0)
        self.begin()

    def deploy(self, replicas: int, *, wait: bool = True, **options: Any) -> Any:
        config = router_config(**self._settings)
        made = Streams.options(num_replicas=replicas, request_router_config=config, **options)
        app = made.bind()
        target = serve.RunTarget(app, name=self.name, route_prefix=None)
        return serve.run_many([target], wait_for_applications_running=wait)[0]

    def begin(self) -> None:
        """Count ends from now on, and let no name stand for two requests."""
        self._before = Counter(self.on_loop(self.router.audit).ended)
        self._prefix = f"{next(APPLICATIONS)}-"

    def ends(self, audit: Any) -> dict[End, int]:
        """Return the ends since `begin`."""
        return dict(Counter(audit.ended) - self._before)

    def event(self, event: Event) -> None:
        # The model steps for as long as streams run.
        if not isinstance(event, Stepped):
            self._changed.set()

    def on_loop(self, call: Any, *args: Any) -> Any:
        async def run() -> Any:
            return call(*args)

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE_S)

    def until(self, wanted: Any) -> Any:
        """Wait until the books are as wanted; return the last audit of them."""
        while True:
            self._changed.clear()
            audit = self.on_loop(self.router.audit)
            if wanted(audit):
                return audit
            assert self._changed.wait(PATIENCE_S), audit

    def named(self, *names: str) -> list[str]:
        return [self._prefix + name for name in names]

    def send(self, *names: str) -> dict[str, Any]:
        return {each: self.stream.remote(self._prefix + each, list(range(8))) for each in names}

    def began(self, *names: str) -> dict[str, str]:
        """Wait until replicas run these requests; return which."""
        found = ray.get(self.gate.began.remote(self.named(*names)), timeout=PATIENCE_S)
        return {name.removeprefix(self._prefix): replica for name, replica in found.items()}

    def seen(self) -> set[str]:
        """Return which requests replicas have ever run."""
        found = ray.get(self.gate.seen.remote())
        return {each.removeprefix(self._prefix) for each in found if each.startswith(self._prefix)}

    def let(self, *names: str) -> None:
        ray.get(self.gate.let.remote(self.named(*names)))

    def all_tokens(self, sent: dict[str, Any]) -> bool:
        return all(
            list(answer) == [f"{self._prefix}{name}:first", f"{self._prefix}{name}:last"]
            for name, answer in sent.items()
        )


def names(count: int) -> list[str]:
    return [f"r{index}" for index in range(count)]


def full(books: Any) -> bool:
    return books.started == 4 and books.held == 2


def test_requests_are_held_while_slots_are_taken_and_the_books_end_at_zero(serving):
    sent = serving.send(*names(6))
    audit = serving.until(full)
    assert audit.wrong == ()
    assert [worker.started for worker in audit.workers] == [2, 2]
    serving.began(*names(4))
    assert serving.seen() == set(names(4))
    serving.let(*names(6))
    assert serving.all_tokens(sent)
    audit = serving.until(lambda books: books.reserved == 0)
    assert (audit.held, audit.wrong) == (0, ())
    assert serving.ends(audit) == {End.FINISHED: 6}
    assert set(ray.get(serving.gate.concurrency.remote()).values()) == {2}


def test_who_cancels_while_held_never_reaches_a_replica_and_mid_stream_frees_a_slot(serving):
    sent = serving.send("a", "b", "c", "d")
    serving.until(lambda books: books.started == 4)
    sent |= serving.send("held", "next", "last")
    serving.until(lambda books: books.held == 3)
    sent["held"].cancel()
    audit = serving.until(lambda books: books.held == 2)
    assert serving.ends(audit) == {End.DISCONNECTED: 1}
    serving.let("a")
    assert serving.all_tokens({"a": sent["a"]})
    serving.began("next")
    sent["b"].cancel()
    serving.began("last")
    assert "held" not in serving.seen()
    serving.let("c", "d", "next", "last")
    audit = serving.until(lambda books: books.reserved == 0)
    assert audit.wrong == ()
    assert serving.ends(audit) == {End.FINISHED: 5, End.DISCONNECTED: 2}


def test_what_an_application_raises_is_no_fault_of_its_replica(serving):
    for _ in range(5):
        with pytest.raises(ValueError, match="raise"):
            serving.unary.remote("bad", "raise").result(timeout_s=PATIENCE_S)
    audit = serving.until(lambda books: books.reserved == 0)
    # Ray hands errors on as it hands on answers.
    assert serving.ends(audit) == {End.FINISHED: 5}
    assert [worker.state for worker in audit.workers] == ["up", "up"]


def test_a_replica_that_dies_costs_its_own_requests_and_another_takes_its_place(serving):
    sent = serving.send(*names(6))
    serving.until(full)
    where = serving.began(*names(4))
    victim = where["r0"]
    died = [name for name, at in where.items() if at == victim]
    known = {each.unique_id: replica for each, replica in serving.router.curr_replicas.items()}
    ray.kill(known[victim]._actor_handle)
    for name in died:
        with pytest.raises(RayError):
            list(sent.pop(name))
    serving.until(lambda books: serving.ends(books).get(End.WORKER_DIED) == len(died))
    serving.let(*names(6))
    assert serving.all_tokens(sent)
    # Ray Serve starts another, which takes requests as soon as it is there.
    serving.until(lambda books: sum(worker.state == "up" for worker in books.workers) == 2)
    more = serving.send("x0", "x1", "x2", "x3")
    found = set(serving.began(*more).values())
    assert victim not in found
    assert len(found) == 2
    serving.let(*more)
    audit = serving.until(lambda books: books.reserved == 0)
    assert (audit.held, audit.wrong) == (0, ())


def test_replicas_that_take_the_place_of_others_take_what_is_held(serving):
    sent = serving.send(*names(6))
    serving.until(full)
    before = set(serving.began(*names(4)).values())
    serving.deploy(2, wait=False)
    after = set(serving.began("r4", "r5").values())
    assert not before & after
    # What the old ones run runs on.
    serving.let(*sent)
    assert serving.all_tokens(sent)
    audit = serving.until(lambda books: books.reserved == 0)
    assert audit.wrong == ()
    assert serving.ends(audit) == {End.FINISHED: 6}


def test_another_limit_of_replicas_that_live_is_followed(gate):
    # As a configuration that is applied anew has it: the code is the same, so replicas stay.
    same = {"version": "same", "_internal": True}
    serving = Serving(gate, slots=4, options={**same, "max_ongoing_requests": 1})
    sent = serving.send(*names(5))
    serving.until(lambda books: (books.started, books.held) == (2, 3))
    before = set(serving.began("r0", "r1").values())
    serving.deploy(2, wait=False, **same, max_ongoing_requests=2)
    audit = serving.until(lambda books: (books.started, books.held) == (4, 1))
    assert [worker.slots for worker in audit.workers] == [2, 2]
    assert set(serving.began("r2", "r3").values()) == before
    serving.let(*sent)
    assert serving.all_tokens(sent)
    audit = serving.until(lambda books: books.reserved == 0)
    assert audit.wrong == ()
    assert set(ray.get(serving.gate.concurrency.remote()).values()) == {2}


def test_a_core_that_breaks_leaves_everybody_to_power_of_two(gate):
    serving = Serving(gate, max_failures=1)
    sent = serving.send(*names(6))
    serving.until(full)

    def broken() -> float | None:
        raise RuntimeError("broken")

    front = serving.router._front
    serving.on_loop(setattr, front._core, "advance", broken)
    serving.on_loop(front._pump._run_in, 0.0)
    # The two that were held, and whoever comes now, go where Ray Serve sends them.
    sent |= serving.send("late")
    serving.began(*sent)
    serving.let(*sent)
    assert serving.all_tokens(sent)
    assert not front.active


def test_replicas_take_turns_where_only_their_order_is_asked_for(serving, caplog):
    async def chosen() -> list[str]:
        found = []
        for name in names(6):
            # As the proxy of direct streaming asks, which sends the request by itself.
            async with serving.stream.choose_replica(name, [1], _reserve=False) as selection:
                found.append(selection.replica_id)
        return found

    with caplog.at_level(logging.WARNING, "brsolver.ray_serve"):
        found = asyncio.run(chosen())
    assert found == found[:2] * 3
    assert len(set(found)) == 2
    [record] = [each for each in caplog.records if each.name == "brsolver.ray_serve"]
    assert "routes nothing of direct streaming" in record.getMessage()
    assert serving.on_loop(serving.router.audit).reserved == 0


def test_wrong_settings_are_refused_where_they_are_written():
    with pytest.raises(BrsolverError, match="unknown parameter of request_router_kwargs 'polcy'"):
        router_config(polcy="jsq")
    with pytest.raises(BrsolverError, match="unknown policy 'jsqq'"):
        router_config(policy="jsqq")
    with pytest.raises(BrsolverError, match="ready_s is -1"):
        router_config(ready_s=-1)


def test_a_router_with_wrong_settings_routes_as_ray_serve_does(gate):
    config = router_config(**SETTINGS)
    config.request_router_kwargs = {"policy": "jsq", "polcy": 1}
    app = Streams.options(num_replicas=2, request_router_config=config).bind()
    handle = serve.run(app, name="wrong", route_prefix=None)
    answer = handle.options(method_name="whole").remote("a", "b").result(timeout_s=PATIENCE_S)
    assert isinstance(answer, str)
    assert handle._router._asyncio_router.request_router.audit() is None
