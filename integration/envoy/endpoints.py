"""The file that tells Envoy of the workers, and addresses that names stand for."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING

from brsolver.errors import OutputError, ParameterError
from integration.envoy._parts import Part, endpoint, typed
from integration.envoy.routes import WORKERS
from integration.settings import Address

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Endpoints:
    """Writes the workers' file; each time Envoy finds either the old one or the new one.

    Streams of a worker that is no longer named run on to their end.

    Parameters
    ----------
    path : Path
        As `bootstrap` was told.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._version = 0

    def write(self, addresses: Iterable[str]) -> tuple[str, ...]:
        """Name the workers.

        Parameters
        ----------
        addresses : iterable of str
            ``ip:port`` of each, as `resolve` gives them; those that come twice count once.

        Returns
        -------
        tuple of str
            What was written.

        Raises
        ------
        ParameterError
            One is not ``host:port``.
        OutputError
            The file cannot be written.
        """
        named = tuple(dict.fromkeys(str(Address.parse(text)) for text in addresses))
        self._version += 1
        content = json.dumps(_discovered(named, self._version), indent=1) + "\n"
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        try:
            part.write_text(content, encoding="utf-8")
            part.replace(self.path)
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written ({error.strerror}); Envoy reads the workers there"
            ) from error
        return named


def _discovered(named: tuple[str, ...], version: int) -> Part:
    members = [endpoint(Address.parse(text)) for text in named]
    assignment = typed(
        "config.endpoint.v3.ClusterLoadAssignment",
        cluster_name=WORKERS,
        endpoints=[{"lb_endpoints": members}],
    )
    return {"version_info": str(version), "resources": [assignment]}


def resolve(address: str) -> tuple[str, ...]:
    """Return the addresses that a worker's, or a DNS name's, stands for, as Envoy names them.

    Parameters
    ----------
    address : str
        ``host:port``.

    Returns
    -------
    tuple of str
        ``ip:port`` of each, IPv4 first, without repetition.

    Raises
    ------
    ParameterError
        The name is not known.
    """
    parsed = Address.parse(address)
    try:
        found = socket.getaddrinfo(parsed.host, parsed.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        # A name of empty or too long parts is no Unicode for whoever would look it up.
        why = getattr(error, "strerror", None) or error
        raise ParameterError(
            f"address is {address!r}, whose host cannot be found: {why}"
        ) from error
    known = sorted(found, key=lambda each: each[0] != socket.AF_INET)
    return tuple(dict.fromkeys(str(Address(str(each[4][0]), parsed.port)) for each in known))
