"""br-ramp in plain Python, to be read next to docs/br-ramp.md; tests hold the kernels to it.

Slow on purpose: every candidate is costed anew, and queues are searched from their heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, floor, log, log2
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Pair = tuple[int, int]

GAIN = 1e-9
"""Exchanges that lower the sum by less are left."""


@dataclass
class Worker:
    """What is known of a worker that is there.

    Attributes
    ----------
    load : int
        KV tokens of its requests, and what these weigh besides.
    present : int
        Requests that run or queue there.
    free : int
        Free slots.
    token_room : float
        KV tokens it may still be given; infinite where there is no capacity.
    capacity : float
        KV tokens it can hold.
    """

    load: int
    present: int
    free: int
    token_room: float = float("inf")
    capacity: float = float("inf")


@dataclass(frozen=True)
class Request:
    """A waiting request: its KV tokens, and the steps that it has waited."""

    tokens: int
    waited: int = 0


@dataclass(frozen=True)
class Knobs:
    """λ, θ·c̄, and what else a decision goes by.

    `patience` 0 is none; `reach` is how many further placed requests each is exchanged with.
    """

    rate: float
    price: float = 0.0
    patience: int = 0
    request_tokens: int = 0
    exact: bool = True
    sweeps: int = 3
    reach: int = 1 << 30


def psi(z: float, live: int) -> float:
    """Return ``e^z - z - 1`` up to ``ln G``, the tangent of slope ``G - 1`` beyond."""
    knee = log(live)
    if z <= knee:
        return exp(z) - z - 1.0
    return (live - 1.0) * (z - knee) + (live - 1.0) - knee


def places(worker: Worker, queue: Sequence[Request]) -> int:
    """Return how many mean requests a worker has slots and KV tokens for, one if any fits."""
    if worker.free == 0 or worker.token_room < min(r.tokens for r in queue):
        return 0
    if worker.token_room == float("inf"):
        return worker.free
    mean = max(sum(r.tokens for r in queue) / len(queue), 1.0)
    return max(min(worker.free, int(worker.token_room / mean)), 1)


class Decision:
    """One decision in the making."""

    def __init__(self, workers: Sequence[Worker], queue: Sequence[Request], by: Knobs) -> None:
        self.workers, self.queue, self.by = workers, queue, by
        self.free = [places(w, queue) for w in workers]
        self.room = [w.token_room for w in workers]
        self.size = [r.tokens + by.request_tokens for r in queue]
        self.mean = sum(self.size) / len(queue)
        present = [w.present + f for w, f in zip(workers, self.free, strict=True)]
        self.level = [w.load + f * self.mean for w, f in zip(workers, self.free, strict=True)]
        self.scale = [max(n / by.rate, 1.0) for n in present]
        self.target = median(self.level)
        mean_wait = len(queue) / (by.rate * len(workers))
        self.bonus = [by.price * r.waited / mean_wait for r in queue]
        self.waiting = list(range(len(queue)))
        self.pairs: list[list[int]] = []
        self.due = 0
        self.cheapest: list[float] = []

    def cost(self, g: int, more: float = 0.0) -> float:
        """Return ψ of worker g, were its level so much higher."""
        z = (self.level[g] + more - self.target) / self.scale[g]
        return psi(z, len(self.workers))

    def candidates(self, room: float) -> Iterable[int]:
        """Return the waiting requests that fit; of those of a class the first alone."""
        seen = set()
        for i in self.waiting:
            kind = self.size[i] if self.by.exact else floor(8 * log2(self.size[i]))
            if self.queue[i].tokens <= room and kind not in seen:
                seen.add(kind)
                yield i

    def best(self, g: int, room: float, base: float) -> tuple[float, int] | None:
        """Return the candidate with the least ``ψ(base + size) - bonus`` on worker g."""
        scale, live = self.scale[g], len(self.workers)
        values = [
            (psi((base + self.size[i] - self.target) / scale, live) - self.bonus[i], i)
            for i in self.candidates(room)
        ]
        return min(values, default=None)

    def place(self, i: int, g: int) -> None:
        """Give worker g a request."""
        self.pairs.append([i, g])
        self.waiting.remove(i)
        self.free[g] -= 1
        self.level[g] += self.size[i] - self.mean
        self.room[g] -= self.queue[i].tokens

    def place_overdue(self) -> None:
        """Place who has waited too long, where ψ rises least; keep a worker for who fits not."""
        patience = self.by.patience
        for i, request in enumerate(self.queue):
            if not patience or request.waited < patience:
                continue
            rise = [
                (self.cost(g, self.size[i] - self.mean) - self.cost(g), self.level[g], g)
                for g, left in enumerate(self.room)
                if self.free[g] > 0 and request.tokens <= left
            ]
            if rise:
                self.place(i, min(rise)[2])
                continue
            kept = [
                (-left, g)
                for g, left in enumerate(self.room)
                if request.tokens <= self.workers[g].capacity
            ]
            if kept:
                self.free[min(kept)[1]] = 0
        self.due = len(self.pairs)

    def fill(self) -> None:
        """Let the worker furthest from the target choose, until no slot is left."""
        while any(f > 0 for f in self.free):
            g = min(
                (g for g, f in enumerate(self.free) if f > 0),
                key=lambda g: (
                    -abs(self.level[g] - self.target) / self.scale[g],
                    self.level[g],
                    g,
                ),
            )
            found = self.best(g, self.room[g], self.level[g] - self.mean)
            if found is None:
                self.free[g] = 0
                continue
            fitting = self.candidates(self.room[g])
            self.cheapest.append(min(self.cost(g, self.size[i] - self.mean) for i in fitting))
            self.place(found[1], g)

    def exchange(self) -> bool:
        """Sweep once over what is placed; tell whether anything was exchanged."""
        better = False
        for k in range(len(self.pairs)):
            if k >= self.due:
                better |= self.exchange_with_waiting(k)
            better |= self.exchange_with_placed(k)
        return better

    def exchange_with_waiting(self, k: int) -> bool:
        """Replace the k-th placed request by the best waiting one, if the sum falls."""
        i, g = self.pairs[k]
        room = self.room[g] + self.queue[i].tokens
        found = self.best(g, room, self.level[g] - self.size[i])
        if found is None or found[0] - (self.cost(g) - self.bonus[i]) >= -GAIN:
            return False
        j = found[1]
        self.waiting = sorted({*self.waiting, i} - {j})
        self.pairs[k][0] = j
        self._shift(g, i, j)
        return True

    def exchange_with_placed(self, k: int) -> bool:
        """Exchange the k-th placed request with the best one placed elsewhere, if the sum falls.

        Who was overdue is exchanged with others that were: only the first `due` pairs are spared
        by `exchange_with_waiting`.
        """
        i, g = self.pairs[k]
        gains = []
        count = len(self.pairs)
        for further in range(1, min(self.by.reach + 1, count)):
            m = (k + further) % count
            if (k < self.due) != (m < self.due):
                continue
            j, w = self.pairs[m]
            more = self.size[j] - self.size[i]
            if w == g or more == 0 or more > self.room[g] or -more > self.room[w]:
                continue
            after = self.cost(g, more) + self.cost(w, -more)
            gains.append((after - (self.cost(g) + self.cost(w)), further))
        if not gains or min(gains)[0] >= -GAIN:
            return False
        m = (k + min(gains)[1]) % count
        j, w = self.pairs[m]
        self.pairs[k][0], self.pairs[m][0] = j, i
        self._shift(g, i, j)
        self._shift(w, j, i)
        return True

    def _shift(self, g: int, i: int, j: int) -> None:
        """Let worker g have request j instead of i."""
        self.level[g] += self.size[j] - self.size[i]
        self.room[g] -= self.queue[j].tokens - self.queue[i].tokens


def route(
    workers: Sequence[Worker], queue: Sequence[Request], by: Knobs
) -> tuple[list[Pair], float] | None:
    """Return pairs (waiting index, worker) and what slots cost; None where slots are plenty.

    There the guard decides (`brsolver.routers.reference.spread`). What slots cost is the mean of
    the least ψ that each could have been filled at, had no wait counted; -1 over no slots.
    """
    decision = Decision(workers, queue, by)
    if sum(decision.free) > len(queue):
        return None
    decision.place_overdue()
    decision.fill()
    for _ in range(by.sweeps):
        if not decision.exchange():
            break
    pairs = [(i, g) for i, g in decision.pairs]
    costs = decision.cheapest
    return pairs, sum(costs) / len(costs) if costs else -1.0
