"""br-t in the adapter: what it holds is held for a reason, within its bound, and never for ever."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from types import SimpleNamespace

import prometheus_client
import pytest
from fake_vllm import Deployment
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.cluster._state_kernels import W_BACKLOG
from brsolver.cluster.view import BACKLOG
from brsolver.policy import BasePolicy
from integration.vllm import desk, rounds
from integration.vllm.config import from_environment
from integration.vllm.release import POLL_S
from integration.vllm.reload import switch

HOLD_S = 5.0
DEAR = 1.0
"""Seconds per prefill token: no wave is worth it before its time is up."""


class Clock:
    """The adapter's, which a test sets forward."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    return _clock(monkeypatch)


def _clock(monkeypatch) -> Clock:
    made = Clock()
    for module in (desk, rounds):
        kept = SimpleNamespace(perf_counter=module.time.perf_counter, monotonic=made.monotonic)
        monkeypatch.setattr(module, "time", kept)
    return made


def file_for(folder, *, prefill_s: float = DEAR, more: str = "", policy: str = "br-t") -> str:
    (folder / "mine.toml").write_text(
        'name = "mine"\nsource = "a test"\nlicence = "none"\nconditions = "none"\n'
        f"[step_time]\nmodel = 'loads'\nbase = 0.02\nper_sequence = 0.0\n"
        f"per_token = 1e-7\nper_prefill_token = {prefill_s}\n"
    )
    path = folder / "router.toml"
    path.write_text(
        # How fast decisions are is not asked here.
        f'policy = "{policy}"\nhardware = "mine.toml"\nbudget_ms = 60000\n{more}\n'
        f"[parameters]\nhold_s = {HOLD_S}\n"
    )
    return str(path)


def served(folder, *, slots: int = 4, **given) -> Deployment:
    return Deployment(file_for(folder, **given), "pooled", slots=slots, budget=512)


async def poll(d: Deployment) -> None:
    """Let the adapter look for itself, as it does every `POLL_S`."""
    d.adapter.releaser._run()
    await d.settle()


async def one_runs_and_two_are_held(d: Deployment) -> None:
    await d.add("a", 50)
    await d.settle()
    await d.report(0, {"a": 1})
    await d.settle()
    for name, prompt in (("b", 100), ("c", 300)):
        await d.add(name, prompt)
    await d.settle()
    assert set(d.sent()) == {"a"}
    assert len(d.adapter.releaser.pool) == 2


def test_those_that_could_run_are_held_until_their_time_is_up(tmp_path, clock):
    async def scenario():
        d = served(tmp_path)
        await one_runs_and_two_are_held(d)
        for _ in range(4):
            clock.now_s += 0.24 * HOLD_S
            await d.report(0, {"a": 1})
            await d.settle()
            assert set(d.sent()) == {"a"}
        clock.now_s += 0.05 * HOLD_S
        await d.report(0, {"a": 1})
        await d.settle()
        assert set(d.sent()) == {"a", "b", "c"}
        assert d.adapter.failsafe.failures == 0

    asyncio.run(scenario())


def test_nobody_is_stuck_when_reports_stop(tmp_path, clock):
    async def scenario():
        d = served(tmp_path)
        await one_runs_and_two_are_held(d)
        assert d.adapter.releaser._timer.when() <= asyncio.get_running_loop().time() + POLL_S
        clock.now_s += 0.9 * HOLD_S
        await poll(d)
        assert set(d.sent()) == {"a"}
        clock.now_s += 0.2 * HOLD_S
        await poll(d)
        assert set(d.sent()) == {"a", "b", "c"}
        assert d.adapter.failsafe.failures == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("ended", [{"a"}, {"a", "b", "c"}])
def test_nobody_is_held_for_ranks_that_run_nothing(tmp_path, clock, ended):
    async def scenario():
        d = served(tmp_path)
        await one_runs_and_two_are_held(d)
        if "b" in ended:
            await d.client.abort_requests_async(["b"])
        await d.report(0, {"a": 1}, {"a"})
        await d.settle()
        assert set(d.sent()) == {"a", "b", "c"} - (ended - {"a", "c"})
        assert d.adapter.failsafe.failures == 0

    asyncio.run(scenario())


def test_what_costs_less_than_waiting_goes_at_once(tmp_path, clock):
    async def scenario():
        d = served(tmp_path, prefill_s=1e-9)
        await d.add("a", 50)
        await d.settle()
        await d.report(0, {"a": 1})
        await d.add("b", 100)
        await d.settle()
        clock.now_s += 0.01
        await poll(d)
        assert set(d.sent()) == {"a", "b"}

    asyncio.run(scenario())


def test_what_ends_while_another_rank_prefills_goes_at_once(tmp_path, clock):
    async def scenario():
        d = served(tmp_path)
        await d.add("long", 400)
        await d.settle()
        assert d.books.state.workers[W_BACKLOG].tolist() == [400, 0]
        for name, prompt in (("b", 300), ("c", 500), ("d", 100)):
            await d.add(name, prompt)
        await d.settle()
        assert d.sent() == {"long": 0, "b": 1, "d": 1}

    asyncio.run(scenario())


class Holds:
    """Places the first request it sees, and no other, which it says it may do for a while."""

    holds_s = 3.0

    def __init__(self):
        self.placed = False

    def route(self, cluster, waiting):
        if self.placed:
            return []
        self.placed = True
        return [(0, 0)]


@pytest.mark.parametrize(("more", "fails"), [(0.99, False), (1.01, True)])
def test_to_hold_for_longer_than_was_said_is_a_failure(clock, more, fails):
    async def scenario():
        d = Deployment("br-0", "pooled", slots=4)
        d.use(Holds())
        for name in "abc":
            await d.add(name)
        await d.settle()
        await poll(d)
        clock.now_s += more * (Holds.holds_s + d.adapter.desk.config.params.stall_s)
        await poll(d)
        assert d.adapter.failsafe.failures == fails
        assert len(d.sent()) == (3 if fails else 1)

    asyncio.run(scenario())


def test_what_it_says_of_itself_does_not_excuse_idle_ranks(clock):
    async def scenario():
        d = Deployment("br-0", "pooled", slots=4)
        policy = Holds()
        policy.placed = True
        d.use(policy)
        await d.add("a")
        await d.settle()
        assert set(d.sent()) == {"a"}
        assert d.adapter.failsafe.failures == 1

    asyncio.run(scenario())


def test_what_is_held_survives_a_change_to_another_policy_and_back(tmp_path, clock):
    async def scenario():
        d = served(tmp_path)
        await one_runs_and_two_are_held(d)
        path = file_for(tmp_path, policy="br-t:kappa=1e6")
        switch(d.adapter, from_environment({"BRSOLVER_ROUTER": path, "BRSOLVER_MODE": "pooled"}))
        await poll(d)
        assert set(d.sent()) == {"a"}
        switch(d.adapter, from_environment({"BRSOLVER_ROUTER": "br-0"}))
        await poll(d)
        assert set(d.sent()) == {"a", "b", "c"}
        owed = int(d.books.state.workers[W_BACKLOG].sum())
        switch(d.adapter, from_environment({"BRSOLVER_ROUTER": path, "BRSOLVER_MODE": "pooled"}))
        assert d.books.state.workers[W_BACKLOG].sum() == owed == 400
        assert d.adapter.failsafe.failures == 0

    asyncio.run(scenario())


def test_what_other_api_servers_sent_is_backlog_as_well(tmp_path, clock):
    async def scenario():
        path, where = file_for(tmp_path), str(tmp_path)
        one, other = (
            Deployment(path, "pooled", budget=512, clients=2, index=i, address=where)
            for i in range(2)
        )
        await one.add("long", 400)
        await one.settle()
        rank = one.sent()["long"]
        # It ends no later than the other server's prompt, and runs where that is not.
        await other.add("short", 300)
        await other.settle()
        assert other.sent() == {"short": 1 - rank}
        await one.report(rank, {"long": 1})
        await other.report(1 - rank, {"short": 1})
        for d in (one, other):
            d.router.hear()
            d.session.look()
            assert d.session.table[BACKLOG].tolist() == [0, 0]

    asyncio.run(scenario())


def test_both_ways_of_waiting_at_once_are_said_at_start(tmp_path, caplog):
    async def scenario():
        d = Deployment(file_for(tmp_path), "pooled", budget=512, interval=8)
        caplog.set_level("INFO", "vllm.brsolver")
        for name in "ab":
            await d.add(name)
            await d.settle()

    asyncio.run(scenario())
    said = [each for each in caplog.messages if "prefill-schedule-interval is 8" in each]
    assert len(said) == 1


def sample(name: str, **labels: str) -> float:
    return prometheus_client.REGISTRY.get_sample_value(f"brsolver_{name}", labels) or 0.0


def test_backlog_waves_and_holding_are_published(tmp_path, clock):
    async def scenario():
        d = served(tmp_path)
        names = ("waves_total", "wave_requests_total", "holding_seconds_total")
        before = [sample(name) for name in names]
        await one_runs_and_two_are_held(d)
        clock.now_s += HOLD_S
        await poll(d)
        d.adapter.desk.tell(now=True)
        d.adapter.desk.tell(now=True)
        # The first request found idle ranks; the two that could run waited five seconds each.
        assert [sample(name) - old for name, old in zip(names, before, strict=True)] == [2, 3, 10]
        assert sample("backlog_tokens", rank="0") + sample("backlog_tokens", rank="1") == 400
        d.use(Holds())
        d.adapter.desk.tell(now=True)
        assert sample("waves_total") - before[0] == 2

    asyncio.run(scenario())


class Miscounts(BasePolicy):
    """Fails when it is asked for its tally."""

    def route(self, cluster, waiting):
        return [(0, 0)]

    def tally(self):
        return {"waves": 1 / 0}


def test_a_tally_that_fails_harms_nobody(caplog):
    async def scenario():
        d = Deployment("br-0", "pooled", slots=4)
        d.use(Miscounts())
        for _ in range(9):
            d.adapter.desk.tell(now=True)
        assert d.adapter.failsafe.active
        assert d.adapter.failsafe.failures == 0
        await d.add("a")
        await d.settle()
        assert d.sent() == {"a": 0}

    asyncio.run(scenario())
    assert "ZeroDivisionError" in caplog.text


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "report", "finish", "cancel", "tick"]),
        st.integers(0, 20),
        st.integers(1, 600),
    ),
    max_size=40,
)


class Play:
    """Lets things happen to an adapter, and looks at it after each."""

    def __init__(self, d: Deployment, clock: Clock) -> None:
        self.d, self.clock = d, clock
        self.since: dict[str, float] = {}

    async def play(self, events) -> None:
        for kind, number, tokens in events:
            await getattr(self, kind)(number, tokens)
            await self.d.settle()
            await poll(self.d)
            self.check()

    async def add(self, number: int, tokens: int) -> None:
        name = str(number)
        if name not in self.since:
            self.since[name] = self.clock.now_s
            await self.d.add(name, tokens)

    def running(self) -> list[str]:
        return [name for name in self.d.sent() if name in self.d.client.reqs_in_flight]

    async def report(self, number: int, tokens: int) -> None:
        here = [name for name in self.running() if self.d.sent()[name] == number % 2]
        await self.d.report(number % 2, dict.fromkeys(here[: tokens % 3 + 1], 1))

    async def finish(self, number: int, _: int) -> None:
        running = self.running()
        if running:
            gone = running[number % len(running)]
            await self.d.report(self.d.sent()[gone], {gone: 1}, {gone})

    async def cancel(self, number: int, _: int) -> None:
        await self.d.client.abort_requests_async([str(number)])

    async def tick(self, _: int, tokens: int) -> None:
        self.clock.now_s += tokens / 300

    def check(self) -> None:
        d = self.d
        held = [each.request.name for each in d.adapter.releaser.pool.offer()[0]]
        if held and d.session.look():
            # They have been held since the last wave at most, and a tick may overshoot.
            latest = max(self.since[name] for name in held)
            assert self.clock.now_s - latest <= HOLD_S + 2.0
            assert not d.adapter.desk.idle()
        assert (d.books.state.workers[W_BACKLOG] >= 0).all()

    async def end(self) -> None:
        self.clock.now_s += 2 * HOLD_S
        while self.running() or len(self.d.adapter.releaser.pool):
            await poll(self.d)
            for gone in self.running():
                await self.d.report(self.d.sent()[gone], {gone: 1}, {gone})
            await self.d.settle()


@settings(deadline=None, max_examples=60)
@given(EVENTS, st.sampled_from([1e-6, 1e-3, DEAR]))
def test_whatever_comes_nobody_who_could_run_is_held_beyond_the_bound(events, prefill_s):
    async def scenario(play: Play) -> None:
        await play.play(events)
        await play.end()

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        d = served(Path(folder), prefill_s=prefill_s)
        asyncio.run(scenario(Play(d, _clock(patch))))
        assert not d.books.state.workers[W_BACKLOG].any()
        assert d.adapter.failsafe.failures == 0
