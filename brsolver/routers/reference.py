"""BR-0 and BR-H in plain Python, to be read next to the formulae; tests hold the kernels to it.

Slow on purpose: every subset is scored over the whole horizon.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Pair = tuple[int, int]


@dataclass
class Worker:
    """What the two stages know about one worker.

    Attributes
    ----------
    projected : list of int
        ``L_{g,h}`` for h = 0..H, in KV tokens and what requests weigh besides.
    room : int
        Free slots.
    token_room : int
        KV tokens it may still be given.
    """

    projected: list[int]
    room: int
    token_room: int

    def give(self, tokens: int, requests: int, growth: int, request_tokens: int = 0) -> None:
        """Add `requests` new requests of `tokens` KV tokens in all."""
        self.room -= requests
        self.token_room -= tokens
        for h in range(len(self.projected)):
            self.projected[h] += tokens + (request_tokens + growth * h) * requests


@dataclass(frozen=True)
class Weights:
    """``α``, ``β``, ``d_h = γ^h``, whether loads grow, and what a request weighs, κ."""

    alpha: float
    beta: float
    discounts: Sequence[float]
    growth: int = 0
    request_tokens: int = 0


def f_score(
    total: int, requests: int, worker: Worker, workers: Sequence[Worker], weights: Weights
) -> float:
    """Return ``F_g(Q) = Σ_h d_h·(α·S_h - β·(S_h - m_{g,h})_+)`` ([BR] §2).

    ``S_h`` is the sum of prompt tokens and κ per request, and under growth h more for each.
    """
    value = 0.0
    for h, discount in enumerate(weights.discounts):
        margin = max(w.projected[h] for w in workers) - worker.projected[h]
        load = total + (weights.request_tokens + weights.growth * h) * requests
        value += discount * (weights.alpha * load - weights.beta * max(load - margin, 0))
    return value


def route(
    workers: list[Worker], prompts: Sequence[int], weights: Weights, s_greedy: int, r_max: int
) -> list[Pair]:
    """Run both stages of [BR] §2; return pairs (waiting index, worker)."""
    waiting = list(range(len(prompts)))
    pairs: list[Pair] = []
    while waiting and sum(w.room for w in workers) > 0:
        plentiful = sum(w.room for w in workers) > s_greedy
        g = _roomiest(workers)
        window = waiting if plentiful else waiting[:r_max]
        most = 1 if plentiful else workers[g].room
        chosen = _choose(window, prompts, workers, g, most, weights)
        if not chosen:
            workers[g].room = 0
            continue
        tokens = sum(prompts[i] for i in chosen)
        workers[g].give(tokens, len(chosen), weights.growth, weights.request_tokens)
        for i in chosen:
            waiting.remove(i)
            pairs.append((i, g))
    return pairs


def spread(workers: list[Worker], prompts: Sequence[int], request_tokens: int = 0) -> list[Pair]:
    """Place the longest prompt first, each on the least loaded worker with room for it."""
    pairs: list[Pair] = []
    for i in sorted(range(len(prompts)), key=lambda i: (-prompts[i], i)):
        open_ = [g for g, w in enumerate(workers) if w.room > 0 and prompts[i] <= w.token_room]
        if open_:
            g = min(open_, key=lambda g: (workers[g].projected[0], g))
            workers[g].give(prompts[i], 1, 0, request_tokens)
            pairs.append((i, g))
    return pairs


def _roomiest(workers: Sequence[Worker]) -> int:
    return min(range(len(workers)), key=lambda g: (-workers[g].room, workers[g].projected[0], g))


def _choose(
    window: Sequence[int],
    prompts: Sequence[int],
    workers: Sequence[Worker],
    g: int,
    most: int,
    weights: Weights,
) -> tuple[int, ...]:
    """Return the subset with the largest F, or the best single if that is not positive."""

    def value(subset: tuple[int, ...]) -> float:
        total = sum(prompts[i] for i in subset)
        return f_score(total, len(subset), workers[g], workers, weights)

    fitting = [
        subset
        for subset in _subsets(window, most)
        if sum(prompts[i] for i in subset) <= workers[g].token_room
    ]
    if not fitting:
        return ()
    best = max(fitting, key=value)
    if value(best) > 0:
        return best
    return max((subset for subset in fitting if len(subset) == 1), key=value)


def _subsets(window: Sequence[int], most: int) -> Iterator[tuple[int, ...]]:
    for size in range(1, min(most, len(window)) + 1):
        yield from combinations(window, size)
