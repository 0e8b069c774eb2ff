"""The simulator's semantics in plain Python, one decode step at a time.

Every load is re-summed from the requests and every queue is a list. Tests hold the kernels to
it; it is the place to read what a run means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brsolver.cluster.view import (
    BACKLOG,
    CAPACITY,
    LOAD,
    NO_LIMIT,
    PROMPT_TOKENS,
    QUEUED,
    ROOM,
    RUNNING,
    SLOTS,
    TOKEN_ROOM,
    VIEW_ROWS,
    ActiveRequests,
    ClusterView,
    IntArray,
    Waiting,
)
from brsolver.simulator.migration import Migration
from brsolver.simulator.reference_books import Move, Request, StepRecord, Worker
from brsolver.simulator.reference_migration import Mover
from brsolver.simulator.reference_turns import Coming

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.cluster.costs import StepCosts
    from brsolver.cluster.view import Cached
    from brsolver.policy import Policy
    from brsolver.simulator.components import WorkerEvent

__all__ = ["ReferenceSimulator", "Request", "StepRecord", "Worker"]


class ReferenceSimulator:
    """Replays requests step by step.

    Parameters
    ----------
    requests : sequence of Request
        In order of readiness; `ready_s` None throughout means a pool. One that `follows` another
        of these comes `delay_s` after the end of that, to a pool at once.
    workers : sequence of Worker
    policy : Policy
    pool : int
        Requests kept waiting; 0 replays `ready_s`.
    concurrency : int
        Or, if not 0, requests in flight.
    immediate : bool
    transit_steps : int
        Steps from a decision to the request's first.
    base, per_token : float
        Affine step time, by KV tokens.
    request_tokens : int
        KV tokens that every request weighs besides those it holds, in what the policy sees and
        in the loads that are recorded; not in capacities, nor in the step time.
    events : sequence of WorkerEvent
        Failures and returns.
    migration : Migration, optional
        How often a running request moves, and what that costs.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        workers: Sequence[Worker],
        policy: Policy,
        *,
        pool: int,
        immediate: bool,
        concurrency: int = 0,
        transit_steps: int = 0,
        base: float = 0.005,
        per_token: float = 1e-7,
        request_tokens: int = 0,
        events: Sequence[WorkerEvent] = (),
        migration: Migration | None = None,
    ) -> None:
        self.coming = Coming(requests, timed=not pool and not concurrency)
        self.workers = list(workers)
        self.policy = policy
        self.pool = pool
        self.concurrency = concurrency
        self.arrived: list[Request] = []
        self.immediate = immediate
        self.transit_steps = transit_steps
        self.base, self.per_token = base, per_token
        self.request_tokens = request_tokens
        self.mover = Mover(migration or Migration(), request_tokens)
        self.costs: StepCosts | None = None
        self.events = sorted(events, key=_when)
        self.waiting: list[Request] = []
        self.clock = 0.0
        self.steps: list[StepRecord] = []
        self.cached: Cached | None = None

    def run(self) -> None:
        """Run until nothing more can happen."""
        while True:
            self._worker_events()
            self._land()
            self._reveal()
            if self.immediate:
                self._route_arrivals()
            self._admit_queued()
            if not self.immediate and self.waiting and sum(self._room()) > 0:
                self._route_pool()
                self._admit_queued()
            if any(w.running for w in self.workers):
                self._migrate()
                self._step()
            elif self.coming.follow():
                continue
            elif self._by_time() or self._moves():
                self._jump()
            elif self.events:
                self._wait_for_event()
            else:
                return

    def _by_time(self) -> bool:
        return bool(self.coming) and not self.pool and not self.concurrency

    def _moves(self) -> list[Move]:
        return [move for worker in self.workers for move in worker.moves]

    def _jump(self) -> None:
        times = [e.at_s for e in self.events if e.at_s is not None]
        times += [move.until_s for move in self._moves()]
        if self._by_time():
            times.append(self.coming[0].ready_s or 0.0)
        self.clock = min(times)

    def _migrate(self) -> None:
        every = self.mover.params.every
        if not every or not self.steps or len(self.steps) % every:
            return
        found = self.mover.choose(self.workers, self.steps[-1].duration_s)
        if found is not None:
            request, source, target = found
            source.running.remove(request)
            request.worker = self.workers.index(target)
            request.migrations += 1
            target.moves.append(Move(request, self.clock + self.mover.transfer_s(request)))
            self._land()

    def _land(self) -> None:
        for worker in self.workers:
            worker.running += [m.request for m in worker.moves if m.until_s <= self.clock]
            worker.moves = [m for m in worker.moves if m.until_s > self.clock]

    def _worker_events(self) -> None:
        for event in [event for event in self.events if self._due(event)]:
            self.events.remove(event)
            self._fire(event)

    def _due(self, event: WorkerEvent) -> bool:
        if event.at_step is not None:
            return len(self.steps) >= event.at_step
        return self.clock >= (event.at_s or 0.0)

    def _wait_for_event(self) -> None:
        timed = [event for event in self.events if event.at_s is not None]
        event = timed[0] if timed else self.events[0]
        self.clock = max(self.clock, event.at_s or 0.0)
        self.events.remove(event)
        self._fire(event)

    def _fire(self, event: WorkerEvent) -> None:
        worker = self.workers[event.worker]
        worker.alive = event.kind == "join"
        if worker.alive:
            return
        for request in worker.running + worker.moved:
            request.preemptions += 1
        lost = worker.running + worker.moved + worker.queue
        for request in lost:
            request.since = len(self.steps)
        worker.running, worker.moves, worker.queue = [], [], []
        self.waiting = lost + self.waiting

    def _reveal(self) -> None:
        self.coming.follow()
        while self.coming and self._comes():
            request = self.coming.pop(0)
            request.since = len(self.steps)
            if not self.coming.timed:
                request.arrival_s = self.clock
            self.arrived.append(request)
            self.waiting.append(request)

    def _comes(self) -> bool:
        if self.concurrency:
            in_flight = [r for r in self.arrived if r.finish_s is None and not r.rejected]
            return len(in_flight) < self.concurrency
        if not self.pool:
            return (self.coming[0].ready_s or 0.0) <= self.clock
        held = len(self.waiting)
        if self.immediate:
            held += sum(self._beyond_slots(w) for w in self.workers)
        return held < self.pool

    def _beyond_slots(self, worker: Worker) -> int:
        # A request in transit to a free slot waits for nobody.
        free = worker.slots * worker.alive - worker.holding if self.transit_steps else 0
        return max(len(worker.queue) - free, 0)

    def _route_arrivals(self) -> None:
        while self.waiting and any(w.alive for w in self.workers):
            ((_, g),) = self._ask(self.waiting[:1])
            request = self.waiting.pop(0)
            if request.kv_tokens > self.workers[g].capacity:
                self._reject(request)
            else:
                request.worker, request.due = g, len(self.steps) + self.transit_steps
                self.workers[g].queue.append(request)
            self._reveal()

    def _reject(self, request: Request) -> None:
        request.rejected, request.ended_s = True, self.clock

    def _route_pool(self) -> None:
        pairs = self._ask(self.waiting)
        for at, g in pairs:
            request = self.waiting[at]
            if self.transit_steps:
                request.worker, request.due = g, len(self.steps) + self.transit_steps
                self.workers[g].queue.append(request)
            else:
                self._start(request, g)
        gone = {at for at, _ in pairs}
        self.waiting = [r for at, r in enumerate(self.waiting) if at not in gone]

    def _ask(self, waiting: list[Request]) -> list[tuple[int, int]]:
        asked = Waiting(
            np.array([r.kv_tokens for r in waiting], np.int64),
            np.array([r.index for r in waiting], np.int64),
            np.array([r.since for r in waiting], np.int64),
        )
        decision = self.policy.route(self._view(), asked)
        return [(int(at), int(g)) for at, g in decision]

    def _start(self, request: Request, g: int) -> None:
        request.worker = g
        if request.start_step < 0:
            request.start_step, request.start_s = len(self.steps), self.clock
        self.workers[g].running.append(request)

    def _admit_queued(self) -> None:
        idle = not any(w.running for w in self.workers)
        for g, worker in enumerate(self.workers):
            while worker.queue and worker.holding < worker.slots:
                if worker.queue[0].due > len(self.steps) and not idle:
                    break
                tokens = worker.queue[0].kv_tokens
                reserve = worker.holding + 1 if worker.holding else 0
                if worker.held + tokens + reserve <= worker.capacity:
                    self._start(worker.queue.pop(0), g)
                elif worker.holding:
                    break
                else:
                    self._reject(worker.queue.pop(0))

    def _step(self) -> None:
        loads = [self._weighed(w) for w in self.workers]
        active = sum(len(w.running) for w in self.workers)
        lasts = self.base + self.per_token * max(w.load for w in self.workers)
        start = self.clock
        self.clock += lasts
        for worker in self.workers:
            for request in worker.running:
                self._generate(request)
            worker.running = [r for r in worker.running if r.generated < r.output]
        post = [self._weighed(w) for w in self.workers]
        self.steps.append(StepRecord(start, lasts, loads, active, post))
        for worker in self.workers:
            self._preempt(worker)

    def _generate(self, request: Request) -> None:
        request.generated += 1
        if request.first_s is None:
            request.first_s = self.clock
        if request.generated == request.output:
            request.finish_step, request.finish_s = len(self.steps), self.clock
            request.ended_s = self.clock

    def _weighed(self, worker: Worker) -> int:
        return worker.load + self.request_tokens * len(worker.running)

    def _preempt(self, worker: Worker) -> None:
        while worker.held > worker.capacity:
            request = worker.running.pop()
            if not worker.holding:
                self._reject(request)
                return
            request.preemptions += 1
            worker.queue.insert(0, request)

    def _room(self) -> list[int]:
        if self.immediate:
            return [int(w.alive) for w in self.workers]
        return [
            max(w.slots - len(w.running) - len(w.coming), 0) if w.alive else 0 for w in self.workers
        ]

    def _backlog(self, worker: Worker) -> int:
        """Return the prompt tokens that the worker has yet to compute: none are computed here."""
        del worker
        return 0

    def _view(self) -> ClusterView:
        table: IntArray = np.zeros((VIEW_ROWS, len(self.workers)), np.int64)
        table[ROOM] = self._room()
        for g, worker in enumerate(self.workers):
            everyone = worker.running + worker.coming
            table[LOAD, g] = worker.committed + self.request_tokens * len(everyone)
            table[RUNNING, g] = len(worker.running)
            table[QUEUED, g] = len(worker.coming)
            table[SLOTS, g] = worker.slots if worker.alive else 0
            table[CAPACITY, g] = worker.capacity
            table[PROMPT_TOKENS, g] = sum(r.prompt for r in everyone)
            table[BACKLOG, g] = self._backlog(worker)
            bounded = worker.capacity < NO_LIMIT and not self.immediate
            left = max(worker.capacity - worker.committed, 0)
            table[TOKEN_ROOM, g] = left if bounded else NO_LIMIT
        return ClusterView(
            table,
            projection=lambda *_: table[LOAD].reshape(-1, 1).copy(),
            active=_no_details,
            immediate=self.immediate,
            step=len(self.steps),
            clock_s=self.clock,
            request_tokens=self.request_tokens,
            costs=self.costs,
            cached=self.cached,
        )


def _when(event: WorkerEvent) -> float:
    return float(event.at_step) if event.at_step is not None else float(event.at_s or 0.0)


def _no_details() -> ActiveRequests:
    raise NotImplementedError("the reference simulator keeps no forecasts")
