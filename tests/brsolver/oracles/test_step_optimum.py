"""The step oracle against brute force, its own reference, its relaxations and its bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from step_cases import brute_force, instances, random_instance

from brsolver.oracles.result import Status
from brsolver.oracles.step import (
    Objective,
    StepInstance,
    heuristic,
    lagrangian_bound,
    local_search,
    objective_value,
    solve_step,
    violation,
)
from brsolver.oracles.step.reference import reference_optimum

objectives = st.sampled_from(["score", "imbalance"])
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def better_first(objective: Objective) -> int:
    return 1 if objective == "score" else -1


@pytest.mark.parametrize("backend", ["highs", "cp-sat"])
@settings(relaxed, max_examples=60)
@given(instance=instances(workers=3, requests=5), objective=objectives)
def test_optimum_is_brute_forces(
    backend: str, instance: StepInstance, objective: Objective
) -> None:
    found = solve_step(instance, objective, backend=backend)
    best = brute_force(instance, objective)
    if best is None:
        assert found.status is Status.INFEASIBLE
        assert found.solution is None
        return
    assert found.status is Status.OPTIMAL
    assert found.objective == found.dual_bound == best
    assert found.solution is not None
    assert not violation(instance, found.solution.tolist())


@settings(relaxed, max_examples=3)
@given(instance=instances(workers=3, requests=7), objective=objectives)
def test_optimum_is_brute_forces_at_seven_requests(
    instance: StepInstance, objective: Objective
) -> None:
    best = brute_force(instance, objective)
    assert solve_step(instance, objective).objective == best


@settings(relaxed, max_examples=300)
@given(instance=instances(), objective=objectives)
def test_heuristic_optimum_relaxation_and_bound_are_in_order(
    instance: StepInstance, objective: Objective
) -> None:
    sign = better_first(objective)
    optimum = solve_step(instance, objective, backend="cp-sat" if instance.growth else "highs")
    bound = lagrangian_bound(instance, objective, turns=50)
    lp = solve_step(instance, objective, relax=True)
    assert bound.status is Status.BOUND
    assert bound.dual_bound is not None
    if optimum.objective is None:
        assert optimum.status is Status.INFEASIBLE
        return
    assert optimum.proven
    assert lp.objective is not None
    assert lp.dual_bound is not None
    start = heuristic(instance)
    if not violation(instance, start.tolist()):
        assert sign * objective_value(instance, start.tolist(), objective) <= (
            sign * optimum.objective
        )
    slack = 1e-6 * max(1.0, abs(lp.objective))
    assert sign * optimum.objective <= sign * lp.dual_bound + slack
    assert sign * lp.objective <= sign * lp.dual_bound + slack
    assert sign * optimum.objective <= sign * bound.dual_bound
    # Bound and relaxation are in no order: each worker's share is rounded to whole requests in
    # the one, and the bound to whole tokens.


@settings(relaxed, max_examples=150)
@given(instance=instances(requests=12), objective=objectives, kicks=st.integers(0, 5))
def test_local_search_returns_what_it_says(
    instance: StepInstance, objective: Objective, kicks: int
) -> None:
    found = local_search(instance, objective, kicks=kicks)
    if found.solution is None:
        assert found.status is Status.LIMIT
        return
    assert found.status is Status.FEASIBLE
    assert found.dual_bound is None
    assert not violation(instance, found.solution.tolist())
    assert found.objective == objective_value(instance, found.solution.tolist(), objective)
    again = local_search(instance, objective, kicks=kicks)
    assert np.array_equal(again.solution, found.solution)


@settings(relaxed, max_examples=25, phases=(Phase.generate,))
@given(instance=instances(workers=3, requests=5), objective=objectives)
def test_reference_model_agrees(instance: StepInstance, objective: Objective) -> None:
    plain = reference_optimum(instance, objective)
    found = solve_step(instance, objective)
    if found.objective is None:
        assert math.isnan(plain)
    else:
        assert found.objective == pytest.approx(plain, rel=1e-6, abs=1e-3)


@settings(relaxed, max_examples=15, phases=(Phase.generate,))
@given(instance=instances(workers=3, requests=5, tokens=False), objective=objectives)
def test_relaxation_is_the_references_or_tighter(
    instance: StepInstance, objective: Objective
) -> None:
    plain = reference_optimum(instance, objective, relax=True)
    found = solve_step(instance, objective, relax=True)
    assert found.objective is not None
    if instance.growth:
        return  # planes by number of requests and overflows by step cross between whole numbers
    slack = 1e-6 * max(1.0, abs(plain))
    assert better_first(objective) * (float(found.objective) - plain) <= slack
    if (instance.most > 1).all():
        assert found.objective == pytest.approx(plain, rel=1e-6, abs=1e-3)


@settings(relaxed, max_examples=60)
@given(instance=instances(workers=4, requests=12), objective=objectives)
def test_sifting_finds_the_relaxations_optimum(
    instance: StepInstance, objective: Objective
) -> None:
    full = solve_step(instance, objective, relax=True)
    sifted = solve_step(instance, objective, relax=True, backend="sifting")
    assert sifted.status is full.status
    if full.objective is not None:
        assert sifted.objective == pytest.approx(full.objective, rel=1e-5, abs=1e-3)


@pytest.mark.parametrize("objective", ["score", "imbalance"])
@pytest.mark.parametrize("seed", range(3))
def test_back_ends_agree_to_the_integer(objective: Objective, seed: int) -> None:
    instance = random_instance(seed, workers=6, waiting=24, free=6, horizon=10)
    values = {
        solve_step(instance, objective, backend=backend, time_limit_s=20).objective
        for backend in ("highs", "cp-sat")
    }
    assert len(values) == 1
    bounds = [
        solve_step(instance, objective, backend=backend, relax=True).dual_bound
        for backend in ("highs", "highs-ds", "highs-ipm", "glop", "sifting")
    ]
    assert bounds == pytest.approx([bounds[0]] * len(bounds), rel=1e-5)


def test_a_start_does_not_make_highs_call_a_worse_decision_optimal() -> None:
    # HiGHS 1.13 and 1.14 did, with presolve.
    for seed in range(4):
        instance = random_instance(seed, workers=8, waiting=40, free=6, horizon=12)
        warm = solve_step(instance, "imbalance", time_limit_s=20)
        cold = solve_step(instance, "imbalance", time_limit_s=20, warm=False)
        assert warm.objective == cold.objective


@settings(relaxed, max_examples=60)
@given(instance=instances(workers=3, requests=5), objective=objectives)
def test_holding_is_no_worse_than_filling(instance: StepInstance, objective: Objective) -> None:
    fields = {
        name: getattr(instance, name)
        for name in ("projected", "room", "token_room", "prompts", "weights", "beta", "growth")
    }
    held = solve_step(StepInstance(admit=None, **fields), objective, backend="cp-sat")
    most = min(instance.prompts.size, int(instance.room.sum()))
    filled = solve_step(StepInstance(admit=most, **fields), objective, backend="cp-sat")
    assert held.objective is not None
    if filled.objective is not None:
        sign = better_first(objective)
        assert sign * held.objective >= sign * filled.objective


def test_equal_lengths_are_one_column() -> None:
    instance = random_instance(1, workers=3, waiting=9, free=5, horizon=2)
    repeated = StepInstance(
        projected=instance.projected,
        room=np.array([2, 2, 1]),
        token_room=instance.token_room,
        prompts=np.repeat(np.array([100, 700, 40]), 3),
        weights=instance.weights,
        beta=3,
        admit=5,
    )
    assert repeated.sizes.tolist() == [40, 100, 700]
    assert repeated.counts.tolist() == [3, 3, 3]
    found = solve_step(repeated)
    assert found.objective == brute_force(repeated, "score")
    assert found.solution is not None
    # Of equal requests the oldest go first.
    taken = found.solution >= 0
    assert all(not taken[b] or taken[b - 1] for a in (0, 3, 6) for b in (a + 1, a + 2))
