"""Routers made of the step oracle."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import pytest

from brsolver.cluster.state import ClusterState
from brsolver.cluster.view import Waiting
from brsolver.errors import MissingExtraError, ParameterError
from brsolver.oracles import policies
from brsolver.oracles.policies import LocalSearch, LpRound, MilpStep, _StepRouter
from brsolver.oracles.result import SolverError, SolveResult
from brsolver.oracles.step import StepInstance, objective_value, trajectory
from brsolver.policy import Policy
from brsolver.simulator import SimulationParams, simulate
from brsolver.traces.trace import Trace

CAPACITY = 400


def cluster(seed: int, *, limited: bool = False) -> tuple[ClusterState, Waiting]:
    rng = np.random.default_rng(seed)
    state = ClusterState([4] * 5, capacity=[CAPACITY] * 5 if limited else None, horizon=6)
    for request, worker in enumerate(rng.integers(0, 5, 10)):
        if state.active[worker] < 4:
            prompt = int(rng.integers(1, 90))
            state.admit(request, int(worker), prompt, remaining=int(rng.integers(1, 9)))
    return state, Waiting(rng.integers(1, 300, 12), np.arange(12))


@pytest.mark.parametrize("make", [MilpStep, LpRound, LocalSearch])
@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("objective", ["score", "imbalance"])
@pytest.mark.parametrize("hold", [False, True])
def test_decisions_can_be_carried_out(
    make: type[_StepRouter], limited: bool, objective: str, hold: bool
) -> None:
    params = make.Params(objective=objective, horizon=6, hold=hold)  # type: ignore[attr-defined]
    policy = make(params)
    assert isinstance(policy, Policy)
    for seed in range(2):
        state, waiting = cluster(seed, limited=limited)
        view = state.view()
        pairs = np.asarray(policy.route(view, waiting))
        assert np.unique(pairs[:, 0]).size == pairs.shape[0]
        assert (np.bincount(pairs[:, 1], minlength=5) <= view.room).all()
        tokens = np.bincount(pairs[:, 1], weights=waiting.prompt_tokens[pairs[:, 0]], minlength=5)
        assert (tokens <= view.token_room).all()
        if not hold and not limited:
            assert pairs.shape[0] == min(len(waiting), view.room.sum())
    assert policy.fallbacks == 0


def test_the_exact_router_is_at_least_as_good_at_its_step() -> None:
    state, waiting = cluster(3)
    instance = StepInstance.from_view(state.view(), waiting)
    values = []
    for policy in (MilpStep(), LpRound(), LocalSearch()):
        decision = np.full(len(waiting), -1)
        pairs = np.asarray(policy.route(state.view(), waiting))
        decision[pairs[:, 0]] = pairs[:, 1]
        values.append(objective_value(instance, decision.tolist(), "score"))
    assert values[0] == max(values)


def test_immediate_routing_places_its_request() -> None:
    state, _ = cluster(1)
    one = Waiting(np.array([50]), np.array([7]))
    for policy in (MilpStep(), LpRound(), LocalSearch(LocalSearch.Params(hold=True))):
        assert np.asarray(policy.route(state.view(immediate=True), one)).shape == (1, 2)


def test_a_failing_solver_leaves_the_heuristic(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SolverError("crashed")

    monkeypatch.setattr(policies, "solve_step", fail)
    state, waiting = cluster(2)
    policy = MilpStep()
    assert len(policy.route(state.view(), waiting)) > 0
    assert policy.fallbacks == 1


def test_a_missing_solver_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise MissingExtraError.for_extra("highspy", "oracles")

    monkeypatch.setattr(policies, "solve_step", missing)
    state, waiting = cluster(2)
    with pytest.raises(MissingExtraError, match="highspy is not installed"):
        MilpStep().route(state.view(), waiting)


@pytest.mark.parametrize(
    "change",
    [{"time_limit_s": 0.0}, {"backend": "glop"}, {"objective": "none"}, {"gamma": 0.0}],
)
def test_bad_parameters_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ParameterError):
        MilpStep.Params(**change)


def test_fallbacks_are_told_in_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    of, calls = policies.solve_step, count()

    def sometimes(*given: Any, **options: Any) -> SolveResult:
        if next(calls) % 3 == 0:
            raise SolverError("crashed")
        return of(*given, **options)

    monkeypatch.setattr(policies, "solve_step", sometimes)
    rng = np.random.default_rng(0)
    trace = Trace(prompt_tokens=rng.integers(1, 300, 30), output_tokens=rng.integers(1, 9, 30))
    params = SimulationParams(workers=2, slots=3)
    policy = MilpStep()
    found = simulate(trace, policy, params)
    assert policy.fallbacks == -(-policy.decisions // 3) > 0
    told = f"{policy.fallbacks} of {policy.decisions} decisions fell back to the heuristic"
    assert any(note.startswith(told) for note in found.notes)
    assert not any("fell back" in note for note in simulate(trace, LocalSearch(), params).notes)


def test_rounding_starts_each_relaxation_from_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = []
    of = trajectory.sift

    def sift(*arguments: Any, **options: Any) -> SolveResult:
        given.append(options["lengths"])
        return of(*arguments, **options)

    monkeypatch.setattr(trajectory, "sift", sift)
    policy = LpRound()
    for seed in range(2):
        state, waiting = cluster(seed)
        policy.route(state.view(), waiting)
    assert given[0] is None
    assert given[1] is not None
