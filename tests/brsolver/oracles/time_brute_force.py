"""The shortest runs of tiny instances in seconds, by trying everything."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from brsolver.hardware.reference import step_parts

if TYPE_CHECKING:
    from brsolver.hardware.step_time import StepTime


class Tiny(NamedTuple):
    """A request: prompt, of which so much is cached, and output tokens."""

    prompt: int
    output: int
    cached: int = 0


# Of each request: its rank (-1 while it is held), tokens of its prompt in KV, tokens generated.
State = tuple[tuple[int, int, int], ...]
HELD = -1


def shortest_run(  # noqa: C901 # one rule of what a step may be after the other
    requests: list[Tiny], workers: int, slots: int, model: StepTime, budget: int | None = None
) -> float:
    """Return the least sum of step durations over all runs, whatever is released when and where.

    Without a budget prefill is done elsewhere. With one, every rank computes up to so many tokens
    a step, decoding sequences among them; any piece of any prompt may be next, and a sequence may
    miss a step, so that whatever schedulers do is among what is tried.
    """

    def done(i: int, generated: int) -> bool:
        return generated == requests[i].output

    @cache
    def go(state: State) -> float:
        if all(done(i, generated) for i, (_, _, generated) in enumerate(state)):
            return 0.0
        return min((cost + go(after) for cost, after in outcomes(state)), default=float("inf"))

    def outcomes(state: State) -> list[tuple[float, State]]:
        found: dict[State, float] = {}
        for placed in placements(state):
            for work in product(*(pieces(i, each) for i, each in enumerate(placed))):
                cost = price(placed, work)
                if cost is not None:
                    after = tuple(
                        advance(i, each, piece)
                        for i, (each, piece) in enumerate(zip(placed, work, strict=True))
                    )
                    found[after] = min(cost, found.get(after, cost))
        return [(cost, after) for after, cost in found.items()]

    def placements(state: State) -> list[State]:
        choices = [
            [(g, kv, made) for g in (HELD, *range(workers))] if rank == HELD else [(rank, kv, made)]
            for rank, kv, made in state
        ]
        return [
            placed
            for placed in product(*choices)
            if all(
                sum(r == g and not done(i, m) for i, (r, _, m) in enumerate(placed)) <= slots
                for g in range(workers)
            )
        ]

    def pieces(i: int, each: tuple[int, int, int]) -> list[int]:
        """Tokens that may be computed of a request in a step: 0, its next one, or of its prompt."""
        rank, kv, made = each
        if rank == HELD or done(i, made):
            return [0]
        if budget is None:
            return [1]
        left = requests[i].prompt - kv
        return [0, 1] if left == 0 else list(range(min(left, budget) + 1))

    def price(placed: State, work: tuple[int, ...]) -> float | None:
        """Return what the step costs; None if it does nothing or too much."""
        if not any(work):
            return None
        n, kv, prefill, context = ([0] * workers for _ in range(4))
        for i, ((rank, held, made), piece) in enumerate(zip(placed, work, strict=True)):
            if piece and held == requests[i].prompt:
                n[rank] += 1
                kv[rank] += held + made
            elif piece:
                prefill[rank] += piece
                context[rank] += piece * held + piece * (piece + 1) // 2
        if budget is not None and any(a + b > budget for a, b in zip(n, prefill, strict=True)):
            return None
        return step_parts(model, n, kv, prefill, context).seconds

    def advance(i: int, each: tuple[int, int, int], piece: int) -> tuple[int, int, int]:
        rank, kv, made = each
        if not piece:
            return each
        prompt = requests[i].prompt
        if kv == prompt:
            return rank, kv, made + 1
        kv += piece
        return rank, kv, made + (kv == prompt)

    def first(each: Tiny) -> tuple[int, int, int]:
        return (HELD, each.prompt if budget is None else each.cached, 0)

    return go(tuple(first(each) for each in requests))


def shortest_assignment(
    requests: list[Tiny], start: list[int], workers: int, slots: int, model: StepTime
) -> float | None:
    """Return the least sum of step durations where admission steps are given."""
    best = None
    for given in product(range(workers), repeat=len(requests)):
        total = 0.0
        for k in range(max(x + r.output for x, r in zip(start, requests, strict=True))):
            n, kv = [0] * workers, [0] * workers
            for each, x, g in zip(requests, start, given, strict=True):
                if x <= k < x + each.output:
                    n[g] += 1
                    kv[g] += each.prompt + k - x
            if max(n) > slots:
                break
            total += step_parts(model, n, kv).seconds
        else:
            best = total if best is None else min(best, total)
    return best


class Laid(NamedTuple):
    """When a request is computed: pieces of its prompt from `first` on, then it decodes."""

    first: int
    pieces: tuple[int, ...]

    @property
    def decoded_from(self) -> int:
        """Step after the one that ends its prompt."""
        return self.first + len(self.pieces)


def shortest_placement(
    requests: list[Tiny], laid: list[Laid], workers: int, slots: int, model: StepTime
) -> float | None:
    """Return the least sum of step durations over all assignments of given steps' contents."""
    steps = max(x.decoded_from + r.output - 1 for x, r in zip(laid, requests, strict=True))
    best = None
    for given in product(range(workers), repeat=len(requests)):
        total = 0.0
        for k in range(steps):
            n, kv, prefill, context, held = ([0] * workers for _ in range(5))
            for each, x, g in zip(requests, laid, given, strict=True):
                if x.first <= k < x.decoded_from:
                    before = each.cached + sum(x.pieces[: k - x.first])
                    piece = x.pieces[k - x.first]
                    prefill[g] += piece
                    context[g] += piece * before + piece * (piece + 1) // 2
                    held[g] += 1
                elif x.decoded_from <= k < x.decoded_from + each.output - 1:
                    n[g] += 1
                    kv[g] += each.prompt + 1 + k - x.decoded_from
                    held[g] += 1
            if max(held) > slots:
                break
            total += step_parts(model, n, kv, prefill, context).seconds
        else:
            best = total if best is None else min(best, total)
    return best
