"""The last minutes as the core told of them, in ring buffers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.hardware._step_kernels import GONE, N_SEQUENCES
from brsolver.hardware._step_kernels import N_TOKENS as KV_ROW
from integration.admin.buckets import N_ARRIVED, N_ENDED, N_REFUSED, N_TOKENS, Buckets
from integration.admin.params import WindowParams
from integration.admin.requests import EndedRequests, Live
from integration.picker.events import (
    NOWHERE,
    Decided,
    Ended,
    Fault,
    FirstToken,
    Refusal,
    Requested,
    Returned,
    Started,
    Stepped,
    WorkerChanged,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from integration.picker.events import Event

NAN = float("nan")


@dataclass(slots=True, kw_only=True)
class Worker:
    """What is known of a worker.

    Attributes
    ----------
    name : str
    state : str
        ``up``, ``down``, ``draining`` or ``gone``.
    why : str
    reserved : int
        Requests decided to go there, or there, which have not ended.
    """

    name: str
    state: str = "up"
    why: str = ""
    reserved: int = 0


@dataclass(slots=True, kw_only=True)
class Faulty:
    """Something that went wrong, once or several times in a row."""

    kind: str
    text: str
    at_s: float
    times: int = 1


class Window:
    """Listens to a core and keeps the last minutes.

    Parameters
    ----------
    workers : sequence of str
        Their names, by index.
    clock : callable
        The core's clock, seconds.
    params : WindowParams, optional
    name_of : callable, optional
        Returns the name of a worker that joins, by index.

    Attributes
    ----------
    buckets : Buckets
    ended : EndedRequests
    workers : list of Worker
    faults : deque of Faulty
        The latest ones, oldest first.
    live : dict
        Requests that have come and not ended, by name.
    running, backlog, kv_tokens : ndarray of int64, shape (G,)
        Per worker, by the last step: requests that decoded, prompt tokens yet to be computed, and
        KV tokens.
    held : int
        Requests in the pool.
    """

    def __init__(
        self,
        workers: Sequence[str],
        *,
        clock: Callable[[], float],
        params: WindowParams | None = None,
        name_of: Callable[[int], str] | None = None,
    ) -> None:
        self.params = params or WindowParams()
        self.clock = clock
        self._name_of = name_of or (lambda worker: f"worker {worker}")
        self.buckets = Buckets(clock(), len(workers), self.params)
        self.ended = EndedRequests(self.params.requests)
        self.workers = [Worker(name=name) for name in workers]
        self.faults: deque[Faulty] = deque(maxlen=self.params.faults)
        self.live: dict[str, Live] = {}
        self.held = 0
        self.running = self.backlog = self.kv_tokens = np.zeros(len(workers), np.int64)
        self._takes: dict[type, Callable[[Any], None]] = {
            Requested: self._requested,
            Decided: self._decided,
            Refusal: self._refused,
            Started: self._started,
            Returned: self._returned,
            FirstToken: self._first_token,
            Ended: self._ended,
            Stepped: self._stepped,
            WorkerChanged: self._changed,
            Fault: self._fault,
        }

    def event(self, event: Event) -> None:
        """Take in what happened; kinds that are not known are passed over."""
        take = self._takes.get(type(event))
        if take is not None:
            take(event)

    def worker(self, index: int) -> Worker:
        """Return a worker by index, a new one if it has just joined."""
        while len(self.workers) <= index:
            self.workers.append(Worker(name=self._name_of(len(self.workers))))
        self.buckets.widen(len(self.workers))
        return self.workers[index]

    def settle(self) -> None:
        """Let time go on to now; what has nothing to do holds nothing."""
        now = self.clock()
        if not any(worker.reserved for worker in self.workers):
            idle = np.zeros(len(self.workers), np.int64)
            self.running = self.backlog = self.kv_tokens = idle
        self.held = sum(1 for one in self.live.values() if one.worker < 0)
        self.buckets.levels(now, self.held, self.kv_tokens)

    def oldest_held_s(self) -> float:
        """Return how long the oldest request in the pool has waited; 0 if there is none."""
        came = [one.at_s for one in self.live.values() if one.worker < 0]
        return self.clock() - min(came) if came else 0.0

    def kv_tokens_there(self) -> list[int]:
        """Return KV tokens of each worker that is not gone, by the last step."""
        pairs = zip(self.workers, self.kv_tokens.tolist(), strict=False)
        return [tokens for worker, tokens in pairs if worker.state != "gone"]

    def _requested(self, event: Requested) -> None:
        self.live[event.name] = Live(at_s=event.at_s, prompt_tokens=event.ask.prompt_tokens)
        self.held += 1
        self.buckets.count(N_ARRIVED, event.at_s)

    def _decided(self, event: Decided) -> None:
        one = self.live.get(event.name)
        if one is not None:
            one.held_s = event.held_s
            self._move(one, event.worker)

    def _started(self, event: Started) -> None:
        one = self.live.get(event.name)
        if one is not None:
            self._move(one, event.worker)

    def _returned(self, event: Returned) -> None:
        one = self.live.get(event.name)
        if one is not None and one.worker >= 0:
            self.worker(one.worker).reserved -= 1
            one.worker = NOWHERE
            self.held += 1

    def _move(self, one: Live, worker: int) -> None:
        if one.worker < 0:
            self.held -= 1
        else:
            self.worker(one.worker).reserved -= 1
        one.worker = worker
        self.worker(worker).reserved += 1

    def _refused(self, event: Refusal) -> None:
        self.buckets.count(N_REFUSED, self.clock())
        self._forget(event.name)

    def _first_token(self, event: FirstToken) -> None:
        self.buckets.move(event.at_s)

    def _ended(self, event: Ended) -> None:
        one = self._forget(event.name)
        self.buckets.count(N_ENDED, event.at_s)
        usage = event.usage
        self.buckets.count(N_TOKENS, event.at_s, event.tokens)
        if one is None:
            return
        row = (
            event.at_s,
            event.at_s - one.at_s,
            one.held_s,
            *_times(event),
            (usage and usage.prompt_tokens) or one.prompt_tokens,
            event.tokens,
            one.worker,
        )
        self.ended.add(event.name, str(event.end), row)

    def _forget(self, name: str) -> Live | None:
        one = self.live.pop(name, None)
        if one is not None and one.worker < 0:
            self.held -= 1
        elif one is not None:
            self.worker(one.worker).reserved -= 1
        return one

    def _stepped(self, event: Stepped) -> None:
        step = event.step
        self.buckets.step(event.at_s, step.duration_s, step.lost_s)
        loads = step.loads
        self.worker(loads.shape[1] - 1)
        there = loads[N_SEQUENCES] != GONE
        self.running = np.where(there, loads[N_SEQUENCES], 0)
        self.kv_tokens = np.where(there, loads[KV_ROW], 0)
        self.backlog = _padded(np.asarray(event.backlog, np.int64), len(self.workers))
        self.buckets.levels(event.at_s, event.held, self.kv_tokens)

    def _changed(self, event: WorkerChanged) -> None:
        worker = self.worker(event.worker)
        if event.what == "added" and worker.state == "gone":
            # Another one may have taken its place.
            worker.name = self._name_of(event.worker)
        worker.state = "up" if event.what == "added" else event.what
        worker.why = event.why

    def _fault(self, event: Fault) -> None:
        last = self.faults[-1] if self.faults else None
        if last is not None and (last.kind, last.text) == (event.kind, event.text):
            last.times += 1
            last.at_s = self.clock()
        else:
            self.faults.append(Faulty(kind=event.kind, text=event.text, at_s=self.clock()))


def _times(event: Ended) -> tuple[float, float]:
    """Return times to the first token and per further one: as measured, else by the model."""
    ttft_s, tpot_s, measured = event.ttft_s, event.tpot_s, event.measured
    if measured is not None:
        ttft_s = measured.ttft_s
        tpot_s = tpot_s if measured.tpot_s is None else measured.tpot_s
    return NAN if ttft_s is None else ttft_s, NAN if tpot_s is None else tpot_s


def _padded(row: NDArray[np.int64], workers: int) -> NDArray[np.int64]:
    if len(row) == workers:
        return row
    return np.pad(row, (0, max(workers - len(row), 0)))[:workers]
