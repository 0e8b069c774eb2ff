"""Books of who is where: reserved at the decision, released exactly once."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from brsolver.cluster._state_kernels import NONE
from brsolver.simulator.live import LiveRanks
from integration.picker.asks import End
from integration.routing.identities import Finished, Identities

if TYPE_CHECKING:
    from brsolver.cluster.state import ClusterState
    from brsolver.cluster.view import IntArray
    from brsolver.hardware.step_time import StepTime
    from brsolver.simulator.prefill import Prefill
    from integration.picker.clock import Mark
    from integration.picker.requests import Request
    from integration.picker.workers import Workers


class Books:
    """Reservations by name, entered in the model of the ranks.

    Parameters
    ----------
    state : ClusterState
        Of the session that decides by these books.
    step_time : StepTime
    prefill : Prefill
    workers : Workers
    identities : Identities
    learning : bool
        Whether somebody learns from requests that have ended.

    Attributes
    ----------
    ranks : LiveRanks
    known : dict of str to Request
        All that are held or have a worker.
    begun : int
        Requests that have come.
    ended : Counter of End
        Requests that have ended, by how.
    """

    def __init__(
        self,
        state: ClusterState,
        step_time: StepTime,
        prefill: Prefill,
        *,
        workers: Workers,
        identities: Identities,
        learning: bool,
    ) -> None:
        self._state = state
        self._prefill = prefill
        self._workers = workers
        self._identities = identities
        self._learning = learning
        self.ranks = LiveRanks(state, step_time, prefill=prefill)
        self.known: dict[str, Request] = {}
        self._by_identity: dict[int, Request] = {}
        self.begun = 0
        self.ended: Counter[End] = Counter()
        self._finished: list[tuple[Request, bool]] = []
        self._admitted: list[int] = []

    def __len__(self) -> int:
        return len(self._by_identity)

    def by_identity(self, identity: int) -> Request:
        """Return who goes by an identity."""
        return self._by_identity[identity]

    def enter(self, request: Request) -> None:
        """Enter a request that has come."""
        self._identities.give(request)
        self.begun += 1
        self.known[request.name] = request
        self._by_identity[request.identity] = request

    def reserve(self, request: Request, worker: int, *, cached_tokens: int = 0) -> None:
        """Send a request that has been entered to a worker."""
        request.sent = True
        self._workers[worker].sent += request.ask.sequences
        self._put(request, worker, cached_tokens=cached_tokens)

    def _put(self, request: Request, worker: int, *, cached_tokens: int = 0) -> None:
        """Enter a request at a worker."""
        request.cached_tokens = cached_tokens
        self.ranks.send(
            request.identity, worker, request.prompt_tokens, cached_tokens=cached_tokens
        )
        request.worker = worker
        for _ in range(min(request.ask.sequences, self._workers[worker].slots) - 1):
            other = request.sequence()
            self._identities.give(other)
            self._by_identity[other.identity] = other
            self.ranks.send(other.identity, worker, other.prompt_tokens)
            request.beside.append(other)
        self._workers[worker].reserved += request.slots

    def resume(self, request: Request, worker: int, generated: int) -> None:
        """Enter a request that runs at a worker already, with so many tokens."""
        self._put(request, worker)
        if generated > 0:
            self._restart(request, worker, generated)

    def move(self, request: Request, worker: int) -> None:
        """Take in that a request went to another worker than was decided, or from one to another.

        It begins anew there.
        """
        self._lift(request, lost=True)
        request.first_s = request.begun = None
        self.reserve(request, worker)

    def give_back(self, request: Request) -> None:
        """Take in that a request is not at its worker after all: it has none again."""
        self._lift(request, lost=True)
        request.started = False
        request.first_s = request.begun = None

    def first(self, request: Request) -> None:
        """Take in that the first token of a request is there."""
        for each in (request, *request.beside):
            self.ranks.first_now(each.identity)
            self._admitted.append(each.identity)

    def stepped(self, first: list[int], mark: Mark) -> None:
        """Take in whose first tokens the model has come to, and how the clock stands there."""
        self._admitted.extend(first)
        for identity in first:
            request = self._by_identity[identity]
            if request.begun is None:
                request.begun = mark

    def generated(self, request: Request) -> int:
        """Return how many tokens came of each slot of a request by the model."""
        return 0 if request.worker == NONE else self.ranks.generated(request.identity)

    def release(self, request: Request, end: End, *, generated: int, cancelled: bool) -> None:
        """Take in that a request has ended, wherever it was."""
        del self.known[request.name]
        self.ended[end] += 1
        if request.worker != NONE:
            self._lift(request, lost=end is not End.FINISHED)
        request.generated = generated
        if self._learning and generated > 0:
            self._finished.append((request, cancelled))
        else:
            self.forget(request)

    def forget(self, request: Request) -> None:
        """Take the identity of a request back that has ended."""
        del self._by_identity[request.identity]
        self._identities.take_back(request)

    def at(self, worker: int) -> list[Request]:
        """Return who has a worker, oldest first."""
        return [each for each in self.known.values() if each.worker == worker]

    def take_finished(self) -> Finished[Request]:
        """Return requests that ended since the last call; they keep identities until `forget`."""
        done, self._finished = self._finished, []
        return Finished([each for each, _ in done], [cancelled for _, cancelled in done])

    def take_admitted(self) -> IntArray:
        """Return handles of requests that began to run since the last call."""
        names, self._admitted = self._admitted, []
        handles = [self.ranks.handle(each) for each in names if each in self.ranks]
        return np.array([each for each in handles if each != NONE], np.int64)

    def rebuild(self, step_time: StepTime) -> None:
        """Enter all requests anew, from nothing but where they are and what they have."""
        old = self.ranks
        had = {each.name: _tokens(old, each) for each in self.known.values()}
        self._state.clear()
        self.ranks = LiveRanks(self._state, step_time, prefill=self._prefill)
        self._admitted.clear()
        for worker in self._workers:
            worker.reserved = 0
        for request in self.known.values():
            if request.worker != NONE:
                self._let_go_beside(request)
                self.resume(request, request.worker, had[request.name])

    def _restart(self, request: Request, worker: int, generated: int) -> None:
        self.ranks.leave(request.identity)
        self.ranks.send(request.identity, worker, request.prompt_tokens, generated=generated)
        self.ranks.first_now(request.identity)
        self._admitted.append(request.identity)

    def _lift(self, request: Request, *, lost: bool) -> None:
        if lost and request.sent:
            # Of those that ran before the books it is not sure which rank had them.
            self._workers[request.worker].lost += request.ask.sequences
        for each in (request, *request.beside):
            self.ranks.leave(each.identity)
        self._workers[request.worker].reserved -= request.slots
        self._let_go_beside(request)
        request.worker = NONE

    def _let_go_beside(self, request: Request) -> None:
        for other in request.beside:
            self.forget(other)
        request.beside.clear()


def _tokens(ranks: LiveRanks, request: Request) -> int:
    """Return what a request has by a model that may be broken."""
    try:
        return ranks.generated(request.identity)
    except Exception:  # noqa: BLE001 # whatever is wrong with it, the request is there
        return 0
