"""What one policy routes with: a cluster session, and the books that it decides by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver.cluster.session import ClusterSession
from brsolver.hardware.online import compile_online
from brsolver.wiring import wire
from integration.routing.identities import Identities, hand_over
from integration.routing.prefixes import cached_by
from integration.routing.warming import compile_parts, keyed
from integration.vllm.accounting import Books
from integration.vllm.deployment import Scheduling
from integration.vllm.prefixes import RankPrefixes, joined_blocks
from integration.vllm.pricing import configured, objectives_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.cluster.view import IntArray
    from brsolver.wiring import Parts
    from integration.vllm.config import AdapterConfig
    from integration.vllm.deployment import Deployment
    from integration.vllm.sharing import Board

    BoardFor = Callable[[int], Board | None]
    """Returns the board, if any, for projections over that many steps."""

Placements = list[list[int]]
"""Pairs: index among those who wait, and rank."""


class Router:
    """A session, its books, and what passes between them; another policy brings another one.

    Parameters
    ----------
    config : AdapterConfig
    parts : Parts
        The policy and predictor that it names, made.
    ranks, slots, capacity
        As of `Deployment`.
    scheduling : Scheduling, optional
        How the ranks compute prompts.
    block_tokens : int
        Of the engines' prefix caches; 0 where they have none.
    clients : int
        API servers that route to the same ranks.
    board : Board or None
        What other API servers tell, where there are any.

    Attributes
    ----------
    session : ClusterSession
        Asks the policy. What a request weighs (`session.request_tokens`) may be set at any time.
    books : Books
        Who runs where, in the session's state.
    board : Board or None
        As given.
    keyed : bool
        Whether forecasts may go by the keys of requests. Predictors that go by age alone are
        spared the hashing of prompts.
    block_tokens : int
        Of the blocks of prompts that are to be hashed; 0 where there are no caches, or the policy
        does not ask what is in them.

    Raises
    ------
    BrsolverError
        The predictor was made for another horizon than the policy's.
    """

    def __init__(
        self,
        config: AdapterConfig,
        parts: Parts,
        *,
        ranks: int,
        slots: int,
        capacity: int | None,
        scheduling: Scheduling = Scheduling(),  # noqa: B008 # frozen
        block_tokens: int = 0,
        clients: int = 1,
        board: Board | None = None,
    ) -> None:
        self.keyed = keyed(parts, config.predictor)
        self.board = board
        self._refresh_steps = config.params.refresh_steps
        self._not_before = 0
        self.block_tokens = joined_blocks(block_tokens) if parts.policy.asks_cached else 0
        identities = Identities(keyed=self.keyed, blocks=self.block_tokens > 0)
        self.session = ClusterSession(
            parts.policy,
            parts.predictor,
            [slots] * ranks,
            capacity=[capacity] * ranks,
            refresh_steps=self._refresh_steps,
            columns=identities.columns,
            clients=clients,
            others=board,
            request_tokens=_weight(config),
            objectives=objectives_of(config.params),
        )
        self.books = Books(
            self.session.state,
            identities,
            slots=slots,
            capacity=capacity,
            scheduling=scheduling,
            forecast=self.session.forecaster is not None,
            learning=self.session.learns,
            prefixes=RankPrefixes(self.block_tokens, capacity),
        )
        if self.block_tokens:
            books = self.books
            # Asked anew each time: ranks come, and the history of a router before is taken over.
            self.session.cached = cached_by(
                lambda: books.prefixes.of(books.ranks), identities.blocks_of
            )

    def go_on_from(self, old: Router, config: AdapterConfig) -> None:
        """Take over what another router has come to hold, where `config` does not say otherwise."""
        self.books.adopt(old.books)
        if config.params.request_tokens == "auto":
            self.session.request_tokens = old.session.request_tokens

    def refresh_due(self) -> bool:
        """Tell whether it is time to make all forecasts anew."""
        step = self.books.step
        return step >= self._not_before and self.session.due(step)

    def refresh(self) -> None:
        """Take in what has ended, and make all forecasts anew."""
        books = self.books
        hand_over(self.session, books.take_finished(), books.forget)
        self.session.forecast(books.take_admitted(), books.step)

    def skip_refresh(self) -> None:
        """Put a refresh that failed off to the next time, and drop what it would have learnt."""
        for request in self.books.take_finished().requests:
            self.books.forget(request)
        self._not_before = self.books.step + self._refresh_steps

    def decide(self, queue: IntArray, clock_s: float, *, immediate: bool) -> Placements:
        """Decide where waiting requests go, the session's view being up to date.

        Parameters
        ----------
        queue : ndarray of int64, shape (QUEUE_ROWS, n)
            As of `ClusterSession.ask`; no policy gets hold of it.
        clock_s : float
        immediate : bool

        Returns
        -------
        list of [int, int]
            Index into the queue, and rank.

        Raises
        ------
        PolicyError
            The policy's answer is none that could be carried out.
        """
        books, session = self.books, self.session
        if books.admitted:
            session.forecast(books.take_admitted(), books.step)
        pairs = session.decide(queue, step=books.step, clock_s=clock_s, immediate=immediate)
        placements: Placements = pairs.tolist()
        return placements

    def publish(self, held: int) -> None:
        """Tell the other API servers what this one has at the ranks, and how many it holds."""
        if self.board is not None:
            self.board.publish(self.books.figures(), held)
            if self.session.state.horizon:
                self.board.publish_projection(self.session.projection_to_tell())

    def hear(self) -> None:
        """Take in what the other API servers have."""
        if self.board is not None:
            self.books.hear(self.session.hear())


def parts_of(config: AdapterConfig) -> Parts:
    """Make the policy and the predictor that a configuration names.

    Raises
    ------
    BrsolverError
        They cannot be made.
    """
    return wire(config.policy, config.predictor, seed=config.params.seed)


def made_ready(config: AdapterConfig, known: Deployment, ranks: int, board_for: BoardFor) -> Router:
    """Make a router, with all that it needs compiled; changes nothing of what serves meanwhile.

    Raises
    ------
    BrsolverError
        The policy or predictor cannot be made, there is no such hardware, or the board is not for
        as many steps.
    """
    parts = parts_of(config)
    scheduling = known.scheduling(config.params.prefill)
    costs = configured(config, known.budget if scheduling.computes else 0)
    if known.moe is False:
        costs = None  # Ranks do not wait for each other.
    compile_all(config, parts)
    router = Router(
        config,
        parts,
        ranks=ranks,
        slots=known.slots,
        capacity=known.capacity,
        scheduling=scheduling,
        block_tokens=known.block_tokens if scheduling.computes else 0,
        clients=known.clients,
        board=board_for(parts.policy.horizon),
    )
    router.session.costs = costs
    return router


def compile_all(config: AdapterConfig, parts: Parts) -> None:
    """Compile or load every kernel that is needed; books have none but their state's."""
    if config.params.identify:
        compile_online()

    compile_parts(
        config.policy,
        config.predictor,
        parts,
        seed=config.params.seed,
        refresh_steps=config.params.refresh_steps,
    )


def _weight(config: AdapterConfig) -> int:
    each = config.params.request_tokens
    return 0 if each == "auto" else each
