"""Exact optima of tiny instances, by trying everything."""

from __future__ import annotations

from functools import cache
from itertools import combinations, product

Runs = tuple[tuple[int, int, int], ...]  # (worker, load now, steps left), sorted


def best_assignment(
    prompt: list[int], start: list[int], end: list[int], workers: int, slots: int
) -> int | None:
    """Return ``min Σ_k max_g L_g(k)`` over all assignments of runs whose steps are given."""
    steps = range(max(end))
    best = None
    for given in product(range(workers), repeat=len(prompt)):
        cost = 0
        for k in steps:
            load, held = [0] * workers, [0] * workers
            for i, g in enumerate(given):
                if start[i] <= k < end[i]:
                    load[g] += prompt[i] + k - start[i]
                    held[g] += 1
            if max(held) > slots:
                break
            cost += max(load)
        else:
            best = cost if best is None else min(best, cost)
    return best


def best_split(loads: list[int], workers: int, slots: int) -> int | None:
    """Return ``min max_g L_g`` over all splits of one step's loads."""
    return best_assignment(loads, [0] * len(loads), [1] * len(loads), workers, slots)


def best_run(
    prompt: list[int], output: list[int], workers: int, slots: int, pool: int, idling: bool
) -> tuple[int, int]:
    """Return ``min Σ_k M(k)`` and ``min K`` over all runs from a pool."""
    n = len(prompt)

    @cache
    def go(running: Runs, waiting: tuple[int, ...], coming: int) -> tuple[int, int]:
        fresh = min(n - coming, max(0, pool - len(waiting)))
        held, coming = (*waiting, *range(coming, coming + fresh)), coming + fresh
        if not held and not running:
            return 0, 0
        outcomes = [
            step(admit(running, chosen), held, chosen, coming) for chosen in choices(running, held)
        ]
        return min(c for c, _ in outcomes), min(k for _, k in outcomes)

    def choices(running: Runs, held: tuple[int, ...]) -> list[tuple[tuple[int, int], ...]]:
        free = workers * slots - len(running)
        most = min(free, len(held))
        least = most if not idling else int(not running)
        found = []
        for count in range(least, most + 1):
            for who in combinations(held, count):
                for where in product(range(workers), repeat=count):
                    taken = [g for g, _, _ in running] + list(where)
                    if all(taken.count(g) <= slots for g in where):
                        found.append(tuple(zip(who, where, strict=True)))
        return found

    def admit(running: Runs, chosen: tuple[tuple[int, int], ...]) -> Runs:
        return (*running, *((g, prompt[i], output[i]) for i, g in chosen))

    def step(
        running: Runs, held: tuple[int, ...], chosen: tuple[tuple[int, int], ...], coming: int
    ) -> tuple[int, int]:
        envelope = max(sum(w for h, w, _ in running if h == g) for g in range(workers))
        gone = {i for i, _ in chosen}
        kept = tuple(sorted((g, w + 1, r - 1) for g, w, r in running if r > 1))
        cost, steps = go(kept, tuple(i for i in held if i not in gone), coming)
        return cost + envelope, steps + 1

    return go((), (), 0)
