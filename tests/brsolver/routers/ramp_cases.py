"""Decisions for `br-ramp`, drawn at random, as its kernel and its plain version take them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from brsolver.cluster.view import (
    CAPACITY,
    LOAD,
    NO_LIMIT,
    QUEUED,
    ROOM,
    RUNNING,
    SLOTS,
    TOKEN_ROOM,
    VIEW_ROWS,
)
from brsolver.routers import ramp_reference as plain
from brsolver.routers._ramp_kernels import route_ramp

STEP = 10_000


@st.composite
def decisions(draw):
    """Draw a table of workers, some of them gone, and at least as many requests as slots."""
    count = draw(st.integers(1, 6))
    table = np.zeros((VIEW_ROWS, count), np.int64)
    table[TOKEN_ROOM] = table[CAPACITY] = NO_LIMIT
    limited = draw(st.booleans())
    for g in range(count):
        if g > 0 and draw(st.integers(0, 5)) == 0:
            table[TOKEN_ROOM, g] = table[CAPACITY, g] = 0
            continue
        table[RUNNING, g] = draw(st.integers(0, 30))
        table[QUEUED, g] = draw(st.integers(0, 2))
        table[ROOM, g] = draw(st.integers(0, 4))
        table[SLOTS, g] = table[[RUNNING, QUEUED, ROOM], g].sum() + (g == 0)
        table[LOAD, g] = draw(st.integers(0, 5000))
        if limited and draw(st.booleans()):
            table[TOKEN_ROOM, g] = draw(st.integers(0, 900))
            table[CAPACITY, g] = table[TOKEN_ROOM, g] + draw(st.integers(0, 900))
    size = draw(st.sampled_from([3, 40, 700]))
    free = int(table[ROOM].sum())
    waiting = draw(st.integers(max(free, 1), free + 12))
    prompts = draw(st.lists(st.integers(1, size), min_size=waiting, max_size=waiting))
    since = draw(st.lists(st.integers(STEP - 60, STEP), min_size=waiting, max_size=waiting))
    return table, np.array(prompts, np.int64), np.sort(np.array(since, np.int64))


def knobs():
    return st.builds(
        plain.Knobs,
        rate=st.sampled_from([0.01, 0.125, 1.0, 7.0]),
        price=st.sampled_from([0.0, 0.25, 3.0]),
        patience=st.sampled_from([0, 20, 55]),
        request_tokens=st.sampled_from([0, 0, 1, 300]),
        exact=st.booleans(),
        sweeps=st.integers(0, 3),
        reach=st.sampled_from([1, 3, 64]),
    )


def as_plain(table, prompts, since):
    live = np.flatnonzero(table[SLOTS])

    def tokens(row, g):
        return float("inf") if table[row, g] >= NO_LIMIT else int(table[row, g])

    workers = [
        plain.Worker(
            load=int(table[LOAD, g]),
            present=int(table[RUNNING, g] + table[QUEUED, g]),
            free=int(table[ROOM, g]),
            token_room=tokens(TOKEN_ROOM, g),
            capacity=tokens(CAPACITY, g),
        )
        for g in live
    ]
    queue = [
        plain.Request(t, STEP - s) for t, s in zip(prompts.tolist(), since.tolist(), strict=True)
    ]
    return workers, queue, live


def by_kernel(table, prompts, since, by):
    overdue = STEP - by.patience if by.patience else -1
    live = int((table[SLOTS] != 0).sum())
    return route_ramp(
        table, prompts, since, overdue, STEP, live, by.rate, by.price, by.exact, by.sweeps,
        by.reach, by.request_tokens,
    )  # fmt: skip
