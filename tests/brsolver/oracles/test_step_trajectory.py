"""Relaxations along a trajectory: what was solved before affects the time, not the result."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from step_cases import instances, random_instance

from brsolver.oracles.result import Status
from brsolver.oracles.step import Objective, StepInstance, StepRelaxer, solve_step


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    met=st.lists(instances(workers=4, requests=10), min_size=2, max_size=4),
    objective=st.sampled_from(["score", "imbalance"]),
)
def test_history_does_not_change_the_optimum(met: list[StepInstance], objective: Objective) -> None:
    relaxer = StepRelaxer(objective)
    for instance in met:
        cold = solve_step(instance, objective, relax=True)
        warm = relaxer.solve(instance)
        assert warm.status is cold.status
        if cold.objective is not None:
            assert warm.objective == pytest.approx(cold.objective, rel=1e-5, abs=1e-3)


@pytest.mark.parametrize("objective", ["score", "imbalance"])
def test_a_changing_state_is_solved_to_the_optimum(objective: Objective) -> None:
    relaxer = StepRelaxer(objective)
    for seed in range(5):
        instance = random_instance(seed, workers=16, waiting=80, free=12, horizon=20)
        found = relaxer.solve(instance)
        assert found.status is Status.OPTIMAL
        assert found.solution is not None
        assert np.asarray(found.solution).sum() == pytest.approx(12)
        whole = solve_step(instance, objective, relax=True)
        assert found.objective == pytest.approx(whole.objective, rel=1e-6)
