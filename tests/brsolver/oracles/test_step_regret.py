"""What decisions missed: against everything tried, and for states met along real runs."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from step_cases import brute_force, instances

from brsolver.errors import MissingExtraError
from brsolver.oracles import _parts, _watching
from brsolver.oracles._parts import Parts
from brsolver.oracles._regret import Followed, Regrets, regrets, warm_up
from brsolver.oracles._watching import Plan, Recorder, Weights, spread, spread_order
from brsolver.oracles.result import SolverError
from brsolver.oracles.step import Objective, StepInstance, heuristic, objective_value, violation
from brsolver.oracles.step import judge as judge_module
from brsolver.oracles.step.judge import Judgement, judge
from brsolver.registry import make_policy
from brsolver.simulator import SimulationParams, simulate
from brsolver.simulator.held_out import hold_out
from brsolver.traces.trace import Trace

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Decision, Waiting
    from brsolver.results.result import SimulationResult

CLUSTER = SimulationParams(workers=3, slots=4, seed=5)


def make_trace(requests: int = 90) -> Trace:
    rng = np.random.default_rng(3)
    return Trace(
        prompt_tokens=rng.integers(1, 900, requests), output_tokens=rng.integers(1, 40, requests)
    )


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(instance=instances(workers=3, requests=5), objective=st.sampled_from(["score", "imbalance"]))
def test_judgements_enclose_what_trying_everything_finds(
    instance: StepInstance, objective: Objective
) -> None:
    taken = heuristic(instance)
    best = brute_force(instance, objective)
    if violation(instance, taken.tolist()):
        with pytest.raises(SolverError, match="the decision to judge is none"):
            judge(instance, taken, objective)
        return
    assert best is not None
    found = judge(instance, taken, objective, time_limit_s=10.0)
    assert found.value == objective_value(instance, taken.tolist(), objective)
    assert found.surely <= abs(best - found.value) <= found.regret
    assert found.proven
    assert found.best == best
    assert found.origin


def test_without_a_solver_the_bound_is_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise MissingExtraError.for_extra("highspy", "oracles")

    monkeypatch.setattr(judge_module, "solve_step", missing)
    instance = StepInstance(
        projected=np.array([[900], [650], [400]]),
        room=np.array([1, 2, 2]),
        token_room=np.full(3, 10**6),
        prompts=np.array([120, 300, 75, 410, 220, 90]),
        weights=np.ones(1, np.int64),
        beta=3,
        admit=5,
    )
    for objective in ("score", "imbalance"):
        best = brute_force(instance, objective)  # type: ignore[arg-type] # one of two
        found = judge(instance, heuristic(instance), objective)  # type: ignore[arg-type] # as above
        assert best is not None
        assert found.origin == "lagrangian"
        assert abs(best - found.value) <= found.regret


def run(policy: str) -> SimulationResult:
    return simulate(make_trace(), policy, CLUSTER, predictor="survival")


@pytest.mark.parametrize("policy", ["random", "br-h:horizon=6", "fast-phi"])
def test_runs_are_repeated_whatever_their_policy_draws_or_learns(policy: str) -> None:
    first = run(policy)
    recorder = Recorder(Plan.of(first), Weights.of(first, 4), np.arange(10**4))
    again = simulate(make_trace(), recorder, CLUSTER, predictor="survival")
    np.testing.assert_array_equal(again.requests.worker, first.requests.worker)
    np.testing.assert_array_equal(again.requests.start_step, first.requests.start_step)
    assert recorder.seen == len(recorder.kept) == first.metrics.decisions
    assert all(not violation(state, taken.tolist()) for state, taken in recorder.kept.values())


def test_states_are_those_that_the_policy_met() -> None:
    met: list[StepInstance] = []

    class Watching:
        horizon = 6

        def __init__(self) -> None:
            self.inner = make_policy("br-h", {"horizon": 6})

        def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
            decision = self.inner.route(cluster, waiting)
            # Its discount follows the cluster: what it was at this decision.
            gamma = self.inner.gamma * cluster.trust  # type: ignore[attr-defined] # BR-H has it
            state = StepInstance.from_view(
                cluster, waiting, horizon=6, gamma=max(gamma, 1e-9), survival=True
            )
            met.append(state)
            return decision

    simulate(make_trace(), Watching(), CLUSTER, predictor="survival")
    first = run("br-h:horizon=6")
    recorder = Recorder(Plan.of(first), Weights.of(first, None), np.arange(10**4))
    simulate(make_trace(), recorder, CLUSTER, predictor="survival")
    assert len(met) == len(recorder.kept)
    for state, (kept, _) in zip(met, recorder.kept.values(), strict=True):
        np.testing.assert_array_equal(state.projected, kept.projected)
        np.testing.assert_array_equal(state.prompts, kept.prompts)
        np.testing.assert_array_equal(state.weights, kept.weights)


def test_own_weights_are_taken_from_the_policy() -> None:
    own = Weights.of(run("br-h:horizon=6,gamma=0.7,growth=true,projection=survival"), None)
    assert own == Weights(horizon=6, gamma=0.7, growth=True, survival=True)
    assert Weights.of(run("br-h:horizon=6"), None).gamma is None
    assert Weights.of(run("jsq-load"), 9) == Weights(
        horizon=9, gamma=_watching.GAMMA, growth=False, survival=False
    )


def regret_of(runs: list[SimulationResult], **given: Any) -> Regrets:
    followed = [
        Followed(run=each, key={"policy": each.policy}, weights=Weights.of(each, None))
        for each in runs
    ]
    with Parts(hold_out(make_trace(), None), CLUSTER) as parts:
        return regrets(parts, followed, **given)


def test_every_policy_gets_as_many_decisions_spread_over_its_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = count()
    clock = SimpleNamespace(perf_counter=lambda: float(next(looks)))
    monkeypatch.setattr(_parts, "time", clock)
    found = regret_of([run("jsq-load"), run("br-0"), run("random")], budget_s=20.0).figures
    # Each look at the clock takes a second, and so does each decision here.
    examined = [row["examined"] for row in found]
    assert examined == [7, 7, 6]
    assert all(row["decisions"] > 20 for row in found)


def test_a_budget_that_is_no_time_still_judges_one_of_each() -> None:
    found = regret_of([run("jsq-load"), run("br-0")], budget_s=1e-9).figures
    assert [row["examined"] for row in found] == [1, 1]


def test_a_number_of_decisions_is_judged_whatever_the_budget() -> None:
    found = regret_of([run("jsq-load"), run("br-0")], budget_s=1e-9, decisions=9)
    assert [row["examined"] for row in found.figures] == [9, 9]
    more = regret_of([run("br-0")], budget_s=1e-9, decisions=10**3).figures
    assert more[0]["examined"] == more[0]["decisions"] > 9


def test_a_decision_that_cannot_be_judged_is_named_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judgements = count()

    def unsure(*given: Any, **more: Any) -> Judgement:
        if next(judgements) == 5:
            raise SolverError("no idea")
        return judge(*given, **more)

    warm_up()
    monkeypatch.setattr(judge_module, "judge", unsure)
    found = regret_of([run("jsq-load"), run("br-0")], budget_s=1e-9, decisions=4)
    assert [row["examined"] for row in found.figures] == [3, 4]
    assert list(found.failed.values()) == ["no idea"]
    assert list(found.failed) == ["jsq-load: a decision"]


@given(total=st.integers(0, 5000), count=st.integers(1, 600))
def test_samples_are_spread_evenly(total: int, count: int) -> None:
    chosen = spread(total, count)
    assert chosen.size == min(total, count)
    if chosen.size:
        assert chosen[0] >= 0
        assert chosen[-1] < total
        gaps = np.diff(chosen)
        assert gaps.size == 0 or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


@given(size=st.integers(0, 700), stop=st.integers(8, 700))
def test_every_beginning_of_the_order_is_spread(size: int, stop: int) -> None:
    order = spread_order(size)
    assert sorted(order) == list(range(size))
    part = np.sort(order[:stop])
    if part.size >= 8:
        assert np.diff(part).max() <= 4 * size / part.size + 1
