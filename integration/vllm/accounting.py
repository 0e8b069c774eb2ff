"""Books of what runs where: exact KV tokens from what vLLM's engines report."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.cluster._state_kernels import NONE, W_ACTIVE, W_CAPACITY, W_LOAD, W_SLOTS
from brsolver.cluster.session import FIGURE_ROWS, FIGURES, S_LOAD, S_RUNNING
from integration.routing.identities import Finished
from integration.vllm.backlog import Backlog
from integration.vllm.deployment import Scheduling
from integration.vllm.headroom import Headroom
from integration.vllm.prefixes import RankPrefixes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from brsolver.cluster.state import ClusterState
    from brsolver.cluster.view import IntArray
    from integration.routing.identities import Identities
    from integration.vllm.requests import Request

PREEMPTED = 3
ENDED_BY_ITSELF = frozenset({0, 1, 4})
"""`FinishReason.STOP`, ``LENGTH`` and ``REPETITION``: not cancelled, not failed."""


class Books:
    """Who runs where with how many KV tokens.

    A request is charged its prompt when it is sent, a token with each that its engine reports,
    and released when its engine lets go of it. Beyond a rank's slots or KV cache it is queued
    there, first come first served, as vLLM's scheduler does; its first token corrects that.

    Parameters
    ----------
    state : ClusterState
        Of the session that decides by these books, which from here on are all that writes who
        runs there. Its workers are the ranks, indexed as `core_engines`.
    identities : Identities
        What requests go by in the session.
    slots : int
        Requests that a rank can run at once (``max_num_seqs``).
    capacity : int or None
        KV tokens that a rank can hold.
    scheduling : Scheduling, optional
        How the ranks compute prompts.
    forecast, learning : bool
        Whether somebody forecasts, and whether from what has ended.
    prefixes : RankPrefixes, optional
        What the ranks are taken to have in their prefix caches.

    Attributes
    ----------
    state : ClusterState
    step : int
        Decode steps so far: a rank that reports a second time begins a new one.
    others : ndarray of int64, shape (FIGURES, G)
        What other API servers have at the ranks.
    admitted : list of int
        Handles of requests that began to run since forecasts were last made, if any are.
    begun : list of Request
        Those whose first token came with the last batch of outputs.
    """

    def __init__(
        self,
        state: ClusterState,
        identities: Identities,
        *,
        slots: int,
        capacity: int | None,
        scheduling: Scheduling = Scheduling(),  # noqa: B008 # frozen
        forecast: bool = False,
        learning: bool = False,
        prefixes: RankPrefixes | None = None,
    ) -> None:
        self.state = state
        self.slots = slots
        self.capacity = capacity
        self._identities = identities
        self.scheduling = scheduling
        self.prefixes = prefixes or RankPrefixes(0, None)
        self._begin()
        self._seen: list[int] = [0] * self.ranks
        self._finished: list[Request] = []
        self._by_name: dict[str, Request] = {}
        self.others: IntArray = np.zeros((FIGURES, self.ranks), np.int64)
        self.step = 0
        self.preemptions: list[int] = [0] * self.ranks
        self.cached_tokens = 0
        self.begun: list[Request] = []
        self._forecast, self._learning = forecast, learning
        self._fault: Exception | None = None

    def _begin(self) -> None:
        self._queues: list[deque[Request]] = [deque() for _ in range(self.ranks)]
        self._headroom = Headroom(self.state, self.capacity)
        self._backlog = Backlog(self.state, self.scheduling)
        self.admitted: list[int] = []

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    @property
    def ranks(self) -> int:
        """Rank indices in use, those that have departed included."""
        return int(self.state.workers.shape[1])

    def get(self, name: str) -> Request | None:
        """Return the request that an engine has under this name."""
        return self._by_name.get(name)

    def identify(self, request: Request) -> None:
        """Give a request an identity, under which forecasts know it."""
        self._identities.give(request)

    def forget(self, request: Request) -> None:
        """Take its identity back."""
        self._identities.take_back(request)

    def charge(self, request: Request, rank: int) -> None:
        """Enter a request that is sent to a rank."""
        request.expected_tokens = self.prefixes.sent(request, rank)
        request.owed = 0 if request.generated else request.prompt_tokens - request.expected_tokens
        self._enter(request, rank)

    def _enter(self, request: Request, rank: int) -> None:
        if request.identity == NONE:
            self.identify(request)
        request.place(rank)
        self._by_name[request.name] = request
        self._advance_queue(rank)
        if not self._queues[rank] and self._fits(request):
            self._admit(request)
        else:
            self.state.enqueue(rank, request.prompt_tokens)
            self._queues[rank].append(request)
        self._backlog.entered(request)

    def extend(self, request: Request, tokens: int) -> None:
        """Enter further prompt tokens of a request that its rank has already."""
        if request.handle == NONE:
            self.state.dequeue(request.rank, request.prompt_tokens)
            self.state.enqueue(request.rank, request.prompt_tokens + tokens)
        else:
            self.state.generate_all([request.handle], [tokens])
        request.prompt_tokens += tokens
        self._backlog.extended(request, tokens)

    def move(self, request: Request, rank: int) -> None:
        """Enter that a request went to another rank than it was charged to."""
        left = request.rank
        self._leave(request)
        request.place()
        self._advance_queue(left)
        self._headroom.emptied(left)
        self.charge(request, rank)

    def report(self, rank: int) -> bool:
        """Enter that a rank reported a step; tell whether it is the first to do so."""
        fresh = self._seen[rank] == self.step
        if fresh:
            self.step += 1
        self._seen[rank] = self.step
        return fresh

    def settled(self) -> bool:
        """Tell whether every rank that runs anything has reported the current step."""
        active = self.state.workers[W_ACTIVE]
        return all(seen == self.step or not active[rank] for rank, seen in enumerate(self._seen))

    def progress(self, outputs: Iterable[Any]) -> int:
        """Enter the tokens of a batch of outputs; return how many requests it was about."""
        handles: list[int] = []
        tokens: list[int] = []
        by_name = self._by_name
        self.begun.clear()
        for output in outputs:
            request = by_name.get(output.request_id)
            if request is None:
                continue
            count = len(output.new_token_ids)
            if request.handle == NONE:
                self._promote(request)
            if request.unseen and count:
                self._headroom.seen(request)
                self.begun.append(request)
            if request.owed and count:
                self._backlog.computed(request, output.prefill_stats)
            request.generated += count
            handles.append(request.handle)
            tokens.append(count)
            if output.finish_reason is not None:
                request.ended = int(output.finish_reason) in ENDED_BY_ITSELF
            if output.events or output.prefill_stats:
                self._note(request, output)
        self.state.generate_all(handles, tokens)
        return len(handles)

    def unseen(self, rank: int) -> tuple[int, int]:
        """Return how many requests of a rank have no token yet, and their prompts' tokens."""
        return self._headroom.unseen(rank)

    def stepped(self, rank: int, batch: Any) -> None:
        """Enter what a rank's step, whose outputs are entered, has computed of long prompts."""
        if batch.outputs or batch.scheduler_stats is not None:
            self._backlog.stepped(rank, len(batch.outputs), batch.scheduler_stats)

    def told(self, rank: int, stats: Any) -> None:
        """Enter what a rank's engine says of itself, `SchedulerStats`."""
        self._headroom.told(rank, stats)

    def release(self, names: Iterable[str]) -> list[Request]:
        """Enter that engines have let go of requests; return those that were known."""
        gone = [found for name in names if (found := self._by_name.pop(name, None)) is not None]
        try:
            for request in gone:
                self._leave(request)
            for rank in {request.rank for request in gone}:
                self._advance_queue(rank)
                self._headroom.emptied(rank)
        except Exception as error:  # noqa: BLE001 # whatever it is, nobody may stay charged
            self._fault = error
            self.rebuild()
        for request in gone:
            self._settle(request)
        return gone

    def take_fault(self) -> Exception | None:
        """Return, once, what went wrong in `release`; the books have healed themselves."""
        fault, self._fault = self._fault, None
        return fault

    def hear(self, others: IntArray) -> None:
        """Enter what other API servers have at the ranks, shape (FIGURES, G)."""
        self.others = others

    def _settle(self, request: Request) -> None:
        if self._learning and request.generated > 0:
            self._finished.append(request)
        else:
            self.forget(request)

    def discard(self, request: Request) -> None:
        """Forget a request that could not be entered, and enter all others anew."""
        self._by_name.pop(request.name, None)
        request.place()
        self.forget(request)
        self.rebuild()

    def rebuild(self) -> None:
        """Enter all requests anew, from nothing but where they are and what they have."""
        requests = [(each, each.handle != NONE) for each in self._by_name.values()]
        self.state.clear()
        self._begin()
        for rank in range(self.ranks):
            self._headroom.emptied(rank)
        for request, runs in requests:
            self._enter_again(request, runs=runs)

    def _enter_again(self, request: Request, *, runs: bool) -> None:
        self._enter(request, request.rank)
        if runs and request.handle == NONE:
            self._promote(request)

    def ignore(self) -> None:
        """Keep nothing for forecasts from now on."""
        self._forecast = self._learning = False
        self.admitted.clear()
        for request in self.take_finished().requests:
            self.forget(request)

    def take_finished(self) -> Finished[Request]:
        """Return requests that ended since the last call; they keep identities until `forget`."""
        done, self._finished = self._finished, []
        cancelled = [not (each.ended or each.has_stop_texts) for each in done]
        return Finished(done, cancelled)

    def take_admitted(self) -> IntArray:
        """Return handles of requests that began to run since the last call."""
        handles = np.array(self.admitted, np.int64)
        self.admitted.clear()
        return handles

    def resize(self, ranks: int) -> list[Request]:
        """Let ranks come or go at the end, as elastic scaling does; return who went with them."""
        state = self.state
        lost: list[Request] = []
        for rank in range(ranks, self.ranks):
            if state.workers[W_SLOTS, rank]:
                lost += self._abandon(rank)
        for rank in range(ranks):
            if rank >= self.ranks:
                self._open()
            elif not state.workers[W_SLOTS, rank]:
                state.restore_worker(rank, self.slots, self.capacity)
        return lost

    def adopt(self, old: Books) -> None:
        """Take over all that other books hold, as when the policy is changed while serving."""
        self.step, self.others = old.step, old.others
        self.preemptions, self.cached_tokens = old.preemptions, old.cached_tokens
        self.resize(old.ranks)
        self.prefixes.adopt(old.prefixes)
        for rank in np.flatnonzero(old.state.slots == 0).tolist():
            self.state.remove_worker(rank)
        self._seen = list(old._seen)
        for request in list(old._by_name.values()):
            request.identity = NONE
            self._enter_again(request, runs=request.handle != NONE)

    def figures(self) -> IntArray:
        """Return the sums per rank that other API servers want to know, shape (FIGURES, G)."""
        rows: IntArray = self.state.workers[FIGURE_ROWS]
        return rows

    def _fits(self, request: Request) -> bool:
        here, elsewhere, rank = self.state.workers.item, self.others.item, request.rank
        running = here(W_ACTIVE, rank) + elsewhere(S_RUNNING, rank)
        if running >= here(W_SLOTS, rank):
            return False
        # What fits no empty rank is vLLM's to judge.
        load = here(W_LOAD, rank) + elsewhere(S_LOAD, rank)
        tokens = request.prompt_tokens + request.generated
        return bool(running == 0 or load + tokens <= here(W_CAPACITY, rank))

    def _admit(self, request: Request) -> None:
        request.handle = self.state.admit(
            request.identity, request.rank, request.prompt_tokens, generated=request.generated
        )
        self._headroom.admitted(request)
        if self._forecast:
            self.admitted.append(request.handle)

    def _promote(self, request: Request) -> None:
        """Let a queued request run; it stays in the queue's list until it comes to the front."""
        if self.state.workers[W_SLOTS, request.rank]:
            self.state.dequeue(request.rank, request.prompt_tokens)
            self._admit(request)

    def _advance_queue(self, rank: int) -> None:
        queue = self._queues[rank]
        while queue:
            request = queue[0]
            here = request.rank == rank and self._by_name.get(request.name) is request
            if here and request.handle == NONE:
                if not self._fits(request):
                    return
                self._promote(request)
            queue.popleft()

    def _note(self, request: Request, output: Any) -> None:
        for event in output.events or ():
            if event.type == PREEMPTED:
                self.preemptions[request.rank] += 1
        cached = getattr(output.prefill_stats, "num_cached_tokens", 0) or 0
        if cached > request.cached_tokens:
            self.cached_tokens += cached - request.cached_tokens
            request.cached_tokens = cached

    def _leave(self, request: Request) -> None:
        if not self.state.workers[W_SLOTS, request.rank]:
            return
        if request.unseen:
            self._headroom.seen(request)
        self._backlog.left(request)
        if request.handle == NONE:
            self.state.dequeue(request.rank, request.prompt_tokens)
        else:
            self.state.finish(request.handle)

    def _abandon(self, rank: int) -> list[Request]:
        self.state.remove_worker(rank)
        self._queues[rank].clear()
        self._backlog.closed(rank)
        self.prefixes.closed(rank)
        lost = [each for each in self._by_name.values() if each.rank == rank]
        for request in lost:
            del self._by_name[request.name]
            if request.unseen:
                self._headroom.seen(request)
            request.place()
            self.forget(request)
        return lost

    def _open(self) -> None:
        self.state.add_worker(self.slots, self.capacity)
        self._queues.append(deque())
        self._seen.append(self.step)
        self._headroom.opened()
        self._backlog.opened()
        self.preemptions.append(0)
        self.others = np.zeros((FIGURES, self.ranks), np.int64)
