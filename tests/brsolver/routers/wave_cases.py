"""Views of clusters that prefill, drawn at random, and a policy that plans in plain Python."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from brsolver.cluster.costs import NOTHING_PROMISED, StepCosts
from brsolver.cluster.view import (
    BACKLOG,
    CAPACITY,
    LOAD,
    NO_LIMIT,
    ROOM,
    RUNNING,
    SLOTS,
    TOKEN_ROOM,
    VIEW_ROWS,
    ClusterView,
    Waiting,
)
from brsolver.routers._wave_kernels import Plan, plan_wave
from brsolver.routers.reference_waves import Planner

NOTHING_CACHED = np.zeros((0, 0), np.int64)
COSTS = StepCosts(base_s=0.02, per_kv_token_s=1e-6, per_prefill_token_s=1e-3, budget=64)


class Planning(NamedTuple):
    """What `plan_wave` takes, but for where it writes."""

    table: np.ndarray
    projected: np.ndarray
    prompts: np.ndarray
    cached: np.ndarray
    each: int
    growing: int
    since: np.ndarray
    overdue: int
    seconds: np.ndarray


@st.composite
def tables(draw):
    """Small numbers, so that ties are common; departed workers, full ones, little KV room."""
    workers = draw(st.integers(1, 6))
    table = np.zeros((VIEW_ROWS, workers), np.int64)
    for g in range(workers):
        slots = draw(st.sampled_from([0, 1, 2, 4, 4]))
        running = draw(st.integers(0, slots))
        table[SLOTS, g], table[RUNNING, g] = slots, running
        table[ROOM, g] = slots - running
        left = draw(st.sampled_from([NO_LIMIT, NO_LIMIT, 0, 5, 12, 30]))
        table[TOKEN_ROOM, g] = left
        # Mostly more than any prompt; at times less than the largest ones.
        held = draw(st.sampled_from([30, 30, 0, 2]))
        table[CAPACITY, g] = NO_LIMIT if left == NO_LIMIT else left + held
        table[BACKLOG, g] = draw(st.sampled_from([0, 0, 3, 8, 20]))
        table[LOAD, g] = draw(st.sampled_from([0, 0, 7, 8, 40]))
    return table


@st.composite
def plannings(draw):
    """What `plan_wave` takes, but for where it writes."""
    table = draw(tables())
    prompts = draw(st.lists(st.integers(1, 15), min_size=1, max_size=14))
    cached = NOTHING_CACHED
    if draw(st.booleans()):
        shares = st.lists(
            st.sampled_from([0, 0, 0.5, 1]),
            min_size=table.shape[1],
            max_size=table.shape[1],
        )
        cached = np.array([[int(p * share) for share in draw(shares)] for p in prompts], np.int64)
    each = draw(st.sampled_from([0, 0, 4]))
    growing, projected = 0, table[LOAD].reshape(-1, 1)
    if draw(st.booleans()):
        growing = draw(st.integers(0, 1))
        moves = st.lists(st.sampled_from([0, 0, -6, 1, 3]), min_size=3, max_size=3)
        more = np.array([[0, *draw(moves)] for _ in range(table.shape[1])], np.int64)
        projected = np.maximum(projected + more.cumsum(axis=1), 0)
    since = draw(st.lists(st.integers(0, 3), min_size=len(prompts), max_size=len(prompts)))
    overdue = draw(st.sampled_from([-1, -1, 0, 1, 3]))
    kv_s = draw(st.sampled_from([0.0, 0.1, 0.3, 1.0, 7.0]))
    seconds = np.array([draw(st.sampled_from([1.0, 0.7, 36e-6])), *[kv_s] * projected.shape[1]])
    seconds[2:] *= 0.7 ** np.arange(projected.shape[1] - 1)
    first = (table, projected, np.array(prompts), cached)
    return Planning(*first, each, growing, np.array(since), overdue, seconds)


def by_kernel(table, projected, prompts, *rest):
    """By the kernels; loads of one step alone, by those for loads as they are as well."""

    def found(loads):
        pairs = np.full((len(prompts), 2), -1, np.int64)
        plan = plan_wave(table, loads, prompts, *rest, pairs)
        return plan, [tuple(pair) for pair in pairs[: plan.placements].tolist()]

    made = found(projected)
    if projected.shape[1] == 1:
        assert found(projected[:, 0].copy()) == made
    return made


def by_reference(table, projected, prompts, cached, each, growing, since, overdue, seconds):
    lists = (prompts.tolist(), cached.tolist())
    planner = Planner(
        table, projected, *lists, each, growing, since.tolist(), overdue, seconds.tolist()
    )
    found = planner.plan()
    pairs = found.fills + found.rest
    plan = Plan(len(found.fills), len(pairs), found.lost, found.longest, found.running)
    return plan, pairs


def view_of(table, *, step=0, clock_s=0.0, costs=COSTS, promised=NOTHING_PROMISED, **more):
    return ClusterView(
        table,
        projection=lambda horizon, *_: np.repeat(table[LOAD].reshape(-1, 1), horizon + 1, axis=1),
        active=lambda: None,
        step=step,
        clock_s=clock_s,
        costs=costs,
        objectives=promised,
        **more,
    )


def ranks(*columns, slots=4):
    """A table of ranks, each with so many running and such a backlog; loads go by the former."""
    table = np.zeros((VIEW_ROWS, len(columns)), np.int64)
    for g, (running, backlog) in enumerate(columns):
        table[SLOTS, g], table[RUNNING, g], table[ROOM, g] = slots, running, slots - running
        table[BACKLOG, g], table[LOAD, g] = backlog, 10 * running + backlog
        table[[TOKEN_ROOM, CAPACITY], g] = NO_LIMIT
    return table


def could_go(table, prompts):
    """Which requests some worker that is there could hold, if it held nothing else."""
    there = table[SLOTS] != 0
    endless = table[TOKEN_ROOM] == NO_LIMIT
    most = np.where(endless, NO_LIMIT, table[CAPACITY])[there].max(initial=0)
    return [bool(prompt <= most) for prompt in prompts]


def waiting_of(prompts, since=None):
    tokens = np.array(prompts, np.int64)
    steps = None if since is None else np.array(since, np.int64)
    return Waiting(tokens, np.arange(tokens.size), steps)


def planned_in_plain_python(*given):
    """As `plan_wave`, by the reference."""
    *given, pairs = given
    plan, found = by_reference(*given)
    if found:
        pairs[: len(found)] = found
    return plan
