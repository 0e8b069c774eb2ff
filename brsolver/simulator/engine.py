"""The engine: kernels from event to event, the session's policy in between."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.cluster.decision import refusal
from brsolver.cluster.forecasting import RequestColumns
from brsolver.cluster.session import ClusterSession
from brsolver.cluster.view import QUEUE_ROWS, REQUEST, SINCE, TOKENS, Waiting
from brsolver.errors import ParameterError, PolicyError
from brsolver.hardware._step_kernels import LOAD_ROWS
from brsolver.hardware.step_arrays import step_time_arrays
from brsolver.simulator import _kernels as sk
from brsolver.simulator import _layout as lay
from brsolver.simulator import _request_kernels as rk
from brsolver.simulator.checks import check_capacity, check_events, too_far
from brsolver.simulator.colocated import cached_tokens, empty_queues, move_by, schedule_by
from brsolver.simulator.coming import count_expected, empty_books, expect_requests
from brsolver.simulator.explain import explain_stall
from brsolver.simulator.prefix import PrefixCaches
from brsolver.simulator.staleness import Held, StaleInformation, after_moves

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView
    from brsolver.policy import Policy
    from brsolver.predictors import Predictor
    from brsolver.simulator.components import WorkerEvent
    from brsolver.simulator.params import SimulationParams
    from brsolver.traces.trace import Trace

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Progress = Callable[[int, int], None]

LOAD_SAMPLES = 4096
FIRST_LOG = 4096
PROGRESS_EVERY = 256
UNREACHED = 1 << 60
NO_PAIRS: IntArray = np.zeros((0, 2), np.int64)


class Engine:
    """One run of one policy over one trace: time, arrivals and queues around a cluster session.

    Parameters
    ----------
    trace : Trace
        Requests in order of arrival.
    policy : Policy
        Asked whenever requests wait and some worker has room.
    params : SimulationParams
        The cluster and the regime.
    predictor : Predictor, optional
        Where forecasts come from, for policies that look ahead.

    Attributes
    ----------
    session : ClusterSession
        The very class that deployments drive. The engine writes its state's books, through
        kernels.
    book, times : ndarray, shapes (BOOK_ROWS, n) and (TIME_ROWS, n)
        One column per request; rows as in `brsolver.simulator._layout`, with those for turns
        where any follow others.
    waiting : ndarray of int64, shape (QUEUE_ROWS, n)
        The waiting requests, between the cursor's head and tail.
    offer : ndarray of int64, shape (QUEUE_ROWS, n)
        Scratch with what policies are given of them.

    Raises
    ------
    CapacityError
        A request fits no worker.
    ParameterError
        The trace lacks the timestamps that the regime asks for, or as of
        `brsolver.simulator.coming.expect_requests`.
    """

    def __init__(
        self,
        trace: Trace,
        policy: Policy,
        params: SimulationParams,
        predictor: Predictor | None = None,
    ) -> None:
        check_capacity(trace, params)
        check_events(params)
        self.trace = trace
        self.params = params
        self.immediate = params.routing == "immediate"
        self.session = ClusterSession(
            policy,
            predictor,
            params.slots_each(),
            capacity=params.capacity_each(),
            refresh_steps=params.refresh_steps,
            columns=_columns(trace),
            clients=params.clients,
            request_tokens=params.request_weight,
            costs=params.step_costs(),
            objectives=params.objectives(),
        )
        self.state = self.session.state
        self.stale: StaleInformation | None = None
        if params.staleness.active:
            self.stale = StaleInformation(
                params.staleness,
                self.session,
                immediate=self.immediate,
                ended=self._ended,
                moved=self._moved if params.migration.active else None,
            )
        self._events = sorted(params.events, key=_when)
        self._dispatch: list[int] = []
        self._observed = 0
        self._make_books()
        self._make_logs()
        self._make_cursor()
        self._bind()

    @property
    def step(self) -> int:
        """Decode steps done so far."""
        return int(self._step.item())

    @property
    def clock_s(self) -> float:
        """Time in seconds since the start."""
        return float(self._clock_s.item())

    @property
    def finished(self) -> int:
        """Requests that have finished."""
        return int(self.cursor["finished"].item())

    @property
    def dispatch_us(self) -> FloatArray:
        """Latency of every routing call in microseconds, shape (decisions,)."""
        return np.array(self._dispatch, np.float64) / 1000.0

    def run(self, progress: Progress | None = None) -> None:
        """Run to the end: all requests finished, or nothing more can happen."""
        calls, pairs = 0, NO_PAIRS
        while True:
            why = sk.advance(*self._advance_with, pairs)
            if why == lay.ROUTE:
                pairs = self._decide()
                calls += 1
                if progress is not None and calls % PROGRESS_EVERY == 0:
                    progress(self.finished, len(self.trace))
            elif why == lay.REFUSED:
                raise self._refusal(pairs)
            elif why == lay.LOG_FULL:
                self._grow_logs()
            elif why == lay.EVENT:
                self._boundary()
            elif why == lay.STALLED and self._events:
                self._wait_for_event()
            elif why == lay.STALLED and (fault := explain_stall(self)) is not None:
                if not self._hears_of_it():
                    raise PolicyError(fault)
            else:
                break

    def _make_books(self) -> None:
        count = len(self.trace)
        self.book, self.times = empty_books(self.trace)
        self.waiting: IntArray = np.zeros((QUEUE_ROWS, count), np.int64)
        self.offer: IntArray = np.zeros((QUEUE_ROWS, count), np.int64)
        if self.params.prefill.colocated and not self.params.prefill.cache:
            self.book[lay.B_CACHED] = cached_tokens(self.trace)
        expect_requests(self.trace, self.params, self.book, self.times)
        longest = int(self.trace.output_tokens.max())
        self.heads: IntArray = np.full(1 << longest.bit_length(), -1, np.int64)
        self.queues: IntArray = empty_queues(self.params.workers)
        self.prefixes = PrefixCaches(
            self.trace, self.params.prefill, self.params.workers, self.book, self.queues
        )
        if self.prefixes.caches is not None:
            self.session.cached = self.prefixes.cached_tokens
        self.buffers: IntArray = np.empty((2, self.state.requests.shape[1]), np.int64)
        self.loads: IntArray = np.zeros((LOAD_ROWS, self.params.workers), np.int64)

    def _make_logs(self) -> None:
        self.log_f: FloatArray = np.empty((lay.FLOAT_LOG_ROWS, FIRST_LOG))
        self.log_i: IntArray = np.empty((lay.INT_LOG_ROWS, FIRST_LOG), np.int64)
        self.sampled_at: FloatArray = np.empty((2, LOAD_SAMPLES))
        self.samples: IntArray = np.zeros((3, LOAD_SAMPLES, self.params.workers), np.int64)

    def _make_cursor(self) -> None:
        params, arrivals = self.params, self.params.arrivals
        self.cursor: lay.Cursor = np.zeros(1, lay.CURSOR)
        self.cursor["sample_stride"] = 1
        self.cursor["immediate"] = self.immediate
        self.cursor["transit"] = params.transit_steps
        self.cursor["max_steps"] = params.max_steps or UNREACHED
        if arrivals.mode == "pool":
            self.cursor["pool"] = arrivals.pool or 4 * params.workers
        self.cursor["concurrency"] = arrivals.concurrency or 0
        count_expected(self.trace, self.cursor)
        schedule_by(params.prefill, self.cursor)
        move_by(params.migration, self.cursor)
        # Views of single fields: many times faster to read from here than the record.
        self._step, self._clock_s = self.cursor["step"], self.cursor["clock_s"]
        self._head, self._tail = self.cursor["wait_head"], self.cursor["wait_tail"]
        self._admitted = self.cursor["admitted"]
        self._set_stops(first=True)

    def _bind(self) -> None:
        """Gather the kernels' arguments anew, after any of the arrays was replaced."""
        state, session = self.state, self.session
        cluster = (state.workers, state.requests, state.counters)
        run = (self.waiting, self.book, self.times, self.cursor, self.heads, self.queues)
        logs = (self.log_f, self.log_i, self.samples, self.sampled_at, self.buffers)
        given = (session.table, self.offer)
        cost = (*step_time_arrays(self.params.step_time), self.loads)
        last = (self.prefixes.caches, session.limits)
        self._advance_with = (*cluster, state.ring, *run, *logs, *given, *cost, *last)

    def _decide(self) -> IntArray:
        self._forecast()
        head, offer = self._head.item(), self.offer
        count = 1 if self.immediate else self._tail.item() - head
        waiting = Waiting(offer[TOKENS, :count], offer[REQUEST, :count], offer[SINCE, :count])
        pairs = self.session.ask(self._view(), waiting)
        self._dispatch.append(self.session.route_ns)
        if self.stale is not None:
            held = self.waiting[:, head : head + count]
            self.stale.placed(self.step, pairs, held[TOKENS], held[REQUEST])
        return pairs

    def _refusal(self, pairs: IntArray) -> Exception:
        found, row = self.cursor["found"].item(), self.cursor["found_at"].item()
        count = 1 if self.immediate else self._tail.item() - self._head.item()
        return refusal(self.session.policy, self.step, found, row, pairs=pairs, waiting=count)

    def _view(self) -> ClusterView:
        if self.stale is not None:
            return self.stale.view(self.step, self.clock_s)
        return self.session.view(self.step, self.clock_s, immediate=self.immediate)

    def _forecast(self) -> None:
        session = self.session
        if session.forecaster is None:
            return
        step = self.step
        if session.learns and session.due(step):
            rows = self.book[lay.B_FINISHED, self._observed : self.finished].copy()
            lengths = self.book[lay.B_PROMPT, rows], self.book[lay.B_OUTPUT, rows]
            session.observe(*lengths, request=rows)
            self._observed = self.finished
        handles = self.buffers[lay.ADMITTED, : self._admitted.item()]
        if self.cursor["admitted_lost"]:
            handles = self.state.handles()
        session.forecast(handles, step)
        self.cursor["admitted"] = 0
        self.cursor["admitted_lost"] = False

    def _ended(self) -> IntArray:
        return self.book[lay.B_FINISHED, : self.finished]

    def _moved(self) -> dict[int, Held]:
        return after_moves(self.book, self.cursor)

    def _boundary(self) -> None:
        for event in [event for event in self._events if self._due(event)]:
            self._events.remove(event)
            self._fire(event)
        if self.stale is not None and self.stale.due(self.step, self.clock_s):
            self._forecast()
            self.stale.take(self.step, self.clock_s)
        self._set_stops()

    def _wait_for_event(self) -> None:
        """Let time pass to the next worker event: nothing runs, so no step will bring it."""
        timed = [event for event in self._events if event.at_s is not None]
        event = timed[0] if timed else self._events[0]
        self.cursor["clock_s"] = max(self.clock_s, event.at_s or 0.0)
        self._events.remove(event)
        self._fire(event)
        self.cursor["routed"] = False

    def _hears_of_it(self) -> bool:
        """Let the policy know that nothing runs, if its news are older; tell whether they were."""
        if self.stale is None or not self.stale.catch_up(self.step, self.clock_s):
            return False
        self.cursor["routed"] = False
        return True

    def _set_stops(self, *, first: bool = False) -> None:
        next_step, next_s = UNREACHED, math.inf
        if self.stale is not None:
            next_step = self.step if first else self.step + 1
        for event in self._events:
            if event.at_step is not None:
                next_step = min(next_step, event.at_step)
            if event.at_s is not None:
                next_s = min(next_s, event.at_s)
        self.cursor["stop_step"] = next_step
        self.cursor["stop_s"] = next_s

    def _due(self, event: WorkerEvent) -> bool:
        if event.at_step is not None:
            return self.step >= event.at_step
        return self.clock_s >= (event.at_s or 0.0)

    def _fire(self, event: WorkerEvent) -> None:
        if event.kind == "fail":
            self._fail(event.worker)
        else:
            self._join(event)
        self._set_stops()

    def _fail(self, worker: int) -> None:
        if not (worker < self.state.workers.shape[1] and self.state.alive[worker]):
            raise ParameterError(f"worker that fails is {worker}, must be one that is there")
        lost = rk.evict_worker(
            self.state.workers,
            self.state.requests,
            self.state.counters,
            self.state.ring,
            self.book,
            self.cursor,
            self.heads,
            self.queues,
            worker,
        )
        self.prefixes.forget(worker, lost)
        self.state.remove_worker(worker)
        head, tail = self._head.item(), self._tail.item()
        first: IntArray = np.empty((QUEUE_ROWS, lost.size), np.int64)
        first[REQUEST], first[SINCE] = lost, self.step
        first[TOKENS] = self.book[lay.B_PROMPT, lost] + self.book[lay.B_GENERATED, lost]
        queue = np.concatenate((first, self.waiting[:, head:tail]), axis=1)
        self.waiting[:, : queue.shape[1]] = queue
        self.cursor["wait_head"], self.cursor["wait_tail"] = 0, queue.shape[1]

    def _join(self, event: WorkerEvent) -> None:
        slots = event.slots or self.params.slots_each()[0]
        capacity = event.capacity or self.params.capacity_each()[0]
        count = self.state.workers.shape[1]
        if event.worker < count:
            self.state.restore_worker(event.worker, slots, capacity)
        elif event.worker == count:
            self.state.add_worker(slots, capacity)
        else:
            raise too_far(event.worker, count)
        self._make_room()

    def _make_room(self) -> None:
        """Take in that the state has more workers or slots than before."""
        self.session.resize()
        more = self.state.workers.shape[1] - self.queues.shape[1]
        self.queues = np.concatenate((self.queues, empty_queues(more)), axis=1)
        self.prefixes.resize(self.queues)
        self.samples = np.pad(self.samples, ((0, 0), (0, 0), (0, more)))
        self.loads = np.pad(self.loads, ((0, 0), (0, more)))
        free = self.state.requests.shape[1] - self.buffers.shape[1]
        self.buffers = np.pad(self.buffers, ((0, 0), (0, free)))
        self._bind()

    def _grow_logs(self) -> None:
        self.log_f = np.concatenate((self.log_f, np.empty_like(self.log_f)), axis=1)
        self.log_i = np.concatenate((self.log_i, np.empty_like(self.log_i)), axis=1)
        self._bind()


def _when(event: WorkerEvent) -> float:
    return float(event.at_step) if event.at_step is not None else float(event.at_s or 0.0)


def _columns(trace: Trace) -> RequestColumns:
    limits = trace.columns.get("max_tokens")
    return RequestColumns(
        max_tokens=None if limits is None else limits.astype(np.int64),
        arrival_s=None if trace.arrival_s is None else trace.arrival_s + trace.origin_s,
        keys={name: column for name, column in trace.columns.items() if name != "max_tokens"},
    )
