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
from brsolver.oracles.hindsight._shapes import Classes, Events, Partitions, Sweep
from brsolver.oracles.hindsight.labels import label_groups
from brsolver.oracles.hindsight.result import Outcome

if TYPE_CHECKING:
    from brsolver.oracles.schedule import Schedule

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
            f"cluster is {workers} workers of {slots} slots, "
            f"{partition_count(workers, slots):.3g} states, must be at most {MAX_POSITIONS} slots "
            f"in all and {MAX_STATES:.0e} states for method 'dp'; use method 'cp-sat' or 'anytime'"
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
        origin=f"dynamic programme over {programme.sweep.cost.size} partitions",
        message=programme.message,
    )


def _fixed_bytes(workers: int, slots: int) -> int:
    states = partition_count(workers, slots)
    subsets = comb(workers * slots, slots)
    return states * (4 * workers + 8 + 8 + 4) + subsets * 24 + (4 << (workers * slots))


class _OutOfTimeError(Exception):
    pass


def _events(schedule: Schedule, floor: IntArray) -> Events:
    steps = schedule.events()
    first = np.append(np.searchsorted(schedule.start, steps), len(schedule))
    return Events(
        step=np.append(steps, steps[-1]).astype(np.int64),
        row=np.full(steps.size, -1, np.int64),
        first=first.astype(np.int64),
        position=schedule.position,
        base=schedule.prompt - schedule.start,
        end=schedule.end,
        floor=floor[steps],
    )


class _Programme:
    def __init__(
        self, schedule: Schedule, floor: IntArray | None, deadline: float, memory_limit: int
    ) -> None:
        self.schedule, self.deadline = schedule, deadline
        groups, size = schedule.workers, schedule.slots
        positions = groups * size
        binomial = np.array(
            [[comb(n, k) for k in range(size + 1)] for n in range(positions + 1)], np.int64
        )
        masks, index = pk.subset_masks(positions, size, comb(positions, size))
        states = partition_count(groups, size)
        self.partitions = Partitions(
            table=pk.list_partitions(groups, size, states, index, binomial),
            masks=masks,
            binomial=binomial,
            size=size,
        )
        self.sweep = Sweep(
            cost=np.zeros(states, np.int64),
            value=np.zeros(positions, np.int64),
            until=np.zeros(positions, np.int64),
        )
        self.classes = Classes(
            least=np.empty(states, np.int64),
            of=np.empty(states, np.int32),
            choices=np.empty((1, 0), np.int32),
        )
        self.floor = np.zeros(schedule.steps, np.int64) if floor is None else floor
        self.has_floor = floor is not None
        self.events = _events(schedule, self.floor)
        self.choice_events = self._with_choice()
        self.memory_bytes = _fixed_bytes(groups, size)
        self.rows_per_piece = self._plan_memory(memory_limit - self.memory_bytes)
        self.covered = 0
        self.least: int | None = None
        self.message = ""
        self.optimum: int | None = None

    def _with_choice(self) -> IntArray:
        """Return the events at which the partition may change: two or more positions are free."""
        schedule, steps = self.schedule, self.events.step[:-1]
        left = np.searchsorted(np.sort(schedule.end), steps, side="right")
        free = schedule.workers * schedule.slots - (self.events.first[:-1] - left)
        return np.flatnonzero((free >= 2) & (steps > 0))

    def _plan_memory(self, room: int) -> int:
        """Return how many events with a choice share a piece, so that all fits into `room`."""
        states, total = self.sweep.cost.size, max(1, self.choice_events.size)
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
        saved = []
        choices = self._room_for(pieces[-1])
        for piece in pieces[:-1]:
            saved.append(Sweep(*(part.copy() for part in self.sweep)))
            self._carry(piece, choices[:1, :0])
        self._carry(pieces[-1], choices)
        self._drain()
        state = int(self.sweep.cost.argmin())
        self.least = int(self.sweep.cost[state])
        trail: dict[int, int] = {}
        state = self._walk_back(pieces[-1], state, choices, trail)
        for piece in reversed(pieces[:-1]):
            self.sweep = saved.pop()
            choices = self._room_for(piece)
            self._carry(piece, choices)
            state = self._walk_back(piece, state, choices, trail)
        worker = label_groups(
            self.schedule,
            self.choice_events,
            self.events.step,
            self._groups(state),
            [self._groups(trail[int(e)]) for e in self.choice_events],
        )
        self.optimum = self.least
        return worker

    def _groups(self, state: int) -> IntArray:
        """Return the groups of a state as masks."""
        groups: IntArray = self.partitions.masks[self.partitions.table[state]]
        return groups

    def _pieces(self) -> list[tuple[int, int]]:
        cuts = self.choice_events[:: self.rows_per_piece][1:]
        edges = [0, *(int(c) for c in cuts), self.events.row.size]
        return list(pairwise(edges))

    def _inside(self, piece: tuple[int, int]) -> IntArray:
        """Return the events with a choice in a piece."""
        first, last = np.searchsorted(self.choice_events, piece)
        return self.choice_events[first:last]

    def _room_for(self, piece: tuple[int, int]) -> SmallArray:
        return np.empty((max(1, self._inside(piece).size), self.sweep.cost.size), np.int32)

    def _carry(self, piece: tuple[int, int], choices: SmallArray) -> None:
        row, inside = np.full(self.events.row.size, -1, np.int64), self._inside(piece)
        row[inside] = np.arange(inside.size)
        events, classes = self.events._replace(row=row), self.classes._replace(choices=choices)
        chunk = max(1, CHUNK // self.sweep.cost.size)
        for first in range(piece[0], piece[1], chunk):
            if perf_counter() > self.deadline:
                raise _OutOfTimeError
            last = min(first + chunk, piece[1])
            dk.carry(first, last, self.partitions, events, self.sweep, classes)
            self.covered = int(events.step[last])

    def _drain(self) -> None:
        masks, table = self.partitions.masks, self.partitions.table
        cost, value, until = self.sweep
        sums = np.empty(masks.size, np.int64)
        counts = np.empty(masks.size, np.int64)
        half = (value.size + 1) // 2
        low, high = np.zeros(1 << half, np.int64), np.zeros(1 << (value.size - half), np.int64)
        step = int(self.events.step[-1])
        for edge in np.unique(until[until > step]).tolist():
            if perf_counter() > self.deadline:
                raise _OutOfTimeError
            alive = until > step
            loads = np.where(alive, value + step, 0)
            dk.subset_sums(masks, loads, low, high, sums)
            dk.count_bits(masks, int((alive << np.arange(value.size)).sum()), counts)
            if self.has_floor:
                dk.add_stepwise(cost, table, sums, counts, self.floor[step:edge])
            else:
                dk.add_envelope(cost, table, sums, counts, edge - step)
            step = self.covered = edge
        cost += int(self.floor[step:].sum())

    def _walk_back(
        self, piece: tuple[int, int], state: int, choices: SmallArray, trail: dict[int, int]
    ) -> int:
        inside, binomial = self._inside(piece), self.partitions.binomial
        for row in range(inside.size - 1, -1, -1):
            event = int(inside[row])
            trail[event] = state
            free = self._free_at(event)
            group = self._groups(state)
            kept = pk.representative(group, free, group.size, self.schedule.slots, binomial)
            state = int(choices[row, kept])
        return state

    def _free_at(self, event: int) -> int:
        """Return the positions free at an admission, as a mask."""
        schedule, step = self.schedule, int(self.events.step[event])
        before = slice(0, int(self.events.first[event]))
        alive = schedule.position[before][schedule.end[before] > step]
        free = (1 << (schedule.workers * schedule.slots)) - 1
        return free & ~int((1 << alive).sum())

    def bound(self) -> int:
        """Return a lower bound from what was swept and what intervals cost at least."""
        if self.least is not None:
            return self.least
        edges = self.schedule.edges()
        rest = self.schedule.interval_bounds(edges)[edges[:-1] >= self.covered]
        return int(self.sweep.cost.min()) + int(rest.sum())
