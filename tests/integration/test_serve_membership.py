"""Workers added and drained by hand while serving: what is refused leaves nothing behind."""

from __future__ import annotations

import asyncio
import time

import pytest
from door_support import until
from fake_kubernetes import FakeApi, endpoint, endpoint_slice
from small_http import http_server

from brsolver.errors import ParameterError
from integration.doors.endpoints import Fixed, Listed, read_workers
from integration.doors.fleet import Fleet
from integration.doors.kubernetes import EndpointSlices, KubernetesApi
from integration.envoy import Endpoints
from integration.picker import Ask, Core, End, PickerParams, Pump, WorkerSpec
from integration.picker.events import Fault
from integration.serve.by_hand import FILE, ByHand
from integration.serve.following import Following
from integration.serve.lookup import Lookup
from integration.serve.membership import Membership
from integration.serve.sources import Found

PARAMS = PickerParams(policy="jsq", slots=8, budget=512)
NAMED = [WorkerSpec(name=f"w{n}", address=f"127.0.0.1:{9000 + n}") for n in range(2)]
TOO_MANY = 513
_AT = {"address": "127.0.0.1:8000"}


def picker(folder, named=NAMED):
    """Return a membership as a picker begins with, of what settings name and what hands did."""
    hands = ByHand(folder / FILE)
    specs = hands.among(named)
    core = Core(PARAMS, specs, clock=time.monotonic)
    fleet = Fleet(Pump(core), specs)
    membership = Membership(core, fleet, changed=lambda _: None, hands=hands)
    membership.restore()
    return membership, fleet


def there(fleet):
    return sorted(fleet.specs[worker].name for worker in fleet.there)


def spec(name, port, slots=None):
    return WorkerSpec(name=name, address=f"127.0.0.1:{port}", slots=slots)


def test_a_worker_that_is_refused_stops_neither_later_calls_nor_later_pickers(tmp_path):
    async def scenario():
        membership, _ = picker(tmp_path)
        with pytest.raises(ParameterError, match="slots of worker 'wide' is 513, must be at most"):
            await membership.add(spec("wide", 9009, TOO_MANY))
        assert await membership.add(spec("good", 9003, 4)) == "good"
        await membership.drain("w1")
        _, after = picker(tmp_path)
        assert there(after) == ["good", "w0"]

    asyncio.run(scenario())


def test_a_worker_of_the_other_tier_is_refused():
    async def scenario():
        core = Core(PARAMS, NAMED, clock=time.monotonic)
        pump = Pump(core)
        other = Fleet(pump, [spec("p", 9007)])
        membership = Membership(core, Fleet(pump, NAMED), changed=print, others=other)
        with pytest.raises(ParameterError, match="where there is a worker of the other tier"):
            await membership.add(spec("new", 9007))

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["w0", "first"])
def test_a_name_that_a_worker_has_elsewhere_is_refused(tmp_path, name):
    async def scenario():
        membership, fleet = picker(tmp_path)
        await membership.add(spec("first", 9003))
        with pytest.raises(ParameterError, match=f"name is '{name}', as the worker at 127"):
            await membership.add(spec(name, 9004))
        assert there(fleet) == ["first", "w0", "w1"]

    asyncio.run(scenario())


def test_a_worker_drained_by_hand_may_be_added_again(tmp_path):
    async def scenario():
        membership, fleet = picker(tmp_path)
        await membership.drain("w0")
        assert there(fleet) == ["w1"]
        await membership.add(spec("w0", 9000))
        assert there(fleet) == ["w0", "w1"]
        assert there(picker(tmp_path)[1]) == ["w0", "w1"]

    asyncio.run(scenario())


def test_one_that_took_a_drained_workers_place_may_be_drained_too(tmp_path):
    async def scenario():
        membership, fleet = picker(tmp_path)
        await membership.drain("w0")
        await membership.add(spec("other", 9000))
        assert there(fleet) == ["other", "w1"]
        await membership.drain("other")
        assert there(fleet) == ["w1"]
        assert there(picker(tmp_path)[1]) == ["w1"]

    asyncio.run(scenario())


def pod(uid, address="127.0.0.1"):
    return endpoint(address, "vllm-0", uid)


def test_a_pod_is_drained_by_what_it_is_and_no_other_with_its_name_and_address(tmp_path):
    async def scenario():
        api = FakeApi([endpoint_slice("a", [pod("one"), endpoint("127.0.0.2", "vllm-1", "x")])])
        following, fleet = picker(tmp_path)

        async def has(*endpoints, to_be):
            await api.send("MODIFIED", endpoint_slice("a", endpoints))
            await until(lambda: there(fleet) == to_be)

        async with http_server(api) as address:
            following.follow(
                EndpointSlices(
                    KubernetesApi(url=f"http://{address}", namespace="models"),
                    "kubernetes.io/service-name=vllm",
                    complain=print,
                )
            )
            await until(lambda: there(fleet) == ["vllm-0", "vllm-1"])
            await following.drain("vllm-0")
            assert there(fleet) == ["vllm-1"]
            await until(lambda: api.streams)
            # Not ready for a while, it is still the same; so says a picker after this one.
            away = endpoint("127.0.0.3", "vllm-2", "y")
            await has(away, to_be=["vllm-2"])
            await has(pod("one"), away, endpoint("127.0.0.4", "z", "z"), to_be=["vllm-2", "z"])
            for uid, to_be in (("one", []), ("two", ["vllm-0"])):
                _, after = picker(tmp_path, [WorkerSpec(name="vllm-0", **_AT, uid=uid)])
                assert there(after) == to_be
            api.end()
            await following.stop()

    asyncio.run(scenario())


def test_another_pod_at_a_workers_address_is_another_worker(tmp_path):
    async def scenario():
        one = WorkerSpec(name="vllm-0", **_AT, uid="one")
        membership, fleet = picker(tmp_path, [one])
        before = fleet.worker(one.address)
        await membership.drain("vllm-0")
        membership.set([one])
        assert there(fleet) == []
        two = WorkerSpec(name="vllm-0", **_AT, uid="two")
        membership.set([two])
        assert there(fleet) == ["vllm-0"]
        membership.set([WorkerSpec(name="vllm-0", **_AT, uid="three")])
        after = fleet.worker(one.address)
        assert fleet.specs[after].uid == "three"
        assert before is not None

    asyncio.run(scenario())


def test_who_was_drained_and_left_a_file_is_new_when_it_returns(tmp_path):
    listed = tmp_path / "workers"

    def write(*ports):
        part = tmp_path / "part"
        part.write_text("".join(f"127.0.0.1:{port}\n" for port in ports))
        part.replace(listed)

    async def scenario():
        membership, fleet = picker(tmp_path)
        write(9101, 9102)
        membership.follow(Listed(listed, interval_s=1e-3, complain=print))
        await until(lambda: there(fleet) == ["127.0.0.1:9101", "127.0.0.1:9102"])
        await membership.drain("127.0.0.1:9101")
        write(9101, 9102, 9103)
        await until(lambda: there(fleet) == ["127.0.0.1:9102", "127.0.0.1:9103"])
        write(9102)
        await until(lambda: there(fleet) == ["127.0.0.1:9102"])
        write(9101, 9102)
        await until(lambda: there(fleet) == ["127.0.0.1:9101", "127.0.0.1:9102"])
        await membership.stop()
        _, after = picker(tmp_path, [WorkerSpec(name="127.0.0.1:9101", address="127.0.0.1:9101")])
        assert there(after) == ["127.0.0.1:9101"]

    asyncio.run(scenario())


def test_settings_that_cannot_be_change_nothing(tmp_path):
    async def scenario():
        membership, fleet = picker(tmp_path)
        with pytest.raises(ParameterError, match="slots of worker 'wide'"):
            membership.set([NAMED[0], spec("wide", 9009, TOO_MANY)])
        assert there(fleet) == ["w0", "w1"]
        await membership.add(spec("good", 9003))
        assert there(fleet) == ["good", "w0", "w1"]

    asyncio.run(scenario())


class Log:
    """Keeps what goes wrong."""

    def __init__(self):
        self.faults = []

    def event(self, event):
        if isinstance(event, Fault):
            self.faults.append(event)


def test_other_slots_and_capacity_of_a_file_are_taken_in(tmp_path):
    listed = tmp_path / "workers.toml"

    def write(**fields):
        lines = [f"{name} = {value}" for name, value in fields.items()]
        part = tmp_path / "part"
        part.write_text("\n".join(["[[worker]]", 'address = "127.0.0.1:9000"', *lines]))
        part.replace(listed)

    async def scenario():
        write(slots=1)
        specs = read_workers(listed)
        core = Core(PARAMS, specs, clock=time.monotonic)
        pump = Pump(core)
        fleet = Fleet(pump, specs)
        membership = Membership(core, fleet, changed=lambda _: None)
        membership.follow(Listed(listed, interval_s=1e-3, complain=print))
        asked = {n: asyncio.create_task(pump.pick(Ask(f"r{n}", 10))) for n in range(5)}

        def state():
            audit = core.audit()
            [row] = audit.workers
            assert audit.balanced
            return row.slots, row.capacity, row.reserved, audit.held

        await until(lambda: state() == (1, None, 1, 4))
        write(slots=3, capacity=1000)
        await until(lambda: state() == (3, 1000, 3, 2))
        assert fleet.specs[0].slots == 3
        # Fewer than run there: no new ones until it fits.
        write(slots=2)
        await until(lambda: state() == (2, None, 3, 2))
        pump.ended("r0", End.FINISHED)
        await until(lambda: state()[2] == 2)
        await asyncio.gather(*(asked[n] for n in range(3)))
        core.advance()
        assert state() == (2, None, 2, 2)
        pump.ended("r1", End.FINISHED)
        await asked[3]
        assert state() == (2, None, 2, 1)
        assert [each.name for each in core.audit().workers] == ["127.0.0.1:9000"]
        await membership.stop()
        asked[4].cancel()
        await asyncio.gather(asked[4], return_exceptions=True)
        pump.stop()

    asyncio.run(scenario())


class Ending:
    """A source that ends, in one way after the other, and then tells a worker."""

    def __init__(self, *ends):
        self.ends = list(ends)

    async def follow(self, changed):
        if not self.ends:
            changed((spec("found", 9009),))
            await asyncio.Event().wait()
        end = self.ends.pop(0)
        if end is not None:
            raise end


def test_a_source_that_ends_is_a_fault_and_is_followed_anew(tmp_path, monkeypatch):
    monkeypatch.setitem(Following.__init__.__kwdefaults__, "again_s", 1e-3)

    async def scenario():
        membership, fleet = picker(tmp_path)
        log = Log()
        membership._core.listeners.append(log)
        membership.follow(Ending(RuntimeError("a bug"), None))
        await until(lambda: there(fleet) == ["found"])
        assert [(each.kind, each.text) for each in log.faults] == [
            ("source", f"workers were followed no more: {why}; that begins anew")
            for why in ("RuntimeError: a bug", "it ended")
        ]
        await membership.stop()

    asyncio.run(scenario())


def test_what_cannot_be_told_to_envoy_of_a_worker_that_is_gone_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr("integration.serve.membership.AGAIN_S", 1e-3)

    async def scenario():
        membership, _ = picker(tmp_path)
        log = Log()
        core = membership._core
        core.listeners.extend([log, membership])
        target = tmp_path / "taken"
        target.mkdir()
        membership._changed = Endpoints(target).write
        core.retire(0)
        await until(lambda: log.faults)
        assert {each.kind for each in log.faults} == {"endpoints"}
        assert "cannot be written" in log.faults[0].text
        # It is tried again, in silence, until it can be.
        target.rmdir()
        await until(target.exists)
        assert len(log.faults) == 1

    asyncio.run(scenario())


def test_workers_that_envoy_cannot_be_told_of_yet_are_there_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("integration.serve.membership.AGAIN_S", 1e-3)

    async def scenario():
        membership, fleet = picker(tmp_path)
        target = tmp_path / "taken"
        target.mkdir()
        membership._changed = Endpoints(target).write
        membership.set([spec("w0", 9000), spec("new", 9009)])
        assert "new" in there(fleet)
        target.rmdir()
        await until(target.exists)

    asyncio.run(scenario())


def test_settings_that_name_a_service_keep_its_workers_until_it_tells(tmp_path):
    async def scenario():
        membership, fleet = picker(tmp_path)
        membership.take(Found(None, Fixed([spec("pod", 9009)]), Lookup()))
        assert there(fleet) == ["w0", "w1"]
        await until(lambda: there(fleet) == ["pod"])
        await membership.stop()

    asyncio.run(scenario())
