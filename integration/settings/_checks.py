"""Checks that tables share: addresses, ports, files."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from brsolver._limits import require, require_whole
from brsolver.errors import ParameterError

MAX_PORT = 65_535
_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>\d{1,5})")


class Address(NamedTuple):
    """Where something listens.

    Attributes
    ----------
    host : str
        Name or number, without brackets.
    port : int
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, label: str = "address") -> Address:
        """Take ``host:port`` or ``[v6]:port`` apart.

        Raises
        ------
        ParameterError
            It is neither, or the port is none.
        """
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise ParameterError(f"{label} is {text!r}, must be HOST:PORT")
        port = int(found["port"])
        require(1 <= port <= MAX_PORT, f"{label} is {text!r}, its port must be 1 to {MAX_PORT}")
        return cls(found["v6"] or found["host"], port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def require_port(label: str, value: int) -> None:
    """Raise `ParameterError` unless `value` is a port, or 0 for a free one."""
    require_whole(label, value, 0, MAX_PORT)


def require_number_address(label: str, value: str) -> None:
    """Raise `ParameterError` unless `value` is an IP address: Envoy binds no names."""
    try:
        ipaddress.ip_address(value)
    except ValueError as error:
        raise ParameterError(
            f"{label} is {value!r}, must be an address by number, such as 127.0.0.1 or 0.0.0.0"
        ) from error


def require_pair(first: str, a: object, second: str, b: object) -> None:
    """Raise `ParameterError` unless both are given or neither."""
    if (a is None) != (b is None):
        given, missing = (first, second) if b is None else (second, first)
        raise ParameterError(f"{given} is given, {missing} is not; both must be, or neither")
