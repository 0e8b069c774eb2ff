"""Being connected to a Ray cluster for a while."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from brsolver.errors import BrsolverError, ParameterError
from brsolver.executors._ray_greeting import UNAUTHENTICATED, Greeting, greeted, reachable
from brsolver.executors._threads import one_thread_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONNECT_S = 5.0
"""How long a cluster may take to accept a connection, and again to answer."""
HERE = "local"
"""Ray's own word for a cluster that is started anew."""

_ADDRESS = "RAY_ADDRESS"
_AUTHENTICATION = "RAY_AUTH_MODE"
_BY_SIGNAL = 128
"""Beyond which shells tell a signal's number by the status."""
_CLIENTS = "ray://"
_OF_CLUSTER, _OF_CLIENTS = (
    "/ray.rpc.NodeInfoGcsService/CheckAlive",
    "/ray.rpc.RayletDriver/ClusterInfo",
)
"""Methods that cost nothing, of a cluster's head and of its server of clients."""


class HeadLostError(BrsolverError):
    """The head of a cluster does not answer any more."""


class Connection:
    """A cluster that this process is connected to.

    Parameters
    ----------
    ray : module
    address : str or None
        None where somebody else has connected.
    """

    def __init__(self, ray: Any, address: str | None) -> None:
        self.limited = address == HERE
        """Whether it was started here, with one thread for each process."""
        self._address = address or ""
        if address is not None and not address.startswith(_CLIENTS):
            self._address = ray.get_runtime_context().gcs_address

    def check(self) -> None:
        """Raise `HeadLostError` where the head does not answer: Ray would end the process."""
        if not self._address:
            return
        try:
            reachable(_place(self._address), CONNECT_S)
        except OSError as error:
            raise HeadLostError(
                f"the head of the Ray cluster at {self._address} does not answer any more "
                f"({error.strerror or error}), must live as long as the command: start one, and "
                "this command again; what was kept is not computed again"
            ) from error


@contextmanager
def connected(ray: Any, address: str | None, jobs: int | None) -> Iterator[Connection]:
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
    Connection

    Raises
    ------
    ParameterError
        The address is none.
    BrsolverError
        The cluster cannot be reached.
    """
    if ray.is_initialized():
        yield Connection(ray, None)
        return
    address = address or os.environ.get(_ADDRESS) or HERE
    with _own_signals() as take_back, _own_output(), _own_authentication(ray):
        _connect(ray, address, jobs)
        take_back()
        try:
            yield Connection(ray, address)
        except HeadLostError:
            # It would wait for the head until Ray ends the process.
            raise
        except BaseException:
            ray.shutdown()
            raise
        ray.shutdown()


@contextmanager
def _own_signals() -> Iterator[Callable[[], None]]:
    """Keep the handling of SIGTERM, which Ray replaces: it would print where in the code it came.

    Yields what takes it back, to be called once Ray has connected. Where nobody handles it the
    command then ends as by Ctrl-C: what was started for it ends as well.
    """
    ours = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    told: list[int] = []

    def end(number: int, _frame: object) -> None:
        told.append(number)
        raise SystemExit(_BY_SIGNAL + number)

    def handle_by(handler: Any) -> None:
        if ours and before is not None:
            signal.signal(signal.SIGTERM, handler)

    try:
        yield lambda: handle_by(end if before is signal.SIG_DFL else before)
    except SystemExit:
        if told:
            # Ray makes it one with a status of its own.
            raise SystemExit(_BY_SIGNAL + told[0]) from None
        raise
    finally:
        handle_by(before)


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
            _read_again(ray)


def _read_again(ray: Any) -> None:
    """Have Ray look at the environment again, of which it keeps what it has read."""
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
    _require_reachable(ray, address)
    given: dict[str, Any] = {"address": address}
    if address == HERE:
        given |= {"num_cpus": jobs, "include_dashboard": False}
    try:
        # One line of ours is enough if it fails, and results are all that belongs on stdout.
        with one_thread_each() if address == HERE else nullcontext():
            ray.init(**given, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        ray.shutdown()
        raise _unreachable(address, str(error)) from error


def _require_reachable(ray: Any, address: str) -> None:
    """Raise within seconds where Ray itself would try for a minute, and then end the process."""
    if address in ("auto", HERE):
        return
    place = _place(address)
    try:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            # Encrypted, so that nothing more can be told without certificates.
            reachable(place, CONNECT_S)
            return
        answer = _greeted(ray, place, clients=address.startswith(_CLIENTS))
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from error
    if not answer.speaks:
        raise _unreachable(address, "what listens there does not answer as Ray does")
    if answer.status == UNAUTHENTICATED:
        raise BrsolverError(
            f"the Ray cluster at {address} does not take this process in: it wants a token, must "
            f"be given its own by {_AUTHENTICATION}=token and RAY_AUTH_TOKEN=... in the environment"
        )


def _greeted(ray: Any, place: tuple[str, int], *, clients: bool) -> Greeting:
    """Ask what is there, as Ray will: with the token of the user's folder if that is wanted."""
    method = _OF_CLIENTS if clients else _OF_CLUSTER
    own = _AUTHENTICATION in os.environ
    answer = greeted(place, method, _token(ray) if own else "", CONNECT_S)
    if own or answer.status != UNAUTHENTICATED:
        return answer
    # Clusters begin with the kept token by themselves; processes do not speak by it unasked. Only
    # now: one that Ray has looked at is asked for by this process as well, of other nodes.
    answer = greeted(place, method, _token(ray), CONNECT_S)
    if answer.status != UNAUTHENTICATED:
        os.environ[_AUTHENTICATION] = "token"
    _read_again(ray)
    return answer


def _place(address: str) -> tuple[str, int]:
    host, colon, port = address.removeprefix(_CLIENTS).rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65_536):
        raise ParameterError(
            f"ray_address is {address!r}, must be HOST:PORT, ray://HOST:PORT or auto"
        )
    return host.strip("[]"), int(port)


def _token(ray: Any) -> str:
    """Return what Ray says for itself where it is to: by the environment, or kept for the user."""
    # Older ones have no tokens, or are not asked for them like this.
    with suppress(AttributeError, TypeError, ray.exceptions.RayError):
        loader = ray._raylet.AuthenticationTokenLoader.instance()  # noqa: SLF001 # nothing public does it
        token = loader.get_raw_token(ignore_auth_mode=_AUTHENTICATION not in os.environ)
        return f"Bearer {token}" if token else ""
    return ""


def _said(cause: str) -> str:
    """Return what went wrong, where the cause is a traceback of another process."""
    errors = re.findall(r"^\w*(?:Error|Exception): .*", cause, re.MULTILINE)
    return str(errors[-1]) if errors and "Traceback" in cause else cause


def _unreachable(address: str, cause: str) -> BrsolverError:
    line = " ".join(_said(cause).split())
    if address == HERE:
        return BrsolverError(f"no Ray cluster can be started here: {line[:200]}")
    named = os.environ.get(_ADDRESS) == address
    remedy = f"unset {_ADDRESS}, which names it," if named else "leave the address out"
    return BrsolverError(
        f"no Ray cluster can be reached at {address}: {line[:200]}; start one with "
        f"ray start --head, or {remedy} to have one started here"
    )
