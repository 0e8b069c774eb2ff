"""Fewest steps of runs from a pool, and the earliest steps at which requests can be admitted."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

LAST = 64
"""Requests that are looked at: those that end last by their earliest admission."""

HALVES = 2
"""How many spans of output lengths are told apart at most, each half as long as the next."""


def least_steps(output_tokens: IntArray, positions: int, pool: int) -> int:
    """Return ``K_lb``: no run from a pool takes fewer decode steps."""
    return max(least_steps_by(output_tokens, positions, pool).values())


def least_steps_by(
    output_tokens: IntArray, positions: int, pool: int, *, work_conserving: bool = False
) -> dict[str, int]:
    """Return lower bounds of the number of steps K, by what each counts.

    ``slots``: what all slot-steps ``Σ o_i`` need. ``longest``: ``max_i (r_i + o_i)``. ``late``, of
    work-conserving runs: the same with ``r_i`` raised by what cannot be held back any more.

    Parameters
    ----------
    output_tokens : ndarray of int64, shape (n,)
        ``o_i`` in trace order.
    positions, pool : int
        ``G·B`` and P.
    work_conserving : bool
        Whether no slot stays free while a request waits.
    """
    spent = np.array([int(output_tokens.sum())], np.int64)
    first = earliest_admission(output_tokens, positions, pool)
    found = {
        "slots": int(_steps_for(spent, positions, pool)[0]),
        "longest": int((first + output_tokens).max()),
    }
    if work_conserving:
        requests = Revealed(output=output_tokens, positions=positions, pool=pool)
        last = np.argsort(first + output_tokens)[-LAST:].tolist()
        found["late"] = max(
            requests.earliest(i, int(first[i])) + int(output_tokens[i]) for i in last
        )
    return found


def earliest_admission(output_tokens: IntArray, positions: int, pool: int) -> IntArray:
    """Return lower bounds ``r_i`` of the step at which each request can be admitted.

    Request i (from 0) is revealed only after ``m = i - P + 1`` of those before it have been
    admitted. At most P are admitted per step; all but G·B of them have finished, and the others
    have run for a step, which takes slot-steps that only exist by a certain step.

    Parameters
    ----------
    output_tokens : ndarray of int64, shape (n,)
        ``o_i`` in trace order.
    positions, pool : int
        ``G·B`` and P.
    """
    ahead = np.maximum(np.arange(output_tokens.size) - pool + 1, 0)
    spent = _smallest_sums(output_tokens, pool + positions - 1) + np.minimum(ahead, positions)
    by_slots = _steps_for(spent, positions, pool)
    return np.maximum.accumulate(np.maximum(by_slots, -(-ahead // pool)))


def _smallest_sums(values: IntArray, held_back: int) -> IntArray:
    """Return, for each i, the sum of ``values[:i]`` without its `held_back` largest."""
    largest: list[int] = []
    sums = np.zeros(values.size, np.int64)
    total = 0
    for i, value in enumerate(values.tolist()):
        sums[i] = total
        if len(largest) < held_back:
            heapq.heappush(largest, value)
        else:
            total += heapq.heappushpop(largest, value)
    return sums


def _steps_for(slot_steps: IntArray, positions: int, pool: int) -> IntArray:
    """Return how many steps from the start provide so many slot-steps.

    Step k has at most ``min(G·B, P(k + 1))`` active requests.
    """
    ramp = np.minimum(positions, pool * np.arange(1, -(-positions // pool) + 1, dtype=np.int64))
    reached = np.cumsum(ramp)
    within = np.searchsorted(reached, slot_steps, side="left") + (slot_steps > 0)
    beyond = ramp.size + -(-(slot_steps - reached[-1]) // positions)
    return np.where(slot_steps <= reached[-1], within, beyond).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Revealed:
    """Requests in the order in which a pool shows them to a work-conserving router.

    Who was revealed long ago must have been admitted, and have finished since.

    Attributes
    ----------
    output : ndarray of int64, shape (n,)
    positions, pool : int
        ``G·B`` and P.
    """

    output: IntArray
    positions: int
    pool: int

    @cached_property
    def before(self) -> IntArray:
        """Output tokens of the first i requests, shape (n + 1,)."""
        return np.concatenate(([0], np.cumsum(self.output)))

    def least_admitted(self, step: int) -> int:
        """Return how many requests are admitted before a step at least.

        Before the last admission all slots are taken at every step, but for e at which all P
        that wait were admitted. Those admitted are among the first ``a + P``, and have used no
        more than all output tokens of these.
        """
        if step <= 0:
            return 0
        low, high = 0, min(step, (len(self.output) - 1) // self.pool)
        if self.pool > self.positions:
            high = 0
        while low < high:
            e = (low + high) // 2
            low, high = (low, e) if self.pool * e >= self._needed(step, e) else (e + 1, high)
        return min(max(self.pool * e, self._needed(step, e)) for e in {max(low - 1, 0), low})

    def _needed(self, step: int, emptied: int) -> int:
        used = self.positions * (step - emptied) + self.pool * emptied
        count = int(np.searchsorted(self.before, used))
        return min(max(count - self.pool, 0), len(self.output))

    def held_back(self, i: int, step: int) -> int:
        """Return the most slot-steps that requests before i can lack at the start of step k.

        They lack the tokens of those that wait, at most ``P - 1``, and of those that run, at most
        G·B, but for one step of each of the latter. Whoever has at most D tokens and has not
        finished was not admitted before step ``k - D + 1``; and of those that were revealed early
        enough all but P were. The same holds of every span of lengths by itself.
        """
        longest = int(self.output[:i].max())
        halves = [-(-longest // 2**times) for times in range(HALVES)]
        return min(
            self._lacking(i, step, sorted(set(halves[:count]))) for count in range(1, HALVES + 1)
        )

    def _lacking(self, i: int, step: int, spans: list[int]) -> int:
        found, floor = [], 0
        for span in spans:
            gone = min(self.least_admitted(step - span + 1), i)
            early, late = self.output[:gone], self.output[gone:i]
            found.append(_largest(early[(early > floor) & (early <= span)], self.pool))
            found.append(late[(late > floor) & (late <= span)])
            floor = span
        held = _largest(np.concatenate(found), self.pool + self.positions - 1)
        return int(held.sum()) - max(0, held.size - self.pool + 1)

    def earliest(self, i: int, step: int) -> int:
        """Return the first step, from `step` on, at which request i can be admitted."""
        if i < self.pool:
            return step
        while True:
            spent = int(self.before[i]) - self.held_back(i, step)
            later = int(_steps_for(np.array([spent]), self.positions, self.pool)[0])
            if later <= step:
                return step
            step = later


def _largest(values: IntArray, count: int) -> IntArray:
    return values if values.size <= count else np.partition(values, -count)[-count:]
