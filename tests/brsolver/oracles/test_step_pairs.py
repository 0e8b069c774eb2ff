"""The local search's pairs against trying all of them, and what its descents leave undone."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from step_cases import instances, random_instance

from brsolver.oracles.step import (
    Objective,
    StepInstance,
    heuristic,
    local_search,
    objective_value,
    violation,
)
from brsolver.oracles.step._pair_kernels import nearest_pairs


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=12, unique=True),
    peak=st.integers(0, 130),
    data=st.data(),
)
def test_nearest_pairs_are_those_of_all_pairs(
    sizes: list[int], peak: int, data: st.DataObject
) -> None:
    ordered = np.array(sorted(sizes))
    kinds = st.integers(0, len(sizes) - 1)
    p, q = data.draw(kinds), data.draw(kinds)
    left = np.array(
        data.draw(st.lists(st.integers(0, 2), min_size=len(sizes), max_size=len(sizes)))
    )
    last = data.draw(kinds)
    found = np.zeros(4, np.int64)
    nearest_pairs(peak, last, p, q, ordered, left, found)
    spare = left + np.bincount([p, q], minlength=len(sizes))
    sums = [
        int(ordered[a] + ordered[b])
        for a, b in combinations_with_replacement(range(last + 1), 2)
        if (spare[a] > 1 if a == b else spare[a] and spare[b])
    ]
    below = [total for total in sums if total <= peak]
    above = [total for total in sums if total > peak]
    for side, known in (
        (found[:2], max(below, default=None)),
        (found[2:], min(above, default=None)),
    ):
        assert (None if side[0] < 0 else int(ordered[side].sum())) == known


def improvements(instance: StepInstance, taken: np.ndarray, objective: Objective) -> list[int]:
    """Return what each replacement of two requests of one worker by two waiting ones gains."""
    sign = 1 if objective == "score" else -1
    value = objective_value(instance, taken.tolist(), objective)
    held, gains = np.flatnonzero(taken < 0), []
    for worker in set(taken[taken >= 0].tolist()):
        own = np.flatnonzero(taken == worker)
        for out in [(a, b) for a in own for b in own if a < b]:
            for new in [(a, b) for a in held for b in held if a < b]:
                other = taken.copy()
                other[list(out)], other[list(new)] = -1, worker
                if not violation(instance, other.tolist()):
                    found = objective_value(instance, other.tolist(), objective)
                    gains.append(sign * (found - value))
    return gains


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(instance=instances(workers=3, requests=8), objective=st.sampled_from(["score", "imbalance"]))
def test_no_exchange_of_a_pair_improves_what_the_search_leaves(
    instance: StepInstance, objective: Objective
) -> None:
    found = local_search(instance, objective, kicks=0)
    if found.solution is not None:
        assert max(improvements(instance, np.asarray(found.solution), objective), default=0) <= 0


@pytest.mark.parametrize("objective", ["score", "imbalance"])
def test_more_kicks_never_harm_and_the_start_is_never_lost(objective: Objective) -> None:
    sign = 1 if objective == "score" else -1
    for seed in range(4):
        instance = random_instance(seed, workers=8, waiting=40, free=16, horizon=12)
        values = [local_search(instance, objective, kicks=k).objective for k in (0, 5, 30)]
        assert None not in values
        rising = [sign * int(value or 0) for value in values]
        assert rising == sorted(rising)
        start = objective_value(instance, heuristic(instance, r_max=6).tolist(), objective)
        assert rising[0] >= sign * start
