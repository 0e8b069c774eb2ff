"""BR-T's planning in plain Python, to be read, and to hold the kernels to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from brsolver.cluster.view import (
    BACKLOG,
    CAPACITY,
    NO_LIMIT,
    ROOM,
    RUNNING,
    SLOTS,
    TOKEN_ROOM,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.cluster.view import IntArray

Pairs = list[tuple[int, int]]


@dataclass
class Rank:
    """What a worker has room for, has yet to compute, and holds."""

    index: int
    room: int
    token_room: int
    backlog: int
    loads: list[int]

    def give(self, tokens: int, growing: int) -> None:
        """Add a request to the loads of all steps."""
        self.loads = [load + tokens + growing * h for h, load in enumerate(self.loads)]


@dataclass(frozen=True)
class ReferencePlan:
    """As `brsolver.routers._wave_kernels.Plan`, with the placements themselves."""

    fills: Pairs
    rest: Pairs
    lost: float
    longest: int
    running: int


class Planner:
    """Places waiting requests one by one.

    Parameters
    ----------
    table, projected, prompts, cached, each, growing, since, overdue, seconds
        As of `brsolver.routers._wave_kernels.plan_wave`.
    """

    def __init__(
        self,
        table: IntArray,
        projected: IntArray,
        prompts: Sequence[int],
        cached: Sequence[Sequence[int]],
        each: int,
        growing: int,
        since: Sequence[int],
        overdue: int,
        seconds: Sequence[float],
    ) -> None:
        self.table, self.prompts, self.cached = table, prompts, cached
        self.each, self.growing, self.seconds = each, growing, seconds
        fit = self._largest_that_fits()
        self.able = [i for i, tokens in enumerate(prompts) if tokens <= fit]
        self.overdue = [i for i in self.able if since[i] <= overdue]
        by_step = projected.reshape(table.shape[1], -1)
        columns = (table[ROOM], table[TOKEN_ROOM], table[BACKLOG], by_step)
        figures = zip(*(row.tolist() for row in columns), strict=True)
        self.ranks = [Rank(g, *each) for g, each in enumerate(figures)]

    def plan(self) -> ReferencePlan:
        """Place overdue ones, fill up to the largest backlog, place the rest where it adds least.

        Of the overdue only those go with what fills that end within that backlog as well.
        """
        before, window = self.longest, self._window()
        first, blocked = self._place_overdue()
        order = [] if blocked else [i for i in window if i not in self.overdue]
        early = self._within(first, before)
        fills, order = self._place(order, most=before)
        rest, _ = self._place(order, most=None)
        fills = early + fills
        rest = [pair for pair in first if pair not in early] + rest
        lost = (self.longest - before) - self._mean_rise(fills)
        return ReferencePlan(fills, rest, lost, self.longest, self._running())

    @property
    def longest(self) -> int:
        """Largest backlog."""
        return max(0, *(rank.backlog for rank in self.ranks))

    def _largest_that_fits(self) -> int:
        there = self.table[:, self.table[SLOTS] != 0]
        most = np.where(there[TOKEN_ROOM] == NO_LIMIT, NO_LIMIT, there[CAPACITY])
        return int(most.max(initial=0))

    def _running(self) -> int:
        idle = bool((self.table[ROOM] >= self.table[SLOTS]).all())
        return 0 if idle else int(self.table[RUNNING].sum())

    def _place_overdue(self) -> tuple[Pairs, bool]:
        placed: Pairs = []
        for i in self.overdue:
            now, _ = self._place([i], most=None)
            if not now:
                return placed, True
            placed += now
        return placed, False

    def _within(self, pairs: Pairs, most: int) -> Pairs:
        backlog, found = self.table[BACKLOG].tolist(), []
        for i, g in pairs:
            fresh = self._fresh(i, self.ranks[g])
            if backlog[g] + fresh <= most:
                backlog[g] += fresh
                found.append((i, g))
        return found

    def _window(self) -> list[int]:
        count = min(sum(max(rank.room, 0) for rank in self.ranks), len(self.prompts))
        return sorted(self.able[:count], key=lambda i: -min(self._fresh(i, g) for g in self.ranks))

    def _fresh(self, i: int, rank: Rank) -> int:
        return self.prompts[i] - (self.cached[i][rank.index] if self.cached else 0)

    def _place(self, order: list[int], most: int | None) -> tuple[Pairs, list[int]]:
        placed: Pairs = []
        for i in order:
            rank = self._best(i, most)
            if rank is not None:
                rank.room -= 1
                rank.token_room -= self.prompts[i]
                rank.backlog += self._fresh(i, rank)
                rank.give(self.prompts[i] + self.each, self.growing)
                placed.append((i, rank.index))
        taken = {i for i, _ in placed}
        return placed, [i for i in order if i not in taken]

    def _best(self, i: int, most: int | None) -> Rank | None:
        prefill_s, *kv_s = self.seconds
        steps = zip(*(rank.loads for rank in self.ranks), strict=True)
        tops = [max(0, *loads) for loads in steps]

        def cost(rank: Rank) -> tuple[float, float, int]:
            computes = rank.backlog + self._fresh(i, rank)
            over = prefill_s * max(computes - self.longest, 0)
            work = prefill_s * computes
            for h, each_s in enumerate(kv_s):
                holds = rank.loads[h] + self.prompts[i] + self.each + self.growing * h
                over += each_s * max(holds - tops[h], 0)
                work += each_s * holds
            return over, work, rank.index

        fit = [
            rank
            for rank in self.ranks
            if rank.room > 0
            and rank.token_room >= self.prompts[i]
            and (most is None or rank.backlog + self._fresh(i, rank) <= most)
        ]
        return min(fit, key=cost, default=None)

    def _mean_rise(self, fills: Pairs) -> float:
        live = [rank for rank in self.ranks if self.table[SLOTS, rank.index] != 0]
        risen = sum(rank.backlog - int(self.table[BACKLOG, rank.index]) for rank in live)
        risen -= sum(self._fresh(i, self.ranks[g]) for i, g in fills)
        return risen / len(live) if live else 0.0
