"""On a Ray cluster: one of this machine that is started for it, or a given one."""

from __future__ import annotations

import logging
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from brsolver.errors import BrsolverError, MissingExtraError, ParameterError, StateError
from brsolver.executors._base import MOST_ATTEMPTS, THREAD_VARIABLES, Lost

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from brsolver.executors._base import Function

CONNECT_S = 5.0
"""How long a cluster may take to accept a connection."""


class RayExecutor:
    """Carries out calls as Ray tasks of one processor each.

    A task whose process or node is killed is begun again elsewhere. What tasks share is put into
    the object store once, and taken out once by each process.

    Parameters
    ----------
    address : str or None
        See `ExecutorParams.ray_address`.
    jobs : int or None
        Tasks under way at once, and processors of a cluster that is started here; None is as many
        as the cluster has processors.

    Raises
    ------
    MissingExtraError
        Ray is not installed.
    """

    name = "ray"

    def __init__(self, *, address: str | None = None, jobs: int | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingExtraError.for_extra("ray", "ray") from error
        self._ray = ray
        self.address = address
        self.jobs = jobs

    @contextmanager
    def open(
        self, function: Function, shared: Mapping[str, object] | None = None
    ) -> Iterator[RayLane]:
        """Connect, and get ready; see `Executor.open`.

        Raises
        ------
        BrsolverError
            The cluster cannot be reached.
        """
        connected = self._ray.is_initialized()
        if not connected:
            self._connect()
        lane = RayLane(self._ray, function, shared or {}, self.jobs)
        try:
            yield lane
        finally:
            lane.close()
            if not connected:
                self._ray.shutdown()

    def _connect(self) -> None:
        if self.address is not None:
            _require_reachable(self.address)
        # Ray says in its log what it does; one line of ours is enough if it fails.
        quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
        try:
            if self.address is None:
                self._ray.init(num_cpus=self.jobs, include_dashboard=False, **quiet)
            else:
                self._ray.init(address=self.address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise _unreachable(self.address or "local", str(error)) from error


def _require_reachable(address: str) -> None:
    """Raise within seconds where Ray itself would try for a minute."""
    if address in ("auto", "local"):
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65_536):
        raise ParameterError(
            f"ray_address is {address!r}, must be HOST:PORT, ray://HOST:PORT or auto"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from error


def _unreachable(address: str, cause: str) -> BrsolverError:
    line = " ".join(cause.split())
    return BrsolverError(
        f"no Ray cluster can be reached at {address}: {line[:200]}; start one with "
        "ray start --head, or leave the address out to have one started here"
    )


class RayLane:
    """Tasks of a Ray cluster; see `Lane`."""

    def __init__(
        self, ray: Any, function: Function, shared: Mapping[str, object], jobs: int | None
    ) -> None:
        self._ray = ray
        self._jobs = jobs
        self._shared = {name: ray.put(value) for name, value in shared.items()}
        self._remote = ray.remote(_call).options(
            num_cpus=1,
            max_retries=MOST_ATTEMPTS - 1,
            runtime_env={"env_vars": dict.fromkeys(THREAD_VARIABLES, "1")},
        )
        self._function = ray.put(function)
        self._waiting: list[tuple[int, object]] = []
        self._running: dict[Any, int] = {}
        self._count = 0

    @property
    def slots(self) -> int:
        """Tasks that run at once: the cluster's processors, or fewer if so asked."""
        found = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        return found if self._jobs is None else min(found, self._jobs)

    def submit(self, task: object) -> int:
        """Hand in a task; see `Lane.submit`."""
        number, self._count = self._count, self._count + 1
        self._waiting.append((number, task))
        self._fill()
        return number

    def next(self) -> tuple[int, Any]:
        """Wait for a task that ends; see `Lane.next`."""
        self._fill()
        if not self._running:
            raise StateError("no task is under way, must be handed in first")
        (reference,), _ = self._ray.wait(list(self._running), num_returns=1)
        number = self._running.pop(reference)
        return number, self._result(reference)

    def close(self) -> None:
        """End what still runs."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        self._waiting.clear()

    def _fill(self) -> None:
        # Without a limit all are handed over at once, and nodes that join later take their part.
        most = self._jobs or len(self._running) + len(self._waiting)
        while self._waiting and len(self._running) < most:
            number, task = self._waiting.pop(0)
            self._running[self._remote.remote(self._function, task, self._shared)] = number

    def _result(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            return Lost.raised(error.cause if error.cause is not None else error)
        except errors.RayError as error:
            reason = " ".join(str(error).split())
            return Lost(reason=f"{type(error).__name__}: {reason[:300]}")


_kept: dict[str, Any] = {}
"""What tasks of this process share, by reference."""


def _call(function: Function, task: object, shared: Mapping[str, Any]) -> object:
    return function(task, {name: _fetched(reference) for name, reference in shared.items()})


def _fetched(reference: Any) -> Any:
    import copy

    import ray

    key = reference.hex()
    if key not in _kept:
        # Arrays lie in the object store and cannot be written to: another type to kernels, which
        # would be compiled again for it.
        _kept[key] = copy.deepcopy(ray.get(reference))
    return _kept[key]
