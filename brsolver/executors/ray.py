"""On a Ray cluster: one of this machine that is started for it, or a given one."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from brsolver._code import own_code
from brsolver._version import __version__
from brsolver.errors import BrsolverError, MissingExtraError, StateError
from brsolver.executors._base import (
    MOST_ATTEMPTS,
    NOTHING_UNDER_WAY,
    Begun,
    Lost,
    tell_begun_again,
)
from brsolver.executors._ray_node import OtherVersion, Payload, carry_out_there, extra_paths
from brsolver.executors._ray_session import connected
from brsolver.executors._threads import THREAD_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from brsolver.executors._base import Function
    from brsolver.executors._ray_session import Connection

MOST_AHEAD = 1000
"""Tasks that Ray is given ahead where `jobs` sets no limit: enough for hundreds of processors, and
few enough to look at them all."""
PATIENCE_S = 10.0
"""Seconds without a result after which the cluster is asked whether it has a processor at all."""
_ANYTHING_LOST = object()


class RayExecutor:
    """Carries out calls as Ray tasks of one processor each.

    A task whose process or node is killed is begun again elsewhere. What tasks share is put into
    the object store once, and taken out of it by each process once.

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

        A process that is connected to a cluster already uses that one, and stays connected.

        Raises
        ------
        BrsolverError
            The cluster cannot be reached, or its head is lost.
        """
        with connected(self._ray, self.address, self.jobs) as connection:
            lane = RayLane(self._ray, function, shared or {}, self.jobs, connection)
            try:
                yield lane
            finally:
                lane.close()


class RayLane:
    """Tasks of a Ray cluster; see `Lane`.

    Ray itself begins nothing again: what a lost process costs is counted here, as for local ones.
    """

    def __init__(
        self,
        ray: Any,
        function: Function,
        shared: Mapping[str, object],
        jobs: int | None,
        connection: Connection,
    ) -> None:
        self._ray = ray
        self._connection = connection
        self._jobs = jobs
        self._dumps = ray.cloudpickle.dumps  # what only the calling script knows goes by value
        payload = Payload(
            version=__version__,
            code=own_code(),
            paths=extra_paths(),
            function=self._dumps(function),
            shared={name: self._put(value) for name, value in shared.items()},
        )
        self._payload = ray.put(payload)
        # Processes of a cluster that others started are started anew for it: seconds.
        limits = None if connection.limited else {"env_vars": dict.fromkeys(THREAD_VARIABLES, "1")}
        self._remote = ray.remote(carry_out_there).options(
            num_cpus=1, max_retries=0, runtime_env=limits
        )
        self._waiting: deque[Begun] = deque()
        self._running: dict[Any, Begun] = {}
        self._ready: deque[Any] = deque()
        self._count = 0

    @property
    def slots(self) -> int:
        """Tasks that run at once: the cluster's processors, or fewer if so asked."""
        found = max(1, self._processors())
        return found if self._jobs is None else min(found, self._jobs)

    def submit(self, task: object) -> int:
        """Hand in a task; see `Lane.submit`."""
        number, self._count = self._count, self._count + 1
        self._waiting.append(Begun(number=number, task=self._dumps(task)))
        self._hand_out()
        return number

    def next(self) -> tuple[int, Any]:
        """Wait for a task that ends; see `Lane.next`."""
        while True:
            self._hand_out()
            if not self._running:
                raise StateError(NOTHING_UNDER_WAY)
            reference = self._first_ready()
            begun = self._running.pop(reference)
            result = self._result(reference, begun)
            # Whoever is free works on while the caller looks at what has ended.
            self._hand_out()
            if result is not _ANYTHING_LOST:
                return begun.number, result

    def close(self) -> None:
        """End what still runs."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        self._waiting.clear()

    def _put(self, value: object) -> Any:
        import numpy as np

        # Pickled, for arrays of the object store cannot be written to: another type to kernels,
        # which would be compiled again for it. As an array, which is read where it lies.
        return self._ray.put(np.frombuffer(self._dumps(value), np.uint8))

    def _processors(self) -> int:
        return int(self._ray.cluster_resources().get("CPU", 0))

    def _hand_out(self) -> None:
        most = self._jobs or MOST_AHEAD
        while self._waiting and len(self._running) < most:
            begun = self._waiting.popleft()
            begun.attempts += 1
            self._running[self._remote.remote([self._payload], begun.task)] = begun

    def _first_ready(self) -> Any:
        while not self._ready:
            running = list(self._running)
            found, _ = self._ray.wait(running, num_returns=1, timeout=PATIENCE_S)
            if found:
                # All that are there at once: each look goes through all that run.
                found, _ = self._ray.wait(running, num_returns=len(running), timeout=0)
                self._ready.extend(found)
                continue
            self._connection.check()
            if not self._processors():
                logging.getLogger(__name__).warning(
                    "the Ray cluster has no processor; waiting for a node that has one"
                )
        return self._ready.popleft()

    def _result(self, reference: Any, begun: Begun) -> Any:
        """Return what a task gave, or hand it in again if it was lost on the way."""
        errors = self._ray.exceptions
        try:
            result = self._ray.get(reference)
        except errors.RayTaskError as error:
            return Lost.raised(error.cause if error.cause is not None else error)
        except errors.RayError as error:
            if begun.attempts < MOST_ATTEMPTS:
                tell_begun_again(begun, type(error).__name__)
                self._waiting.appendleft(begun)
                return _ANYTHING_LOST
            return _lost(error, begun.attempts)
        if isinstance(result, OtherVersion):
            raise _other(result)
        return result


def _other(there: OtherVersion) -> BrsolverError:
    found, here = there.version, __version__
    if found == here:
        found, here = f"{found} with code {there.code}", f"that with code {own_code()}"
    return BrsolverError(f"node {there.node} has brsolver {found}, must be {here} as here")


def _lost(error: Exception, attempts: int) -> Lost:
    first = str(error).strip().partition("\n")[0]
    return Lost(
        reason=f"its process or node ended abruptly {attempts} times: {type(error).__name__}: "
        f"{first[:200]}"
    )
