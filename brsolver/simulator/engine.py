"""The engine: kernels from event to event, the policy in between."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import ParameterError, PolicyError
from brsolver.policy import VIEW_ROWS, ClusterView, Decision, Policy, Waiting
from brsolver.simulator import _decision_kernels as dk
from brsolver.simulator import _kernels as sk
from brsolver.simulator import _layout as lay
from brsolver.simulator import _request_kernels as rk
from brsolver.simulator.arrivals import arrival_times, ready_times
from brsolver.simulator.checks import (
    as_pairs,
    check_capacity,
    check_events,
    name_of,
    step_time_arrays,
)
from brsolver.simulator.explain import explain_fault, explain_stall
from brsolver.simulator.staleness import StaleInformation
from brsolver.state import ClusterState

if TYPE_CHECKING:
    from brsolver.forecasting import Forecaster
    from brsolver.simulator.params import SimulationParams, WorkerEvent
    from brsolver.traces.model import Trace

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Progress = Callable[[int, int], None]

LOAD_SAMPLES = 4096
FIRST_LOG = 4096
PROGRESS_EVERY = 256
UNREACHED = 1 << 60


class Engine:
    """One run of one policy over one trace.

    Parameters
    ----------
    trace : Trace
        Requests in order of arrival.
    policy : Policy
        Asked whenever requests wait and some worker has room.
    params : SimulationParams
        The cluster and the regime.
    forecaster : Forecaster or None
        Keeps the state's forecasts, for policies that look ahead.

    Raises
    ------
    CapacityError
        A request fits no worker.
    ParameterError
        The trace lacks the timestamps that the regime asks for.
    """

    def __init__(
        self,
        trace: Trace,
        policy: Policy,
        params: SimulationParams,
        forecaster: Forecaster | None = None,
    ) -> None:
        check_capacity(trace, params)
        check_events(params)
        self.trace = trace
        self.policy = policy
        self.params = params
        self.forecaster = forecaster
        self.immediate = params.routing == "immediate"
        self.stale: StaleInformation | None = None
        if params.staleness.active:
            self.stale = StaleInformation(params.staleness, immediate=self.immediate)
        self.state = ClusterState(
            params.slots_each(),
            capacity=params.capacity_each(),
            horizon=forecaster.horizon if forecaster else 0,
            refresh_steps=params.refresh_steps,
        )
        self._events = sorted(params.events, key=_when)
        self._dispatch: list[int] = []
        self._observed = 0
        self._make_books()
        self._make_logs()
        self._make_clock()

    @property
    def step(self) -> int:
        """Decode steps done so far."""
        return int(self.control[lay.C_STEP])

    @property
    def clock_s(self) -> float:
        """Time in seconds since the start."""
        return float(self.clock[lay.CLOCK])

    @property
    def finished(self) -> int:
        """Requests that have finished."""
        return int(self.control[lay.C_FINISHED])

    @property
    def dispatch_us(self) -> FloatArray:
        """Latency of every routing call in microseconds, shape (decisions,)."""
        return np.array(self._dispatch, np.float64) / 1000.0

    def run(self, progress: Progress | None = None) -> None:
        """Run to the end: all requests finished, or nothing more can happen."""
        calls = 0
        while True:
            why = self._advance()
            if why == lay.ROUTE:
                self._route()
                calls += 1
                if progress is not None and calls % PROGRESS_EVERY == 0:
                    progress(self.finished, len(self.trace))
            elif why == lay.LOG_FULL:
                self._grow_logs()
            elif why == lay.EVENT:
                self._boundary()
            elif why == lay.STALLED and self._events:
                self._wait_for_event()
            else:
                break
        fault = explain_stall(self) if why == lay.STALLED else None
        if fault is not None:
            raise PolicyError(fault)

    def _make_books(self) -> None:
        count = len(self.trace)
        self.book: IntArray = np.full((lay.BOOK_ROWS, count), -1, np.int64)
        self.book[lay.B_PROMPT] = self.trace.prompt_tokens
        self.book[lay.B_OUTPUT] = self.trace.output_tokens
        self.book[[lay.B_PREEMPTIONS, lay.B_STATUS, lay.B_GENERATED]] = 0
        self.times: FloatArray = np.full((lay.TIME_ROWS, count), np.nan)
        if self.params.arrivals.mode == "pool":
            self.book[lay.B_ORDER] = np.arange(count)
        else:
            arrival = arrival_times(self.trace, self.params)
            self.times[lay.T_ARRIVAL] = arrival
            self.times[lay.T_READY] = ready_times(self.trace, arrival, self.params.prefill)
            self.book[lay.B_ORDER] = np.argsort(self.times[lay.T_READY], kind="stable")

    def _make_logs(self) -> None:
        self.log_f: FloatArray = np.empty((lay.FLOAT_LOG_ROWS, FIRST_LOG))
        self.log_i: IntArray = np.empty((lay.INT_LOG_ROWS, FIRST_LOG), np.int64)
        self.sampled_at: FloatArray = np.empty((2, LOAD_SAMPLES))
        self._resize_for_workers()

    def _resize_for_workers(self) -> None:
        count = self.state.workers.shape[1]
        samples = np.zeros((2, LOAD_SAMPLES, count), np.int64)
        queues = np.full((2, count), -1, np.int64)
        if hasattr(self, "samples"):
            samples[:, :, : self.samples.shape[2]] = self.samples
            queues[:, : self.queues.shape[1]] = self.queues
        self.samples: IntArray = samples
        self.queues: IntArray = queues
        self.table: IntArray = np.zeros((VIEW_ROWS, count), np.int64)
        buffers = np.empty((2, self.state.requests.shape[1]), np.int64)
        if hasattr(self, "buffers"):
            buffers[:, : self.buffers.shape[1]] = self.buffers
        self.buffers: IntArray = buffers

    def _make_clock(self) -> None:
        longest = int(self.trace.output_tokens.max())
        self.heads: IntArray = np.full(1 << longest.bit_length(), -1, np.int64)
        self.control: IntArray = np.zeros(lay.CONTROL_SIZE, np.int64)
        self.control[lay.C_SAMPLE_STRIDE] = 1
        self.control[lay.C_IMMEDIATE] = int(self.immediate)
        self.control[lay.C_TRANSIT] = self.params.transit_steps
        if self.params.arrivals.mode == "pool":
            self.control[lay.C_POOL] = self.params.arrivals.pool or 4 * self.params.workers
        self.clock: FloatArray = np.zeros(2)
        self._model, self._xs, self._ys = step_time_arrays(self.params.step_time)
        self._max_steps = self.params.max_steps or UNREACHED
        self._fault: IntArray = np.zeros(2, np.int64)
        self._set_stops(first=True)
        self._bind()

    def _bind(self) -> None:
        """Gather the kernels' arguments anew, after any of the arrays was replaced."""
        cluster = (self.state.workers, self.state.requests, self.state.meta)
        run = (self.book, self.times, self.control, self.clock, self.heads, self.queues)
        logs = (self.log_f, self.log_i, self.samples, self.sampled_at, self.buffers, self.table)
        model = (self._model, self._xs, self._ys, self._max_steps)
        self._advance_with = (*cluster, self.state.ring, *run, *logs, *model)
        self._apply_to = (*cluster, *run, self.buffers)

    def _advance(self) -> int:
        return sk.advance(*self._advance_with)

    def _route(self) -> None:
        self._forecast()
        waiting = self._waiting()
        cluster = self._view()
        began = perf_counter_ns()
        decision = self.policy.route(cluster, waiting)
        self._dispatch.append(perf_counter_ns() - began)
        self._apply(decision, waiting)

    def _waiting(self) -> Waiting:
        head = self.control[lay.C_WAIT_HEAD]
        tail = head + 1 if self.immediate else self.control[lay.C_WAIT_TAIL]
        return Waiting(
            self.book[lay.B_WAITING_TOKENS, head:tail],
            self.book[lay.B_WAITING, head:tail],
            self.book[lay.B_WAITING_SINCE, head:tail],
        )

    def _view(self) -> ClusterView:
        if self.stale is not None:
            view = self.stale.view(self.table, self._project_of, self.step, self.clock_s)
        else:
            view = ClusterView(
                self.table,
                projection=self._project,
                active=self.state.active_requests,
                immediate=self.immediate,
                step=self.step,
                clock_s=self.clock_s,
            )
        view.clients = self.params.clients
        if self.forecaster is not None:
            view.trust = self.forecaster.trust
        return view

    def _project(self, horizon: int, growth: bool, survival: bool) -> IntArray:
        return self._project_of(self.state, horizon, growth, survival)

    def _project_of(
        self, state: ClusterState, horizon: int, growth: bool, survival: bool
    ) -> IntArray:
        if self.forecaster is None:
            return state.projection(horizon, growth=growth)
        return self.forecaster.project(state, horizon, growth, survival)

    def _forecast(self) -> None:
        if self.forecaster is None:
            return
        if self.forecaster.learns and self.forecaster.due(self.step):
            rows = self.book[lay.B_FINISHED, self._observed : self.finished]
            lengths = self.book[lay.B_PROMPT, rows], self.book[lay.B_OUTPUT, rows]
            self.forecaster.observe(*lengths, request=rows)
            self._observed = self.finished
        handles = self.buffers[lay.ADMITTED, : self.control[lay.C_ADMITTED]]
        if self.control[lay.C_ADMITTED_LOST]:
            handles = self.state.handles()
        self.forecaster.update(self.state, handles, self.step)
        self.control[lay.C_ADMITTED] = 0
        self.control[lay.C_ADMITTED_LOST] = 0

    def _apply(self, decision: Decision, waiting: Waiting) -> None:
        pairs = as_pairs(decision, self.policy)
        if self.stale is not None and self.params.staleness.local_correction:
            self._remember(pairs, waiting)
        found = dk.apply(*self._apply_to, pairs, self._fault)
        if found != lay.OK:
            raise PolicyError(explain_fault(self, found, *self._fault.tolist()))
        if self.immediate and pairs.shape[0] == 0:
            raise PolicyError(
                f"{name_of(self.policy)} placed nothing at step {self.step}; immediate routing "
                "asks for a worker at every arrival"
            )

    def _remember(self, pairs: IntArray, waiting: Waiting) -> None:
        assert self.stale is not None  # noqa: S101 # asked by the caller
        known = (pairs[:, 0] >= 0) & (pairs[:, 0] < len(waiting))
        for at, worker in pairs[known].tolist():
            self.stale.placed(self.step, worker, int(waiting.prompt_tokens[at]))

    def _boundary(self) -> None:
        for event in [event for event in self._events if self._due(event)]:
            self._events.remove(event)
            self._fire(event)
        if self.stale is not None and self.stale.due(self.step, self.clock_s):
            self._forecast()
            self.stale.take(self.state, self.step, self.clock_s)
        self._set_stops()

    def _wait_for_event(self) -> None:
        """Let time pass to the next worker event: nothing runs, so no step will bring it."""
        timed = [event for event in self._events if event.at_s is not None]
        event = timed[0] if timed else self._events[0]
        self.clock[lay.CLOCK] = max(self.clock_s, event.at_s or 0.0)
        self._events.remove(event)
        self._fire(event)
        self.control[lay.C_ROUTED] = 0

    def _set_stops(self, *, first: bool = False) -> None:
        next_step, next_s = UNREACHED, math.inf
        if self.stale is not None:
            next_step = self.step if first else self.step + 1
        for event in self._events:
            if event.at_step is not None:
                next_step = min(next_step, event.at_step)
            if event.at_s is not None:
                next_s = min(next_s, event.at_s)
        self.control[lay.C_STOP_STEP] = next_step
        self.clock[lay.STOP_S] = next_s

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
            raise ParameterError(f"worker {worker} cannot fail: it is not there")
        lost = rk.evict_worker(
            self.state.workers,
            self.state.requests,
            self.state.meta,
            self.state.ring,
            self.book,
            self.control,
            self.heads,
            self.queues,
            worker,
        )
        self.state.remove_worker(worker)
        head, tail = self.control[lay.C_WAIT_HEAD], self.control[lay.C_WAIT_TAIL]
        queue = np.concatenate((lost, self.book[lay.B_WAITING, head:tail]))
        self.control[lay.C_WAIT_HEAD], self.control[lay.C_WAIT_TAIL] = 0, queue.size
        self.book[lay.B_WAITING, : queue.size] = queue
        tokens = self.book[lay.B_PROMPT, queue] + self.book[lay.B_GENERATED, queue]
        self.book[lay.B_WAITING_TOKENS, : queue.size] = tokens
        waited = self.book[lay.B_WAITING_SINCE, head:tail].copy()
        self.book[lay.B_WAITING_SINCE, : lost.size] = self.step
        self.book[lay.B_WAITING_SINCE, lost.size : queue.size] = waited

    def _join(self, event: WorkerEvent) -> None:
        slots = event.slots or self.params.slots_each()[0]
        capacity = event.capacity or self.params.capacity_each()[0]
        count = self.state.workers.shape[1]
        if event.worker < count:
            self.state.restore_worker(event.worker, slots, capacity)
        elif event.worker == count:
            self.state.add_worker(slots, capacity)
        else:
            raise ParameterError(
                f"worker {event.worker} cannot join: the next new worker is number {count}"
            )
        self._resize_for_workers()
        self._bind()

    def _grow_logs(self) -> None:
        self.log_f = np.concatenate((self.log_f, np.empty_like(self.log_f)), axis=1)
        self.log_i = np.concatenate((self.log_i, np.empty_like(self.log_i)), axis=1)
        self._bind()


def _when(event: WorkerEvent) -> float:
    return float(event.at_step) if event.at_step is not None else float(event.at_s or 0.0)
