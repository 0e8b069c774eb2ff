"""verl's rollout load balancer: by itself, as an actor of Ray, and under verl's own client."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from brsolver.errors import BrsolverError
from integration.picker import End
from integration.verl import NO_SERVERS, Balancer

SETTINGS = {
    "router_class": "integration.verl.SessionBalancer",
    "policy": "jsq",
    "predictor": "none",
    "slots": 2,
    "budget": 64,
    "budget_ms": 60_000.0,
}
SERVERS = {"host:1": "handle-1", "host:2": "handle-2"}
PROMPT = list(range(8))


def balancer(servers=SERVERS, **settings):
    return Balancer(servers, {**SETTINGS, **settings})


async def acquired(made, *names):
    """Ask for servers; return the tasks, those that could be placed being done."""
    tasks = {name: asyncio.ensure_future(made.acquire_server(name, PROMPT)) for name in names}
    await settled(made)
    return tasks


async def settled(made):
    """Let the loop turn until the pump has nothing to do at once."""
    for _ in range(50):
        await asyncio.sleep(0)


def test_requests_wait_for_slots_and_the_books_end_at_zero():
    async def run():
        made = balancer()
        tasks = await acquired(made, *"abcdef")
        done = {name: task.result() for name, task in tasks.items() if task.done()}
        assert len(done) == 4
        assert sorted(server for server, _ in done.values()) == ["host:1"] * 2 + ["host:2"] * 2
        assert all(SERVERS[server] == handle for server, handle in done.values())
        assert made.audit().held == made.get_status()["held"] == 2
        assert made.get_total_inflight() == 4
        for name, (server, _) in done.items():
            await made.release_server(server, request_id=name)
        for name in set(tasks) - set(done):
            server, _ = await tasks[name]
            await made.release_server(server, request_id=name)
        audit = made.audit()
        assert (audit.held, audit.reserved, audit.wrong) == (0, 0, ())
        assert audit.ended[End.FINISHED] == 6
        assert made.get_total_inflight() == 0

    asyncio.run(run())


def test_a_server_that_goes_at_any_turn_is_given_to_nobody():
    async def run():
        for turns in range(12):
            made = balancer()
            task = asyncio.ensure_future(made.acquire_server("a", prompt_ids=[1] * 8))
            for _ in range(turns):
                await asyncio.sleep(0)
            heard = task.done()
            await made.remove_servers(list(SERVERS))
            if not heard:
                with pytest.raises(RuntimeError, match="No available servers"):
                    await task
            assert made.audit().reserved == heard

    asyncio.run(run())


def test_a_server_that_is_added_again_has_what_it_has():
    async def run():
        made = balancer()
        server, _ = await made.acquire_server("a", prompt_ids=[1] * 8)
        await made.add_servers({server: "anew"})
        assert made.get_inflight_count(server) == 1
        assert made.get_total_inflight() == 1

    asyncio.run(run())


def test_a_later_turn_goes_where_the_one_before_went_even_if_that_is_full():
    async def run():
        made = balancer()
        first, _ = await made.acquire_server("talk", PROMPT)
        await made.release_server(first, request_id="talk")
        await acquired(made, *"abcd")
        again, _ = await made.acquire_server("talk", PROMPT * 2)
        assert again == first
        assert made.audit().reserved == 5
        await made.clear_sticky_cache()
        waits = asyncio.ensure_future(made.acquire_server("talk", PROMPT))
        await settled(made)
        assert not waits.done()
        waits.cancel()

    asyncio.run(run())


def test_without_sticky_a_later_turn_is_placed_as_any_other():
    async def run():
        made = balancer(sticky=False)
        first, _ = await made.acquire_server("talk", PROMPT)
        other, _ = await made.acquire_server("talk", PROMPT)
        assert {first, other} == set(SERVERS)
        await made.release_server(first, request_id="talk")
        await made.release_server(other, request_id="talk")
        assert made.audit().reserved == 0

    asyncio.run(run())


def test_a_release_without_a_request_is_that_of_the_oldest():
    async def run():
        made = balancer({"host:1": "handle-1"})
        await acquired(made, *"ab")
        for _ in range(3):
            await made.release_server("host:1")
        assert made.audit().reserved == 0
        assert made.get_total_inflight() == 0

    asyncio.run(run())


def test_who_is_cancelled_while_held_is_withdrawn():
    async def run():
        made = balancer()
        tasks = await acquired(made, *"abcde")
        [held] = [task for task in tasks.values() if not task.done()]
        held.cancel()
        await settled(made)
        audit = made.audit()
        assert (audit.held, audit.reserved) == (0, 4)
        assert audit.ended[End.DISCONNECTED] == 1
        assert made.get_total_inflight() == 4

    asyncio.run(run())


def test_servers_come_and_go():
    async def run():
        made = balancer({})
        with pytest.raises(RuntimeError, match=NO_SERVERS):
            await made.acquire_server("a", PROMPT)
        await made.add_servers({"host:1": "handle-1"})
        tasks = await acquired(made, *"abc")
        assert made.audit().held == 1
        await made.add_servers({"host:2": "handle-2"})
        await settled(made)
        assert made.audit().held == 0
        assert tasks["c"].result() == ("host:2", "handle-2")
        await made.remove_servers(["host:1"])
        assert made.get_all_servers() == ["host:2"]
        assert await made.acquire_server("a", PROMPT) == ("host:2", "handle-2")
        # It drains, and comes back while it does.
        await made.add_servers({"host:1": "handle-new"})
        assert await made.acquire_server("d", PROMPT) == ("host:1", "handle-new")
        for name, server in (("a", "host:1"), ("b", "host:1"), ("c", "host:2"), ("a", "host:2")):
            await made.release_server(server, request_id=name)
        await made.release_server("host:1", request_id="d")
        audit = made.audit()
        assert (audit.reserved, audit.wrong) == (0, ())
        await made.remove_servers(["host:1", "host:2"])
        with pytest.raises(RuntimeError, match=NO_SERVERS):
            await made.acquire_server("e", PROMPT)

    asyncio.run(run())


def test_held_requests_learn_that_there_are_no_servers_any_more():
    async def run():
        made = balancer({"host:1": "handle-1"})
        tasks = await acquired(made, *"abc")
        await made.remove_servers(["host:1"])
        with pytest.raises(RuntimeError, match=NO_SERVERS):
            await tasks["c"]

    asyncio.run(run())


def test_a_core_that_breaks_leaves_everybody_to_the_fewest_in_flight():
    async def run():
        made = balancer(max_failures=1)
        tasks = await acquired(made, *"abcdef")

        def broken():
            raise RuntimeError("broken")

        made._front._core.advance = broken
        made._front._pump._run_in(0.0)
        servers = [(await task)[0] for task in tasks.values()]
        assert sorted(servers) == ["host:1"] * 3 + ["host:2"] * 3
        assert not made._front.active
        for name, server in zip(tasks, servers, strict=True):
            await made.release_server(server, request_id=name)
        assert made.get_total_inflight() == 0

    asyncio.run(run())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"polcy": "jsq"}, "unknown parameter of router 'polcy'"),
        ({"policy": "jsqq"}, "unknown policy 'jsqq'"),
        ({"sticky": 1}, "sticky is 1, must be true or false"),
        ({"max_cache_size": 0}, "max_cache_size is 0"),
        ({"config": "nowhere.toml"}, "nowhere.toml: cannot be read as TOML"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(BrsolverError, match=message):
        balancer(**settings)


def test_settings_of_a_file_hold_where_they_are_not_given(tmp_path):
    path = tmp_path / "router.toml"
    path.write_text('policy = "br-0"\nslots = 3\npool_max = 7\n')
    given = {name: SETTINGS[name] for name in ("predictor", "budget", "slots")}
    made = Balancer(SERVERS, {"config": str(path), **given})
    picker = made._settings.picker
    assert (picker.policy, picker.slots, picker.pool_max) == ("br-0", 2, 7)
    assert made._settings.folder == tmp_path


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    yield ray
    ray.shutdown()


def test_as_an_actor_it_hears_of_ends_however_many_are_held(cluster):
    from integration.verl import SessionBalancer

    # More than the 1,000 calls that an actor runs at once, if nobody asks it for more.
    ray, count = cluster, 1100
    made = SessionBalancer.remote(dict(SERVERS), SETTINGS)
    assert ray.get(made.require_acquire_fields.remote()) == ["prompt_ids", "sampling_params"]
    assert ray.get(made.require_release_fields.remote()) == ["request_id"]
    waiting = {
        made.acquire_server.remote(request_id=str(index), prompt_ids=PROMPT): str(index)
        for index in range(count)
    }
    served, releases = dict.fromkeys(SERVERS, 0), []
    while waiting:
        [ready], _ = ray.wait(list(waiting), num_returns=1, timeout=60.0)
        server, handle = ray.get(ready)
        assert handle == SERVERS[server]
        served[server] += 1
        releases.append(made.release_server.remote(server_id=server, request_id=waiting.pop(ready)))
    ray.get(releases, timeout=60.0)
    audit = ray.get(made.audit.remote())
    assert (audit.held, audit.reserved, audit.wrong) == (0, 0, ())
    assert audit.ended == {End.FINISHED: count}
    assert sum(served.values()) == count
    assert ray.get(made.get_total_inflight.remote()) == 0


@pytest.mark.skipif(find_spec("verl") is None, reason="verl is not installed: pip install verl")
def test_under_verls_own_client(cluster, tmp_path):
    from verl.workers.rollout.llm_server import LLMServerClient
    from verl.workers.rollout.router import RequestLoadBalancer, get_router_handle

    class Server:
        async def generate(self, *, request_id: str, **_asked: object) -> SimpleNamespace:
            return SimpleNamespace(token_ids=[1], extra_fields={}, request_id=request_id)

    wanted = [name for name in dir(RequestLoadBalancer) if not name.startswith("_")]
    assert "acquire_server" in wanted
    assert all(callable(getattr(Balancer, name)) for name in wanted)
    path = tmp_path / "router.yaml"
    path.write_text("".join(f"{name}: {value}\n" for name, value in SETTINGS.items()))
    actor = cluster.remote(Server)
    servers = {name: actor.remote() for name in SERVERS}
    made = get_router_handle(servers, router_config_path=str(path))
    rollout = SimpleNamespace(name="vllm", full_determinism=False)
    config = SimpleNamespace(actor_rollout_ref=SimpleNamespace(rollout=rollout))
    client = LLMServerClient(config, made)

    async def run():
        turns = [
            client.generate(str(index), prompt_ids=PROMPT, sampling_params={"max_tokens": 5})
            for index in range(20)
        ]
        return await asyncio.gather(*turns)

    outputs = asyncio.run(run())
    assert [output.token_ids for output in outputs] == [[1]] * 20
    # Nobody waits for releases.
    while (audit := cluster.get(made.audit.remote())).reserved:
        pass
    assert audit.ended == {End.FINISHED: 20}
    assert (audit.held, audit.reserved, audit.wrong) == (0, 0, ())
