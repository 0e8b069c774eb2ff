"""The best run in hindsight of a few requests: when each is released, and on which rank.

The ranks' schedulers are the simulator's: a rank decodes what runs on it, then computes prompts in
the order in which it was given them, while its budget lasts. What is searched is all that a router
decides. It knows every length and may hold whatever it likes.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, count, permutations
from typing import TYPE_CHECKING, Literal, NamedTuple

from brsolver.hardware.reference import step_parts
from brsolver.policy import BasePolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brsolver import ClusterView, Waiting
    from brsolver.hardware.step_time import StepTime

Goal = Literal["run", "delays"]
"""Seconds until the last request ends, or those of all requests until they end, summed."""
Progress = tuple[int, int]
"""A request, and how much of its prompt is computed or how many tokens it has generated."""
Given = tuple[tuple[int, ...], ...]
"""Requests released to each rank before a step, in order."""


class Rank(NamedTuple):
    """Prompts in the order in which they are computed, and what decodes."""

    prompts: tuple[Progress, ...] = ()
    running: tuple[Progress, ...] = ()


class State(NamedTuple):
    """Requests that are held, and the ranks in an order that does not tell which is which."""

    held: tuple[int, ...]
    ranks: tuple[Rank, ...]


class Loads(NamedTuple):
    """What a rank does in a step."""

    sequences: int
    kv_tokens: int
    prefill: int
    context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    """A cluster that prefills on its ranks, and a handful of requests that wait from the start.

    Attributes
    ----------
    prompts, outputs : tuple of int, length n
    workers, slots, budget : int
        G, B, tokens that a rank computes in a step.
    step_time : StepTime
    """

    prompts: tuple[int, ...]
    outputs: tuple[int, ...]
    workers: int
    slots: int
    budget: int
    step_time: StepTime

    def advance(self, rank: Rank, given: tuple[int, ...]) -> tuple[Rank, Loads]:
        """Return a rank after a step before which it was given these requests."""
        left = self.budget - len(rank.running)
        prompts, ended, prefill, context = [], [], 0, 0
        for i, before in (*rank.prompts, *((i, 0) for i in given)):
            chunk = max(min(self.prompts[i] - before, left), 0)
            left, prefill = left - chunk, prefill + chunk
            context += chunk * before + chunk * (chunk + 1) // 2
            if before + chunk == self.prompts[i]:
                ended.append((i, 0))
            else:
                prompts.append((i, before + chunk))
        kv = sum(self.prompts[i] + made for i, made in rank.running)
        decoded = sorted((i, made + 1) for i, made in (*rank.running, *ended))
        running = tuple((i, made) for i, made in decoded if made < self.outputs[i])
        return Rank(tuple(prompts), running), Loads(len(rank.running), kv, prefill, context)

    def seconds(self, loads: tuple[Loads, ...]) -> float:
        """Return how long a step lasts in which the ranks do that."""
        columns = ([each[at] for each in loads] for at in range(4))
        return step_parts(self.step_time, *columns).seconds

    def least_s(self, state: State, goal: Goal) -> float:
        """Return seconds that a state still takes at the least.

        Every request takes its steps on one of all the slots, whichever rank's these are, and
        prefill is in balance. The sum of delays is least with the shortest first, by slots and by
        prefill; what either takes comes on top of the other.
        """
        steps, prefill = self._left(state)
        slots, model = self.workers * self.slots, self.step_time
        each_s = (model.per_prefill_token + model.per_mean_prefill_token) / self.workers
        if goal == "run":
            least = max(steps[-1], -(-sum(steps) // slots)) if steps else 0
            return model.base * least + each_s * sum(prefill)
        ends = list(accumulate(prefill))
        # The last of a slot is counted once, the one before it twice.
        turns = sum(each * (1 + k // slots) for k, each in enumerate(reversed(steps)))
        return model.base * turns + each_s * sum(ends)

    def _left(self, state: State) -> tuple[list[int], list[int]]:
        """Return steps and prefill tokens that requests have before them, each least first."""
        found = [(self._steps(i, 0), self.prompts[i]) for i in state.held]
        for rank in state.ranks:
            found += [(self._steps(i, at), self.prompts[i] - at) for i, at in rank.prompts]
            found += [(self.outputs[i] - made, 0) for i, made in rank.running]
        return sorted(steps for steps, _ in found), sorted(tokens for _, tokens in found)

    def _steps(self, i: int, computed: int) -> int:
        return -(-(self.prompts[i] - computed) // self.budget) + self.outputs[i] - 1


@dataclass(frozen=True, slots=True)
class Best:
    """The best run: its seconds by the goal, and what is released before each step."""

    seconds: float
    given: tuple[Given, ...]


def best_run(small: Small, goal: Goal) -> Best:
    """Search for the best run from the least that each state still takes (A*).

    Parameters
    ----------
    small : Small
    goal : {"run", "delays"}
    """
    advance, seconds = cache(small.advance), cache(small.seconds)
    start = State(tuple(range(len(small.prompts))), (Rank(),) * small.workers)
    known, ticket = {start: 0.0}, count()
    came: dict[State, tuple[State, Given, list[int]]] = {}
    queue = [(small.least_s(start, goal), next(ticket), 0.0, start)]
    while queue:
        _, _, spent, state = heapq.heappop(queue)
        if spent > known[state]:
            continue
        if not state.held and not any(rank.prompts or rank.running for rank in state.ranks):
            return Best(spent, _way(came, state))
        weight = _unfinished(state) if goal == "delays" else 1
        for given, held in releases(small, state):
            moved = [advance(rank, each) for rank, each in zip(state.ranks, given, strict=True)]
            if not any(loads.sequences or loads.prefill for _, loads in moved):
                continue
            total = spent + weight * seconds(tuple(sorted(loads for _, loads in moved)))
            order = sorted(range(small.workers), key=lambda g: moved[g][0])
            after = State(held, tuple(moved[g][0] for g in order))
            if total < known.get(after, float("inf")):
                known[after], came[after] = total, (state, given, order)
                ahead = total + small.least_s(after, goal)
                heapq.heappush(queue, (ahead, next(ticket), total, after))
    raise AssertionError("some run ends")


def releases(small: Small, state: State) -> Iterator[tuple[Given, tuple[int, ...]]]:
    """Yield what can be released before a step, rank by rank in order, and what is held then."""

    def further(g: int, held: tuple[int, ...]) -> Iterator[tuple[Given, tuple[int, ...]]]:
        if g == small.workers:
            yield (), held
            return
        rank = state.ranks[g]
        room = small.slots - len(rank.prompts) - len(rank.running)
        for size in range(min(room, len(held)) + 1):
            for chosen in permutations(held, size):
                rest = tuple(i for i in held if i not in chosen)
                for given, left in further(g + 1, rest):
                    yield (chosen, *given), left

    yield from further(0, state.held)


def _unfinished(state: State) -> int:
    return len(state.held) + sum(len(rank.prompts) + len(rank.running) for rank in state.ranks)


def _way(came: dict[State, tuple[State, Given, list[int]]], state: State) -> tuple[Given, ...]:
    """Return what was given to get there, each rank under the same number throughout."""
    steps = []
    while state in came:
        state, given, order = came[state]
        steps.append((given, order))
    # Ranks are sorted anew in every step: where each of them stands.
    stands, found = list(range(len(state.ranks))), []
    for given, order in reversed(steps):
        found.append(tuple(given[at] for at in stands))
        stands = [order.index(at) for at in stands]
    return tuple(found)


class AsGiven(BasePolicy):
    """Releases what it was told to, in every step.

    Parameters
    ----------
    given : tuple of tuple of tuple of int
        As of `Best`.
    """

    def __init__(self, given: tuple[Given, ...]) -> None:
        self._given = given

    def route(self, cluster: ClusterView, waiting: Waiting) -> list[tuple[int, int]]:
        """Place what goes before this step."""
        now = self._given[cluster.step]
        at = {int(i): place for place, i in enumerate(waiting.request)}
        return [(at[i], g) for g, chosen in enumerate(now) for i in chosen]
