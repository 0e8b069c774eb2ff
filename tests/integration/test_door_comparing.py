"""What the books say of who is where, held against what Envoy has."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from picking import Picking, spec

from integration.doors.comparing import LOOKS, Comparing
from integration.picker import End, Gauges
from integration.picker.events import Fault

ENOUGH = LOOKS + 1
"""Looks: with the first nothing can be compared yet."""


class Sides:
    """The books of a core, and an Envoy that has what it is told to have, by worker."""

    def __init__(self, *, workers: int = 2, **more):
        self.p = Picking(workers=workers, **more)
        self.envoy, self.passed = Counter(), Counter()
        self.there = True
        self.comparing = Comparing(self.p.core, self._active, self.passed)
        self.p.core.listeners.append(self.comparing)

    async def _active(self):
        where = [each.spec.address for each in self.p.core.workers]
        return {a: self.envoy[a] for a in where} if self.there else None

    def address(self, worker: int) -> str:
        return self.p.core.workers[worker].spec.address

    def stream(self, name: str) -> str:
        """Let a stream run, for both; return where."""
        self.p.request(name, stream=True)
        self.p.run(1.0)
        worker = self.p.worker_of(name)
        self.p.core.started(name, worker)
        self.envoy[self.address(worker)] += 1
        return self.address(worker)

    def look(self, times: int = ENOUGH) -> list[str]:
        """Look so often; return what is wrong."""
        for _ in range(times):
            asyncio.run(self.comparing.look())
        audit = self.comparing.audit()
        assert audit.balanced == (not audit.wrong)
        return list(audit.wrong)


def test_both_agree():
    sides = Sides()
    where = [sides.stream(name) for name in "abc"]
    assert sides.look(3 * ENOUGH) == []
    rows = sides.comparing.audit().workers
    assert {row.address: row.at_envoy for row in rows} == Counter(where)
    assert not sides.p.log.of(Fault)


def test_a_stream_that_the_books_have_let_go_is_missed():
    sides = Sides()
    where = sides.stream("a")
    assert sides.look() == []
    sides.p.core.ended("a", End.DISCONNECTED)
    assert sides.look(LOOKS) == []
    wrong = sides.look(1)
    assert wrong == [f"{where}: 1 requests are there by Envoy, 0 by the books"]
    assert sides.p.core.audit().balanced
    # It is told once, and for as long as it is so.
    assert sides.look() == wrong
    assert [each.kind for each in sides.p.log.of(Fault)] == ["unbalanced"]
    sides.envoy.clear()
    assert sides.look(1) == []


def test_a_stream_that_has_ended_and_is_in_the_books_is_found():
    sides = Sides()
    where = sides.stream("a")
    sides.envoy.clear()
    assert sides.look() == [f"{where}: 0 requests are there by Envoy, 1 by the books"]
    # At once when the books change, whatever is found then.
    sides.p.core.ended("a", End.DISCONNECTED)
    assert sides.look(0) == []


def test_what_is_reserved_may_be_on_its_way():
    sides = Sides(start_max_s=0.0)
    sides.p.request("a")
    sides.p.run(0.0)
    assert sides.look() == []
    sides.p.core.started("a", sides.p.worker_of("a"))
    assert len(sides.look()) == 1


def test_what_differs_for_a_moment_is_not_wrong():
    sides = Sides()
    where = sides.stream("a")
    for _ in range(LOOKS):
        sides.envoy[where] += 1
        assert sides.look(LOOKS - 1) == []
        sides.envoy[where] -= 1
        assert sides.look(1) == []


def test_what_becomes_less_is_on_its_way():
    sides = Sides()
    where = sides.stream("a")
    for more in range(9, 0, -1):
        sides.envoy[where] = 1 + more
        assert sides.look(LOOKS - 1) == []


def test_nothing_is_said_of_books_in_which_something_changes():
    sides = Sides(workers=1)
    sides.stream("a")
    sides.envoy.clear()
    for turn in range(2 * ENOUGH):
        sides.stream(f"b{turn}")
        sides.p.core.ended(f"b{turn}", End.FINISHED)
        sides.envoy.clear()
        assert sides.look(1) == []
    assert len(sides.look()) == 1


def test_what_changes_elsewhere_does_not_matter():
    sides = Sides(workers=2)
    where = sides.stream("a")
    sides.envoy.clear()
    name = sides.stream("other")
    assert name != where
    for turn in range(ENOUGH):
        sides.p.core.ended("other" if not turn else f"b{turn - 1}", End.FINISHED)
        sides.stream(f"b{turn}")
        sides.envoy.clear()
        found = sides.look(1)
    assert [line.partition(": ")[0] for line in found] == [where]


def test_what_takes_no_slot_is_pardoned_until_both_agree():
    sides = Sides()
    where = sides.stream("a")
    sides.passed[where] += 2
    sides.envoy[where] += 2
    assert sides.look(2 * ENOUGH) == []
    sides.envoy[where] -= 2
    assert sides.look(2) == []
    # What was let pass before is over.
    sides.envoy[where] += 1
    assert len(sides.look()) == 1


def test_what_was_let_pass_since_the_last_look_may_have_yet_to_come():
    sides = Sides()
    where = sides.stream("a")
    assert sides.look() == []
    sides.passed[where] += 1
    assert sides.look(1) == []
    sides.envoy[where] += 1
    assert sides.look(2 * ENOUGH) == []


@pytest.mark.parametrize(("running", "wrong"), [(1, 0), (2, 1)])
def test_what_an_engine_does_not_run_takes_no_slot(running, wrong):
    sides = Sides(workers=1)
    where = sides.stream("a")
    sides.p.core.told(0, Gauges(running=running, waiting=0))
    # A list of models, say, that somebody asks for without end.
    sides.envoy[where] += 1
    assert len(sides.look()) == wrong


def test_ranks_of_one_server_count_together():
    specs = [spec(index, rank=index, port=1) for index in range(2)]
    sides = Sides(specs=specs)
    where = {sides.stream(name) for name in "abc"}
    assert where == {"host:1"}
    assert sides.look() == []
    assert [row.at_envoy for row in sides.comparing.audit().workers] == [3, 3]
    sides.p.core.ended("b", End.DISCONNECTED)
    assert sides.look() == ["host:1: 3 requests are there by Envoy, 2 by the books"]


def test_without_envoy_nothing_is_known():
    sides = Sides()
    sides.stream("a")
    sides.envoy.clear()
    assert len(sides.look()) == 1
    sides.there = False
    assert sides.look(1) == []
    assert {row.at_envoy for row in sides.comparing.audit().workers} == {None}
    sides.there = True
    assert sides.look(LOOKS) == []
    assert len(sides.look(1)) == 1


def test_looks_go_on_when_one_fails():
    async def scenario():
        came, looks = asyncio.Event(), 0

        async def active():
            nonlocal looks
            looks += 1
            if looks == 1:
                raise ValueError("no JSON")
            came.set()
            return {}

        comparing = Comparing(Picking().core, active, {}, look_s=0.001)
        task = asyncio.create_task(comparing.run())
        async with asyncio.timeout(30):
            await came.wait()
        task.cancel()

    asyncio.run(scenario())
