"""Ports that are chosen now for servers that start later."""

from __future__ import annotations

import socket

import pytest

from integration import free_ports as module
from integration.free_ports import LOOPBACK, free_port, free_ports


def test_they_differ_and_a_server_may_take_them():
    chosen = free_ports([LOOPBACK] * 20)
    assert len(set(chosen)) == 20
    for port in chosen:
        with socket.socket() as server:
            server.bind((LOOPBACK, port))


def test_the_system_gives_none_of_them_to_a_connection():
    first = module._first_ephemeral()
    if first <= 1024:
        pytest.skip("the system gives every port to connections here")
    assert all(1024 <= port < first for port in free_ports([LOOPBACK] * 50))


def test_one_that_is_taken_is_not_given(monkeypatch):
    with socket.socket() as taken:
        taken.bind((LOOPBACK, free_port()))
        drawn = iter([taken.getsockname()[1], free_port()])
        end = module._first_ephemeral()
        monkeypatch.setattr(module.secrets, "randbelow", lambda width: next(drawn) - (end - width))
        assert free_port() != taken.getsockname()[1]


@pytest.mark.parametrize("said", ["", "nothing here", "900 60999", None])
def test_where_the_system_does_not_say_or_leaves_none_a_port_is_found(tmp_path, monkeypatch, said):
    told = tmp_path / "range"
    if said is not None:
        told.write_text(said)
    monkeypatch.setattr(module, "_EPHEMERAL", told)
    assert 0 < free_port() < 65536


def test_a_host_that_is_not_this_machine_is_an_error():
    with pytest.raises(OSError, match=r"ssign|valid"):
        free_port("192.0.2.1")
