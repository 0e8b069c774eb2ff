"""What a routing policy is given: the cluster as it may know it, and who waits.

There is one view for simulations and for whoever serves. Its table is scratch, filled anew for
every decision, and the waiting requests are copies: what a policy writes there changes nothing
but its own next lines. Both hold for the call: a policy copies what it keeps. Decisions are
checked against the books (`brsolver.cluster.decision`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.cluster._state_kernels import (
    NO_LIMIT,
    W_ACTIVE,
    W_ALIVE,
    W_BACKLOG,
    W_CAPACITY,
    W_LOAD,
    W_PROMPTS,
    W_QUEUED,
    W_QUEUED_TOKENS,
    W_SLOTS,
    effective_load,
)
from brsolver.cluster.costs import NOTHING_PROMISED

IntArray = NDArray[np.int64]
if TYPE_CHECKING:
    from brsolver.cluster.costs import Objectives, StepCosts

Projection = Callable[[int, bool, bool], IntArray]
Cached = Callable[["Waiting"], IntArray]
Decision = IntArray | Sequence[tuple[int, int]]

__all__ = [
    "BACKLOG",
    "CAPACITY",
    "LOAD",
    "NO_LIMIT",
    "PROMPT_TOKENS",
    "QUEUED",
    "QUEUE_ROWS",
    "REQUEST",
    "ROOM",
    "RUNNING",
    "SINCE",
    "SLOTS",
    "TOKENS",
    "TOKEN_ROOM",
    "VIEW_ROWS",
    "ActiveRequests",
    "Cached",
    "ClusterView",
    "Decision",
    "IntArray",
    "Projection",
    "Waiting",
    "fill_view",
]

# Rows of ClusterView.table, for kernels.
LOAD, RUNNING, QUEUED, SLOTS, ROOM, TOKEN_ROOM, CAPACITY, PROMPT_TOKENS, BACKLOG = range(9)
VIEW_ROWS = 9


@kernel
def fill_view(workers: IntArray, immediate: bool, table: IntArray) -> int:
    """Write the per-worker figures that policies see; return the total room."""
    total = 0
    for g in range(workers.shape[1]):
        tokens = workers[W_LOAD, g] + workers[W_QUEUED_TOKENS, g]
        table[LOAD, g] = effective_load(workers, g)
        table[RUNNING, g] = workers[W_ACTIVE, g]
        table[QUEUED, g] = workers[W_QUEUED, g]
        table[SLOTS, g] = workers[W_SLOTS, g]
        table[CAPACITY, g] = workers[W_CAPACITY, g]
        table[PROMPT_TOKENS, g] = workers[W_PROMPTS, g]
        table[BACKLOG, g] = workers[W_BACKLOG, g]
        if immediate:
            table[ROOM, g] = workers[W_ALIVE, g]
            table[TOKEN_ROOM, g] = NO_LIMIT
        else:
            free = workers[W_SLOTS, g] - workers[W_ACTIVE, g] - workers[W_QUEUED, g]
            table[ROOM, g] = max(free, 0)
            if workers[W_CAPACITY, g] < NO_LIMIT:
                table[TOKEN_ROOM, g] = max(workers[W_CAPACITY, g] - tokens, 0)
            else:
                table[TOKEN_ROOM, g] = NO_LIMIT
        total += table[ROOM, g]
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveRequests:
    """The running requests, as the router knows them.

    Attributes
    ----------
    worker : ndarray of int64, shape (n,)
        Worker that each request runs on.
    kv_tokens : ndarray of int64, shape (n,)
        What it holds now, prompt and generated tokens together.
    age : ndarray of int64, shape (n,)
        Tokens it has generated so far.
    request_tokens : int
        KV tokens that each weighs besides; see `ClusterView.request_tokens`.
    """

    worker: IntArray
    kv_tokens: IntArray
    age: IntArray
    request_tokens: int = 0

    @property
    def load(self) -> IntArray:
        """What each adds to `ClusterView.load`, shape (n,)."""
        return self.kv_tokens + self.request_tokens if self.request_tokens else self.kv_tokens


class ClusterView:
    """What a policy may know about the cluster at one decision.

    Under stale information loads, counts, projections and active requests are those of an
    earlier moment; `room` and `token_room` are always true, since whoever routes hands out the
    slots.

    Attributes
    ----------
    table : ndarray of int64, shape (9, G)
        The per-worker figures below as one array, for kernels: rows `LOAD`, `RUNNING`,
        `QUEUED`, `SLOTS`, `ROOM`, `TOKEN_ROOM`, `CAPACITY`, `PROMPT_TOKENS`, `BACKLOG`.
        Scratch: it is filled anew before every decision, and nobody else reads it.
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
    request_tokens : int
        KV tokens that a request weighs besides those it holds, κ: what a sequence adds to a
        worker's step in units of what a token does. `load` and `projection` count it for every
        request, running or queued; `token_room` and `capacity`, which memory sets, do not. What
        a waiting request would add is `load_of` its prompt tokens.
    costs : StepCosts or None
        Seconds that a step takes per unit of load, as far as they are known.
    objectives : Objectives
        What is promised to those who wait.
    cached : callable or None
        What answers `cached_tokens`, where anybody can.
    """

    __slots__ = (
        "_active",
        "_projection",
        "cached",
        "clients",
        "clock_s",
        "costs",
        "immediate",
        "objectives",
        "request_tokens",
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
        request_tokens: int = 0,
        costs: StepCosts | None = None,
        objectives: Objectives = NOTHING_PROMISED,
        cached: Cached | None = None,
    ) -> None:
        self.table = table
        self.cached = cached
        self._projection = projection
        self._active = active
        self.immediate = immediate
        self.step = step
        self.clock_s = clock_s
        self.clients = clients
        self.trust = trust
        self.request_tokens = request_tokens
        self.costs = costs
        self.objectives = objectives

    def seen_as(
        self, table: IntArray, *, projection: Projection, active: Callable[[], ActiveRequests]
    ) -> ClusterView:
        """Return this view with other figures, as under stale information."""
        return ClusterView(
            table,
            projection=projection,
            active=active,
            immediate=self.immediate,
            step=self.step,
            clock_s=self.clock_s,
            clients=self.clients,
            trust=self.trust,
            request_tokens=self.request_tokens,
            costs=self.costs,
            objectives=self.objectives,
            cached=self.cached,
        )

    @property
    def workers(self) -> int:
        """Number of worker indices G, those of departed workers included (their room is 0)."""
        return int(self.table.shape[1])

    @property
    def load(self) -> IntArray:
        """Load per worker, running and queued there together, shape (G,).

        KV tokens, and `request_tokens` for every request.
        """
        row: IntArray = self.table[LOAD]
        return row

    @property
    def kv_tokens(self) -> IntArray:
        """KV tokens per worker, as capacity counts them, shape (G,); a fresh array."""
        table = self.table
        held: IntArray = table[LOAD] - self.request_tokens * (table[RUNNING] + table[QUEUED])
        return held

    def load_of(self, prompt_tokens: IntArray) -> IntArray:
        """Return what waiting requests would add to `load`, shape (n,).

        Parameters
        ----------
        prompt_tokens : ndarray of int64, shape (n,)
            Of `Waiting`; returned as it is where a request weighs nothing besides.
        """
        return prompt_tokens + self.request_tokens if self.request_tokens else prompt_tokens

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

    @property
    def backlog(self) -> IntArray:
        """Prompt tokens that each worker has yet to prefill, shape (G,).

        Of all it was given, running prefills and its queue together; zeros where prompts are
        prefilled elsewhere.
        """
        row: IntArray = self.table[BACKLOG]
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
            ``L_{g,h}``, in units of `load`; column 0 is the load now. A fresh array.
        """
        return self._projection(horizon, growth, survival)

    def active(self) -> ActiveRequests:
        """Return the running requests in order of worker and admission; costs O(active)."""
        return self._active()

    def cached_tokens(self, waiting: Waiting) -> IntArray:
        """Return how many tokens of waiting prompts each worker has in its prefix cache.

        Those it would not have to compute if the request got a slot there now, also where other
        information is stale. Costs a look at every block that is there, when it is asked.

        Parameters
        ----------
        waiting : Waiting
            The requests of this decision, or some of them.

        Returns
        -------
        ndarray of int64, shape (n, G)
            Zeros where workers have no prefix cache, or nobody tells what is in it. A fresh array.
        """
        if self.cached is None:
            return np.zeros((len(waiting), self.workers), np.int64)
        return self.cached(waiting)


# Rows of a queue of waiting requests.
TOKENS, REQUEST, SINCE = range(3)
QUEUE_ROWS = 3


class Waiting:
    """The requests to be routed, first come first: copies, good for one decision.

    Attributes
    ----------
    prompt_tokens : ndarray of int64, shape (n,)
        KV tokens each brings when it is admitted: its prompt, and after a preemption or a
        worker's failure also what it had generated. Room is in these; what they add to loads
        is `ClusterView.load_of` them.
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

    @classmethod
    def copy_of(cls, queue: IntArray) -> Waiting:
        """Copy the rows of a queue, shape (QUEUE_ROWS, n)."""
        rows = queue.copy()
        return cls(rows[TOKENS], rows[REQUEST], rows[SINCE])

    def __len__(self) -> int:
        return int(self.prompt_tokens.shape[0])
