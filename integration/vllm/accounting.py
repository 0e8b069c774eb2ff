"""Books of what runs where: exact KV tokens from what vLLM's engines report."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from brsolver._state_kernels import (
    NONE,
    W_ACTIVE,
    W_CAPACITY,
    W_LOAD,
    W_PROMPTS,
    W_QUEUED,
    W_QUEUED_TOKENS,
    W_SLOTS,
)
from brsolver.state import ClusterState
from integration.vllm._kernels import generate_all
from integration.vllm.headroom import Headroom
from integration.vllm.requests import Identities, Request
from integration.vllm.sharing import FIGURES, S_LOAD, S_RUNNING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from brsolver.forecasting import RequestColumns
    from brsolver.policy import IntArray

PREEMPTED = 3
ENDED_BY_ITSELF = frozenset({0, 1, 4})
"""`FinishReason.STOP`, ``LENGTH`` and ``REPETITION``: not cancelled, not failed."""


class Finished(NamedTuple):
    """Requests that have ended since they were last asked for."""

    requests: list[Request]
    cancelled: list[bool]


class Books:
    """Who runs where with how many KV tokens.

    A request is charged its prompt when it is sent, a token with each that its engine reports,
    and released when its engine lets go of it. Beyond a rank's slots or KV cache it is queued
    there, first come first served, as vLLM's scheduler does; its first token corrects that.

    Parameters
    ----------
    ranks : int
        Ranks G, indexed as `core_engines`.
    slots : int
        Requests that a rank can run at once (``max_num_seqs``).
    capacity : int or None
        KV tokens that a rank can hold.
    horizon, refresh_steps : int
        As of `ClusterState`.
    keyed : bool
        Whether forecasts may go by the keys of requests: prompt hash, session and model.

    Attributes
    ----------
    state : ClusterState
        What routers see, the very class that the simulator keeps.
    step : int
        Decode steps so far: a rank that reports a second time begins a new one.
    others : ndarray of int64, shape (FIGURES, G)
        What other API servers have at the ranks.
    admitted : list of int
        Handles of requests that began to run since forecasts were last made, if any are.
    forecast, learning : bool
        Whether somebody forecasts, and whether from what has ended; False unless set.
    fault : Exception or None
        What went wrong while requests were released; the books have healed themselves.
    """

    def __init__(
        self,
        ranks: int,
        slots: int,
        capacity: int | None,
        *,
        horizon: int,
        refresh_steps: int,
        keyed: bool = False,
    ) -> None:
        self.slots = slots
        self.capacity = capacity
        self._horizon, self._refresh_steps = horizon, refresh_steps
        self._identities = Identities(keyed=keyed)
        self._empty(ranks)
        self._seen: list[int] = [0] * ranks
        self._finished: list[Request] = []
        self._by_name: dict[str, Request] = {}
        self.others: IntArray = np.zeros((FIGURES, ranks), np.int64)
        self.step = 0
        self.preemptions: list[int] = [0] * ranks
        self.cached_tokens = 0
        self.forecast = self.learning = False
        self.fault: Exception | None = None

    def _empty(self, ranks: int) -> None:
        self.state = ClusterState(
            [self.slots] * ranks,
            capacity=[self.capacity] * ranks,
            horizon=self._horizon,
            refresh_steps=self._refresh_steps,
        )
        self._queues: list[deque[Request]] = [deque() for _ in range(ranks)]
        self._headroom = Headroom(ranks, self.capacity)
        self.admitted: list[int] = []

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    @property
    def columns(self) -> RequestColumns:
        """What forecasts know of requests, by identity."""
        return self._identities.columns

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

    def charge(self, request: Request, worker: int) -> None:
        """Enter a request that is sent to a worker."""
        if request.identity == NONE:
            self.identify(request)
        request.place(worker)
        self._by_name[request.name] = request
        self._advance_queue(worker)
        if not self._queues[worker] and self._fits(request):
            self._admit(request)
        else:
            self.state.enqueue(worker, request.prompt_tokens)
            self._queues[worker].append(request)

    def extend(self, request: Request, tokens: int) -> None:
        """Enter further prompt tokens of a request that its worker has already."""
        if request.handle == NONE:
            self.state.dequeue(request.worker, request.prompt_tokens)
            self.state.enqueue(request.worker, request.prompt_tokens + tokens)
        else:
            self._grow([request.handle], [tokens])
        request.prompt_tokens += tokens

    def move(self, request: Request, worker: int) -> None:
        """Enter that a request went to another worker than it was charged to."""
        left = request.worker
        self._leave(request)
        request.place()
        self._advance_queue(left)
        self._headroom.emptied(self.state.workers, left)
        self.charge(request, worker)

    def report(self, worker: int) -> bool:
        """Enter that a worker reported a step; tell whether it is the first to do so."""
        fresh = self._seen[worker] == self.step
        if fresh:
            self.step += 1
        self._seen[worker] = self.step
        return fresh

    def settled(self) -> bool:
        """Tell whether every worker that runs anything has reported the current step."""
        active = self.state.workers[W_ACTIVE]
        return all(
            seen == self.step or not active[worker] for worker, seen in enumerate(self._seen)
        )

    def progress(self, outputs: Iterable[Any]) -> int:
        """Enter the tokens of a batch of outputs; return how many requests it was about."""
        handles: list[int] = []
        tokens: list[int] = []
        by_name = self._by_name
        for output in outputs:
            request = by_name.get(output.request_id)
            if request is None:
                continue
            count = len(output.new_token_ids)
            if request.handle == NONE:
                self._promote(request)
            if request.unseen and count:
                self._headroom.seen(request)
            request.generated += count
            handles.append(request.handle)
            tokens.append(count)
            if output.finish_reason is not None:
                request.ended = int(output.finish_reason) in ENDED_BY_ITSELF
            if output.events or output.prefill_stats:
                self._note(request, output)
        self._grow(handles, tokens)
        return len(handles)

    def told(self, worker: int, stats: Any) -> None:
        """Enter what a worker's engine says of itself, `SchedulerStats`."""
        self._headroom.told(self.state.workers, worker, stats)

    def release(self, names: Iterable[str]) -> list[Request]:
        """Enter that engines have let go of requests; return those that were known."""
        gone = [found for name in names if (found := self._by_name.pop(name, None)) is not None]
        try:
            for request in gone:
                self._leave(request)
            for worker in {request.worker for request in gone}:
                self._advance_queue(worker)
                self._headroom.emptied(self.state.workers, worker)
        except Exception as error:  # noqa: BLE001 # whatever it is, nobody may stay charged
            self.fault = error
            self.rebuild()
        for request in gone:
            self._settle(request)
        return gone

    def _settle(self, request: Request) -> None:
        if self.learning and request.generated > 0:
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
        departed = np.flatnonzero(self.state.slots == 0).tolist()
        requests = [(each, each.handle != NONE) for each in self._by_name.values()]
        self._empty(self.ranks)
        for worker in departed:
            self.state.remove_worker(worker)
        for request, runs in requests:
            self._enter_again(request, runs=runs)

    def _enter_again(self, request: Request, *, runs: bool) -> None:
        self.charge(request, request.worker)
        if runs and request.handle == NONE:
            self._promote(request)

    def ignore(self) -> None:
        """Keep nothing for forecasts from now on."""
        self.forecast = self.learning = False
        self.admitted.clear()
        for request in self.take_finished().requests:
            self.forget(request)

    def take_finished(self) -> Finished:
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
        for worker in range(ranks, self.ranks):
            if state.workers[W_SLOTS, worker]:
                lost += self._abandon(worker)
        for worker in range(ranks):
            if worker >= self.ranks:
                self._open()
            elif not state.workers[W_SLOTS, worker]:
                state.restore_worker(worker, self.slots, self.capacity)
        return lost

    def adopt(self, old: Books) -> None:
        """Take over all that other books hold, as when the policy is changed while serving."""
        self.step, self.others = old.step, old.others
        self.preemptions, self.cached_tokens = old.preemptions, old.cached_tokens
        self.resize(old.ranks)
        for worker in np.flatnonzero(old.state.slots == 0).tolist():
            self.state.remove_worker(worker)
        self._seen = list(old._seen)
        for request in list(old._by_name.values()):
            request.identity = NONE
            self._enter_again(request, runs=request.handle != NONE)

    def figures(self) -> IntArray:
        """Return the sums per rank that other API servers want to know, shape (FIGURES, G)."""
        rows: IntArray = self.state.workers[
            [W_LOAD, W_ACTIVE, W_QUEUED, W_QUEUED_TOKENS, W_PROMPTS]
        ]
        return rows

    def _fits(self, request: Request) -> bool:
        workers, worker = self.state.workers, request.worker
        running = workers[W_ACTIVE, worker] + self.others[S_RUNNING, worker]
        if running >= workers[W_SLOTS, worker]:
            return False
        # What fits no empty worker is vLLM's to judge.
        load = workers[W_LOAD, worker] + self.others[S_LOAD, worker]
        tokens = request.prompt_tokens + request.generated
        return bool(running == 0 or load + tokens <= workers[W_CAPACITY, worker])

    def _admit(self, request: Request) -> None:
        request.handle = self.state.admit(
            request.identity,
            request.worker,
            request.prompt_tokens,
            generated=request.generated,
        )
        self._headroom.admitted(request)
        if self.forecast:
            self.admitted.append(request.handle)

    def _promote(self, request: Request) -> None:
        """Let a queued request run; it stays in the queue's list until it comes to the front."""
        if self.state.workers[W_SLOTS, request.worker]:
            self.state.dequeue(request.worker, request.prompt_tokens)
            self._admit(request)

    def _advance_queue(self, worker: int) -> None:
        queue = self._queues[worker]
        while queue:
            request = queue[0]
            here = request.worker == worker and self._by_name.get(request.name) is request
            if here and request.handle == NONE:
                if not self._fits(request):
                    return
                self._promote(request)
            queue.popleft()

    def _grow(self, handles: Sequence[int], tokens: Sequence[int]) -> None:
        if handles:
            state = self.state
            many = np.array((handles, tokens), np.int64)
            generate_all(state.workers, state.requests, state.ring, many)

    def _note(self, request: Request, output: Any) -> None:
        for event in output.events or ():
            if event.type == PREEMPTED:
                self.preemptions[request.worker] += 1
        cached = getattr(output.prefill_stats, "num_cached_tokens", 0) or 0
        if cached > request.cached_tokens:
            self.cached_tokens += cached - request.cached_tokens
            request.cached_tokens = cached

    def _leave(self, request: Request) -> None:
        if not self.state.workers[W_SLOTS, request.worker]:
            return
        if request.unseen:
            self._headroom.seen(request)
        if request.handle == NONE:
            self.state.dequeue(request.worker, request.prompt_tokens)
        else:
            self.state.finish(request.handle)

    def _abandon(self, worker: int) -> list[Request]:
        self.state.remove_worker(worker)
        self._queues[worker].clear()
        lost = [each for each in self._by_name.values() if each.worker == worker]
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
        self.preemptions.append(0)
        self.others = np.zeros((FIGURES, self.ranks), np.int64)
