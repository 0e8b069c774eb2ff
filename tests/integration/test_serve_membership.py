"""Workers added and drained by hand while serving: what is refused leaves nothing behind."""

from __future__ import annotations

import asyncio
import time

import pytest

from brsolver.errors import ParameterError
from integration.doors.fleet import Fleet
from integration.picker import Core, PickerParams, Pump, WorkerSpec
from integration.serve.by_hand import FILE, ByHand
from integration.serve.membership import Membership

PARAMS = PickerParams(policy="jsq", slots=8, budget=512)
NAMED = [WorkerSpec(name=f"w{n}", address=f"127.0.0.1:{9000 + n}") for n in range(2)]
TOO_MANY = 513


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


def test_settings_that_cannot_be_change_nothing(tmp_path):
    async def scenario():
        membership, fleet = picker(tmp_path)
        with pytest.raises(ParameterError, match="slots of worker 'wide'"):
            membership.set([NAMED[0], spec("wide", 9009, TOO_MANY)])
        assert there(fleet) == ["w0", "w1"]
        await membership.add(spec("good", 9003))
        assert there(fleet) == ["good", "w0", "w1"]

    asyncio.run(scenario())
