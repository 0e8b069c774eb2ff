"""In processes of this machine, each with one thread."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brsolver.errors import BrsolverError, StateError
from brsolver.executors._base import MOST_ATTEMPTS, THREAD_VARIABLES, Lost

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from brsolver.executors._base import Function

_ENDED = "a worker process ended abruptly"


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


@dataclass(slots=True, kw_only=True)
class _Begun:
    """A task, and how often it was begun."""

    number: int
    task: object
    attempts: int = 0


class LocalLane:
    """Tasks in a pool of processes, which is made anew if one of them is killed; see `Lane`.

    No more tasks are in the pool than it has processes: a process that is killed costs these, and
    they are begun again.
    """

    def __init__(self, jobs: int, function: Function, shared: Mapping[str, object]) -> None:
        self.slots = jobs
        self._payload = pickle.dumps((function, shared), pickle.HIGHEST_PROTOCOL)
        self._waiting: deque[_Begun] = deque()
        self._running: dict[Future[object], _Begun] = {}
        self._ended: deque[tuple[int, Any]] = deque()
        self._count = 0
        self._before = set(multiprocessing.active_children())
        self._context = multiprocessing.get_context("spawn")
        self._started = self._context.Event()
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, task: object) -> int:
        """Hand in a task; see `Lane.submit`."""
        number, self._count = self._count, self._count + 1
        self._waiting.append(_Begun(number=number, task=task))
        self._fill()
        return number

    def next(self) -> tuple[int, Any]:
        """Wait for a task that ends; see `Lane.next`."""
        while not self._ended:
            if not self._running and not self._waiting:
                raise StateError("no task is under way, must be handed in first")
            self._fill()
            done, _ = wait(self._running, return_when=FIRST_COMPLETED)
            # By number, so that tasks which end together are told of in one order.
            for future in sorted(done, key=lambda each: self._running[each].number):
                self._take(future)
        self._fill()
        return self._ended.popleft()

    def close(self) -> None:
        """End all processes: without this, one that was interrupted would go on for minutes."""
        if self._pool is None:
            return
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._running:
            for child in set(multiprocessing.active_children()) - self._before:
                child.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self.slots:
            begun = self._waiting.popleft()
            begun.attempts += 1
            try:
                future = self._processes().submit(_call, begun.task)
            except BrokenProcessPool:
                # It broke since it was last looked at; the ones under way will say so.
                begun.attempts -= 1
                self._waiting.appendleft(begun)
                if self._running:
                    return
                self._renew()
            else:
                self._running[future] = begun

    def _processes(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.slots,
                mp_context=self._context,
                initializer=_start,
                initargs=(self._started, self._payload),
            )
        return self._pool

    def _take(self, future: Future[object]) -> None:
        begun = self._running.pop(future, None)
        if begun is None:
            return
        try:
            self._ended.append((begun.number, future.result()))
        except BrokenProcessPool as error:
            self._broken([begun, *self._running.values()], error)
        except Exception as error:  # noqa: BLE001 # one task's mistake is not another's
            self._ended.append((begun.number, Lost.raised(error)))

    def _broken(self, costs: list[_Begun], error: BrokenProcessPool) -> None:
        self._running.clear()
        self._renew()
        if not self._started.is_set():
            raise BrsolverError(
                f"{_ENDED} before it did anything: either for lack of memory (try fewer jobs), or "
                'because the calling script has no if __name__ == "__main__": guard around its top '
                "level (add one, or use jobs=1)"
            ) from error
        for begun in sorted(costs, key=lambda each: each.number, reverse=True):
            if begun.attempts < MOST_ATTEMPTS:
                self._waiting.appendleft(begun)
            else:
                reason = (
                    f"{_ENDED} {begun.attempts} times, maybe for lack of memory: try fewer jobs"
                )
                self._ended.append((begun.number, Lost(reason=reason)))

    def _renew(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


_here: dict[str, Any] = {}
"""The function of this worker process, and what its tasks share."""


def _start(started: Any, payload: bytes) -> None:
    # The terminal sends Ctrl-C to the whole group; the parent alone is to speak about it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Before numpy is imported: this module and its imports leave that to what is in the payload.
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    _here["function"], _here["shared"] = pickle.loads(payload)  # noqa: S301 # our own bytes
    started.set()


def _call(task: object) -> object:
    return _here["function"](task, _here["shared"])
