"""A cluster session: policy, forecasts and view over one cluster's state.

The simulator, the vLLM adapter and whatever else serves drive this object: they
keep the books (who runs where, with how many tokens) in `ClusterSession.state`, and ask the
session where waiting requests go.
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, Protocol

import numpy as np

from brsolver._jit import kernel
from brsolver.cluster._state_kernels import (
    W_ACTIVE,
    W_BACKLOG,
    W_LOAD,
    W_PROMPTS,
    W_QUEUED,
    W_QUEUED_TOKENS,
)
from brsolver.cluster.costs import NOTHING_PROMISED
from brsolver.cluster.decision import OK, as_pairs, examine, refusal
from brsolver.cluster.forecasting import Forecaster
from brsolver.cluster.state import ClusterState
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
    TOKENS,
    VIEW_ROWS,
    ClusterView,
    IntArray,
    Waiting,
    fill_view,
)
from brsolver.policy import as_policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from brsolver.cluster.costs import Objectives, StepCosts
    from brsolver.cluster.forecasting import RequestColumns
    from brsolver.cluster.view import Cached
    from brsolver.policy import Policy
    from brsolver.predictors import Predictor

# Rows of what other front ends have at the workers.
S_LOAD, S_RUNNING, S_QUEUED, S_QUEUED_TOKENS, S_PROMPTS, S_BACKLOG = range(6)
FIGURES = 6
FIGURE_ROWS = [W_LOAD, W_ACTIVE, W_QUEUED, W_QUEUED_TOKENS, W_PROMPTS, W_BACKLOG]
"""Of the state's workers: what such a front end tells."""
_OF_THE_CLOSED = [SLOTS, ROOM, TOKEN_ROOM]
"""What a worker that gets no more requests has none of."""


class Others(Protocol):
    """Further front ends that route to the same workers, and tell what they have there."""

    def others(self) -> IntArray:
        """Return their sums per worker, shape (FIGURES, G)."""
        ...

    def others_projected(self, steps: int) -> IntArray:
        """Return their projected loads, shape (G, steps + 1)."""
        ...


class ClusterSession:
    """Asks a policy where requests go.

    Parameters
    ----------
    policy : Policy
        Who decides.
    predictor : Predictor or None
        Where forecasts come from. None, or a policy that asks for none: whatever runs now is
        taken to run throughout any horizon.
    slots : sequence of int
        Requests that each worker can run at once.
    capacity : sequence of int or None, optional
        KV tokens each worker can hold; None is unlimited.
    refresh_steps : int
        Decode steps between batched refreshes of all forecasts.
    columns : RequestColumns, optional
        What forecasts know of requests besides their lengths, by identity.
    clients : int
        Front ends that route independently of each other, for rules that count them.
    others : Others, optional
        Further front ends that tell what they have. Policies see all of that, and so these
        front ends count as one.
    request_tokens : int, optional
        KV tokens that a request weighs besides those it holds; see
        `ClusterView.request_tokens`.
    costs : StepCosts, optional
        What a step costs, for policies that weigh time.
    objectives : Objectives, optional
        What is promised to those who wait.

    Attributes
    ----------
    costs, objectives : StepCosts or None, Objectives
        As given; may be set between two decisions.
    state : ClusterState
        The books. Whoever drives the session writes them; the session reads them, and writes
        nothing there but forecasts.
    forecaster : Forecaster or None
        Keeps the forecasts, where there are any.
    table : ndarray of int64, shape (VIEW_ROWS, G)
        Scratch that policies are given; see `ClusterView.table`. `look` makes it anew, the
        simulator's kernels fill it.
    limits : ndarray of int64, shape (VIEW_ROWS, G)
        Scratch that decisions are checked against; no policy has it in its hands.
    route_ns : int
        Nanoseconds that the policy took for its last answer to `ask`.
    cached : callable or None
        Tells what of waiting prompts is in workers' prefix caches, as
        `ClusterView.cached_tokens` does; set by whoever drives the session, if it knows.
    closed : sequence of int
        Workers that get no more requests and may still run some: `look` shows them without room,
        as if they had departed, but with their loads. Set by whoever drives the session.
    """

    def __init__(
        self,
        policy: Policy,
        predictor: Predictor | None,
        slots: Sequence[int],
        *,
        capacity: Sequence[int | None] | None = None,
        refresh_steps: int,
        columns: RequestColumns | None = None,
        clients: int = 1,
        others: Others | None = None,
        request_tokens: int = 0,
        costs: StepCosts | None = None,
        objectives: Objectives = NOTHING_PROMISED,
    ) -> None:
        self.costs = costs
        self.objectives = objectives
        self.policy = policy = as_policy(policy)
        self.state = ClusterState(
            slots,
            capacity=capacity,
            horizon=policy.horizon,
            refresh_steps=refresh_steps,
            request_tokens=request_tokens,
        )
        self.forecaster: Forecaster | None = None
        if predictor is not None:
            self.forecaster = Forecaster(
                predictor, horizon=policy.horizon, refresh_steps=refresh_steps, columns=columns
            )
        self._others = others
        self._figures: IntArray = np.zeros((FIGURES, 0), np.int64)
        self._clients = clients if others is None else 1
        self.route_ns = 0
        self.cached: Cached | None = None
        self.closed: Sequence[int] = ()
        self._prepared: tuple[int, bool, bool] | None = None
        self._asked = policy.horizon, False, False
        self.resize()

    @property
    def learns(self) -> bool:
        """Whether requests that have ended should be handed to `observe`."""
        return self.forecaster is not None and self.forecaster.learns

    @property
    def request_tokens(self) -> int:
        """KV tokens that a request weighs besides those it holds.

        May be set between two decisions, as by whoever measures it while serving.
        """
        return self.state.request_tokens

    @request_tokens.setter
    def request_tokens(self, tokens: int) -> None:
        self.state.request_tokens = tokens

    def resize(self) -> None:
        """Take in that workers have joined the state."""
        self._workers = self.state.workers
        count = self._workers.shape[1]
        self.table: IntArray = np.zeros((VIEW_ROWS, count), np.int64)
        self.limits: IntArray = np.zeros((VIEW_ROWS, count), np.int64)
        self._figures = _widened(self._figures, count)

    def due(self, step: int) -> bool:
        """Tell whether all forecasts are to be made anew."""
        return self.forecaster is not None and self.forecaster.due(step)

    def observe(
        self,
        prompt_tokens: IntArray,
        output_tokens: IntArray,
        *,
        request: IntArray,
        cancelled: NDArray[np.bool_] | None = None,
    ) -> None:
        """Hand over requests that have ended; see `Forecaster.observe`."""
        if self.forecaster is not None:
            # Of one layout: predictors' kernels are compiled for one, before serving.
            self.forecaster.observe(
                np.ascontiguousarray(prompt_tokens),
                np.ascontiguousarray(output_tokens),
                request=np.ascontiguousarray(request),
                cancelled=None if cancelled is None else np.ascontiguousarray(cancelled),
            )

    def forecast(self, admitted: IntArray, step: int) -> None:
        """Forecast requests admitted since the last call, or all that run if that is due."""
        if self.forecaster is not None:
            self.forecaster.update(self.state, admitted, step)

    def hear(self) -> IntArray:
        """Take in what other front ends have; return their sums, shape (FIGURES, G)."""
        if self._others is not None:
            self._figures = _widened(self._others.others(), self.state.workers.shape[1])
        return self._figures

    def look(self, *, immediate: bool = False) -> int:
        """Bring the view up to date; return how many requests could be placed."""
        workers = self.state.workers
        if workers is not self._workers:
            self.resize()
        room = int(fill_view(workers, immediate, self.limits))
        if self._others is not None:
            each = self.state.request_tokens
            room = int(add_others(self.limits, self._figures, immediate, each))
        if self.closed:
            self.limits[np.ix_(_OF_THE_CLOSED, self.closed)] = 0
            room = int(self.limits[ROOM].sum())
        # Whatever policies did to the last one, or still do.
        self.table = self.limits.copy()
        return room

    def fits(self, prompt_tokens: int) -> bool:
        """Tell whether a worker had a slot and KV room for a prompt at the last look."""
        return bool(has_room(self.limits, prompt_tokens))

    def view(self, step: int, clock_s: float, *, immediate: bool) -> ClusterView:
        """Return the cluster as the policy sees it, `table` being up to date."""
        forecaster = self.forecaster
        view = ClusterView(
            self.table,
            projection=self._project,
            active=self.state.active_requests,
            immediate=immediate,
            step=step,
            clock_s=clock_s,
            clients=self._clients,
            trust=1.0 if forecaster is None else forecaster.predictor.trust,
            request_tokens=self.state.request_tokens,
            costs=self.costs,
            objectives=self.objectives,
        )
        if self.cached is not None:
            view.cached = self.cached
        return view

    def ask(self, view: ClusterView, waiting: Waiting) -> IntArray:
        """Return the policy's decision as pairs, unchecked.

        Parameters
        ----------
        view : ClusterView
        waiting : Waiting
            Copies that nobody else reads, good for this decision.
        """
        began = perf_counter_ns()
        decision = self.policy.route(view, waiting)
        self.route_ns = perf_counter_ns() - began
        return as_pairs(decision, self.policy)

    def decide(self, queue: IntArray, *, step: int, clock_s: float, immediate: bool) -> IntArray:
        """Return a decision that can be carried out, the view being up to date.

        Parameters
        ----------
        queue : ndarray of int64, shape (QUEUE_ROWS, n)
            Waiting requests, first come first: KV tokens, identity, and the decode step from
            which each could have been routed. The policy is given a copy.
        step : int
            Decode steps done so far.
        clock_s : float
            Seconds since the start.
        immediate : bool
            Whether the one request there is has to be placed, room or not.

        Returns
        -------
        ndarray of int64, shape (k, 2)
            Pairs (index into the queue, worker).

        Raises
        ------
        PolicyError
            The policy's answer is none that could be carried out.
        """
        view = self.view(step, clock_s, immediate=immediate)
        pairs = as_pairs(self.policy.route(view, Waiting.copy_of(queue)), self.policy)
        found, row = examine(self.limits, queue[TOKENS], pairs, immediate)
        if found != OK:
            raise refusal(self.policy, step, found, row, pairs=pairs, waiting=queue.shape[1])
        return pairs

    def prepare(self) -> None:
        """Project what runs now, as the last decision did, so that the next one need not."""
        if self.forecaster is not None and self._prepared is not None:
            self.forecaster.prepare(self.state, *self._prepared)

    def skip_preparing(self) -> None:
        """Leave projections to the decisions until one has made one."""
        self._prepared = None

    def projected(
        self, state: ClusterState, horizon: int, growth: bool, survival: bool
    ) -> IntArray:
        """Project the loads of a state, such as an earlier one, by the present forecasts.

        Where nothing is forecast all that runs now runs throughout, whatever is asked.
        """
        if self.forecaster is None:
            return state.projection(horizon, growth=growth)
        return self.forecaster.project(state, horizon, growth, survival)

    def own_projection(self, horizon: int, growth: bool, survival: bool) -> IntArray:
        """Project what this session has at the workers, other front ends left out."""
        self._prepared = horizon, growth, survival
        return self.projected(self.state, horizon, growth, survival)

    def projection_to_tell(self) -> IntArray:
        """Return what other front ends need, projected as the policy last asked."""
        return self.own_projection(*self._asked)

    def _project(self, horizon: int, growth: bool, survival: bool) -> IntArray:
        # On the way of every decision that looks ahead: no detour over the methods above.
        if self.forecaster is None:
            own = self.state.projection(horizon, growth=growth)
        else:
            self._prepared = horizon, growth, survival
            own = self.forecaster.project(self.state, horizon, growth, survival)
        if self._others is None:
            return own
        self._asked = self.policy.horizon, growth, survival
        return own + self._others.others_projected(horizon)


def _widened(figures: IntArray, workers: int) -> IntArray:
    """Take front ends to have nothing at workers of which they do not tell."""
    known = figures.shape[1]
    return figures if known == workers else np.pad(figures, ((0, 0), (0, workers - known)))


@kernel
def has_room(limits: IntArray, prompt_tokens: int) -> bool:
    """Tell whether a worker of a view has a slot and KV room for a prompt."""
    for g in range(limits.shape[1]):
        if limits[ROOM, g] > 0 and limits[TOKEN_ROOM, g] >= prompt_tokens:
            return True
    return False


@kernel
def add_others(table: IntArray, figures: IntArray, immediate: bool, request_tokens: int) -> int:
    """Add what other front ends have at the workers to a view; return the total room."""
    total = 0
    for g in range(table.shape[1]):
        requests = figures[S_RUNNING, g] + figures[S_QUEUED, g]
        table[LOAD, g] += figures[S_LOAD, g] + figures[S_QUEUED_TOKENS, g]
        table[LOAD, g] += request_tokens * requests
        table[RUNNING, g] += figures[S_RUNNING, g]
        table[QUEUED, g] += figures[S_QUEUED, g]
        table[PROMPT_TOKENS, g] += figures[S_PROMPTS, g]
        table[BACKLOG, g] += figures[S_BACKLOG, g]
        if not immediate:
            free = table[SLOTS, g] - table[RUNNING, g] - table[QUEUED, g]
            table[ROOM, g] = max(free, 0)
            if table[CAPACITY, g] < NO_LIMIT:
                weight = request_tokens * (table[RUNNING, g] + table[QUEUED, g])
                table[TOKEN_ROOM, g] = max(table[CAPACITY, g] - table[LOAD, g] + weight, 0)
        total += table[ROOM, g]
    return total
