"""In processes of this machine, each with one thread."""

from __future__ import annotations

import multiprocessing
import pickle
from collections import deque
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from brsolver._code import own_code
from brsolver.errors import BrsolverError, StateError
from brsolver.executors._base import (
    MOST_ATTEMPTS,
    NOTHING_UNDER_WAY,
    Begun,
    Lost,
    tell_begun_again,
)
from brsolver.executors._process import DONE, READY, WANTED, WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from brsolver.executors._base import Function

ENDED = "a worker process ended abruptly"


class LocalExecutor:
    """Carries out calls in fresh processes.

    Each imports the calling script first, which must therefore keep its top level behind the guard
    ``if __name__ == "__main__":``.

    Parameters
    ----------
    jobs : int
        Processes.
    """

    name = "local"

    def __init__(self, *, jobs: int) -> None:
        self.jobs = jobs

    @contextmanager
    def open(
        self, function: Function, shared: Mapping[str, object] | None = None
    ) -> Iterator[LocalLane]:
        """Get ready; see `Executor.open`."""
        lane = LocalLane(self.jobs, function, shared or {})
        try:
            yield lane
        finally:
            lane.close()


class LocalLane:
    """Tasks in processes, one per process at a time; see `Lane`.

    A process that is killed costs the task that it had: another process begins it again.
    """

    def __init__(self, jobs: int, function: Function, shared: Mapping[str, object]) -> None:
        self.slots = jobs
        self._shared = shared
        payload = (function, tuple(shared), own_code())
        self._payload = pickle.dumps(payload, pickle.HIGHEST_PROTOCOL)
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[WorkerProcess] = []
        self._waiting: deque[Begun] = deque()
        self._ended: deque[tuple[int, Any]] = deque()
        self._count = 0
        self._any_ready = False

    def submit(self, task: object) -> int:
        """Hand in a task; see `Lane.submit`."""
        number, self._count = self._count, self._count + 1
        self._waiting.append(Begun(number=number, task=task))
        self._hand_out()
        return number

    def next(self) -> tuple[int, Any]:
        """Wait for a task that ends; see `Lane.next`."""
        while not self._ended:
            self._hand_out()
            busy = [worker for worker in self._workers if worker.begun is not None]
            if not busy:
                raise StateError(NOTHING_UNDER_WAY)
            ready = set(wait([worker.connection for worker in busy]))
            for worker in busy:
                if worker.connection in ready:
                    self._hear(worker)
        # Whoever is free works on while the caller looks at what has ended.
        self._hand_out()
        return self._ended.popleft()

    def close(self) -> None:
        """End all processes: without this, one that was interrupted would go on for minutes."""
        for worker in self._workers:
            worker.end()
        for worker in self._workers:
            worker.bury()
        self._workers.clear()

    def _hand_out(self) -> None:
        while self._waiting and (worker := self._free()) is not None:
            worker.begin(self._waiting.popleft())

    def _free(self) -> WorkerProcess | None:
        for worker in [each for each in self._workers if each.begun is None]:
            if worker.alive:
                return worker
            self._remove(worker)
        if len(self._workers) == self.slots:
            return None
        worker = WorkerProcess(self._context, self._payload)
        self._workers.append(worker)
        return worker

    def _hear(self, worker: WorkerProcess) -> None:
        """Take what a process says: an end of the stream says that it has died."""
        try:
            kind, value = worker.connection.recv()
        except (EOFError, OSError):
            self._lose(worker)
            return
        if kind == READY:
            self._any_ready = True
        elif kind == WANTED:
            worker.send(pickle.dumps(self._shared[value], pickle.HIGHEST_PROTOCOL))
        elif kind == DONE:
            self._ended.append((worker.finish().number, _unpacked(value)))

    def _lose(self, worker: WorkerProcess) -> None:
        begun, killed = worker.finish(), worker.killed
        self._remove(worker)
        again = begun.attempts < MOST_ATTEMPTS
        # What ends by itself as it starts would do so for ever.
        if not (self._any_ready or (killed and again)):
            raise BrsolverError(
                f"{ENDED} before it did anything: either for lack of memory (try fewer jobs), or "
                'because the calling script has no if __name__ == "__main__": guard around its top '
                "level (add one, or use jobs=1)"
            )
        if again:
            tell_begun_again(begun, ENDED)
            self._waiting.appendleft(begun)
            return
        reason = f"{ENDED} {begun.attempts} times, maybe for lack of memory: try fewer jobs"
        self._ended.append((begun.number, Lost(reason=reason)))

    def _remove(self, worker: WorkerProcess) -> None:
        self._workers.remove(worker)
        worker.end()
        worker.bury()


def _unpacked(result: bytes) -> Any:
    try:
        return pickle.loads(result)  # noqa: S301 # our own process wrote it
    except Exception as error:  # noqa: BLE001 # a stranger's object may raise anything
        return Lost.raised(error)
