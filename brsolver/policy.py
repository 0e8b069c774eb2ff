"""What a routing policy is given, and what it answers.

A policy is any object with one method, ``route(cluster, waiting)``. It is called in *pooled*
routing once per step with all waiting requests while some worker has room, and in *immediate*
routing once per arrival with that one request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
Projection = Callable[[int, bool, bool], IntArray]
Decision = IntArray | Sequence[tuple[int, int]]

# Rows of ClusterView.table, for kernels.
LOAD, RUNNING, QUEUED, SLOTS, ROOM, TOKEN_ROOM, CAPACITY, PROMPT_TOKENS = range(8)
VIEW_ROWS = 8
NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveRequests:
    """The running requests, as the router knows them.

    Attributes
    ----------
    worker : ndarray of int64, shape (n,)
        Worker that each request runs on.
    kv_tokens : ndarray of int64, shape (n,)
        Its load now, prompt and generated tokens together.
    age : ndarray of int64, shape (n,)
        Tokens it has generated so far.
    """

    worker: IntArray
    kv_tokens: IntArray
    age: IntArray


class ClusterView:
    """What a policy may know about the cluster at one decision.

    Under stale information loads, counts, projections and active requests are those of an
    earlier moment; `room` and `token_room` are always true, since whoever routes hands out the
    slots.

    Attributes
    ----------
    table : ndarray of int64, shape (8, G)
        The per-worker figures below as one array, for kernels: rows `LOAD`, `RUNNING`,
        `QUEUED`, `SLOTS`, `ROOM`, `TOKEN_ROOM`, `CAPACITY`, `PROMPT_TOKENS`. Read-only by
        agreement.
    step : int
        Decode steps done so far.
    clock_s : float
        Time, in seconds since the start.
    immediate : bool
        True when every arrival must be placed at once; requests beyond a worker's slots then
        queue at that worker.
    clients : int
        Front ends that route independently of each other (1 unless configured).
    trust : float
        How far the forecasts behind projections deserve belief: 1 as far as they reach, 0 not
        at all.
    """

    __slots__ = (
        "_active",
        "_projection",
        "clients",
        "clock_s",
        "immediate",
        "step",
        "table",
        "trust",
    )

    def __init__(
        self,
        table: IntArray,
        *,
        projection: Projection,
        active: Callable[[], ActiveRequests],
        immediate: bool = False,
        step: int = 0,
        clock_s: float = 0.0,
        clients: int = 1,
        trust: float = 1.0,
    ) -> None:
        self.table = table
        self._projection = projection
        self._active = active
        self.immediate = immediate
        self.step = step
        self.clock_s = clock_s
        self.clients = clients
        self.trust = trust

    @property
    def workers(self) -> int:
        """Number of worker indices G, those of departed workers included (their room is 0)."""
        return int(self.table.shape[1])

    @property
    def load(self) -> IntArray:
        """KV tokens per worker, running and queued there together, shape (G,)."""
        row: IntArray = self.table[LOAD]
        return row

    @property
    def running(self) -> IntArray:
        """Running requests per worker, shape (G,)."""
        row: IntArray = self.table[RUNNING]
        return row

    @property
    def queued(self) -> IntArray:
        """Requests that wait in each worker's own queue, shape (G,)."""
        row: IntArray = self.table[QUEUED]
        return row

    @property
    def slots(self) -> IntArray:
        """Requests each worker can run at once, 0 if it has departed, shape (G,)."""
        row: IntArray = self.table[SLOTS]
        return row

    @property
    def room(self) -> IntArray:
        """Requests each worker may be given by this decision, shape (G,).

        Pooled: its free slots. Immediate: 1 for every live worker.
        """
        row: IntArray = self.table[ROOM]
        return row

    @property
    def token_room(self) -> IntArray:
        """KV tokens each worker may be given by this decision, shape (G,).

        `NO_LIMIT` where there is no KV capacity, and in immediate routing.
        """
        row: IntArray = self.table[TOKEN_ROOM]
        return row

    @property
    def capacity(self) -> IntArray:
        """KV tokens each worker can hold, `NO_LIMIT` where there is no such limit, shape (G,)."""
        row: IntArray = self.table[CAPACITY]
        return row

    @property
    def prompt_tokens(self) -> IntArray:
        """Prompt tokens of the running and queued requests, per worker, shape (G,)."""
        row: IntArray = self.table[PROMPT_TOKENS]
        return row

    def projection(self, horizon: int, *, growth: bool = False, survival: bool = False) -> IntArray:
        """Project every worker's load over the next steps from the forecasts it holds.

        Parameters
        ----------
        horizon : int
            Last step H to project to, at most the horizon that the policy declares.
        growth : bool
            Let every request grow by one token per step; [BR] leaves growth out.
        survival : bool
            Weigh every request by the probability that it still runs ([DPR]), at
            ``O(active·H)``, instead of ending it at its expected contribution ([BR]), at
            ``O(G·H)``.

        Returns
        -------
        ndarray of int64, shape (G, H + 1)
            ``L_{g,h}`` in KV tokens; column 0 is the load now. A fresh array.
        """
        return self._projection(horizon, growth, survival)

    def active(self) -> ActiveRequests:
        """Return the running requests in order of worker and admission; costs O(active)."""
        return self._active()


class Waiting:
    """The requests to be routed, first come first.

    Attributes
    ----------
    prompt_tokens : ndarray of int64, shape (n,)
        KV tokens each brings when it is admitted: its prompt, and after a preemption or a
        worker's failure also what it had generated.
    request : ndarray of int64, shape (n,)
        Identity of each request: in simulations its row in the trace.
    since : ndarray of int64, shape (n,)
        Decode step from which each could have been routed; zeros unless given.
    """

    __slots__ = ("prompt_tokens", "request", "since")

    def __init__(
        self, prompt_tokens: IntArray, request: IntArray, since: IntArray | None = None
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.request = request
        self.since = np.zeros_like(prompt_tokens) if since is None else since

    def __len__(self) -> int:
        return int(self.prompt_tokens.shape[0])


@runtime_checkable
class Policy(Protocol):
    """A routing policy.

    Optional attributes that callers honour:

    ``horizon`` : int
        Steps of load projection it asks for; forecasts are kept for it if positive.
    ``notes()``
        Called after a run: lines that readers of its result must know.
    ``Params``
        Frozen dataclass of its parameters; the first constructor argument is an instance.

    Constructor keywords ``rng`` (numpy.random.Generator) and ``predictor`` are filled in when
    the policy is made by name.
    """

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Decide which waiting requests go where.

        Parameters
        ----------
        cluster : ClusterView
            The cluster as this policy may see it.
        waiting : Waiting
            At least one request; exactly one in immediate routing.

        Returns
        -------
        ndarray of int64, shape (k, 2), or sequence of (int, int)
            Pairs (index into `waiting`, worker). Requests not named keep waiting, which
            immediate routing does not allow.
        """
        ...
