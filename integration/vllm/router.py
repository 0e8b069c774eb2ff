"""The routing policy, its forecasts and its view of the cluster: the simulator's own objects."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver._jit import kernel
from brsolver.errors import PolicyError
from brsolver.forecasting import Forecaster
from brsolver.policy import (
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
    ClusterView,
    Waiting,
)
from brsolver.registry import make_policy, make_predictor, policy_class, wants
from brsolver.simulator._kernels import fill_view
from brsolver.simulator.checks import as_pairs, name_of
from brsolver.simulator.streams import stream
from integration.vllm.accounting import Books
from integration.vllm.sharing import S_LOAD, S_PROMPTS, S_QUEUED, S_QUEUED_TOKENS, S_RUNNING

if TYPE_CHECKING:
    from brsolver.policy import IntArray, Policy
    from integration.vllm.config import AdapterConfig
    from integration.vllm.sharing import Board

Placements = list[tuple[int, int]]

NOT_ONE, NO_REQUEST, NO_RANK, TWICE, NO_SLOT, NO_TOKENS = 1, 2, 3, 4, 5, 6
"""What can be wrong with a decision."""


class Router:
    """Asks a policy where requests go.

    Parameters
    ----------
    config : AdapterConfig
        Which policy and predictor.
    ranks, slots, capacity
        As of `Books`, which it makes.
    clients : int
        API servers that route to the same ranks.

    Raises
    ------
    BrsolverError
        The policy or predictor cannot be made.
    """

    def __init__(
        self,
        config: AdapterConfig,
        *,
        ranks: int,
        slots: int,
        capacity: int | None,
        clients: int = 1,
    ) -> None:
        self.board: Board | None = None
        self._clients = clients
        self.policy, predictor = _make(config)
        self.horizon = int(getattr(self.policy, "horizon", 0))
        self._refresh_steps = refresh = config.params.refresh_steps
        self._not_before = 0
        # Predictors that go by age alone are spared the hashing of prompts.
        self.keyed = predictor is not None and config.predictor != "survival"
        self.books = Books(
            ranks,
            slots,
            capacity,
            horizon=self.horizon,
            refresh_steps=refresh,
            keyed=self.keyed,
        )
        self.forecaster: Forecaster | None = None
        if predictor is not None:
            self.forecaster = Forecaster(
                predictor,
                horizon=self.horizon,
                refresh_steps=refresh,
                columns=self.books.columns,
            )
        self.books.forecast = self.forecaster is not None
        self.books.learning = self.forecaster is not None and self.forecaster.learns
        self._table: IntArray = np.zeros((VIEW_ROWS, ranks), np.int64)
        self._asked = (self.horizon, False, False)
        self._projected: tuple[int, bool, bool] | None = None

    def refresh_due(self) -> bool:
        """Tell whether it is time to make all forecasts anew."""
        step = self.books.step
        forecaster = self.forecaster
        return forecaster is not None and step >= self._not_before and forecaster.due(step)

    def refresh(self) -> None:
        """Take in what has ended, and make all forecasts anew."""
        forecaster, books = self.forecaster, self.books
        if forecaster is None:
            return
        done = books.take_finished()
        if done.requests:
            rows = [(r.prompt_tokens, r.generated, r.identity) for r in done.requests]
            prompts, lengths, identities = np.array(rows, np.int64).T
            cancelled = np.array(done.cancelled, np.bool_)
            try:
                forecaster.observe(prompts, lengths, request=identities, cancelled=cancelled)
            finally:
                for request in done.requests:
                    books.forget(request)
        forecaster.update(books.state, books.take_admitted(), books.step)

    def skip_refresh(self) -> None:
        """Put a refresh that failed off to the next time, and drop what it would have learnt."""
        for request in self.books.take_finished().requests:
            self.books.forget(request)
        self._not_before = self.books.step + self._refresh_steps

    def room(self, *, immediate: bool = False) -> int:
        """Bring the view up to date; return how many requests could be placed."""
        books = self.books
        if self._table.shape[1] != books.ranks:
            self._table = np.zeros((VIEW_ROWS, books.ranks), np.int64)
        room = int(fill_view(books.state.workers, int(immediate), self._table))
        if self.board is None:
            return room
        return int(add_others(self._table, books.others, immediate))

    def fits(self, prompt_tokens: int) -> bool:
        """Tell whether a rank of the view has a slot and KV room for a prompt."""
        return bool(has_room(self._table, prompt_tokens))

    def prepare(self) -> None:
        """Project what runs now, as the last decision did, so that the next one need not."""
        if self.forecaster is not None and self._projected is not None:
            self.forecaster.prepare(self.books.state, *self._projected)

    def skip_preparing(self) -> None:
        """Leave projections to the decisions until one has made one."""
        self._projected = None

    def place(self, waiting: Waiting, clock_s: float, *, immediate: bool) -> Placements:
        """Decide where waiting requests go, the view being up to date.

        Returns
        -------
        list of (int, int)
            Index into `waiting` and rank.

        Raises
        ------
        PolicyError
            The decision is none that could be carried out.
        """
        books = self.books
        if self.forecaster is not None and books.admitted:
            self.forecaster.update(books.state, books.take_admitted(), books.step)
        view = ClusterView(
            self._table,
            projection=self._project,
            active=books.state.active_requests,
            immediate=immediate,
            step=books.step,
            clock_s=clock_s,
            clients=1 if self.board is not None else self._clients,
            trust=1.0 if self.forecaster is None else self.forecaster.trust,
        )
        pairs = as_pairs(self.policy.route(view, waiting), self.policy)
        wrong, row = find_wrong(self._table, waiting.prompt_tokens, pairs, immediate)
        if wrong:
            pair = pairs[row].tolist() if row >= 0 else [-1, -1]
            self._refuse(wrong, pair, len(pairs), len(waiting))
        return [(at, rank) for at, rank in pairs.tolist()]

    def publish(self, held: int) -> None:
        """Tell the other API servers what this one has at the ranks."""
        if self.board is not None:
            self.board.publish(self.books.figures(), held)
            if self.horizon:
                steps, growth, survival = self._asked
                own = self._project_own(steps, growth, survival)
                self.board.publish_projection(own)

    def hear(self) -> None:
        """Take in what the other API servers have."""
        if self.board is not None:
            self.books.others = self.board.others()

    def _project(self, horizon: int, growth: bool, survival: bool) -> IntArray:
        own = self._project_own(horizon, growth, survival)
        if self.board is not None:
            self._asked = (self.horizon, growth, survival)
            own = own + self.board.others_projected(horizon)
        return own

    def _project_own(self, horizon: int, growth: bool, survival: bool) -> IntArray:
        if self.forecaster is None:
            # Nothing is forecast: all that runs now runs throughout, whatever was asked.
            return self.books.state.projection(horizon, growth=growth)
        self._projected = horizon, growth, survival
        return self.forecaster.project(self.books.state, horizon, growth, survival)

    def _refuse(self, wrong: int, pair: list[int], pairs: int, waiting: int) -> None:
        at, rank = pair
        reason = {
            NOT_ONE: f"placed {pairs} requests of 1",
            NO_REQUEST: f"named waiting request {at}, there are {waiting}",
            NO_RANK: f"chose rank {rank}, which is not there",
            TWICE: f"placed waiting request {at} twice",
            NO_SLOT: f"gave rank {rank} more than its slots",
            NO_TOKENS: f"gave rank {rank} more than its KV cache",
        }[wrong]
        raise PolicyError(f"{name_of(self.policy)} {reason}")


def _make(config: AdapterConfig) -> tuple[Policy, Any]:
    cls = policy_class(config.policy)
    seed = config.params.seed
    predictor = None
    if config.predictor != "none":
        rng = stream(seed, "predictor")
        predictor = make_predictor(config.predictor, config.predictor_parameters, rng=rng)
    rng = stream(seed, "policy")
    if wants(cls, "predictor"):
        policy = make_policy(config.policy, config.policy_parameters, rng=rng, predictor=predictor)
        return policy, predictor
    policy = make_policy(config.policy, config.policy_parameters, rng=rng)
    return policy, predictor if getattr(policy, "horizon", 0) > 0 else None


@kernel
def has_room(table: IntArray, prompt_tokens: int) -> bool:
    """Tell whether a rank of a view has a slot and KV room for a prompt."""
    for g in range(table.shape[1]):
        if table[ROOM, g] > 0 and table[TOKEN_ROOM, g] >= prompt_tokens:
            return True
    return False


@kernel
def add_others(table: IntArray, others: IntArray, immediate: bool) -> int:
    """Add what other API servers have at the ranks to a view; return the total room."""
    total = 0
    for g in range(table.shape[1]):
        table[LOAD, g] += others[S_LOAD, g] + others[S_QUEUED_TOKENS, g]
        table[RUNNING, g] += others[S_RUNNING, g]
        table[QUEUED, g] += others[S_QUEUED, g]
        table[PROMPT_TOKENS, g] += others[S_PROMPTS, g]
        if not immediate:
            free = table[SLOTS, g] - table[RUNNING, g] - table[QUEUED, g]
            table[ROOM, g] = max(free, 0)
            if table[CAPACITY, g] < NO_LIMIT:
                table[TOKEN_ROOM, g] = max(table[CAPACITY, g] - table[LOAD, g], 0)
        total += table[ROOM, g]
    return total


@kernel
def find_wrong(
    table: IntArray, prompt_tokens: IntArray, pairs: IntArray, immediate: bool
) -> tuple[int, int]:
    """Return what is wrong with a decision, 0 if nothing, and the row in which it shows."""
    if immediate and pairs.shape[0] != 1:
        return NOT_ONE, -1
    room, tokens = table[ROOM].copy(), table[TOKEN_ROOM].copy()
    placed = np.zeros(prompt_tokens.shape[0], np.bool_)
    for row in range(pairs.shape[0]):
        at, rank = pairs[row, 0], pairs[row, 1]
        wrong = 0
        if not 0 <= at < placed.shape[0]:
            wrong = NO_REQUEST
        elif not (0 <= rank < table.shape[1] and table[SLOTS, rank] > 0):
            wrong = NO_RANK
        elif placed[at]:
            wrong = TWICE
        elif not immediate and room[rank] < 1:
            wrong = NO_SLOT
        elif not immediate and tokens[rank] < prompt_tokens[at]:
            wrong = NO_TOKENS
        if wrong:
            return wrong, row
        placed[at] = True
        room[rank] -= 1
        tokens[rank] -= prompt_tokens[at]
    return 0, -1


def warm_up(config: AdapterConfig) -> None:
    """Compile or load every kernel that routing needs, on a miniature with a router of its own.

    A stranger's policy is left alone, since it may count its calls; BR-0 stands in for it.
    """
    from integration.vllm.miniature import run

    own = policy_class(config.policy).__module__.partition(".")[0] in {"brsolver", "baselines"}
    run(config if own else replace(config, policy="br-0", policy_parameters={}))
