"""Requests go out when they are due, after the turns that they follow, or as clients are free."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from load_servers import PATIENCE_S, requests

from brsolver.errors import ParameterError
from integration.load.bodies import Bodies
from integration.load.driving import Drive
from integration.load.kinds import Kind
from integration.load.params import Pace
from integration.load.prompts import Prompts
from integration.load.schedule import schedule_of
from integration.load.vocabulary import Numbers


class Server:
    """Answers a request when others have had their turn, and notes who was there."""

    def __init__(self, yields=2):
        self.begun, self.ended, self.there, self.most = [], [], 0, 0
        self._yields = yields

    async def ask(self, body, reply):
        self.begun.append(reply.row)
        self.there += 1
        self.most = max(self.most, self.there)
        reply.sent_s = reply.due_s
        for _ in range(1 + reply.row % self._yields):
            await asyncio.sleep(0)
        reply.kind, reply.end_s = Kind.COMPLETE, asyncio.get_running_loop().time()
        self.there -= 1
        self.ended.append(reply.row)


def driven(trace, pace, server=None):
    server = server or Server()
    drive = Drive(
        schedule_of(trace, pace), Bodies(trace, Prompts(trace, Numbers()), model="m"), server
    )

    async def run():
        async with asyncio.timeout(PATIENCE_S):
            await drive.run()

    asyncio.run(run())
    return drive, server


def turns(n, sessions, delay=0.0):
    """Requests of so many sessions in turn; all but the first of each follow the one before."""
    session = np.arange(n) % sessions
    follows = np.arange(n) >= sessions
    return requests(
        n,
        arrival_s=np.where(follows, np.nan, 0.0),
        session=session,
        delay_s=np.where(follows, delay, np.nan),
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 5))
def test_a_closed_loop_has_as_many_in_flight_and_keeps_the_traces_order(n, clients, yields):
    drive, server = driven(requests(n), Pace(concurrency=clients), Server(yields))
    assert server.begun == list(range(n))
    assert server.most <= clients
    assert sorted(reply.row for reply in drive.replies) == list(range(n))


class Written:
    """Notes when bodies are written, and how many lie there that were not sent."""

    def __init__(self, trace):
        self.trace, self.order, self.most = trace, [], 0
        self._bodies = Bodies(trace, Prompts(trace, Numbers()), model="m")
        self._there = 0

    def of(self, row):
        self.order.append(("written", row))
        self._there += 1
        self.most = max(self.most, self._there)
        return self._bodies.of(row)

    def sent(self, row, body):
        self.order.append(("sent", row))
        self._there -= 1
        assert body == self._bodies.of(row)


class Noting(Server):
    def __init__(self, written, yields=2):
        super().__init__(yields)
        self._written = written

    async def ask(self, body, reply):
        self._written.sent(reply.row, body)
        await super().ask(body, reply)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 12), st.integers(1, 5))
def test_in_a_closed_loop_bodies_are_written_once_and_before_they_are_wanted(
    n, sessions, clients, yields
):
    trace = turns(n, sessions)
    written = Written(trace)

    async def run():
        async with asyncio.timeout(PATIENCE_S):
            drive = Drive(
                schedule_of(trace, Pace(concurrency=clients)), written, Noting(written, yields)
            )
            await drive.run()

    asyncio.run(run())
    rows = {
        what: [row for did, row in written.order if did == what] for what in ("written", "sent")
    }
    assert sorted(rows["written"]) == sorted(rows["sent"]) == list(range(n))
    # Those who begin together wait for no writing, and no more are kept than may begin together.
    first = min(clients, sessions, n)
    assert written.order[:first] == [("written", row) for row in range(first)]
    assert written.most <= clients + 1


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 30), st.integers(1, 6), st.sampled_from([None, 1, 3]))
def test_turns_come_after_the_ones_before(n, sessions, clients):
    trace = turns(n, min(sessions, n))
    drive, server = driven(trace, Pace(concurrency=clients))
    assert sorted(server.begun) == list(range(n))
    previous = schedule_of(trace, Pace()).previous
    ends = {reply.row: reply.end_s for reply in drive.replies}
    for reply in drive.replies:
        if previous[reply.row] >= 0:
            assert reply.due_s >= ends[previous[reply.row]]


def test_a_turn_is_due_its_delay_after_the_end_of_the_one_before():
    drive, _ = driven(turns(6, 2, delay=0.01), Pace())
    ends = {reply.row: reply.end_s for reply in drive.replies}
    for reply in drive.replies:
        if reply.row >= 2:
            assert math.isclose(reply.due_s - ends[reply.row - 2], 0.01)


def test_recorded_times_are_kept_and_can_be_faster():
    trace = requests(5, arrival_s=np.array([0.0, 0.01, 0.01, 0.02, 0.04]))
    drive, _ = driven(trace, Pace(speed=2.0))
    due = [reply.due_s - drive.began_s for reply in sorted(drive.replies, key=lambda r: r.row)]
    assert due == pytest.approx([0.0, 0.005, 0.005, 0.01, 0.02])


def test_a_rate_is_that_of_all_requests():
    trace = turns(4000, 1000)
    schedule = schedule_of(trace, Pace(rate=100.0), seed=3)
    first = schedule.due_s[:1000]
    assert first[0] == 0
    # A quarter of the requests comes by itself: 25 a second, for forty seconds.
    assert 35 < first[-1] < 45
    assert np.isnan(schedule.due_s[1000:]).all()
    same = schedule_of(trace, Pace(rate=100.0), seed=3)
    assert np.array_equal(schedule.due_s, same.due_s, equal_nan=True)


def test_in_a_closed_loop_delays_do_not_count():
    assert not schedule_of(turns(6, 2, delay=7.0), Pace(concurrency=2)).delay_s.any()


def test_lengths_alone_do_not_say_when():
    trace = requests(3, arrival_s=None)
    with pytest.raises(ParameterError, match=r"must be sent with --rate or --concurrency"):
        schedule_of(trace, Pace())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"rate": 0}, "rate is 0, must be at least"),
        ({"rate": float("nan")}, "rate is nan, must be a finite number"),
        ({"concurrency": 0}, "concurrency is 0, must be at least 1"),
        ({"speed": 0}, "speed is 0, must be at least"),
        ({"rate": 1, "concurrency": 1}, "one of them must be left out"),
        ({"speed": 2, "concurrency": 1}, "speed is 2, must be left out"),
    ],
)
def test_paces_that_make_no_sense_are_refused(given, says):
    with pytest.raises(ParameterError) as error:
        Pace(**given)
    assert says in str(error.value)


def test_what_is_under_way_when_it_is_cancelled_was_interrupted():
    class Never(Server):
        async def ask(self, body, reply):
            self.begun.append(reply.row)
            if len(self.begun) == 2:
                all_there.set()
            await asyncio.Event().wait()

    all_there = asyncio.Event()
    trace = requests(5)
    bodies = Bodies(trace, Prompts(trace, Numbers()), model="m")
    drive = Drive(schedule_of(trace, Pace(concurrency=2)), bodies, Never())

    async def run():
        task = asyncio.ensure_future(drive.run())
        await all_there.wait()
        assert set(drive.under_way) == {0, 1}
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert [reply.kind for reply in drive.replies] == [Kind.INTERRUPTED] * 2
    assert not drive.under_way
