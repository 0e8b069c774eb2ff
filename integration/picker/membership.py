"""Workers that come and go, fail and return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brsolver.errors import StateError
from integration.picker.asks import End
from integration.picker.events import WorkerChanged

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.cluster.session import ClusterSession
    from integration.picker.books import Books
    from integration.picker.events import Event
    from integration.picker.params import PickerParams, WorkerSpec
    from integration.picker.workers import Worker, Workers

WORKERS_FAULT = frozenset({End.RESET, End.TIMEOUT, End.WORKER_DIED})
"""Ends that a worker is to blame for. Not `End.REJECTED`: a client can have those at will."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Whom the membership tells.

    Attributes
    ----------
    emit : callable
        Told events.
    lost : callable
        Told a worker all of whose streams are lost, and how they ended.
    emptied : callable
        Told a worker that begins anew, or that is gone: what was known of it no longer holds.
    """

    emit: Callable[[Event], None]
    lost: Callable[[int, End], int]
    emptied: Callable[[Worker], None]


class Membership:
    """Adds and retires workers, and takes those down that fail.

    Parameters
    ----------
    params : PickerParams
    workers : Workers
    session : ClusterSession
    books : Books
    calls : Calls
    """

    def __init__(
        self,
        params: PickerParams,
        workers: Workers,
        *,
        session: ClusterSession,
        books: Books,
        calls: Calls,
    ) -> None:
        self._params = params
        self._workers = workers
        self._session = session
        self._books = books
        self._calls = calls

    def add(self, spec: WorkerSpec) -> int:
        """Let a worker take requests; return its index: a namesake's that is gone, or a new one.

        Raises
        ------
        ParameterError
            There is one of that name, or it has more slots than a step has tokens.
        """
        worker, state = self._workers.made(spec), self._session.state
        if worker.index < len(self._workers):
            state.restore_worker(worker.index, worker.slots, worker.capacity)
        else:
            state.add_worker(worker.slots, worker.capacity)
        self._workers.put(worker)
        self._calls.emptied(worker)
        self._say(worker, "added", "")
        return worker.index

    def retire(self, worker: int, why: str = "") -> None:
        """Give a worker no more requests; once it has none, it is gone."""
        found = self._workers[worker]
        if found.gone or found.draining:
            return
        found.draining = True
        self._say(found, "draining", why)
        self.drained(found)

    def drained(self, worker: Worker) -> None:
        """Take a worker away that is to go, if it has no more requests."""
        if not worker.draining or worker.gone or worker.reserved:
            return
        worker.gone = True
        self._books.ranks.drop(worker.index)
        self._session.state.remove_worker(worker.index)
        self._calls.emptied(worker)
        self._say(worker, "gone", "")

    def down(self, worker: int, now: float, why: str, *, again_s: float | None = None) -> None:
        """Give a worker no requests until it is up again.

        Parameters
        ----------
        worker : int
        now : float
        why : str
        again_s : float, optional
            After how long it is tried again; None: when somebody says that it is up.
        """
        found = self._workers[worker]
        if found.gone:
            return
        found.up_again_s = None if again_s is None else now + again_s
        if found.is_down:
            return
        found.is_down, found.down_since_s = True, now
        self._say(found, "down", why)

    def up(self, worker: int, why: str = "") -> None:
        """Give a worker requests again.

        Raises
        ------
        StateError
            It is gone.
        """
        found = self._workers[worker]
        if found.gone:
            raise StateError(f"worker {worker} is gone, must be added anew")
        found.failures = 0
        if found.is_down:
            self._restore(found, why)

    def ended(self, worker: int, end: End, now: float) -> None:
        """Take in how a request at a worker ended."""
        found = self._workers[worker]
        if end in WORKERS_FAULT:
            self.reported(worker, now, ok=False, why=f"{end} of a request")
        elif end is End.FINISHED:
            found.failures = 0
        self.drained(found)

    def reported(self, worker: int, now: float, *, ok: bool, why: str) -> None:
        """Take in that a worker answered, or that it failed."""
        found = self._workers[worker]
        if found.gone:
            return
        if ok:
            self.up(worker, why)
            return
        found.failures += 1
        if found.failures >= self._params.down_after and not found.is_down:
            reason = f"{found.failures} failures in a row, the last: {why}"
            self.down(worker, now, reason, again_s=self._params.down_s)

    def tend(self, now: float) -> None:
        """Do what time has come for: try workers again, let lost streams go."""
        for worker in self._workers:
            if not worker.is_down:
                continue
            if self._lost_at(worker) <= now and worker.reserved:
                self._calls.lost(worker.index, End.WORKER_DIED)
            if worker.up_again_s is not None and worker.up_again_s <= now:
                # The next failure takes it down at once.
                worker.failures = self._params.down_after - 1
                self._restore(worker, "tried again")

    def next_s(self) -> float:
        """Return when there is something to tend to; infinity if there is nothing."""
        times = [float("inf")]
        for worker in self._workers:
            if worker.is_down:
                if worker.reserved:
                    times.append(self._lost_at(worker))
                if worker.up_again_s is not None:
                    times.append(worker.up_again_s)
        return min(times)

    def _lost_at(self, worker: Worker) -> float:
        return (worker.down_since_s or 0.0) + self._params.lost_s

    def _restore(self, worker: Worker, why: str) -> None:
        worker.is_down = False
        worker.down_since_s = worker.up_again_s = None
        self._say(worker, worker.state, why)

    def _say(self, worker: Worker, what: str, why: str) -> None:
        self._calls.emit(WorkerChanged(worker.index, what, why))
