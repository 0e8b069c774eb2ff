"""Policies that draw at random."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from baseline_views import Worker, pairs_of, view_of, waiting_of

from baselines.power_of_two import PowerOfTwo, PowerOfTwoLoad
from baselines.random_choice import RandomChoice

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.policy import Policy

DRAWS = 6000


def shares(policy: Policy, workers: list[Worker]) -> dict[int, float]:
    view = view_of(workers, immediate=True)
    waiting = waiting_of([5])
    chosen = Counter(pairs_of(policy.route(view, waiting))[0][1] for _ in range(DRAWS))
    return {g: count / DRAWS for g, count in chosen.items()}


def three(**figures: list[int]) -> list[Worker]:
    return [
        Worker(g, room=1, **{name: values[g] for name, values in figures.items()}) for g in range(3)
    ]


def test_random_spreads_evenly_over_the_workers_with_room() -> None:
    workers = [Worker(0, slots=0), *(Worker(g, room=1) for g in (1, 2, 3))]
    found = shares(RandomChoice(rng=np.random.default_rng(5)), workers)
    assert found == pytest.approx({1: 1 / 3, 2: 1 / 3, 3: 1 / 3}, abs=0.03)


@pytest.mark.parametrize(
    ("make", "figures"),
    [
        # Where the other figure is turned round, deciding by it would turn the shares round.
        (PowerOfTwo, {"running": [2, 1, 0], "load": [1, 2, 3]}),
        (PowerOfTwo, {"queued": [2, 1, 0], "load": [1, 2, 3]}),
        (PowerOfTwoLoad, {"running": [0, 1, 2], "load": [3, 2, 1]}),
    ],
)
def test_the_better_of_two_different_workers_wins(
    make: Callable[..., Policy], figures: dict[str, list[int]]
) -> None:
    found = shares(make(rng=np.random.default_rng(5)), three(**figures))
    assert found == pytest.approx({2: 2 / 3, 1: 1 / 3}, abs=0.03)


@pytest.mark.parametrize("make", [PowerOfTwo, PowerOfTwoLoad])
def test_two_choices_break_ties_evenly(make: Callable[..., Policy]) -> None:
    found = shares(make(rng=np.random.default_rng(5)), three())
    assert found == pytest.approx({0: 1 / 3, 1: 1 / 3, 2: 1 / 3}, abs=0.03)


@pytest.mark.parametrize(
    ("make", "expected"), [(PowerOfTwo, {0: 4, 1: 4}), (PowerOfTwoLoad, {0: 2, 1: 6})]
)
def test_two_choices_count_what_the_decision_has_placed(
    make: Callable[..., Policy], expected: dict[int, int]
) -> None:
    workers = [Worker(0, room=8, load=20), Worker(1, room=8)]
    pairs = pairs_of(make().route(view_of(workers), waiting_of([5] * 8)))
    assert Counter(g for _, g in pairs) == expected


@pytest.mark.parametrize("make", [RandomChoice, PowerOfTwo, PowerOfTwoLoad])
def test_equal_generators_give_equal_decisions(make: Callable[..., Policy]) -> None:
    view = view_of([Worker(g, room=4) for g in range(5)])
    waiting = waiting_of([3] * 12)
    first, second, other = (
        pairs_of(make(rng=np.random.default_rng(seed)).route(view, waiting)) for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other
