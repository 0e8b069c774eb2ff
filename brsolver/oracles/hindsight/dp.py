"""Exact hindsight assignment by dynamic programming over partitions of slot positions."""

from __future__ import annotations

from itertools import pairwise
from math import comb, factorial
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import ParameterError
from brsolver.oracles.hindsight import _dp_kernels as dk
from brsolver.oracles.hindsight import _partition_kernels as pk
from brsolver.oracles.hindsight.labels import label_groups
from brsolver.oracles.hindsight.result import Outcome

if TYPE_CHECKING:
    from brsolver.oracles.hindsight.schedule import Schedule

IntArray = NDArray[np.int64]
SmallArray = NDArray[np.int32]

MAX_STATES = 6_000_000
MAX_POSITIONS = 24
MEMORY_LIMIT = 1 << 30
CHUNK = 4_000_000
"""State updates between two looks at the clock."""


def partition_count(workers: int, slots: int) -> int:
    """Return ``(GB)!/(B!^G·G!)``, the number of unlabelled partitions."""
    labelled: int = factorial(workers * slots) // factorial(slots) ** workers
    return labelled // factorial(workers)


def dp_reaches(workers: int, slots: int, memory_limit: int = MEMORY_LIMIT) -> bool:
    """Whether `hindsight_dp` takes a cluster of this size."""
    if workers * slots > MAX_POSITIONS or partition_count(workers, slots) > MAX_STATES:
        return False
    return _fixed_bytes(workers, slots) <= memory_limit // 2


def hindsight_dp(
    schedule: Schedule,
    *,
    budget_s: float | None = None,
    memory_limit: int = MEMORY_LIMIT,
    floor: IntArray | None = None,
) -> Outcome:
    """Minimise ``Σ_k M(k)`` over all assignments under FCFS admission, exactly.

    The state is the unlabelled partition of the P = G·B slot positions into workers,
    ``(GB)!/(B!^G·G!)`` of them. It can only change at an admission that finds two or more free
    positions, and then to any partition that agrees with it outside them:

        ``V'(p) = min { V(q) : q agrees with p outside the free positions }``.

    Between admissions all slots are full, so every worker grows by B per step and an interval
    of n steps adds ``n·max_g L_g + B·n(n-1)/2`` (an interval with empty slots before the last
    admission is one step long: the pool was too small, and tries again at once). After the last
    admission every interval between departures adds its sum of maxima of G lines. Time is
    linear in the number of requests. The choice made at every class of states is kept in 4
    bytes per state and admission with a choice; beyond `memory_limit` the recursion keeps
    checkpoints and is run a second time, piece by piece.

    Parameters
    ----------
    schedule : Schedule
        See `fcfs_schedule`.
    budget_s : float, optional
        Seconds after which to stop; the bound then covers what was swept exactly and the rest
        by `Schedule.interval_bounds`.
    memory_limit : int
        Bytes for tables and choices together.
    floor : ndarray of int64, shape (K,), optional
        Load of the heaviest worker outside the problem, so ``M(k) = max(floor(k), max_g L_g)``.
        Before the last admission it must grow by B per step within an interval.

    Raises
    ------
    ParameterError
        If the cluster is beyond reach; the message names the method to use.
    """
    workers, slots = schedule.workers, schedule.slots
    if not dp_reaches(workers, slots, memory_limit):
        raise ParameterError(
            f"dynamic programming over {workers} workers of {slots} slots has "
            f"{partition_count(workers, slots):.3g} states, its reach is {MAX_STATES:.0e} states "
            f"and {MAX_POSITIONS} slots in all; use method 'cp-sat' or 'anytime'"
        )
    began = perf_counter()
    programme = _Programme(schedule, floor, began + (budget_s or np.inf), memory_limit)
    built = perf_counter()
    worker = programme.run()
    late = programme.optimum is None
    return Outcome(
        value=programme.optimum,
        bound=programme.bound() if late else programme.optimum,
        worker=worker,
        build_s=built - began,
        solve_s=perf_counter() - built,
        memory_bytes=programme.memory_bytes,
        origin=f"dynamic programme over {programme.cost.size} partitions",
        message=programme.message,
    )


def _fixed_bytes(workers: int, slots: int) -> int:
    states = partition_count(workers, slots)
    subsets = comb(workers * slots, slots)
    return states * (4 * workers + 8 + 8 + 4) + subsets * 24 + (4 << (workers * slots))


class _OutOfTimeError(Exception):
    pass


class _Programme:
    def __init__(
        self, schedule: Schedule, floor: IntArray | None, deadline: float, memory_limit: int
    ) -> None:
        self.schedule, self.deadline = schedule, deadline
        groups, size = schedule.workers, schedule.slots
        positions = groups * size
        self.binomial = np.array(
            [[comb(n, k) for k in range(size + 1)] for n in range(positions + 1)], np.int64
        )
        self.masks, index = pk.subset_masks(positions, size, comb(positions, size))
        states = partition_count(groups, size)
        self.table = pk.list_partitions(groups, size, states, index, self.binomial)
        self.cost = np.zeros(states, np.int64)
        self.scratch = np.empty(states, np.int64)
        self.of = np.empty(states, np.int32)
        self._find_events(floor)
        self.memory_bytes = _fixed_bytes(groups, size)
        self.rows_per_piece = self._plan_memory(memory_limit - self.memory_bytes)
        self.covered = 0
        self.least: int | None = None
        self.message = ""
        self.optimum: int | None = None

    def _find_events(self, floor: IntArray | None) -> None:
        schedule = self.schedule
        steps = schedule.events()
        self.first_request = np.append(
            np.searchsorted(schedule.start, steps), len(schedule)
        ).astype(np.int64)
        self.events = np.append(steps, steps[-1]).astype(np.int64)
        self.floor = np.zeros(schedule.steps, np.int64) if floor is None else floor
        self.has_floor = floor is not None
        started = self.first_request[:-1]
        left = np.searchsorted(np.sort(schedule.end), steps, side="right")
        free = schedule.workers * schedule.slots - (started - left)
        self.choice_events = np.flatnonzero((free >= 2) & (steps > 0))

    def _plan_memory(self, room: int) -> int:
        """Return how many events with a choice share a piece, so that all fits into `room`."""
        states, total = self.cost.size, max(1, self.choice_events.size)
        per_piece = total
        if total * states * 4 > room:
            per_piece = max(1, int(np.sqrt(2 * total)))
        pieces = -(-total // per_piece)
        self.memory_bytes += per_piece * states * 4 + (pieces - 1) * states * 8
        return per_piece

    def run(self) -> IntArray | None:
        """Sweep forward, then walk back through the choices; None if time ran out."""
        try:
            return self._run()
        except _OutOfTimeError:
            self.message = "time limit"
        except KeyboardInterrupt:
            self.message = "interrupted"
        return None

    def _run(self) -> IntArray:
        pieces = self._pieces()
        saved: list[tuple[IntArray, IntArray, IntArray]] = []
        value = np.zeros(self.table.shape[1] * self.schedule.slots, np.int64)
        until = np.zeros_like(value)
        choices = self._room_for(pieces[-1])
        for number, piece in enumerate(pieces):
            final = number == len(pieces) - 1
            saved.append((self.cost.copy() if not final else self.cost, value.copy(), until.copy()))
            self._sweep(piece, value, until, choices if final else choices[:1, :0])
        self._drain(value, until)
        state = int(self.cost.argmin())
        self.least = int(self.cost[state])
        trail: dict[int, int] = {}
        for number in range(len(pieces) - 1, -1, -1):
            if number < len(pieces) - 1:
                self.cost, value, until = saved.pop()
                choices = self._room_for(pieces[number])
                self._sweep(pieces[number], value, until, choices)
            else:
                saved.pop()
            state = self._walk_back(pieces[number], state, choices, trail)
        worker = label_groups(
            self.schedule,
            self.choice_events,
            self.events,
            self.masks[self.table[state]],
            [self.masks[self.table[trail[int(e)]]] for e in self.choice_events],
        )
        self.optimum = self.least
        return worker

    def _pieces(self) -> list[tuple[int, int]]:
        cuts = self.choice_events[:: self.rows_per_piece][1:]
        edges = [0, *(int(c) for c in cuts), self.events.size - 1]
        return list(pairwise(edges))

    def _room_for(self, piece: tuple[int, int]) -> SmallArray:
        inside = (self.choice_events >= piece[0]) & (self.choice_events < piece[1])
        return np.empty((max(1, int(inside.sum())), self.cost.size), np.int32)

    def _sweep(
        self, piece: tuple[int, int], value: IntArray, until: IntArray, choices: SmallArray
    ) -> None:
        schedule = self.schedule
        rows = np.full(self.events.size - 1, -1, np.int64)
        inside = (self.choice_events >= piece[0]) & (self.choice_events < piece[1])
        rows[self.choice_events[inside]] = np.arange(int(inside.sum()))
        chunk = max(1, CHUNK // self.cost.size)
        for first in range(piece[0], piece[1], chunk):
            if perf_counter() > self.deadline:
                raise _OutOfTimeError
            last = min(first + chunk, piece[1])
            dk.sweep(
                self.cost, self.table, self.masks, self.binomial, schedule.slots, self.events,
                rows, first, last, self.first_request, schedule.position,
                schedule.prompt - schedule.start, schedule.end, value, until,
                self.floor[self.events[:-1]], self.scratch, self.of, choices,
            )  # fmt: skip
            self.covered = int(self.events[last])

    def _drain(self, value: IntArray, until: IntArray) -> None:
        sums = np.empty(self.masks.size, np.int64)
        counts = np.empty(self.masks.size, np.int64)
        half = (value.size + 1) // 2
        low, high = np.zeros(1 << half, np.int64), np.zeros(1 << (value.size - half), np.int64)
        step = int(self.events[-1])
        for edge in np.unique(until[until > step]).tolist():
            if perf_counter() > self.deadline:
                raise _OutOfTimeError
            alive = until > step
            loads = np.where(alive, value + step, 0)
            dk.subset_sums(self.masks, loads, low, high, sums)
            dk.count_bits(self.masks, int((alive << np.arange(value.size)).sum()), counts)
            if self.has_floor:
                dk.add_stepwise(self.cost, self.table, sums, counts, self.floor[step:edge])
            else:
                dk.add_envelope(self.cost, self.table, sums, counts, edge - step)
            step = self.covered = edge
        self.cost += int(self.floor[step:].sum())

    def _walk_back(
        self, piece: tuple[int, int], state: int, choices: SmallArray, trail: dict[int, int]
    ) -> int:
        inside = self.choice_events[
            (self.choice_events >= piece[0]) & (self.choice_events < piece[1])
        ]
        for row in range(inside.size - 1, -1, -1):
            event = int(inside[row])
            trail[event] = state
            free = self._free_at(event)
            group = self.masks[self.table[state]]
            kept = pk.representative(group, free, group.size, self.schedule.slots, self.binomial)
            state = int(choices[row, kept])
        return state

    def _free_at(self, event: int) -> int:
        """Return the positions free at an admission, as a mask."""
        schedule, step = self.schedule, int(self.events[event])
        before = slice(0, int(self.first_request[event]))
        alive = schedule.position[before][schedule.end[before] > step]
        free = (1 << (schedule.workers * schedule.slots)) - 1
        return free & ~int((1 << alive).sum())

    def bound(self) -> int:
        """Return a lower bound from what was swept and what intervals cost at least."""
        if self.least is not None:
            return self.least
        edges = self.schedule.edges()
        rest = self.schedule.interval_bounds(edges)[edges[:-1] >= self.covered]
        return int(self.cost.min()) + int(rest.sum())
