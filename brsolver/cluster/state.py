"""The state of a cluster: the one object that simulator, oracles and live deployments share."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brsolver._limits import MAX_REQUEST_TOKENS
from brsolver.cluster import _state_kernels as k
from brsolver.cluster.view import NO_LIMIT, VIEW_ROWS, ActiveRequests, ClusterView, fill_view
from brsolver.errors import ParameterError, StateError

if TYPE_CHECKING:
    from collections.abc import Sequence

IntArray = NDArray[np.int64]
_GONE = [k.W_ALIVE, k.W_SLOTS, k.W_QUEUED, k.W_QUEUED_TOKENS, k.W_PROMPTS, k.W_BACKLOG]
"""What a worker that is not there has none of."""


class ClusterState:
    """Workers and their running requests, as struct of arrays.

    Every event costs O(1): admission, a generated token, an end, a changed forecast. Loads are
    kept incrementally and never re-summed. In lockstep (`advance`) one step costs O(G); where
    workers report on their own, `generate` takes each request's progress as it comes.

    Parameters
    ----------
    slots : sequence of int
        Requests each worker can run at once, one number per worker.
    capacity : sequence of int or None, optional
        KV tokens each worker can hold; None is unlimited.
    horizon : int
        Steps H that `projection` must reach.
    refresh_steps : int
        Steps between refreshes of forecasts; predicted ends are kept this much beyond H, so
        that none enters the horizon unseen between two refreshes.
    request_tokens : int, optional
        KV tokens that every request weighs besides those it holds; see
        `ClusterView.request_tokens`.

    Attributes
    ----------
    workers, requests, ring : ndarray of int64
        The arrays themselves, for kernels; rows as in `brsolver.cluster._state_kernels`. Only
        the state's own methods and kernels write them.
    counters : ndarray of one record
        First free handle, and running requests on all workers.
    """

    def __init__(
        self,
        slots: Sequence[int],
        *,
        capacity: Sequence[int | None] | None = None,
        horizon: int = 0,
        refresh_steps: int = 1,
        request_tokens: int = 0,
    ) -> None:
        _require(len(slots) >= 1, "a cluster needs at least 1 worker")
        _require(horizon >= 0, f"horizon is {horizon}, must be at least 0")
        _require(refresh_steps >= 1, f"refresh_steps is {refresh_steps}, must be at least 1")
        self.horizon = horizon
        window = 1 << (horizon + refresh_steps + 1).bit_length()
        count = len(slots)
        self.workers: IntArray = np.zeros((k.WORKER_ROWS, count), np.int64)
        self.requests: IntArray = np.full((k.REQUEST_ROWS, 0), k.NONE, np.int64)
        self.ring: IntArray = np.zeros((2, count, window), np.int64)
        self.counters: k.Counters = np.array([(k.NONE, 0)], k.COUNTERS)
        # Kept as a number as well, which every view reads.
        self._request_tokens = 0
        self.request_tokens = request_tokens
        for index, number in enumerate(slots):
            self._open(index, number, None if capacity is None else capacity[index])
        self._grow(sum(slots))

    @property
    def load(self) -> IntArray:
        """KV tokens of running requests per worker, shape (G,)."""
        row: IntArray = self.workers[k.W_LOAD]
        return row

    @property
    def request_tokens(self) -> int:
        """KV tokens that every request weighs besides those it holds; may be set at any time."""
        return self._request_tokens

    @request_tokens.setter
    def request_tokens(self, tokens: int) -> None:
        _require(
            0 <= tokens <= MAX_REQUEST_TOKENS,
            f"request_tokens is {tokens}, must be from 0 to {MAX_REQUEST_TOKENS:,}",
        )
        if tokens != self._request_tokens:
            self._request_tokens = int(tokens)
            self.workers[k.W_REQUEST_TOKENS] = tokens
            # What was projected counted other weights.
            self.workers[k.W_CHANGES] += 1

    @property
    def active(self) -> IntArray:
        """Running requests per worker, shape (G,)."""
        row: IntArray = self.workers[k.W_ACTIVE]
        return row

    @property
    def slots(self) -> IntArray:
        """Slots per worker, shape (G,)."""
        row: IntArray = self.workers[k.W_SLOTS]
        return row

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Whether each worker is there, shape (G,)."""
        there: NDArray[np.bool_] = self.workers[k.W_ALIVE] == 1
        return there

    @property
    def active_total(self) -> int:
        """Running requests on all workers."""
        return int(self.counters["active_total"][0])

    def add_worker(self, slots: int, capacity: int | None = None) -> int:
        """Add a worker; return its index.

        Raises
        ------
        ParameterError
            `slots` or `capacity` is below 1.
        """
        index = self.workers.shape[1]
        column = np.zeros((k.WORKER_ROWS, 1), np.int64)
        self.workers = np.concatenate((self.workers, column), axis=1)
        ring = np.zeros((2, 1, self.ring.shape[2]), np.int64)
        self.ring = np.concatenate((self.ring, ring), axis=1)
        self._open(index, slots, capacity)
        self._grow(slots)
        return int(index)

    def remove_worker(self, worker: int) -> IntArray:
        """Take a worker away; return the identities of its requests, oldest first."""
        self._check_worker(worker)
        lost = []
        while (handle := int(self.workers[k.W_HEAD, worker])) != k.NONE:
            lost.append(int(self.requests[k.R_ID, handle]))
            self.finish(handle)
        self.workers[_GONE, worker] = 0
        return np.array(lost, np.int64)

    def restore_worker(self, worker: int, slots: int, capacity: int | None = None) -> None:
        """Bring back a worker that was removed."""
        if not 0 <= worker < self.workers.shape[1] or self.workers[k.W_ALIVE, worker]:
            raise StateError(f"worker {worker} is not one that was removed")
        self._open(worker, slots, capacity)
        self._grow(slots)

    def admit(
        self,
        request: int,
        worker: int,
        prompt_tokens: int,
        *,
        generated: int = 0,
        remaining: int | None = None,
    ) -> int:
        """Start a request; return the handle that later events name it by.

        Parameters
        ----------
        request : int
            Its identity, for the caller.
        worker : int
            Where it runs, for good.
        prompt_tokens : int
            Prompt length, at least 1 token.
        generated : int
            Tokens it had generated before, e.g. before a preemption.
        remaining : int, optional
            Predicted remaining steps; None is beyond the horizon.

        Raises
        ------
        StateError
            The worker is not there.
        ParameterError
            A length is out of range.
        """
        self._check_worker(worker)
        if prompt_tokens < 1 or generated < 0:
            _require(prompt_tokens >= 1, f"prompt_tokens is {prompt_tokens}, must be at least 1")
            _require(generated >= 0, f"generated is {generated}, must be at least 0")
        if self.counters["free_head"].item() == k.NONE:
            self._grow(max(16, self.requests.shape[1]))
        handle = k.admit(
            self.workers,
            self.requests,
            self.counters,
            worker,
            request,
            prompt_tokens,
            prompt_tokens + generated,
        )
        if remaining is not None:
            self.predict([handle], [remaining])
        return int(handle)

    def generate(self, handle: int, tokens: int = 1) -> None:
        """Record that one request generated `tokens`, its worker reporting on its own."""
        self._check_handle(handle)
        _require(tokens >= 0, f"tokens is {tokens}, must be at least 0")
        k.generate(self.workers, self.requests, self.ring, handle, tokens)

    def advance(self, steps: int = 1) -> None:
        """Let every running request of every worker generate one token per step, in lockstep."""
        for _ in range(steps):
            k.advance_all(self.workers, self.ring)

    def finish(self, handle: int) -> None:
        """Record that a request ended and left its slot."""
        self._check_handle(handle)
        k.finish(self.workers, self.requests, self.counters, self.ring, handle)

    def abort(self, handle: int) -> None:
        """Record that a request was cancelled; the same as its end, for the state."""
        self.finish(handle)

    def enqueue(self, worker: int, kv_tokens: int, prompt_tokens: int | None = None) -> None:
        """Record that a request was sent to a worker and waits there for a slot."""
        self._check_worker(worker)
        prompt = kv_tokens if prompt_tokens is None else prompt_tokens
        k.enqueue(self.workers, worker, kv_tokens, prompt)

    def dequeue(self, worker: int, kv_tokens: int, prompt_tokens: int | None = None) -> None:
        """Record that a request left a worker's own queue."""
        self._check_worker(worker)
        if self.workers.item(k.W_QUEUED, worker) < 1:
            raise StateError(f"worker {worker} has no queued request")
        prompt = kv_tokens if prompt_tokens is None else prompt_tokens
        k.dequeue(self.workers, worker, kv_tokens, prompt)

    def generate_all(self, handles: Sequence[int], tokens: Sequence[int]) -> None:
        """Record what many requests generated; those that have ended are passed over."""
        if handles:
            many = np.array((handles, tokens), np.int64)
            k.generate_all(self.workers, self.requests, self.ring, many)

    def set_capacity(self, worker: int, kv_tokens: int | None) -> None:
        """Record how many KV tokens a worker can hold, as it tells by itself; None is no limit."""
        self.workers[k.W_CAPACITY, worker] = NO_LIMIT if kv_tokens is None else kv_tokens

    def set_backlog(self, worker: int, tokens: int) -> None:
        """Record how many prompt tokens a worker has yet to compute."""
        self.workers[k.W_BACKLOG, worker] = tokens

    def clear(self) -> None:
        """Forget all requests, running and queued; workers stay as they are.

        Whatever was wrong in the books is gone with them: the arrays are made anew.
        """
        kept = [k.W_SLOTS, k.W_CAPACITY, k.W_ALIVE, k.W_REQUEST_TOKENS]
        rows = self.workers[kept]
        self.workers = np.zeros_like(self.workers)
        self.workers[kept] = rows
        self.workers[[k.W_HEAD, k.W_TAIL]] = k.NONE
        self.requests = np.full((k.REQUEST_ROWS, 0), k.NONE, np.int64)
        self.ring = np.zeros_like(self.ring)
        self.counters = np.array([(k.NONE, 0)], k.COUNTERS)
        self._grow(max(int(rows[0].sum()), 1))

    def predict(self, handles: ArrayLike, remaining: ArrayLike) -> None:
        """Set predicted remaining steps.

        Parameters
        ----------
        handles : array_like of int, shape (n,)
        remaining : array_like of int, shape (n,)
            A request with r remaining steps runs at h = 0..r-1 of the projection. Below 1
            counts as 1; beyond the horizon as never ending within it.
        """
        k.predict(
            self.workers,
            self.requests,
            self.ring,
            np.asarray(handles, np.int64),
            np.asarray(remaining, np.int64),
        )

    def projection(self, horizon: int, *, growth: bool = False) -> IntArray:
        """Project loads from predicted ends.

        A request counts with its load now, `request_tokens` included, up to its predicted end
        ([BR] §2: no growth, hard end); with `growth` it gains a token per step ([DPR]). Requests
        that outlived their forecast count at h = 0 only, queued ones throughout. Costs
        ``O(G·H)``, whatever the number of requests and their lengths.

        Returns
        -------
        ndarray of int64, shape (G, horizon + 1)
            ``L_{g,h}`` in KV tokens, effective ones where `request_tokens` is not 0.
        """
        if horizon > self.horizon:
            raise StateError(
                f"horizon is {horizon}, must be at most {self.horizon}: the state was made for that"
            )
        return k.project(self.workers, self.ring, horizon, growth)

    def handles(self) -> IntArray:
        """Return handles of all running requests, by worker and order of admission."""
        return k.gather_active(self.workers, self.requests, self.counters)

    def describe(self, handles: IntArray) -> IntArray:
        """Return worker, identity, prompt tokens, KV tokens and age of requests, shape (5, n)."""
        return k.describe(self.workers, self.requests, handles)

    def active_requests(self) -> ActiveRequests:
        """Return the running requests as policies see them."""
        rows = self.describe(self.handles())
        return ActiveRequests(
            worker=rows[0], kv_tokens=rows[3], age=rows[4], request_tokens=self.request_tokens
        )

    def view(
        self,
        *,
        immediate: bool = False,
        step: int = 0,
        clock_s: float = 0.0,
        trust: float = 1.0,
    ) -> ClusterView:
        """Return the cluster as a policy sees it now, with up-to-date information."""
        return ClusterView(
            self.view_table(immediate=immediate),
            projection=self._project_expected,
            active=self.active_requests,
            immediate=immediate,
            step=step,
            clock_s=clock_s,
            trust=trust,
            request_tokens=self._request_tokens,
        )

    def _project_expected(self, horizon: int, growth: bool, survival: bool) -> IntArray:
        if survival:
            raise StateError("a survival projection needs a predictor; use a Forecaster")
        return self.projection(horizon, growth=growth)

    def view_table(self, *, immediate: bool = False) -> IntArray:
        """Return the per-worker figures of a `ClusterView`, shape (VIEW_ROWS, G)."""
        table = np.empty((VIEW_ROWS, self.workers.shape[1]), np.int64)
        fill_view(self.workers, immediate, table)
        return table

    def copy(self) -> Self:
        """Return an independent copy, e.g. the snapshot of stale information."""
        twin = copy(self)
        twin.workers = self.workers.copy()
        twin.requests = self.requests.copy()
        twin.ring = self.ring.copy()
        twin.counters = self.counters.copy()
        return twin

    def _open(self, worker: int, slots: int, capacity: int | None) -> None:
        _require(slots >= 1, f"slots of worker {worker} is {slots}, must be at least 1")
        _require(
            capacity is None or capacity >= 1,
            f"capacity of worker {worker} is {capacity}, must be at least 1 KV token",
        )
        self.workers[k.W_SLOTS, worker] = slots
        self.workers[k.W_CAPACITY, worker] = NO_LIMIT if capacity is None else capacity
        self.workers[k.W_ALIVE, worker] = 1
        self.workers[k.W_REQUEST_TOKENS, worker] = self.request_tokens
        self.workers[k.W_HEAD, worker] = k.NONE
        self.workers[k.W_TAIL, worker] = k.NONE

    def _grow(self, count: int) -> None:
        size = self.requests.shape[1]
        fresh = np.full((k.REQUEST_ROWS, count), k.NONE, np.int64)
        fresh[k.R_NEXT, :-1] = np.arange(size + 1, size + count)
        fresh[k.R_NEXT, -1] = self.counters["free_head"][0]
        self.requests = np.concatenate((self.requests, fresh), axis=1)
        self.counters["free_head"] = size

    def _check_worker(self, worker: int) -> None:
        if not 0 <= worker < self.workers.shape[1] or not self.workers.item(k.W_ALIVE, worker):
            alive = np.flatnonzero(self.workers[k.W_ALIVE])
            raise StateError(f"no worker {worker}: live workers are {alive.tolist()}")

    def _check_handle(self, handle: int) -> None:
        known = 0 <= handle < self.requests.shape[1]
        if not known or self.requests.item(k.R_WORKER, handle) == k.NONE:
            raise StateError(f"no running request with handle {handle}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ParameterError(message)
