"""Workers that are given by names, whose addresses change while they are served."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import pytest
from aiohttp import web
from door_support import house, to, until

from brsolver.errors import ParameterError
from integration.doors.fleet import Fleet
from integration.doors.poller import Poller, PollerParams
from integration.picker import Ask, Core, End, PickerParams, Placed, Pump, WorkerSpec
from integration.serve.lookup import ListedByName, LookedUp, Lookup
from integration.serve.membership import Membership
from integration.serve.prefilling import Prefilling
from integration.serve.sources import look_anew, source_of, workers_of
from integration.settings import Door, ServeConfig, Tiers, Workers

FIRST, SECOND, THIRD = "127.0.0.1", "127.0.0.2", "127.0.0.3"
SOON_S = 1e-3
PARAMS = PickerParams(policy="jsq", mode="immediate", slots=4, budget=512)


@pytest.fixture
def names(monkeypatch):
    """Where names are, in the order in which a name server says so; others are not known."""
    known: dict[str, list[str]] = {}
    asked: list[str] = []
    real = socket.getaddrinfo

    def lookup(host, *rest, **more):
        asked.append(host)
        if host[0].isdigit() or ":" in host:
            return real(host, *rest, **more)
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [one for where in known[host] for one in real(where, *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return known, asked


def given(*addresses):
    return [WorkerSpec(name=each, address=each) for each in addresses]


class Engine:
    """An engine that is well, and counts how often it is asked."""

    def __init__(self):
        self.asked = 0

    async def __call__(self, _request):
        self.asked += 1
        return web.Response()


@contextlib.asynccontextmanager
async def engines():
    """Serve an engine on one port of two addresses; yields both, and the port."""
    async with contextlib.AsyncExitStack() as stack:
        made, port = [], 0
        for host in (FIRST, SECOND):
            engine = Engine()
            runner = web.ServerRunner(web.Server(engine), shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, host, port).start()
            port = runner.addresses[0][1]
            made.append(engine)
        yield *made, port


def serving(specs):
    """Return a core, and a membership of its workers."""
    core = Core(PARAMS, specs, clock=time.monotonic)
    pump = Pump(core)
    fleet = Fleet(pump, specs)
    told = []
    return Membership(core, fleet, changed=told.append), fleet, pump, told


def states(core):
    return {each.spec.name: (each.spec.address, each.state) for each in core.workers}


def places(fleet):
    return {fleet.specs[worker].name: fleet.specs[worker].address for worker in fleet.there}


def test_a_pod_that_comes_back_at_another_address_is_asked_and_sent_to_there(names):
    known, _ = names

    async def scenario():
        async with engines() as (first, second, port):
            name = f"pod:{port}"
            known["pod"] = [FIRST]
            lookup, said = Lookup(), []
            membership, fleet, pump, told = serving(lookup.find(given(name)))
            poller = asyncio.create_task(Poller(pump, fleet, PollerParams(interval_s=0.02)).run())
            membership.follow(
                LookedUp(given(name), lookup, interval_s=SOON_S, complain=said.append)
            )
            await until(lambda: first.asked)
            await pump.pick(Ask("old", 10))
            known["pod"] = [SECOND]
            await until(lambda: second.asked)
            # What runs at the old place runs on there, under the name; nothing new goes there.
            assert places(fleet) == {f"{name}~2": f"{SECOND}:{port}"}
            assert said == [f"worker {name} is at {SECOND}:{port} now, no more at {FIRST}:{port}"]
            new = await pump.pick(Ask("new", 10))
            assert isinstance(new, Placed)
            assert fleet.specs[new.worker].address == f"{SECOND}:{port}"
            assert set(told[-1]) == {f"{FIRST}:{port}", f"{SECOND}:{port}"}
            pump.ended("old", End.RESET)
            pump.ended("new", End.FINISHED)
            known["pod"] = [FIRST]
            before = first.asked
            await until(lambda: first.asked > before and places(fleet))
            assert places(fleet) == {name: f"{FIRST}:{port}"}
            assert pump.core.audit().balanced
            poller.cancel()
            await asyncio.gather(poller, membership.stop(), return_exceptions=True)

    asyncio.run(scenario())


def test_names_that_change_places_are_other_workers(names):
    known, _ = names

    async def scenario():
        known.update(a=[FIRST], b=[SECOND])
        pods, lookup = given("a:80", "b:80"), Lookup()
        membership, fleet, pump, _ = serving(lookup.find(pods))
        events = []

        class Log:
            def event(self, event):
                events.append(event)

        pump.core.listeners.append(Log())
        membership.follow(LookedUp(pods, lookup, interval_s=SOON_S, complain=lambda _: None))
        known.update(a=[SECOND], b=[THIRD])
        await until(lambda: places(fleet) == {"a:80": f"{SECOND}:80", "b:80": f"{THIRD}:80"})
        # What runs at the second place is another pod by now.
        assert [each.what for each in events if hasattr(each, "what")].count("gone") == 2
        known.update(a=[THIRD], b=[SECOND])
        await until(lambda: places(fleet) == {"a:80": f"{THIRD}:80", "b:80": f"{SECOND}:80"})
        await membership.stop()

    asyncio.run(scenario())


def test_a_name_that_is_not_known_for_a_while_keeps_its_place(names):
    known, _ = names
    known.update(a=[FIRST], b=[SECOND])
    lookup, said = Lookup(), []
    pods = given("a:80", "b:80")
    before = lookup.find(pods)
    del known["a"]
    for _ in range(2):
        assert lookup.find(pods, said.append) == before
    assert len(said) == 1
    assert "'a:80'" in said[0]
    assert said[0].endswith("it is taken to be where it was")
    # Its address is another's by now: that one is there.
    known["b"] = [FIRST]
    assert [each.address for each in lookup.find(pods)] == [f"{FIRST}:80"]
    known["a"] = [THIRD]
    assert [each.address for each in lookup.find(pods)] == [f"{THIRD}:80", f"{FIRST}:80"]


def test_a_later_picker_knows_where_names_were(names, tmp_path):
    known, _ = names
    known.update(a=[FIRST], b=[SECOND])
    path = tmp_path / "looked-up.json"
    pods = given("a:80", "b:80")
    before = Lookup(path=path).find(pods)
    known.clear()
    assert Lookup(path=path).find(pods) == before
    known["a"] = [THIRD]
    moved = Lookup(path=path).find(pods)
    assert [each.address for each in moved] == [f"{THIRD}:80", f"{SECOND}:80"]
    assert Lookup(path=path).find(pods) == moved
    with pytest.raises(ParameterError):
        Lookup().find(pods[1:])


@pytest.mark.parametrize("text", ["", "[1]", '{"a:80": 3}', "{"])
def test_what_cannot_be_read_of_names_is_not_known(names, tmp_path, text):
    path = tmp_path / "looked-up.json"
    path.write_text(text)
    with pytest.raises(ParameterError, match="'a:80'"):
        Lookup(path=path).find(given("a:80"))


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
def test_a_name_that_none_can_be_is_one_line(host):
    with pytest.raises(ParameterError, match="whose host cannot be found"):
        Lookup().find(given(f"{host}:80"))


def test_a_name_without_an_address_for_the_moment_refuses_no_settings(names, tmp_path):
    whence = Tiers(prefill_dns="pods:80", decode=(f"{FIRST}:80",)).prefilling
    found = asyncio.run(look_anew(whence, tmp_path, print, Lookup()))
    assert found.specs is None
    assert found.source is not None


def test_a_name_of_several_addresses_keeps_the_one_it_has(names):
    known, _ = names
    lookup, said = Lookup(), []
    for order in ([FIRST, SECOND], [SECOND, FIRST], [SECOND, THIRD, FIRST]):
        known["a"] = order
        (found,) = lookup.find(given("a:80"), said.append)
        assert found.address == f"{FIRST}:80"
    assert not said
    known["a"] = [SECOND, THIRD]
    assert lookup.find(given("a:80"))[0].address == f"{SECOND}:80"


def test_numbers_are_not_looked_up(names):
    known, asked = names
    lookup = Lookup()
    known["a"] = [SECOND]
    pods = given(f"{FIRST}:80", "a:80", "[::1]:80")
    found = lookup.find(pods)
    asked.clear()
    assert lookup.find(pods) == found
    assert asked == ["a"]
    by_number = Workers(addresses=(f"{FIRST}:80", "[::1]:80"))
    assert source_of(ServeConfig(workers=by_number), print) is None


@pytest.mark.parametrize("kind", ["addresses", "decode"])
def test_what_settings_name_is_looked_up_again(names, kind):
    known, _ = names
    known["a"] = [FIRST]
    if kind == "addresses":
        config = ServeConfig(workers=Workers(addresses=("a:80",)))
    else:
        tiers = Tiers(prefill=(f"{THIRD}:80",), decode=("a:80",))
        config = ServeConfig(tiers=tiers, picker=Door(door="ext_proc"))
    lookup, told = Lookup(), []
    assert [each.address for each in workers_of(config, lookup=lookup)] == [f"{FIRST}:80"]
    known["a"] = [SECOND]

    async def scenario():
        following = asyncio.create_task(source_of(config, print, lookup).follow(told.append))
        await until(lambda: told)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(scenario())
    assert [(each.name, each.address) for each in told[0]] == [("a:80", f"{SECOND}:80")]


def test_names_in_a_file_that_stays_as_it_is_are_looked_up_again(names, tmp_path):
    known, _ = names
    path = tmp_path / "workers.toml"
    path.write_text('[[worker]]\naddress = "a:80"\nname = "left"\nslots = 3\n')
    known["a"] = [FIRST]

    async def scenario():
        said, told = [], []
        source = ListedByName(
            path, Lookup(), lookup_s=SOON_S, interval_s=SOON_S, complain=said.append
        )
        following = asyncio.create_task(source.follow(told.append))
        await until(lambda: told)
        known["a"] = [SECOND]
        await until(lambda: len(told) > 1)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        assert [(e.name, e.address, e.slots) for (e,) in told] == [
            ("left", f"{FIRST}:80", 3),
            ("left", f"{SECOND}:80", 3),
        ]
        assert said == [f"worker a:80 is at {SECOND}:80 now, no more at {FIRST}:80"]

    asyncio.run(scenario())


def test_a_name_that_was_left_out_is_taken_once_it_is_known(names):
    known, _ = names
    known["a"] = [FIRST]
    said, lookup = [], Lookup()
    config = ServeConfig(workers=Workers(addresses=("a:80", "b:80")))
    assert len(workers_of(config, said.append, lookup)) == 1
    assert said[0].endswith("it is left out until then")
    known["b"] = [SECOND]
    source, told = source_of(config, said.append, lookup), []

    async def scenario():
        following = asyncio.create_task(source.follow(told.append))
        await until(lambda: told)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(scenario())
    assert [each.address for each in told[0]] == [f"{FIRST}:80", f"{SECOND}:80"]
    assert len(said) == 1


@contextlib.asynccontextmanager
async def prefilling(tiers, folder, said):
    made = Prefilling(
        tiers,
        house(to(1)).reception,
        PollerParams(interval_s=0.02),
        router=PickerParams(),
        fault=said.append,
        folder=folder,
    )
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def prefill_places(made):
    return [each.address for each in made.tiers.figures().workers]


def test_prefill_workers_are_where_their_names_are(names, tmp_path, monkeypatch):
    known, _ = names
    monkeypatch.setitem(LookedUp.__init__.__kwdefaults__, "interval_s", SOON_S)

    async def scenario():
        async with engines() as (first, second, port):
            known["pod"] = [FIRST]
            said = []
            tiers = Tiers(prefill=(f"pod:{port}",), decode=(f"{THIRD}:{port}",))
            async with prefilling(tiers, tmp_path, said) as made:
                await until(lambda: first.asked)
                known["pod"] = [SECOND]
                await until(lambda: second.asked)
                assert prefill_places(made) == [f"{SECOND}:{port}"]
                assert f"worker pod:{port} is at {SECOND}:{port} now" in said[0]

    asyncio.run(scenario())


def test_prefill_workers_of_a_file_come_and_go(names, tmp_path, monkeypatch):
    known, _ = names
    known["pod"] = [FIRST]
    monkeypatch.setitem(ListedByName.__init__.__kwdefaults__, "interval_s", SOON_S)
    path = tmp_path / "prefill.toml"

    def write(text):
        part = tmp_path / "part"
        part.write_text(text)
        part.replace(path)

    async def scenario():
        said = []
        write('[[worker]]\naddress = "pod:80"\ncapacity = 100\n')
        tiers = Tiers(prefill_file="prefill.toml", decode_dns="decode:80")
        async with prefilling(tiers, tmp_path, said) as made:
            assert prefill_places(made) == [f"{FIRST}:80"]
            write(f'[[worker]]\naddress = "{THIRD}:80"\n')
            await until(lambda: prefill_places(made) == [f"{THIRD}:80"])
            write(f'[[worker]]\naddress = "{SECOND}:80"\nranks = 2\n')
            await until(lambda: any("is one of several ranks" in line for line in said))
            assert prefill_places(made) == [f"{THIRD}:80"]
        with pytest.raises(ParameterError, match="is one of several ranks, must be a server"):
            async with prefilling(tiers, tmp_path, said):
                pass

    asyncio.run(scenario())
