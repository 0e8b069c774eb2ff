"""Workers that come and go, fail and return."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from brsolver.errors import StateError
from integration.picker.asks import End
from integration.picker.events import WorkerChanged
from integration.picker.workers import Witness

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.cluster.session import ClusterSession
    from integration.picker.books import Books
    from integration.picker.events import Event
    from integration.picker.params import PickerParams, WorkerSpec
    from integration.picker.workers import Worker, Workers

WORKERS_FAULT = frozenset({End.RESET, End.TIMEOUT, End.WORKER_DIED})
"""Ends that a worker is to blame for. Not `End.REJECTED`: a client can have those at will."""
_NEVER = float("inf")


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
        """Let a worker take requests; return its index: that of one that is gone, or a new one.

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

    def keep(self, worker: int, spec: WorkerSpec) -> bool:
        """Let a worker take requests, so many and so long at once, also one that was to go.

        What it runs beyond that runs on.

        Parameters
        ----------
        worker : int
        spec : WorkerSpec
            Of which `slots` and `capacity` are taken in; None is the parameters' own.

        Returns
        -------
        bool
            Whether it was still there.

        Raises
        ------
        ParameterError
            There are more than a step has tokens.
        """
        found = self._workers[worker]
        if found.gone:
            return False
        self._workers.check(replace(found.spec, slots=spec.slots))
        found.give_room(spec, self._params)
        self._session.state.slots[worker] = found.slots
        self._session.state.set_capacity(worker, found.capacity)
        if found.draining:
            found.draining = False
            self._say(found, found.state, "it is back")
        return True

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

    def down(self, worker: int, now: float, why: str) -> None:
        """Give a worker no requests until somebody says that it is up."""
        self._take_down(self._workers[worker], Witness.OPERATOR, now, why, until_s=_NEVER)

    def up(self, worker: int, why: str = "") -> None:
        """Give a worker requests again, whoever said that it is down.

        Raises
        ------
        StateError
            It is gone.
        """
        found = self._workers[worker]
        if found.gone:
            raise StateError(f"worker {worker} is gone, must be added anew")
        self._lives(found)
        found.failures.clear()
        self._lift(found, list(found.down_until), why)

    def ended(self, worker: int, end: End, now: float) -> None:
        """Take in how a request at a worker ended."""
        found = self._workers[worker]
        if end in WORKERS_FAULT:
            self._failed(found, Witness.REQUESTS, now, f"{end} of a request")
        elif end is End.FINISHED:
            self.answered(worker)

    def answered(self, worker: int) -> None:
        """Take in that a worker has generated something."""
        found = self._workers[worker]
        found.failures.pop(Witness.REQUESTS, None)
        self._lives(found)

    def reported(self, worker: int, now: float, *, ok: bool, why: str) -> None:
        """Take in that a worker answered a probe, or that it failed to.

        An answer brings back whom probes took down. Whom requests took down answers probes, too.
        """
        found = self._workers[worker]
        if found.gone:
            return
        if not ok:
            self._failed(found, Witness.PROBES, now, why)
            return
        found.failures.pop(Witness.PROBES, None)
        if Witness.PROBES in found.down_until:
            if not found.failures:
                self._lives(found)
            self._lift(found, [Witness.PROBES], why)

    def tend(self, now: float) -> None:
        """Do what time has come for: try workers again, let lost streams go."""
        for worker in self._workers:
            if not worker.is_down:
                continue
            if worker.reserved and self._lost_at(worker) <= now:
                self._calls.lost(worker.index, End.WORKER_DIED)
            due = [who for who, until_s in worker.down_until.items() if until_s <= now]
            if due:
                self._try_again(worker, due)

    def next_s(self) -> float:
        """Return when there is something to tend to; infinity if there is nothing."""
        times = [_NEVER]
        for worker in self._workers:
            if worker.is_down:
                times += worker.down_until.values()
                if worker.reserved:
                    times.append(self._lost_at(worker))
        return min(times)

    def _failed(self, worker: Worker, witness: Witness, now: float, why: str) -> None:
        if worker.gone:
            return
        failures = worker.failures[witness] = worker.failures.get(witness, 0) + 1
        if failures >= self._params.down_after:
            reason = f"{failures} failures in a row, the last: {why}"
            self._take_down(worker, witness, now, reason, until_s=now + self._params.down_s)

    def _take_down(
        self, worker: Worker, witness: Witness, now: float, why: str, *, until_s: float
    ) -> None:
        if worker.gone:
            return
        was_down = worker.is_down
        worker.down_until[witness] = until_s
        worker.trial = None
        if worker.suspect_since_s is None:
            worker.suspect_since_s = now
        if not was_down:
            self._say(worker, "down", why)

    def _try_again(self, worker: Worker, due: list[Witness]) -> None:
        for witness in due:
            # The next failure takes it down at once.
            worker.failures[witness] = self._params.down_after - 1
        # One request is enough to find out, and all that a worker that hangs shall have.
        worker.trial = worker.reserved + 1
        self._lift(worker, due, "tried again")

    def _lift(self, worker: Worker, witnesses: list[Witness], why: str) -> None:
        was_down = worker.is_down
        for witness in witnesses:
            del worker.down_until[witness]
        if was_down and not worker.is_down:
            self._say(worker, worker.state, why)

    def _lives(self, worker: Worker) -> None:
        worker.trial = None
        worker.suspect_since_s = None

    def _lost_at(self, worker: Worker) -> float:
        return (worker.suspect_since_s or 0.0) + self._params.lost_s

    def _say(self, worker: Worker, what: str, why: str) -> None:
        self._calls.emit(WorkerChanged(worker.index, what, why))
