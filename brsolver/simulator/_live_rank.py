"""One rank of `LiveRanks`: what waits there, which prompts are under way, what a step computes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from brsolver.cluster._state_kernels import (
    NONE,
    W_ACTIVE,
    W_BACKLOG,
    W_CAPACITY,
    W_LOAD,
    W_SLOTS,
)
from brsolver.hardware._step_kernels import N_CONTEXT, N_PREFILL

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from brsolver.cluster.state import ClusterState
    from brsolver.simulator.prefill import Prefill


class Place(Enum):
    """Where a request is at its worker."""

    WAITING = auto()
    UNDER_WAY = auto()
    RUNNING = auto()


@dataclass(slots=True, kw_only=True)
class LiveRequest:
    """A request at a rank.

    Attributes
    ----------
    request, worker, prompt_tokens : int
    output_tokens : int or None
        With how many tokens it ends; None is known to nobody yet.
    cached : int
        Tokens of its prompt that need not be computed, fewer than the prompt has.
    generated : int
        Tokens it had when it started to run, or has if it does not run.
    computed : int
        Tokens of prompt and output whose KV its worker has, while it does not run.
    since : int
        The step clock when it started to run.
    handle : int
        What the state names it by; NONE if it does not run.
    """

    request: int
    worker: int
    prompt_tokens: int
    output_tokens: int | None
    cached: int
    generated: int
    computed: int = 0
    since: int = 0
    handle: int = NONE
    place: Place = Place.WAITING

    @property
    def kv_tokens(self) -> int:
        """Tokens that it holds when it starts to run."""
        return self.prompt_tokens + self.generated

    @property
    def uncomputed(self) -> int:
        """Tokens that its worker has yet to compute."""
        return self.kv_tokens - self.computed


class LiveRank:
    """The own scheduler of a worker that computes prompts.

    Requests that wait stand in `queue` by identity, first come first; those that were preempted
    stand before them in `returned`, the next one last.
    """

    def __init__(self, state: ClusterState, worker: int) -> None:
        self.state = state
        self.worker = worker
        self.queue: dict[int, LiveRequest] = {}
        self.returned: dict[int, LiveRequest] = {}
        self.prompts: dict[int, LiveRequest] = {}
        self.prompt_tokens = 0
        self.bound = False

    def __bool__(self) -> bool:
        return bool(self.prompts or self.queue or self.returned)

    def __iter__(self) -> Iterator[LiveRequest]:
        """Iterate over prompts under way, then over what waits, next one first."""
        yield from self.prompts.values()
        yield from reversed(self.returned.values())
        yield from self.queue.values()

    @property
    def active(self) -> int:
        """Requests that run."""
        return int(self.state.workers.item(W_ACTIVE, self.worker))

    @property
    def held_tokens(self) -> int:
        """KV tokens of what runs and of prompts under way, which hold all of theirs."""
        return self._figure(W_LOAD) + self.prompt_tokens

    def push(self, request: LiveRequest, *, front: bool = False) -> None:
        """Let a request wait here; `front` for one that was preempted."""
        self.state.enqueue(self.worker, request.kv_tokens, request.prompt_tokens)
        request.place = Place.WAITING
        request.computed = request.cached
        (self.returned if front else self.queue)[request.request] = request
        self._charge(request.uncomputed)

    def remove(self, request: LiveRequest) -> None:
        """Take out a request that waits or whose prompt is under way."""
        if request.place is Place.UNDER_WAY:
            del self.prompts[request.request]
            self.prompt_tokens -= request.kv_tokens
        elif self.returned.pop(request.request, None) is None:
            del self.queue[request.request]
        self.state.dequeue(self.worker, request.kv_tokens, request.prompt_tokens)
        self._charge(-request.uncomputed)

    def newest_prompt(self) -> LiveRequest | None:
        """Return the last of the prompts under way."""
        return next(reversed(self.prompts.values()), None)

    def over_capacity(self) -> bool:
        """Tell whether all that is held here is more than fits, and is not one request alone."""
        alone = self.active + len(self.prompts) <= 1
        return not alone and self.held_tokens > self._figure(W_CAPACITY)

    def admissible(self) -> LiveRequest | None:
        """Return the request that gets the next slot, if there is room for one.

        A worker that holds something keeps a token of growth per request in reserve. One that
        holds nothing takes whatever comes, lest a request that never fits waits for ever.
        """
        first = self._first()
        held = self.active + len(self.prompts)
        if first is None or held == 0:
            return first
        if held >= self._figure(W_SLOTS):
            return None
        needed = self.held_tokens + first.kv_tokens + held + 1
        return first if needed <= self._figure(W_CAPACITY) else None

    def compute(
        self, prefill: Prefill, loads: NDArray[np.int64], *, aligned: bool
    ) -> list[LiveRequest]:
        """Compute prompts as long as the step's budget lasts; return those that are whole now.

        Prompts under way take precedence over what waits. They are still counted as under way.
        """
        if not aligned and not self.bound and self.active > 0:
            return []
        left = prefill.budget - self.active
        most = prefill.threshold or prefill.budget
        whole: list[LiveRequest] = []
        scheduled = self._scheduled()
        while left > 0 and (request := next(scheduled, None)) is not None:
            left -= self._compute_chunk(request, min(left, most), loads)
            if request.uncomputed == 0:
                whole.append(request)
        self.bound = self._first() is not None
        return whole

    def _scheduled(self) -> Iterator[LiveRequest]:
        yield from list(self.prompts.values())
        while (request := self.admissible()) is not None:
            self._begin(request)
            yield request

    def _begin(self, request: LiveRequest) -> None:
        if self.returned.pop(request.request, None) is None:
            del self.queue[request.request]
        request.place = Place.UNDER_WAY
        self.prompts[request.request] = request
        self.prompt_tokens += request.kv_tokens

    def _compute_chunk(self, request: LiveRequest, most: int, loads: NDArray[np.int64]) -> int:
        chunk = min(request.uncomputed, most)
        loads[N_PREFILL, self.worker] += chunk
        # The j-th token of the chunk follows `computed + j - 1` others and itself.
        loads[N_CONTEXT, self.worker] += chunk * request.computed + chunk * (chunk + 1) // 2
        request.computed += chunk
        self._charge(-chunk)
        return chunk

    def _first(self) -> LiveRequest | None:
        if self.returned:
            return next(reversed(self.returned.values()))
        return next(iter(self.queue.values()), None)

    def _charge(self, tokens: int) -> None:
        self.state.set_backlog(self.worker, self._figure(W_BACKLOG) + tokens)

    def _figure(self, row: int) -> int:
        return int(self.state.workers.item(row, self.worker))
