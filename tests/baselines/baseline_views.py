"""Random cluster views, and a plain reference of greedy placement to hold policies against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

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
    VIEW_ROWS,
    ActiveRequests,
    ClusterView,
    Decision,
    Waiting,
)
from brsolver.predictors import FinishedRequests

Pairs = list[tuple[int, int]]


@dataclass
class Worker:
    """One column of a view, and what the reference places there."""

    index: int
    load: int = 0
    running: int = 0
    queued: int = 0
    slots: int = 4
    room: int = 0
    token_room: int = NO_LIMIT
    capacity: int = NO_LIMIT
    prompt_tokens: int = 0
    backlog: int = 0
    placed: int = 0
    request_tokens: int = 0

    @property
    def kv_tokens(self) -> int:
        return self.load - self.request_tokens * self.requests

    @property
    def requests(self) -> int:
        return self.running + self.queued + self.placed

    def has_room(self, tokens: int) -> bool:
        return self.room > 0 and self.token_room >= tokens

    def take(self, tokens: int) -> None:
        self.load += tokens + self.request_tokens
        self.prompt_tokens += tokens
        self.room -= 1
        self.token_room -= tokens
        self.placed += 1


Choose = Callable[[list[Worker], int], Worker]


def view_of(
    workers: Sequence[Worker],
    *,
    active: Sequence[tuple[int, int, int]] = (),
    immediate: bool = False,
    clients: int = 1,
    request_tokens: int = 0,
    cached: Sequence[Sequence[int]] | None = None,
) -> ClusterView:
    table = np.zeros((VIEW_ROWS, len(workers)), np.int64)
    for g, w in enumerate(workers):
        table[LOAD, g], table[RUNNING, g], table[QUEUED, g] = w.load, w.running, w.queued
        table[SLOTS, g], table[ROOM, g], table[TOKEN_ROOM, g] = w.slots, w.room, w.token_room
        table[CAPACITY, g], table[PROMPT_TOKENS, g] = w.capacity, w.prompt_tokens
        table[BACKLOG, g] = w.backlog
    columns = np.array(active, np.int64).reshape(-1, 3).T.copy()
    requests = ActiveRequests(
        worker=columns[0], kv_tokens=columns[1], age=columns[2], request_tokens=request_tokens
    )
    return ClusterView(
        table,
        projection=lambda horizon, *_: np.zeros((len(workers), horizon + 1), np.int64),
        active=lambda: requests,
        immediate=immediate,
        clients=clients,
        request_tokens=request_tokens,
        cached=None if cached is None else lambda waiting: np.array(cached)[waiting.request],
    )


def workers_of(view: ClusterView) -> list[Worker]:
    return [
        Worker(
            index=g,
            load=int(view.load[g]),
            running=int(view.running[g]),
            queued=int(view.queued[g]),
            slots=int(view.slots[g]),
            room=int(view.room[g]),
            token_room=int(view.token_room[g]),
            capacity=int(view.capacity[g]),
            prompt_tokens=int(view.prompt_tokens[g]),
            backlog=int(view.backlog[g]),
            request_tokens=view.request_tokens,
        )
        for g in range(view.workers)
    ]


def waiting_of(tokens: Sequence[int]) -> Waiting:
    return Waiting(np.array(tokens, np.int64), np.arange(len(tokens)))


def finished(lengths: Sequence[int]) -> FinishedRequests:
    count = len(lengths)
    return FinishedRequests(
        request=np.arange(count),
        prompt_tokens=np.ones(count, np.int64),
        output_tokens=np.array(lengths, np.int64),
        censored=np.zeros(count, np.bool_),
    )


def pairs_of(decision: Decision) -> Pairs:
    return [(int(i), int(g)) for i, g in decision]


def place(
    view: ClusterView, waiting: Waiting, choose: Choose, order: Sequence[int] | None = None
) -> Pairs:
    """Place requests in order, each where `choose` says, until one fits nowhere."""
    workers = workers_of(view)
    pairs: Pairs = []
    for i in range(len(waiting)) if order is None else order:
        tokens = int(waiting.prompt_tokens[i])
        open_ones = [w for w in workers if w.has_room(tokens)]
        if not open_ones:
            break
        chosen = choose(open_ones, len(pairs))
        chosen.take(tokens)
        pairs.append((i, chosen.index))
    return pairs


# Small numbers, so that ties, full workers and requests that fit nowhere are common.
_tokens = st.integers(1, 12)
_weights = st.sampled_from([0, 0, 5])


@st.composite
def worker_lists(
    draw: st.DrawFn, *, immediate: bool, limited: bool, request_tokens: int
) -> list[Worker]:
    workers = []
    for index in range(draw(st.integers(1, 5))):
        slots = draw(st.sampled_from([0, 1, 2, 3, 4]))
        running = draw(st.integers(0, slots))
        load = draw(st.integers(0, 30)) if running else 0
        capacity = draw(st.sampled_from([NO_LIMIT, 16, 32, 64])) if limited else NO_LIMIT
        unlimited = immediate or capacity == NO_LIMIT
        queued = draw(st.integers(0, 3)) if slots else 0
        workers.append(
            Worker(
                index=index,
                load=load + request_tokens * (running + queued),
                running=running,
                queued=queued,
                slots=slots,
                room=min(slots, 1) if immediate else slots - running,
                token_room=NO_LIMIT if unlimited else max(0, capacity - load),
                capacity=capacity,
                prompt_tokens=draw(st.integers(0, load)),
                backlog=draw(st.integers(0, 20)),
                request_tokens=request_tokens,
            )
        )
    return workers


@st.composite
def pooled(draw: st.DrawFn, *, limited: bool = True) -> tuple[ClusterView, Waiting]:
    each = draw(_weights)
    workers = draw(worker_lists(immediate=False, limited=limited, request_tokens=each))
    tokens = draw(st.lists(_tokens, min_size=1, max_size=10))
    clients = draw(st.sampled_from([1, 2, 4]))
    return view_of(workers, clients=clients, request_tokens=each), waiting_of(tokens)


@st.composite
def immediate(draw: st.DrawFn) -> tuple[ClusterView, Waiting]:
    each = draw(_weights)
    workers = draw(worker_lists(immediate=True, limited=True, request_tokens=each))
    clients = draw(st.sampled_from([1, 2, 4]))
    view = view_of(workers, immediate=True, clients=clients, request_tokens=each)
    return view, waiting_of([draw(_tokens)])
