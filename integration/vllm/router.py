"""The routing policy, its forecasts and its view of the cluster: the simulator's own objects."""

from __future__ import annotations

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
        table = self._table
        return bool(((table[ROOM] > 0) & (table[TOKEN_ROOM] >= prompt_tokens)).any())

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
        pairs = as_pairs(self.policy.route(view, waiting), self.policy).tolist()
        self._check(pairs, waiting, immediate=immediate)
        return [(at, rank) for at, rank in pairs]

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
        return self.forecaster.project(self.books.state, horizon, growth, survival)

    def _check(self, pairs: list[list[int]], waiting: Waiting, *, immediate: bool) -> None:
        slots, count = self._table[SLOTS], len(waiting)
        where = name_of(self.policy)
        if immediate and len(pairs) != 1:
            raise PolicyError(f"{where} placed {len(pairs)} requests of 1")
        for at, rank in pairs:
            if not 0 <= at < count:
                raise PolicyError(f"{where} named waiting request {at}, there are {count}")
            if not 0 <= rank < slots.shape[0] or not slots[rank]:
                raise PolicyError(f"{where} chose rank {rank}, which is not there")
        if len({at for at, _ in pairs}) != len(pairs):
            raise PolicyError(f"{where} placed a waiting request twice")
        if not immediate:
            self._check_room(pairs, waiting)

    def _check_room(self, pairs: list[list[int]], waiting: Waiting) -> None:
        room, tokens = self._table[ROOM].tolist(), self._table[TOKEN_ROOM].tolist()
        for at, rank in pairs:
            room[rank] -= 1
            tokens[rank] -= int(waiting.prompt_tokens[at])
            if room[rank] < 0 or tokens[rank] < 0:
                short = "slots" if room[rank] < 0 else "KV cache"
                raise PolicyError(f"{name_of(self.policy)} gave rank {rank} more than its {short}")


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


def warm_up(config: AdapterConfig) -> None:
    """Compile or load every kernel that routing needs, on a miniature with a router of its own.

    A stranger's policy is left alone: it may count its calls.
    """
    if policy_class(config.policy).__module__.partition(".")[0] not in {"brsolver", "baselines"}:
        return
    from integration.vllm.miniature import run

    run(config)
