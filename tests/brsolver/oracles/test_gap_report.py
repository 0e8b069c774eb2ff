from __future__ import annotations

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from brsolver.cli._spans import parse_span
from brsolver.cli.gap import gap as gap_command
from brsolver.errors import BrsolverError, ParameterError, UnknownNameError
from brsolver.oracles.bounds import fcfs_bound
from brsolver.oracles.gap import GapReport, gap
from brsolver.oracles.hindsight.result import HindsightResult
from brsolver.oracles.result import SolverError, Status
from brsolver.simulator import SimulationParams, simulate
from brsolver.simulator.components import WorkerEvent
from brsolver.traces.trace import Trace

CLUSTER = {"workers": 2, "slots": 3}
PRESET = "preset:uniform:n=60,s_high=400,o_high=30"


def make_trace(requests: int = 60) -> Trace:
    rng = np.random.default_rng(3)
    return Trace(
        prompt_tokens=rng.integers(1, 900, requests), output_tokens=rng.integers(1, 40, requests)
    )


def report(*policies: str, **changes: object) -> GapReport:
    given: dict[str, object] = {**CLUSTER, "budget_s": 2.0, **changes}
    return gap(make_trace(), policies, **given)  # type: ignore[arg-type] # by keyword


def test_runs_in_order_are_held_against_the_fcfs_bound() -> None:
    found = report("jsq-load", "round-robin")
    assert found.status is Status.FEASIBLE
    assert found.valid_for.startswith("pooled runs with first-come-first-served")
    costs = [
        int(simulate(make_trace(), policy, SimulationParams(**CLUSTER)).steps.load_max.sum())
        for policy in ("jsq-load", "round-robin")
    ]
    assert [row.barrier_time for row in found.policies] == costs
    assert found.best_known == min(costs)
    assert found.lower_bound is not None
    for row, cost in zip(found.policies, costs, strict=True):
        assert row.certified
        assert row.gap == pytest.approx(cost / found.lower_bound - 1)
        assert row.gap_to_best == pytest.approx(cost / min(costs) - 1)


def test_one_run_out_of_order_asks_for_the_free_bound() -> None:
    found = report("jsq-load", "br-0")
    assert found.valid_for.startswith("work-conserving runs")
    assert all(row.certified for row in found.policies)
    assert [row.routing.kind for row in found.policies] == ["fcfs", "admissions"]
    fcfs = report("jsq-load")
    assert found.lower_bound <= fcfs.lower_bound  # type: ignore[operator] # both exist


def test_a_run_at_its_bound_is_proven_optimal() -> None:
    found = gap(make_trace(4), ["jsq-load"], workers=1, slots=4)
    assert found.status is Status.OPTIMAL
    assert found.policies[0].gap == 0.0


def test_the_object_has_what_programmes_read() -> None:
    facts = json.loads(json.dumps(report("jsq-load", "br-0").to_dict()))
    assert {"oracle", "status", "lower_bound", "best_known", "wall_s", "policies"} <= set(facts)
    assert facts["oracle"] == "bounds"
    assert facts["status"] in {status.value for status in Status}
    assert {"policy", "barrier_time", "gap"} <= set(facts["policies"][0])


@pytest.mark.parametrize(("best", "status"), [(1.05, Status.FEASIBLE), (1.0, Status.OPTIMAL)])
def test_hindsight_gives_the_best_known_run(
    monkeypatch: pytest.MonkeyPatch, best: float, status: Status
) -> None:
    bound = fcfs_bound(make_trace(), **CLUSTER).total + 10

    def hindsight(trace: Trace, **given: object) -> HindsightResult:
        assert given["admission"] == "fcfs"
        return HindsightResult(
            status=status, barrier_bound=bound, barrier_best=int(best * bound), origin="a sage"
        )

    monkeypatch.setattr("brsolver.oracles.hindsight.hindsight", hindsight)
    found = report("jsq-load", "br-0", oracle="hindsight-fcfs")
    assert (found.lower_bound, found.best_known) == (bound, int(best * bound))
    assert (found.status, found.origin) == (status, "a sage")
    assert [row.certified for row in found.policies] == [True, False]
    assert "does not hold for br-0" in found.notes[-1]


@pytest.mark.parametrize("oracle", ["hindsight-fcfs", "hindsight-free"])
def test_hindsight_is_between_bound_and_policies(oracle: str) -> None:
    found = gap(make_trace(8), ["jsq-load", "br-0"], **CLUSTER, oracle=oracle, budget_s=3.0)  # type: ignore[arg-type]
    assert found.lower_bound is not None
    assert found.best_known is not None
    assert found.lower_bound <= found.best_known
    for row in found.policies:
        assert not row.certified or row.barrier_time >= found.best_known
    assert found.policies[0].certified


def test_a_run_below_its_bound_is_an_error_and_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    def hindsight(trace: Trace, **given: object) -> HindsightResult:
        return HindsightResult(status=Status.BOUND, barrier_bound=10**9, origin="a false prophet")

    monkeypatch.setattr("brsolver.oracles.hindsight.hindsight", hindsight)
    with pytest.raises(SolverError, match="one is wrong"):
        report("jsq-load", oracle="hindsight-fcfs")


@pytest.mark.parametrize("oracle", ["bounds", "step", "hindsight-fcfs"])
def test_what_trained_a_predictor_is_in_no_run_bound_or_oracle(oracle: str) -> None:
    policies, rest = ("jsq-load", "br-h:horizon=7"), make_trace().after(15)
    found = report(*policies, oracle=oracle, predictor="survival:train=0.25")
    assert found.requests == 45
    assert found.notes[0].startswith("the first 15 of 60 requests trained the predictor")
    assert {run.trace_fingerprint for run in found.results} == {rest.fingerprint()}
    assert {row.bound.trace_fingerprint for row in found.policies} == {rest.fingerprint()}
    assert found.policies[0].barrier_time >= fcfs_bound(rest, **CLUSTER).total
    for row in found.policies:
        alone = simulate(
            make_trace(), row.policy, SimulationParams(**CLUSTER), predictor="survival:train=0.25"
        )
        assert row.barrier_time == int(alone.steps.load_max.sum())


def test_regret_is_reported_per_decision_at_each_policys_horizon() -> None:
    found = report("jsq-load", "br-0", "br-h:horizon=7,gamma=0.9", oracle="step")
    assert [row.regret["horizon"] for row in found.policies] == [0, 0, 7]
    assert 0 < found.policies[2].regret["gamma"] <= 0.9 + 1e-9
    for row in found.policies:
        assert 1 <= row.regret["examined"] <= row.regret["decisions"]
        for objective in ("score", "imbalance"):
            figures = row.regret[objective]
            assert 0 <= figures["at_least"] <= figures["mean"] <= figures["worst"]
            assert figures["proven"] <= row.regret["examined"] == sum(figures["origins"].values())
            assert figures["worst_state"]["room"]


def test_one_horizon_for_all_is_taken() -> None:
    found = report("jsq-load", "br-h:horizon=7", oracle="step", horizon=3)
    for row in found.policies:
        assert row.regret["horizon"] == 3
        state = row.regret["imbalance"]["worst_state"]
        assert {len(loads) for loads in state["projected"]} == {4}


@pytest.mark.parametrize(
    ("policies", "changes", "error", "message"),
    [
        ((), {}, ParameterError, "policies is empty, must name at least one"),
        (("jsq-laod",), {}, UnknownNameError, "did you mean 'jsq-load'"),
        (("jsq",), {"oracle": "bound"}, UnknownNameError, "did you mean 'bounds'"),
        (("jsq",), {"budget_s": 0.0}, ParameterError, "budget_s is 0.0, must be a positive"),
        (("jsq",), {"workers": 0}, ParameterError, "workers is 0"),
        (("jsq",), {"slots": 0}, ParameterError, "slots is 0"),
        (("jsq",), {"horizon": -1, "oracle": "step"}, ParameterError, "horizon is -1"),
        (("jsq",), {"horizon": 3}, ParameterError, "horizon is 3, must be left out"),
        (
            ("jsq",),
            {"params": SimulationParams(events=(WorkerEvent(kind="fail", worker=0, at_step=2),))},
            ParameterError,
            "jsq: no bound holds for its run: workers fail or join",
        ),
    ],
)
def test_bad_input_is_one_line(
    policies: tuple[str, ...], changes: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        report(*policies, **changes)
    assert isinstance(raised.value, BrsolverError)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("30s", 30.0), ("5m", 300.0), ("1.5h", 5400.0), ("5ms", 0.005)],
)
def test_spans_are_read(text: str, seconds: float) -> None:
    assert parse_span(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "-5m", "five", "5 m 3", "1d"])
def test_bad_spans_are_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="must be a positive time such as 30s, 5m or 1h"):
        parse_span(text)


def run(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(gap_command)
    found = CliRunner().invoke(app, [PRESET, "--workers", "2", "--slots", "3", *arguments])
    assert found.exit_code == 0, found.output
    return found.stdout


def test_the_command_prints_json() -> None:
    facts = json.loads(run("--policies", "jsq-load,br-0", "--limit", "40", "--json"))
    assert [row["policy"] for row in facts["policies"]] == ["jsq-load", "br-0"]
    assert facts["requests"] == 40


def test_the_command_prints_a_table() -> None:
    text = run("--policies", "jsq-load,br-0", "--budget", "5s")
    assert "jsq-load" in text
    assert "lower bound" in text
    assert "the bound holds for work-conserving runs" in text
