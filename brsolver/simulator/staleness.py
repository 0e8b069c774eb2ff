"""Old information: what policies see when reports take their time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.cluster._state_kernels import NONE, W_BACKLOG, W_PROMPTS, W_QUEUED, W_QUEUED_TOKENS
from brsolver.cluster.view import (
    BACKLOG,
    LOAD,
    PROMPT_TOKENS,
    QUEUED,
    ROOM,
    RUNNING,
    TOKEN_ROOM,
    ClusterView,
)
from brsolver.simulator import _layout as lay
from brsolver.simulator._queue_kernels import uncomputed

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.cluster.session import ClusterSession
    from brsolver.cluster.state import ClusterState
    from brsolver.simulator.components import Staleness

IntArray = NDArray[np.int64]


@dataclass(slots=True, kw_only=True)
class _Snapshot:
    """The cluster at a step, less those of the first `ended` requests to end that it still had.

    `moved` are those that were moved before, wherever they ran or queued.
    """

    step: int
    clock_s: float
    state: ClusterState
    ended: int
    moved: dict[int, Held]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a request counts for at its worker while it queues there.

    Attributes
    ----------
    worker : int
    tokens, prompt, backlog : int
        KV tokens, those of its prompt, and prompt tokens yet to be computed.
    """

    worker: int
    tokens: int
    prompt: int
    backlog: int


def after_moves(book: IntArray, cursor: lay.Cursor) -> dict[int, Held]:
    """Return where the requests are that have been moved: under way, queued again or running.

    Parameters
    ----------
    book : ndarray of int64
        The requests' integers, see `brsolver.simulator._layout`.
    cursor : Cursor
        Of the run.
    """
    under_way, i = set(), cursor["move_head"].item()
    while i != NONE:
        under_way.add(i)
        i = book[lay.B_QUEUE_NEXT].item(i)
    computes = cursor["scheduler"].item() != lay.NOBODY
    there = np.isin(book[lay.B_STATUS], (lay.IN_QUEUE, lay.RUNNING_NOW))
    return {
        i: Held(
            worker=book[lay.B_WORKER].item(i),
            tokens=book[lay.B_PROMPT].item(i) + book[lay.B_GENERATED].item(i),
            prompt=book[lay.B_PROMPT].item(i),
            backlog=int(uncomputed(book, i)) if computes and i not in under_way else 0,
        )
        for i in np.flatnonzero((book[lay.B_MOVES] > 0) & there).tolist()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placement:
    step: int
    worker: int
    tokens: int
    request: int


class StaleInformation:
    """Snapshots of the cluster, and what was placed since.

    Parameters
    ----------
    params : Staleness
        How old, how often, corrected or not.
    session : ClusterSession
        Whose state is seen late.
    immediate : bool
        Whether placed requests queue at their worker first.
    ended : callable
        Returns all requests that have ended by now, in that order.
    moved : callable, optional
        Returns where those are that have been moved; None where none is.
    """

    def __init__(
        self,
        params: Staleness,
        session: ClusterSession,
        *,
        immediate: bool,
        ended: Callable[[], IntArray],
        moved: Callable[[], dict[int, Held]] | None = None,
    ) -> None:
        self._params = params
        self._session = session
        self._immediate = immediate
        self._ended = ended
        self._moved = moved if params.local_departures else None
        self._last_placed: dict[int, _Placement] = {}
        self._snapshots: deque[_Snapshot] = deque()
        self._caught_up = -1
        self._placements: deque[_Placement] = deque()

    def due(self, step: int, clock_s: float) -> bool:
        """Tell whether a snapshot is to be taken now."""
        if not self._snapshots or self._params.mode == "delay":
            return True
        last = self._snapshots[-1]
        if self._params.steps:
            return step >= last.step + self._params.steps
        return clock_s >= last.clock_s + self._params.ms / 1000

    def take(self, step: int, clock_s: float) -> None:
        """Take a snapshot; forget what nobody can see any more."""
        if self._snapshots and self._snapshots[-1].step == step:
            self._snapshots.pop()
        snapshot = _Snapshot(
            step=step,
            clock_s=clock_s,
            state=self._session.state.copy(),
            ended=int(self._ended().size),
            moved={} if self._moved is None else self._moved(),
        )
        self._snapshots.append(snapshot)
        while len(self._snapshots) > 1 and self._old_enough(self._snapshots[1], step, clock_s):
            self._snapshots.popleft()
        while self._placements and self._placements[0].step < self._snapshots[0].step:
            self._placements.popleft()

    def catch_up(self, step: int, clock_s: float) -> bool:
        """Have all reports arrive, as they do while nothing happens; False if they have by now."""
        if self._caught_up == step:
            return False
        self._caught_up = step
        self._snapshots.clear()
        self.take(step, clock_s)
        return True

    def placed(self, step: int, pairs: IntArray, tokens: IntArray, requests: IntArray) -> None:
        """Record what the router itself decides, to be added to what is seen.

        Parameters
        ----------
        step : int
        pairs : ndarray of int64, shape (k, 2)
            Its decision, not yet checked.
        tokens, requests : ndarray of int64, shape (n,)
            KV tokens and identities of the waiting requests.
        """
        if not (self._params.local_correction or self._params.local_departures):
            return
        known = (pairs[:, 0] >= 0) & (pairs[:, 0] < tokens.shape[0])
        for at, worker in pairs[known].tolist():
            placement = _Placement(
                step=step, worker=worker, tokens=int(tokens[at]), request=int(requests[at])
            )
            if self._params.local_correction:
                self._placements.append(placement)
            if self._params.local_departures:
                self._last_placed[placement.request] = placement

    def view(self, step: int, clock_s: float) -> ClusterView:
        """Return the cluster as it may be seen now, the session's own view being up to date."""
        while len(self._snapshots) > 1 and self._old_enough(self._snapshots[1], step, clock_s):
            self._snapshots.popleft()
        snapshot = self._snapshots[0]
        if self._params.local_departures:
            self._take_off(snapshot)
        # What a request weighs is no news of the cluster.
        snapshot.state.request_tokens = self._session.request_tokens
        seen = self._session.table.copy()
        old = snapshot.state.view_table(immediate=self._immediate)
        known = old.shape[1]
        for row in range(seen.shape[0]):
            if row not in (ROOM, TOKEN_ROOM):
                seen[row, :known] = old[row]
                if row in (LOAD, RUNNING, QUEUED, PROMPT_TOKENS, BACKLOG):
                    seen[row, known:] = 0
        extra = self._correct(seen, snapshot.step)
        view = self._session.view(step, clock_s, immediate=self._immediate)
        project = self._session.projected
        return view.seen_as(
            seen,
            projection=lambda *wanted: _add(project(snapshot.state, *wanted), extra),
            active=snapshot.state.active_requests,
        )

    def _take_off(self, snapshot: _Snapshot) -> None:
        """Take off the snapshot, and off what was placed since, what has ended by now."""
        ended = self._ended()
        fresh, snapshot.ended = ended[snapshot.ended :], int(ended.size)
        if not fresh.size:
            return
        state, gone = snapshot.state, set(fresh.tolist())
        handles = state.handles()
        running = state.describe(handles)[1].tolist()
        for handle, request in zip(handles.tolist(), running, strict=True):
            if request in gone:
                state.finish(handle)
        self._placements = deque(p for p in self._placements if p.request not in gone)
        for request in gone.difference(running):
            held = snapshot.moved.get(request)
            placement = self._last_placed.get(request)
            if held is not None:
                _take_out(state, held)
            elif placement is not None and placement.step < snapshot.step:
                _unqueue(state, placement)

    def _old_enough(self, snapshot: _Snapshot, step: int, clock_s: float) -> bool:
        if self._params.mode == "periodic":
            return True
        if self._params.steps:
            return snapshot.step <= step - self._params.steps
        return snapshot.clock_s <= clock_s - self._params.ms / 1000

    def _correct(self, seen: IntArray, since: int) -> IntArray:
        tokens, requests = np.zeros((2, seen.shape[1]), np.int64)
        for placement in self._placements:
            if placement.step >= since:
                tokens[placement.worker] += placement.tokens
                requests[placement.worker] += 1
        extra: IntArray = tokens + self._session.request_tokens * requests
        seen[QUEUED if self._immediate else RUNNING] += requests
        seen[LOAD] += extra
        seen[PROMPT_TOKENS] += tokens
        costs = self._session.costs
        if costs is not None and costs.budget:
            # Cached or not, which the router does not know.
            seen[BACKLOG] += tokens
        return extra


def _add(old: IntArray, extra: IntArray) -> IntArray:
    out = np.zeros((extra.shape[0], old.shape[1]), np.int64)
    out[: old.shape[0]] = old
    return out + extra[:, None]


def _unqueue(state: ClusterState, placement: _Placement) -> None:
    """Take off a request that waited at its worker, which has run it since."""
    g, workers = placement.worker, state.workers
    if g >= workers.shape[1] or workers[W_QUEUED, g] == 0:
        return
    # What was preempted came back longer than it had been placed, or shorter than it is now.
    tokens = min(placement.tokens, int(workers[W_QUEUED_TOKENS, g]))
    prompt = min(tokens, int(workers[W_PROMPTS, g]))
    _take_out(state, Held(worker=g, tokens=tokens, prompt=prompt, backlog=tokens))


def _take_out(state: ClusterState, held: Held) -> None:
    """Take off a request that queued, and is counted as `held`."""
    state.dequeue(held.worker, held.tokens, held.prompt)
    backlog = state.workers.item(W_BACKLOG, held.worker)
    state.set_backlog(held.worker, max(backlog - held.backlog, 0))
