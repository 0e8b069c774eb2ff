"""What can be known to go wrong before anything is started."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from importlib.util import find_spec
from typing import TYPE_CHECKING

from brsolver.errors import BrsolverError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from integration.settings import ServeConfig

CONNECT_S = 3.0
PACKAGES = ("aiohttp", "google.protobuf", "grpc", "httptools", "httpx", "prometheus_client")
"""What the picker imports besides what brsolver needs anyway."""


class PreflightError(BrsolverError, RuntimeError):
    """Something that serving needs is not there."""


def check_packages() -> None:
    """Refuse to begin without the packages of the extra ``proxy``.

    Raises
    ------
    MissingExtraError
        Names the first that is missing.
    """
    for package in PACKAGES:
        if not _installed(package):
            raise MissingExtraError.for_extra(package, "proxy")


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of the package that it stands in
        return False


def check_ports(wanted: Mapping[str, tuple[str, int]]) -> None:
    """Refuse ports that something else listens on.

    Parameters
    ----------
    wanted : mapping of str to (str, int)
        Host and port by the name of the setting; port 0 is always free.

    Raises
    ------
    PreflightError
        Names the setting, the address and the cause.
    """
    for name, (host, port) in wanted.items():
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            # A port whose last owner has just gone is free for a server, and is for this probe.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise PreflightError(
                    f"{name} is {host}:{port}, must be an address that is free here: "
                    f"{error.strerror or error}"
                ) from error


def check_files(config: ServeConfig) -> None:
    """Refuse certificates and keys that cannot be read.

    Raises
    ------
    PreflightError
        Names the setting, the file and the cause.
    """
    named = {
        "[listen] certificate": config.listen.certificate,
        "[listen] key": config.listen.key,
        "[workers] ca": config.workers.ca,
        "[picker] certificate": config.picker.certificate,
        "[picker] key": config.picker.key,
    }
    for setting, name in named.items():
        if name is None:
            continue
        try:
            config.path(name).open("rb").close()
        except OSError as error:
            raise PreflightError(
                f"{setting} is {name!r}, must be a file that can be read: {error.strerror}"
            ) from error


async def check_workers(addresses: Iterable[str]) -> list[str]:
    """Return the workers that cannot be reached; at least one must be.

    A front door that is started again while a worker is down must not stay away for that.

    Raises
    ------
    PreflightError
        If none can be reached.
    """
    addresses = list(dict.fromkeys(addresses))
    reached = await asyncio.gather(*(_reached(address) for address in addresses))
    missing = [address for address, there in zip(addresses, reached, strict=True) if not there]
    if addresses and not any(reached):
        raise PreflightError(
            f"workers are {', '.join(addresses)}, of which at least one must be reachable: "
            "no connection could be made to any"
        )
    return missing


async def _reached(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError, ValueError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
