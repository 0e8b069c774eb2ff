"""A TOML file that changes while serving."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import weakref

import fake_vllm
import pytest
from fake_vllm import Deployment

from integration.vllm import reload
from integration.vllm.router import made_ready

FIRST = 'policy = "jsq-load"\nmode = "immediate"\nbudget_ms = 50\n'


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, logger="vllm.brsolver")
    return lambda: [record.message for record in caplog.records]


class Watched:
    """A deployment that watches a file."""

    def __init__(self, folder, monkeypatch, **kwargs):
        self.path = folder / "router.toml"
        self.write(FIRST)
        monkeypatch.setenv("BRSOLVER_ROUTER", str(self.path))
        self.d = Deployment(str(self.path), "", **kwargs)
        self.reloads = 0
        self.fallbacks = []
        self.d.adapter.desk.exporter.reloaded = self._count
        self.d.adapter.failsafe._failed = self.fallbacks.append

    def _count(self):
        # Only once the new policy is in its place.
        assert self.d.adapter.desk.config.params.policy == self.expected
        self.reloads += 1

    def write(self, text, expected=None):
        budget = "" if "budget_ms" in text else "budget_ms = 50\n"
        self.write_as_it_is(f"reload_s = 0.005\n{budget}{text}", expected)

    def write_as_it_is(self, text, expected):
        self.expected = expected
        part = self.path.with_suffix(".part")
        part.write_text(text)
        os.replace(part, self.path)  # noqa: PTH105 # replaces at once

    @property
    def policy(self):
        return self.d.adapter.desk.config.params.policy

    async def until(self, condition):
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.005)

    async def looked(self):
        """Until the file has been looked at some more times."""
        await asyncio.sleep(0.1)


class Slow:
    """Makes a router ready as slowly as it is told to."""

    def __init__(self):
        self.began, self.go_on = threading.Event(), threading.Event()
        self.threads = []

    def __call__(self, *place):
        self.threads.append(threading.current_thread())
        self.began.set()
        assert self.go_on.wait(60)
        return made_ready(*place)


@pytest.fixture
def slow(monkeypatch):
    made = Slow()
    monkeypatch.setattr(reload, "made_ready", made)
    yield made
    made.go_on.set()


def test_what_is_changed_is_taken_in_beside_the_event_loop(tmp_path, monkeypatch, slow, said):
    async def scenario():
        w = Watched(tmp_path, monkeypatch)
        await w.d.add("a", 100)
        w.write('policy = "br-h"\n[parameters]\nhorizon = 3\n', expected="br-h")
        w.write('policy = "br-0"\nmode = "immediate"\nsettle_ms = 7\n', expected="br-0")
        await w.until(slow.began.is_set)
        # Compiling goes on; requests are served all the same, by the policy that was.
        await w.d.add("b", 10)
        assert w.d.sent() == {"a": 0, "b": 1}
        assert (w.policy, w.reloads) == ("jsq-load", 0)
        slow.go_on.set()
        await w.until(lambda: w.reloads)
        assert w.policy == "br-0"
        assert w.d.adapter.desk.config.params.settle_ms == 7
        assert w.d.books.state.load.tolist() == [100, 10]
        assert threading.main_thread() not in slow.threads
        await w.looked()
        assert w.reloads == 1
        assert w.fallbacks == []

    asyncio.run(scenario())
    assert said() == []


def test_a_change_before_the_watch_began_is_taken_in(tmp_path, monkeypatch):
    """A policy may take minutes to compile between the file's being read and its being watched."""
    read = fake_vllm.from_environment

    def and_change(environ):
        found = read(environ)
        part = tmp_path / "changed"
        part.write_text('policy = "br-0"\nreload_s = 0.005\nbudget_ms = 50\n')
        part.replace(environ["BRSOLVER_ROUTER"])
        return found

    async def scenario():
        monkeypatch.setattr(fake_vllm, "from_environment", and_change)
        w = Watched(tmp_path, monkeypatch)
        w.expected = "br-0"
        assert w.policy == "jsq-load"
        await w.until(lambda: w.reloads)
        assert w.policy == "br-0"
        await w.looked()
        assert w.reloads == 1

    asyncio.run(scenario())


def test_a_second_change_while_the_first_is_being_made_ready_is_the_one_that_stays(
    tmp_path, monkeypatch, slow
):
    async def scenario():
        w = Watched(tmp_path, monkeypatch)
        await w.d.add("a", 100)
        w.write('policy = "br-0"\nmode = "immediate"\n', expected="br-0")
        await w.until(slow.began.is_set)
        text = 'policy = "jsq"\nmode = "immediate"\n'
        seen = []
        w.d.adapter.desk.exporter.reloaded = lambda: seen.append(w.policy)
        w.write(text)
        slow.go_on.set()
        await w.until(lambda: len(seen) == 2)
        await w.looked()
        assert seen == ["br-0", "jsq"]
        assert w.d.books.state.load.tolist() == [100, 0]
        await w.d.report(0, {"a": 1}, {"a"})
        assert w.d.books.state.load.sum() == 0

    asyncio.run(scenario())


def test_every_changed_content_that_is_refused_is_one_warning_and_no_fallback(
    tmp_path, monkeypatch, said
):
    bad = {
        'policy = "br-zero"\n': "unknown policy 'br-zero'",
        'policy = "br-0"\nmode = "later"\n': "mode is 'later'",
        'policy = "br-0:r_max=0"\n': "r_max is 0",
        "policy = \n": "cannot be read as TOML",
    }

    async def scenario():
        w = Watched(tmp_path, monkeypatch)
        for at, (text, told) in enumerate(bad.items()):
            w.write(text)
            await w.until(lambda at=at: len(said()) > at)
            w.write(text)  # the same once more is no news
            await w.looked()
            assert len(said()) == at + 1
            assert "router.toml is refused (" in said()[-1]
            assert told in said()[-1]
            assert "\n" not in said()[-1]
        assert (w.policy, w.reloads, w.fallbacks) == ("jsq-load", 0, [])
        assert w.d.adapter.failsafe.failures == 0
        w.write('policy = "br-0"\n', expected="br-0")
        await w.until(lambda: w.reloads)
        w.write(next(iter(bad)))
        await w.until(lambda: len(said()) > len(bad))

    asyncio.run(scenario())
    assert len(said()) == len(bad) + 1


def test_settings_that_cannot_change_are_named_and_stay(tmp_path, monkeypatch, said):
    async def scenario():
        w = Watched(tmp_path, monkeypatch)
        fixed = 'budget_ms = 7\nrecord = "x.jsonl"\nrecord_mib = 5\n'
        w.write(f'policy = "br-0"\n{fixed}seed = 3\n', expected="br-0")
        await w.until(lambda: w.reloads)
        params = w.d.adapter.desk.config.params
        assert (params.budget_ms, params.record, params.seed) == (50.0, None, 3)
        assert params.record_mib is None

    asyncio.run(scenario())
    (line,) = said()
    assert "budget_ms, record, record_mib cannot change while serving" in line
    assert "budget_ms stays 50.0, record stays None" in line


TUNED = """
[tuned]
recommended = "{}"
[router]
policy = "{}"
mode = "immediate"
[adapter]
reload_s = 0.005
budget_ms = 50
"""


def test_a_night_that_keeps_the_published_default_gives_routing_back_to_vllm(
    tmp_path, monkeypatch, said
):
    nights = [("published", "vllm", 1), ("project", "jsq-load", 1), ("published", "vllm", 2)]

    async def scenario():
        w = Watched(tmp_path, monkeypatch)
        for night, (recommended, policy, chosen_by_vllm) in enumerate(nights):
            w.write_as_it_is(TUNED.format(recommended, policy), policy)
            await w.until(lambda night=night: w.reloads > night)
            await w.d.add(str(night), 100)
            assert w.d.client.own_choices == chosen_by_vllm
        # Its books go on whoever routes.
        assert w.d.books.state.load.sum() == 300

    asyncio.run(scenario())
    assert said() == []


def test_what_was_measured_of_a_request_outlives_a_change(tmp_path, monkeypatch):
    async def scenario():
        w = Watched(tmp_path, monkeypatch)

        def session():
            return w.d.adapter.desk.router.session

        for text, expected in (("'auto'", 0), ("'auto'", 1500), ("70", 70), ("0", 0)):
            w.write(f'policy = "br-0"\nrequest_tokens = {text}\n# {expected}', expected="br-0")
            seen = w.reloads
            await w.until(lambda seen=seen: w.reloads > seen)
            assert session().request_tokens == expected
            # As whoever measures it does.
            session().request_tokens = 1500

    asyncio.run(scenario())


def test_of_several_servers_one_says_what_is_refused(tmp_path, monkeypatch, said):
    async def scenario():
        same = {"clients": 2, "address": str(tmp_path)}
        pair = [Watched(tmp_path, monkeypatch, index=i, **same) for i in (1, 0)]
        pair[0].write('policy = "br-h:horizon=9"\n')
        await pair[0].until(said)
        await pair[0].looked()
        assert {w.policy for w in pair} == {"jsq-load"}

    asyncio.run(scenario())
    (line,) = said()
    assert "must be at most 0, on which the API servers have agreed" in line


def test_nothing_is_exchanged_once_the_adapter_has_stood_down(tmp_path, monkeypatch, slow, said):
    async def scenario():
        w = Watched(tmp_path, monkeypatch)
        before = w.d.router
        w.write('policy = "br-0"\n')
        await w.until(slow.began.is_set)
        w.d.adapter.failsafe.stand_down("enough")
        slow.go_on.set()
        await w.looked()
        assert w.d.router is before
        assert w.reloads == 0

    asyncio.run(scenario())
    assert len(said()) == 1


def test_a_client_that_goes_meanwhile_is_not_kept(tmp_path, monkeypatch, slow, said):
    async def scenario():
        w = Watched(tmp_path, monkeypatch)
        adapter = weakref.ref(w.d.adapter)
        w.write('policy = "br-0"\n')
        await w.until(slow.began.is_set)
        w.d = None
        gc.collect()
        assert adapter() is None
        slow.go_on.set()
        await w.looked()
        assert w.reloads == 0

    asyncio.run(scenario())
    assert said() == []


def test_a_server_that_ends_meanwhile_ends(tmp_path, monkeypatch, slow, said):
    async def scenario():
        w = Watched(tmp_path, monkeypatch)
        w.write('policy = "br-0"\n')
        await w.until(slow.began.is_set)
        threading.Timer(0.1, slow.go_on.set).start()
        return w

    w = asyncio.run(scenario())
    assert (w.policy, w.reloads) == ("jsq-load", 0)
    assert said() == []


def test_an_exchange_that_fails_halfway_leaves_all_to_vllm(tmp_path, monkeypatch, said):
    async def scenario():
        w = Watched(tmp_path, monkeypatch)

        def fail(*_):
            raise KeyError("halfway")

        w.d.adapter.take_over = fail
        w.write('policy = "br-0"\n')
        await w.until(lambda: not w.d.adapter.failsafe.active)
        await w.looked()
        await w.d.add("a")
        assert w.d.client.own_choices == 1
        assert w.reloads == 0

    asyncio.run(scenario())
    (line,) = said()
    assert "stands down" in line
    assert "halfway" in line
