"""Old information: what policies see when reports take their time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.policy import (
    LOAD,
    PROMPT_TOKENS,
    QUEUED,
    ROOM,
    RUNNING,
    TOKEN_ROOM,
    ClusterView,
)
from brsolver.state import ClusterState

if TYPE_CHECKING:
    from brsolver.simulator.params import Staleness

IntArray = NDArray[np.int64]
ProjectState = Callable[[ClusterState, int, bool, bool], IntArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Snapshot:
    step: int
    clock_s: float
    state: ClusterState


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placement:
    step: int
    worker: int
    tokens: int


class StaleInformation:
    """Snapshots of the cluster, and what was placed since.

    Parameters
    ----------
    params : Staleness
        How old, how often, corrected or not.
    immediate : bool
        Whether placed requests queue at their worker first.
    """

    def __init__(self, params: Staleness, *, immediate: bool) -> None:
        self._params = params
        self._immediate = immediate
        self._snapshots: deque[_Snapshot] = deque()
        self._placements: deque[_Placement] = deque()

    def due(self, step: int, clock_s: float) -> bool:
        """Tell whether a snapshot is to be taken now."""
        if not self._snapshots or self._params.mode == "delay":
            return True
        last = self._snapshots[-1]
        if self._params.steps:
            return step >= last.step + self._params.steps
        return clock_s >= last.clock_s + self._params.ms / 1000

    def take(self, state: ClusterState, step: int, clock_s: float) -> None:
        """Take a snapshot; forget what nobody can see any more."""
        if self._snapshots and self._snapshots[-1].step == step:
            self._snapshots.pop()
        self._snapshots.append(_Snapshot(step=step, clock_s=clock_s, state=state.copy()))
        while len(self._snapshots) > 1 and self._old_enough(self._snapshots[1], step, clock_s):
            self._snapshots.popleft()
        while self._placements and self._placements[0].step < self._snapshots[0].step:
            self._placements.popleft()

    def placed(self, step: int, worker: int, tokens: int) -> None:
        """Record what the router itself has placed."""
        if self._params.local_correction:
            self._placements.append(_Placement(step=step, worker=worker, tokens=tokens))

    def view(
        self, table: IntArray, project: ProjectState, step: int, clock_s: float
    ) -> ClusterView:
        """Return the cluster as it may be seen now.

        Parameters
        ----------
        table : ndarray of int64, shape (VIEW_ROWS, G)
            The true figures; only room is taken from them.
        project : callable
            Projects the loads of a state: ``project(state, horizon, growth, survival)``.
        """
        while len(self._snapshots) > 1 and self._old_enough(self._snapshots[1], step, clock_s):
            self._snapshots.popleft()
        snapshot = self._snapshots[0]
        seen = table.copy()
        old = snapshot.state.view_table(immediate=self._immediate)
        known = old.shape[1]
        for row in range(seen.shape[0]):
            if row not in (ROOM, TOKEN_ROOM):
                seen[row, :known] = old[row]
                if row in (LOAD, RUNNING, QUEUED, PROMPT_TOKENS):
                    seen[row, known:] = 0
        extra = self._correct(seen, snapshot.step)
        return ClusterView(
            seen,
            projection=lambda *wanted: _add(project(snapshot.state, *wanted), extra),
            active=snapshot.state.active_requests,
            immediate=self._immediate,
            step=step,
            clock_s=clock_s,
        )

    def _old_enough(self, snapshot: _Snapshot, step: int, clock_s: float) -> bool:
        if self._params.mode == "periodic":
            return True
        if self._params.steps:
            return snapshot.step <= step - self._params.steps
        return snapshot.clock_s <= clock_s - self._params.ms / 1000

    def _correct(self, seen: IntArray, since: int) -> IntArray:
        extra = np.zeros(seen.shape[1], np.int64)
        counted = QUEUED if self._immediate else RUNNING
        for placement in self._placements:
            if placement.step >= since:
                extra[placement.worker] += placement.tokens
                seen[counted, placement.worker] += 1
        seen[LOAD] += extra
        seen[PROMPT_TOKENS] += extra
        return extra


def _add(old: IntArray, extra: IntArray) -> IntArray:
    out = np.zeros((extra.shape[0], old.shape[1]), np.int64)
    out[: old.shape[0]] = old
    return out + extra[:, None]
