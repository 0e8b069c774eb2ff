"""Bounds that match requests to slots: no decision beats them, and where they are exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from step_cases import brute_force, instances, random_instance

from brsolver.oracles.step import (
    Objective,
    StepInstance,
    lagrangian_bound,
    local_search,
    solve_step,
)
from brsolver.oracles.step._bound_kernels import project_columns
from brsolver.oracles.step._matching import Matching, applies


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(
    instance=instances(workers=3, requests=5),
    objective=st.sampled_from(["score", "imbalance"]),
    turns=st.integers(1, 160),
)
def test_no_decision_beats_a_bound(
    instance: StepInstance, objective: Objective, turns: int
) -> None:
    plain = replace(instance, growth=0)
    best = brute_force(plain, objective)
    if best is not None:
        bound = lagrangian_bound(plain, objective, turns=turns).dual_bound
        assert bound is not None
        assert bound >= best if objective == "score" else bound <= best


def single_slots(seed: int) -> StepInstance:
    instance = random_instance(seed, workers=8, waiting=40, free=5, horizon=10)
    room = np.zeros(8, np.int64)
    room[[0, 2, 3, 5, 7]] = 1
    return replace(instance, room=room)


def test_one_free_slot_each_makes_the_scores_bound_the_optimum() -> None:
    for seed in range(5):
        instance = single_slots(seed)
        optimum = solve_step(instance, "score")
        assert optimum.proven
        assert lagrangian_bound(instance, "score").dual_bound == optimum.objective


def test_the_bound_of_mixed_room_comes_near_the_relaxation() -> None:
    for seed in range(4):
        instance = random_instance(seed, workers=16, waiting=80, free=12, horizon=20)
        known = local_search(instance).solution
        assert known is not None
        bound = lagrangian_bound(instance, incumbent=known.astype(np.int64)).dual_bound
        relaxed = solve_step(instance, relax=True).objective
        assert bound is not None
        assert relaxed is not None
        assert relaxed * (1 - 1e-6) - 1 <= bound <= relaxed + 0.02 * abs(relaxed)


@given(data=st.data(), waiting=st.integers(1, 6), hold=st.booleans())
def test_matching_finds_the_best_of_all_assignments(
    data: st.DataObject, waiting: int, hold: bool
) -> None:
    instance = StepInstance(
        projected=np.zeros((2, 1), np.int64),
        room=np.array([2, 1]),
        token_room=np.full(2, 10**6),
        prompts=np.array(
            data.draw(st.lists(st.integers(1, 5), min_size=waiting, max_size=waiting))
        ),
        weights=np.ones(1, np.int64),
        beta=2,
        admit=None if hold else min(waiting, 3),
    )
    shape = (2, instance.sizes.size)
    cells = st.lists(st.integers(-9, 9), min_size=shape[0] * shape[1], max_size=2 * shape[1])
    worth = np.array(data.draw(cells)).reshape(shape)
    found = Matching(instance).best(worth)
    assert applies(instance)
    assert found is not None
    totals = []
    for code in range(3**waiting):
        choice = [code // 3**i % 3 - 1 for i in range(waiting)]
        counts = [choice.count(0), choice.count(1)]
        full = instance.admit is None or sum(counts) == instance.admit
        if counts[0] <= 2 and counts[1] <= 1 and full:
            pairs = [(g, i) for i, g in enumerate(choice) if g >= 0]
            totals.append(sum(int(worth[g, instance.kind[i]]) for g, i in pairs))
    assert found[0] == max(totals)
    assert found[1].sum() <= instance.prompts.sum()


def test_worths_beyond_exact_sums_are_left_alone() -> None:
    instance = single_slots(0)
    worth = np.full((instance.most.size, instance.sizes.size), 1 << 60)
    assert Matching(instance).best(worth) is None


@pytest.mark.parametrize("change", [{"growth": 1}, {"admit": 2}])
def test_what_matching_does_not_cover_keeps_its_bound(change: dict[str, int]) -> None:
    instance = replace(single_slots(1), **change)  # type: ignore[arg-type] # by keyword
    assert not applies(instance)
    best = solve_step(instance).objective
    bound = lagrangian_bound(instance).dual_bound
    assert best is not None
    assert bound is not None
    assert bound >= best


@settings(deadline=None)
@given(
    columns=st.lists(st.lists(st.floats(-50, 50), min_size=3, max_size=3), min_size=1, max_size=4),
    limit=st.floats(0.5, 60),
)
def test_projection_stays_within_the_limits(columns: list[list[float]], limit: float) -> None:
    mu = np.array(columns).T.copy()
    project_columns(mu, np.full(mu.shape[1], limit))
    assert (mu >= 0).all()
    assert (mu.sum(axis=0) <= limit * (1 + 1e-9)).all()
