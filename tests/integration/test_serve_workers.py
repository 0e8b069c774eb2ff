"""Which workers there are to begin with, some of whose names may not be known yet."""

from __future__ import annotations

import asyncio
import socket

import pytest

from brsolver.errors import ParameterError
from integration.serve.sources import first_workers, source_of, workers_of
from integration.settings import KvEvents, ServeConfig, Workers

NUMBER, UNKNOWN = "127.0.0.1:80", "unknown:80"


@pytest.fixture(autouse=True)
def names(monkeypatch):
    """Only numbers are known."""
    known = socket.getaddrinfo

    def lookup(host, *rest, **more):
        if host == "unknown":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return known(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


def first(*addresses):
    told = []
    config = ServeConfig(workers=Workers(addresses=addresses))
    found = asyncio.run(first_workers(config, told.append, patient=False))
    return [spec.address for spec in found], told


def test_one_unknown_name_keeps_no_other_from_serving():
    found, told = first(UNKNOWN, NUMBER)
    assert found == [NUMBER]
    [line] = told
    assert "'unknown:80'" in line
    assert "left out" in line


def test_without_any_that_is_known_nothing_is_served():
    with pytest.raises(ParameterError, match="whose host cannot be found"):
        first(UNKNOWN)


def test_what_runs_is_not_changed_by_a_name_that_is_unknown():
    config = ServeConfig(workers=Workers(addresses=(UNKNOWN, NUMBER)))
    with pytest.raises(ParameterError, match="whose host cannot be found"):
        workers_of(config)


def test_a_name_that_a_file_adds_and_nobody_knows_is_left_out(tmp_path):
    path = tmp_path / "workers"
    path.write_text(f"{NUMBER}\n{UNKNOWN}\n")

    async def scenario():
        complaints, told = [], []
        source = source_of(ServeConfig(workers=Workers(file=str(path))), complaints.append)
        task = asyncio.ensure_future(source.follow(told.append))
        async with asyncio.timeout(20):
            while not told:
                await asyncio.sleep(0)
            path.write_text("localhost:80\n")
            while len(told) < 2:
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # By its number, and called what the file calls it.
        [before], [after] = told
        assert (before.address, before.name) == (NUMBER, NUMBER)
        assert (after.address, after.name) == (NUMBER, "localhost:80")
        [line] = complaints
        assert "'unknown:80'" in line


def test_a_file_of_which_no_name_is_known_changes_nothing(tmp_path):
    path = tmp_path / "workers"
    path.write_text(f"{UNKNOWN}\n")

    async def scenario():
        complaints, told = [], []
        source = source_of(ServeConfig(workers=Workers(file=str(path))), complaints.append)
        task = asyncio.ensure_future(source.follow(told.append))
        async with asyncio.timeout(20):
            while not complaints:
                await asyncio.sleep(0)
        assert not told
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())

    asyncio.run(scenario())


def test_two_names_of_one_place_are_no_two_workers():
    with pytest.raises(ParameterError, match=r"'localhost:80' and '127\.0\.0\.1:80' are one place"):
        first("localhost:80", NUMBER)


def test_ranks_have_no_kv_events_beyond_the_last_port():
    workers = Workers(addresses=(NUMBER,), ranks=8)
    with pytest.raises(ParameterError, match=r"kv_events.replay_port leads to 65540 for the last"):
        ServeConfig(workers=workers, kv_events=KvEvents(port=65_528, replay_port=65_533))


@pytest.mark.parametrize("name", ["health_path", "metrics_path"])
def test_paths_that_no_url_can_have_are_refused(name):
    with pytest.raises(ParameterError, match=f"{name} is .*, must be a path as URLs have it"):
        Workers(addresses=(NUMBER,), **{name: "/a\r\nx: y"})


def test_a_followed_name_may_have_no_address_yet():
    async def scenario():
        told = []
        config = ServeConfig(workers=Workers(dns=UNKNOWN))
        waiting = asyncio.ensure_future(first_workers(config, told.append, patient=True))
        async with asyncio.timeout(20):
            while not told:
                await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(scenario())


def test_a_door_does_not_wait_for_names():
    config = ServeConfig(workers=Workers(dns=UNKNOWN))
    with pytest.raises(ParameterError, match="whose host cannot be found"):
        asyncio.run(first_workers(config, print, patient=False))


def test_a_followed_name_is_waited_for():
    config = ServeConfig(workers=Workers(dns=NUMBER))
    found = asyncio.run(first_workers(config, print, patient=True))
    assert [spec.address for spec in found] == [NUMBER]
