"""Everything that happens to a session, in miniature, so that nothing compiles while serving."""

from __future__ import annotations

from copy import deepcopy
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from brsolver.cluster.costs import StepCosts
from brsolver.cluster.forecasting import Forecaster
from brsolver.cluster.session import FIGURES, ClusterSession
from brsolver.cluster.view import QUEUE_ROWS, REQUEST, TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.cluster.forecasting import RequestColumns
    from brsolver.cluster.view import IntArray
    from brsolver.policy import BasePolicy
    from brsolver.predictors import BasePredictor

    Pair = tuple[BasePolicy, BasePredictor | None]

WORKERS, SLOTS, CAPACITY = 2, 4, 1000
ROUNDS, ARRIVALS, STEPS = 3, 3, 3
COSTS = StepCosts(base_s=1e-2, per_kv_token_s=1e-8, per_prefill_token_s=1e-5, budget=8)
"""Any: policies that weigh time take another way where they are known."""
IDENTITIES = ROUNDS * ARRIVALS
"""Rows that the columns of requests must have."""


def warm_up(
    policy: BasePolicy,
    predictor: BasePredictor | None,
    *,
    refresh_steps: int,
    columns: RequestColumns | None = None,
    anew: Callable[[], Pair] | None = None,
) -> None:
    """Compile or load every kernel that a session of these needs, in either routing.

    Copies of both are driven: the originals notice nothing. What cannot be copied, as a
    stranger's predictor may hold, is left alone, unless it can be made `anew`.

    Parameters
    ----------
    policy, predictor, refresh_steps
        As of `ClusterSession`.
    columns : RequestColumns, optional
        Of the types that the session's own will have, with at least `IDENTITIES` rows.
    anew : callable, optional
        Makes both, to be used up.
    """
    copies = _copied(policy, predictor) or (copies_of(policy, None) if anew is None else anew())
    if copies is None:
        return
    miniature = _Miniature(*copies, refresh_steps, columns)
    for immediate, costs in product((True, False), (None, COSTS)):
        miniature.fill(immediate=immediate, costs=costs)
        miniature.begin_anew()
        miniature.decode()
        miniature.end()


def copies_of(policy: BasePolicy, predictor: BasePredictor | None) -> Pair | None:
    """Copy both, or the policy alone if the predictor cannot be copied; None if neither can."""
    return _copied(policy, predictor) or _copied(policy, None)


def _copied(policy: BasePolicy, predictor: BasePredictor | None) -> Pair | None:
    try:
        # Together, since a policy may have been made from the very predictor.
        return deepcopy((policy, predictor))
    except Exception:  # noqa: BLE001 # a lock, a socket: copying raises what it likes
        return None


class _Nobody:
    """Another front end, of which nothing is heard."""

    def others(self) -> IntArray:
        return np.zeros((FIGURES, WORKERS), np.int64)

    def others_projected(self, steps: int) -> IntArray:
        return np.zeros((WORKERS, steps + 1), np.int64)


class _Miniature:
    def __init__(
        self,
        policy: BasePolicy,
        predictor: BasePredictor | None,
        refresh_steps: int,
        columns: RequestColumns | None,
    ) -> None:
        self._columns = columns
        self._refresh_steps = refresh_steps
        self._session = ClusterSession(
            policy,
            predictor,
            [SLOTS] * WORKERS,
            capacity=[CAPACITY] * WORKERS,
            refresh_steps=refresh_steps,
            columns=columns,
            others=_Nobody(),
        )
        self._step = 0
        self._running: dict[int, int] = {}

    def fill(self, *, immediate: bool, costs: StepCosts | None) -> None:
        """Let requests come, each to be placed at once, or some at a time."""
        session = self._session
        session.costs = costs
        for round_ in range(ROUNDS):
            queue: IntArray = np.zeros((QUEUE_ROWS, 1 if immediate else ARRIVALS), np.int64)
            queue[REQUEST] = round_ * ARRIVALS + np.arange(queue.shape[1])
            queue[TOKENS] = 3 + np.arange(queue.shape[1])
            session.hear()
            session.look(immediate=immediate)
            pairs = session.decide(queue, step=self._step, clock_s=0.0, immediate=immediate)
            session.fits(1)
            for at, worker in pairs.tolist():
                prompt, identity = int(queue[TOKENS, at]), int(queue[REQUEST, at])
                session.state.enqueue(worker, prompt)
                session.state.dequeue(worker, prompt)
                self._running[identity] = session.state.admit(identity, worker, prompt)
            session.forecast(self._handles(), self._step)
            session.projection_to_tell()

    def begin_anew(self) -> None:
        """Forecast as who has learnt something and has not been asked anything yet.

        Such is a session that takes over while serving.
        """
        kept = self._session.forecaster
        if kept is not None:
            fresh = Forecaster(
                kept.predictor, horizon=kept.horizon, refresh_steps=1, columns=self._columns
            )
            fresh.update(self._session.state, self._handles(), 0)

    def decode(self) -> None:
        """Let all of them generate tokens."""
        for _ in range(STEPS):
            self._step += 1
            handles = list(self._running.values())
            self._session.state.generate_all(handles, [1] * len(handles))
            self._refresh()
            self._session.prepare()

    def end(self) -> None:
        """Let all of them end: who learns has something to learn from, and forecasts by it."""
        session = self._session
        for handle in self._running.values():
            session.state.finish(handle)
        ended = np.array(list(self._running), np.int64)
        session.observe(
            np.full_like(ended, 3),
            np.full_like(ended, STEPS),
            request=ended,
            cancelled=np.zeros(ended.shape, np.bool_),
        )
        self._running.clear()
        self._refresh()

    def _refresh(self) -> None:
        self._step += self._refresh_steps
        self._session.forecast(self._handles(), self._step)

    def _handles(self) -> IntArray:
        return np.array(list(self._running.values()), np.int64)
