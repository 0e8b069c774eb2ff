"""Which workers there are to begin with, some of whose names may not be known yet."""

from __future__ import annotations

import asyncio
import socket

import pytest

from brsolver.errors import ParameterError
from integration.serve.membership import first_workers, workers_of
from integration.settings import ServeConfig, Workers

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
