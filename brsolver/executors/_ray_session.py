"""Being connected to a Ray cluster for a while."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from brsolver.errors import BrsolverError, ParameterError
from brsolver.executors._threads import one_thread_each

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECT_S = 5.0
"""How long a cluster may take to accept a connection, and again to answer."""
HERE = "local"
"""Ray's own word for a cluster that is started anew."""

_ADDRESS = "RAY_ADDRESS"
_AUTHENTICATION = "RAY_AUTH_MODE"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""What a client of gRPC begins with: RFC 9113, section 3.4, and empty settings."""
_HEAD_BYTES, _TYPE_AT, _SETTINGS = 9, 3, 4
"""A frame's head, where in it the type stands, and that of settings: section 4.1 and 6.5."""


@contextmanager
def connected(ray: Any, address: str | None, jobs: int | None) -> Iterator[bool]:
    """Be connected while the block runs; whoever is connected already stays so.

    Parameters
    ----------
    ray : module
    address : str or None
        None: the one that the environment names by ``RAY_ADDRESS``, or one that is started here
        and ended again.
    jobs : int or None
        Processors of one that is started here.

    Yields
    ------
    bool
        Whether it was started here, with one thread for each process.

    Raises
    ------
    ParameterError
        The address is none.
    BrsolverError
        The cluster cannot be reached.
    """
    if ray.is_initialized():
        yield False
        return
    address = address or os.environ.get(_ADDRESS) or HERE
    with _own_signals(), _own_output(), _own_authentication(ray):
        _connect(ray, address, jobs)
        try:
            yield address == HERE
        finally:
            ray.shutdown()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Put back the handling of SIGTERM, which Ray replaces."""
    ours = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if ours and before is not None:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _own_authentication(ray: Any) -> Iterator[None]:
    """Put back how this process speaks to clusters.

    One that Ray starts here wants a token, and so this process from then on: the nodes of another
    that has none could not reach it.
    """
    before = os.environ.get(_AUTHENTICATION)
    try:
        yield
    finally:
        if os.environ.get(_AUTHENTICATION) != before:
            os.environ.pop(_AUTHENTICATION, None)
            if before is not None:
                os.environ[_AUTHENTICATION] = before
            # Ray has read them, and keeps what it read.
            with suppress(AttributeError):
                ray._raylet.Config.initialize("")  # noqa: SLF001 # nothing public does it
                ray._raylet.AuthenticationTokenLoader.instance().reset_cache()  # noqa: SLF001


@contextmanager
def _own_output() -> Iterator[None]:
    """Keep to Ray what it has to say of nodes and processes that end.

    It prints that on standard output, where results belong, and has no option against it.
    """
    printer = "print_to_stdstream"
    worker: Any = sys.modules.get("ray._private.worker")
    before = getattr(worker, printer, None)
    if before is None:
        yield
        return
    setattr(worker, printer, lambda *_, **__: None)
    try:
        yield
    finally:
        setattr(worker, printer, before)


def _connect(ray: Any, address: str, jobs: int | None) -> None:
    _require_reachable(address)
    given: dict[str, Any] = {"address": address}
    if address == HERE:
        given |= {"num_cpus": jobs, "include_dashboard": False}
    try:
        # One line of ours is enough if it fails, and results are all that belongs on stdout.
        with one_thread_each() if address == HERE else nullcontext():
            ray.init(**given, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        ray.shutdown()
        raise _unreachable(address, str(error)) from error


def _require_reachable(address: str) -> None:
    """Raise within seconds where Ray itself would try for a minute, and then end the process."""
    if address in ("auto", HERE):
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65_536):
        raise ParameterError(
            f"ray_address is {address!r}, must be HOST:PORT, ray://HOST:PORT or auto"
        )
    try:
        answer = _greeted(host.strip("[]"), int(port))
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from error
    if answer is not None and answer[_TYPE_AT : _TYPE_AT + 1] != bytes([_SETTINGS]):
        raise _unreachable(address, "what listens there does not answer as Ray does")


def _greeted(host: str, port: int) -> bytes | None:
    """Return the head of the first frame that a server of gRPC answers with.

    None where connections are encrypted, so that nothing can be told without certificates.
    """
    with socket.create_connection((host, port), timeout=CONNECT_S) as stream:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return None
        stream.sendall(_PREFACE)
        head = b""
        while len(head) < _HEAD_BYTES and (more := stream.recv(_HEAD_BYTES - len(head))):
            head += more
        return head


def _unreachable(address: str, cause: str) -> BrsolverError:
    line = " ".join(cause.split())
    if address == HERE:
        return BrsolverError(f"no Ray cluster can be started here: {line[:200]}")
    named = os.environ.get(_ADDRESS) == address
    remedy = f"unset {_ADDRESS}, which names it," if named else "leave the address out"
    return BrsolverError(
        f"no Ray cluster can be reached at {address}: {line[:200]}; start one with "
        f"ray start --head, or {remedy} to have one started here"
    )
