"""Books of the doors: fleets that change, and requests of which nobody tells the end."""

from __future__ import annotations

import asyncio

from door_support import house, to, until, workers
from hypothesis import given
from hypothesis import strategies as st
from picking import Picking

from integration.doors.fleet import Fleet
from integration.doors.reconcile import LOOKS, Reconciler
from integration.picker import End, Gauges, PickerParams, Pump, WorkerSpec
from integration.picker.events import Fault
from integration.picker.resuming import found_running
from integration.picker.workers import Worker


async def _place(home, count, *, started=True):
    for _ in range(count):
        ask = home.reception.read("POST", "/", b"{}", None)
        await home.reception.place(ask)
        if started:
            home.ledger.started(ask.name)


def test_envoy_gone_ends_what_it_had():
    async def scenario():
        home = house(to(0))
        await _place(home, 3)

        async def gone():
            return None

        reconciler = Reconciler(home.ledger, home.fleet, gone, grace_s=1e-3)
        reconciler.broken()
        await until(lambda: not home.ledger.places)
        assert home.pump.ends == [(f"r{n}", End.DISCONNECTED, None) for n in range(3)]
        assert reconciler.closed == 3
        await reconciler.stop()

    asyncio.run(scenario())


def test_restarted_envoy_keeps_what_came_after():
    async def scenario():
        home = house(to(0))
        await _place(home, 3)
        looks = []

        async def active():
            looks.append(1)
            if len(looks) == 1:
                await _place(home, 2)
            return {"10.0.0.1:8000": 2}

        reconciler = Reconciler(home.ledger, home.fleet, active, grace_s=1e-3)
        reconciler.broken()
        await until(lambda: reconciler.closed == 3)
        assert list(home.ledger.places) == ["r3", "r4"]
        await reconciler.stop()

    asyncio.run(scenario())


def test_broken_log_alone_ends_only_what_envoy_has_no_more():
    async def scenario():
        home = house(lambda ask: to(int(ask.name[1:]) % 2)(ask))
        await _place(home, 6)

        async def active():
            return {"10.0.0.1:8000": 3, "10.0.0.2:8000": 1}

        reconciler = Reconciler(home.ledger, home.fleet, active, grace_s=1e-3)
        reconciler.broken()
        reconciler.broken()
        await until(lambda: reconciler.closed == 2)
        await until(reconciler._task.done)
        assert list(home.ledger.places) == ["r0", "r2", "r4", "r5"]

    asyncio.run(scenario())


def test_what_ends_meanwhile_is_not_ended_twice():
    async def scenario():
        home = house(to(0))
        await _place(home, 2)

        async def active():
            home.ledger.ended("r0", End.FINISHED)
            return {"10.0.0.1:8000": 1}

        reconciler = Reconciler(home.ledger, home.fleet, active, grace_s=1e-3)
        reconciler.broken()
        await until(reconciler._task.done)
        assert home.pump.ends == [("r0", End.FINISHED, None)]
        assert list(home.ledger.places) == ["r1"]

    asyncio.run(scenario())


def test_requests_under_way_are_not_taken_for_ended():
    async def scenario():
        home = house(to(0))
        await _place(home, 2)
        await _place(home, 3, started=False)

        async def active():
            return {"10.0.0.1:8000": 2}

        reconciler = Reconciler(home.ledger, home.fleet, active, grace_s=1e-3)
        reconciler.broken()
        await until(reconciler._task.done)
        assert reconciler.closed == 0
        assert len(home.ledger) == 5

    asyncio.run(scenario())


def test_entries_lost_after_the_break_are_noticed_too():
    async def scenario():
        home = house(to(0))
        looks = []

        async def active():
            looks.append(1)
            if len(looks) == 2:
                await _place(home, 2)
            return {"10.0.0.1:8000": 1}

        reconciler = Reconciler(home.ledger, home.fleet, active, grace_s=1e-3)
        reconciler.broken()
        await until(reconciler._task.done)
        assert reconciler.closed == 1
        assert list(home.ledger.places) == ["r1"]
        assert len(looks) > LOOKS

    asyncio.run(scenario())


def test_fleet_follows_its_source():
    home = house()
    kept, new = workers(3)[1], WorkerSpec(name="n", address="10.0.0.9:8000")
    home.fleet.set([kept, new])
    assert home.pump.workers == [("retired", 0), ("retired", 2), ("added", new)]
    assert home.fleet.there == [1, 3]
    assert home.fleet.worker("10.0.0.9:8000") == 3
    assert home.fleet.worker("10.0.0.1:8000") is None
    assert home.fleet.addresses() == ["10.0.0.2:8000", "10.0.0.9:8000"]


def test_a_successor_whose_namesake_still_drains_is_told_of_by_name():
    p = Picking(workers=2)
    specs = [worker.spec for worker in p.core.workers]
    fleet = Fleet(Pump(p.core), specs)
    p.request("a")
    p.run(0.1)
    busy = specs[p.worker_of("a")]

    async def scenario():
        fleet.set([each for each in specs if each != busy])
        fleet.set(specs)

    asyncio.run(scenario())
    assert fleet.specs[fleet.worker(busy.address)].name == f"{busy.name}~2"
    (fault,) = p.log.of(Fault)
    assert fault.text == f"{busy.name} still has requests: its successor is called {busy.name}~2"


@given(st.lists(st.sets(st.integers(0, 5), max_size=6), max_size=6))
def test_fleet_has_what_its_source_said_last(said):
    home = house()
    for each in said:
        home.fleet.set([WorkerSpec(name=f"x{n}", address=f"10.1.0.{n + 1}:80") for n in each])
        there = [home.fleet.specs[worker].address for worker in home.fleet.there]
        assert sorted(there) == sorted(f"10.1.0.{n + 1}:80" for n in each)
        for worker in home.fleet.there:
            spec = home.fleet.specs[worker]
            assert home.fleet.worker(spec.address, spec.rank) == worker


COUNTED = (100.0, 101.0)
THERE = (90.0, 120.0)


def _taken_over(home, at_proxy, gauges=None):
    there = [_worker(index, spec) for index, spec in enumerate(home.fleet.specs)]
    live = found_running(there, at_proxy, gauges or {})
    home.ledger.take_over(live, counted=COUNTED)
    return live


def _worker(index, spec):
    return Worker(spec, index, PickerParams(capacity=10_000))


def test_what_a_picker_before_had_is_released_by_its_ends():
    home = house()
    _taken_over(home, {"10.0.0.1:8000": 2, "10.0.0.2:8000": 1, "10.9.9.9:1": 4})
    assert home.ledger.running == {0: 2, 1: 1}
    assert home.ledger.before == 3
    assert not home.ledger.ended_before("10.0.0.2:8000", End.FINISHED, span=(101.5, 120.0))
    assert home.ledger.ended_before("10.0.0.2:8000", End.FINISHED, span=THERE)
    assert not home.ledger.ended_before("10.0.0.2:8000", End.FINISHED, span=THERE)
    assert not home.ledger.ended_before(None, End.FINISHED, span=THERE)
    assert home.pump.ends == [("before-1-0", End.FINISHED, None)]
    assert home.ledger.before == 2


def test_what_nobody_tells_the_end_of_is_looked_for_until_it_has_ended():
    async def scenario():
        home = house(to(0))
        _taken_over(home, {"10.0.0.1:8000": 2})
        await _place(home, 1)
        looks = []

        async def active():
            looks.append(1)
            return {"10.0.0.1:8000": 3 if len(looks) < 2 * LOOKS else 1}

        reconciler = Reconciler(home.ledger, home.fleet, active, grace_s=1e-3)
        reconciler.watch()
        await until(reconciler._task.done)
        assert list(home.ledger.places) == ["r0"]
        assert reconciler.closed == 2

    asyncio.run(scenario())


@given(
    active=st.integers(0, 20),
    told=st.dictionaries(st.integers(0, 2), st.none() | st.integers(0, 12)),
)
def test_ranks_have_no_more_than_proxy_and_engines_say(active, told):
    home = house(specs=workers(3, ranks=True))
    gauges = {index: Gauges(running=requests, kv_usage=0.5) for index, requests in told.items()}
    live = _taken_over(home, {"10.0.0.1:8000": active}, gauges)
    counts = home.ledger.running
    assert len({each.name for each in live}) == len(live) <= active
    for index, requests in told.items():
        assert requests is None or counts[index] <= requests
    if any(told.get(index) is None for index in range(3)):
        assert len(live) == active
    else:
        assert len(live) == min(active, sum(told.values()))
    for each in live:
        if each.worker in told and told[each.worker] is not None:
            assert each.prompt_tokens == max(1, 5_000 // told[each.worker])
