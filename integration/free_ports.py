"""Ports for servers that are told theirs before they start."""

from __future__ import annotations

import secrets
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LOOPBACK = "127.0.0.1"
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_TYPICAL_FIRST = 32_768
_WIDTH = 12_000
_TRIES = 100


def free_ports(hosts: Sequence[str]) -> list[int]:
    """Return a port for each host, all different, that nothing listens on at the moment.

    None is of those that the system gives to connections: between now and a server's start, which
    may be minutes later, one of these would as likely as not be taken.

    Parameters
    ----------
    hosts : sequence of str
        Addresses of this machine.

    Raises
    ------
    OSError
        A host is no address of this machine.
    """
    with ExitStack() as held:
        return [_free(host, held) for host in hosts]


def free_port(host: str = LOOPBACK) -> int:
    """Return one such port."""
    return free_ports([host])[0]


def _free(host: str, held: ExitStack) -> int:
    end = _first_ephemeral()
    first = max(1024, end - _WIDTH)
    for _ in range(_TRIES if first < end else 0):
        probe = _socket(host, held)
        try:
            probe.bind((host, first + secrets.randbelow(end - first)))
        except OSError:
            continue
        return int(probe.getsockname()[1])
    probe = _socket(host, held)
    probe.bind((host, 0))
    return int(probe.getsockname()[1])


def _socket(host: str, held: ExitStack) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return held.enter_context(socket.socket(family))


def _first_ephemeral() -> int:
    try:
        return int(_EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _TYPICAL_FIRST
