"""What can be known to go wrong before anything is started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from importlib.util import find_spec
from typing import TYPE_CHECKING

from brsolver.errors import BrsolverError, MissingExtraError
from integration.doors.trust import trusting
from integration.serve.places import LOOPBACK
from integration.serve.sources import specs_of
from integration.settings import named

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
    """Refuse certificates and keys that cannot be used, and a record that cannot be written.

    Raises
    ------
    PreflightError
        Names the setting, the file and the cause.
    """
    for table, pair in (("[listen]", config.listen), ("[picker]", config.picker)):
        for key in ("certificate", "key"):
            _check_readable(config, f"{table} {key}", getattr(pair, key))
        if pair.certificate is not None and pair.key is not None:
            _check_pair(config, table, pair.certificate, pair.key)
    ca, record = config.workers.ca, config.trace.record
    _check_readable(config, "[workers] ca", ca)
    if ca is not None:
        with named(None, "[workers]"):
            trusting(config.path(ca))
    if record is not None and config.path(record).is_dir():
        raise PreflightError(f"[trace] record is {record!r}, must be a file: it is a directory")


def _check_readable(config: ServeConfig, setting: str, name: str | None) -> None:
    if name is None:
        return
    try:
        config.path(name).open("rb").close()
    except (OSError, ValueError) as error:
        # A path may hold what no path can.
        reason = getattr(error, "strerror", None) or str(error)
        raise PreflightError(
            f"{setting} is {name!r}, must be a file that can be read: {reason}"
        ) from error


def _check_pair(config: ServeConfig, table: str, certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A key that needs a password must not make anything ask for one.
        context.load_cert_chain(config.path(certificate), config.path(key), password="")
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        raise PreflightError(
            f"{table} certificate is {certificate!r} and key {key!r}, must be PEM files that "
            f"belong together, the key without a password: {reason}"
        ) from error


async def check_workers(addresses: Iterable[str], setting: str) -> list[str]:
    """Return the workers that cannot be reached, with the reason; at least one must be.

    A front door that is started again while a worker is down must not stay away for that.

    Parameters
    ----------
    addresses : iterable of str
    setting : str
        What names them.

    Raises
    ------
    PreflightError
        If none can be reached.
    """
    addresses = list(dict.fromkeys(addresses))
    reasons = await asyncio.gather(*(_unreached(address) for address in addresses))
    missing = [f"{who} ({why})" for who, why in zip(addresses, reasons, strict=True) if why]
    if addresses and all(reasons):
        raise PreflightError(
            f"{setting} names workers of which at least one must be reachable; none is: "
            f"{', '.join(missing)}"
        )
    return missing


async def _unreached(address: str) -> str:
    """Return why there is no connection to an address; empty if there is one."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except TimeoutError:
        return f"no answer within {CONNECT_S:g} s"
    except socket.gaierror as error:
        return str(error.strerror).lower()
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None)
        return os.strerror(number).lower() if number else str(error)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return ""


async def preflight(config: ServeConfig, *, envoy: bool, apart: bool = False) -> list[str]:
    """Look whether ports are free and workers can be reached; return what to warn of.

    Parameters
    ----------
    config : ServeConfig
    envoy : bool
        Whether there is an Envoy beside the picker.
    apart : bool
        Whether that may be there already.

    Raises
    ------
    PreflightError
        A port is taken, or no worker can be reached.
    """
    wanted = {
        "[admin] port": (config.admin.host, config.admin.port),
        "[picker] grpc_port": (config.picker.host, config.picker.grpc_port),
    }
    if envoy:
        wanted["[picker] port"] = (config.picker.host, config.picker.port)
    if envoy and not apart:
        wanted |= {
            "[listen] port": (config.listen.host, config.listen.port),
            "[envoy] admin_port": (LOOPBACK, config.envoy.admin_port),
        }
    with named(config.file):
        check_ports(wanted)
        check_files(config)
        addresses = await asyncio.to_thread(_addresses, config, envoy=envoy)
        unreached = await check_workers(addresses, _setting(config))
    return [
        f"worker {missing} cannot be reached; it gets no requests until it can"
        for missing in unreached
    ]


def _setting(config: ServeConfig) -> str:
    """Return what names the workers that are looked for."""
    whence = config.workers.whence
    given = (name for name in ("file", "dns") if getattr(whence, name) is not None)
    return "[tiers]" if config.tiers is not None else whence.label(next(given, "addresses"))


def _addresses(config: ServeConfig, *, envoy: bool) -> list[str]:
    """Return the workers that can be looked for: named in the settings, a file, or by a name.

    Pods that are to be picked may come after their picker, and a service is asked while serving.
    """
    tiers, found = config.tiers, []
    for whence in [config.decoding] if tiers is None else [tiers.prefilling, tiers.decoding]:
        if envoy and not whence.addresses:
            # The picker says which names are not known.
            specs = specs_of(whence, config.folder, lambda _: None)
            found += [each.address for each in specs]
        found += whence.addresses
    return found
