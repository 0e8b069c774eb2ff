from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np
import pytest

from brsolver.errors import ParameterError, UnknownNameError
from brsolver.hardware.step_time import StepTime
from brsolver.oracles import _time_hindsight
from brsolver.oracles._gangs import gang_seconds, in_gangs
from brsolver.oracles._time_goal import TimeBounds
from brsolver.oracles.bounds.time import any_time_bound
from brsolver.oracles.gap import gap
from brsolver.oracles.hindsight.result import HindsightResult
from brsolver.oracles.hindsight.weights import FreeWeights
from brsolver.oracles.result import SolverError, Status
from brsolver.simulator import Prefill, SimulationParams, simulate
from brsolver.simulator.components import Arrivals, WorkerEvent
from brsolver.traces.trace import Trace

if TYPE_CHECKING:
    from brsolver.oracles.gap_time import TimeGapReport

CLUSTER = {"workers": 2, "slots": 3}
MEASURED = StepTime(
    model="loads",
    base=0.0256,
    per_sequence=6.3e-5,
    per_token=4.16e-8,
    per_prefill_token=6.5e-5,
    per_mean_token=1e-9,
    hardware="a server",
)


def make_trace(requests: int = 60) -> Trace:
    rng = np.random.default_rng(3)
    return Trace(
        prompt_tokens=rng.integers(1, 900, requests), output_tokens=rng.integers(1, 40, requests)
    )


def report(*policies: str, **changes: object) -> TimeGapReport:
    given: dict[str, object] = {
        **CLUSTER,
        "budget_s": 2.0,
        "params": SimulationParams(step_time=MEASURED),
        **changes,
    }
    trace = given.pop("trace", None) or make_trace()
    return gap(trace, policies, objective="time", **given)  # type: ignore[arg-type,call-overload,no-any-return] # by keyword


def test_runs_in_order_are_held_against_the_bound_of_their_order() -> None:
    found = report("jsq-load", "round-robin")
    assert found.bound.kind == "fcfs"
    assert [bound.kind for bound in found.bounds] == ["fcfs", "free", "idling", "any"]
    seconds = [bound.seconds for bound in found.bounds]
    assert seconds == sorted(seconds, reverse=True)
    params = SimulationParams(**CLUSTER, step_time=MEASURED)
    took = [
        float(simulate(make_trace(), policy, params).steps.duration_s.sum())
        for policy in ("jsq-load", "round-robin")
    ]
    assert [row.seconds for row in found.policies] == took
    assert found.best_known_s == min(took)
    assert found.hardware == "a server"
    for row, run in zip(found.policies, took, strict=True):
        assert row.certified
        assert row.gap == pytest.approx(run / found.lower_bound_s - 1)
        assert row.own.kind == "fcfs"


def test_one_run_out_of_order_asks_for_the_free_bound() -> None:
    found = report("jsq-load", "br-0")
    assert found.bound.kind == "free"
    assert [row.own.kind for row in found.policies] == ["fcfs", "admissions"]
    assert all(row.certified and row.routing_gap >= 0 for row in found.policies)


GRID = StepTime(
    model="table", sequences=(1.0, 3.0), loads=(100.0, 3000.0), seconds=(0.01, 0.02, 0.012, 0.03)
)
PADDED = StepTime(model="loads", base=0.01, per_sequence=1e-4, per_token=1e-7, graph_sizes=(2, 4))


EXPERTS = StepTime(model="loads", base=0.01, per_token=1e-7, all_experts=0.02, expert_share=0.1)


@pytest.mark.parametrize("model", [MEASURED, StepTime(), GRID, PADDED, EXPERTS])
def test_parts_add_up_to_what_lies_beyond_the_bound(model: StepTime) -> None:
    found = report("jsq-load", "br-0", params=SimulationParams(step_time=model))
    for row in found.policies:
        assert sum(row.beyond) == pytest.approx(row.seconds - found.lower_bound_s, abs=1e-12)
        assert row.beyond.unavoidable_s <= 1e-11
        assert row.beyond.more_steps_s >= -1e-12


def test_what_is_known_of_a_clairvoyant_run_lies_above_the_bound_of_all_runs() -> None:
    found = report("jsq-load")
    assert found.bounds[-1].seconds <= found.clairvoyant_s
    alike = Trace(prompt_tokens=np.full(12, 50), output_tokens=np.full(12, 7))
    params = SimulationParams(**CLUSTER, step_time=MEASURED)
    least = any_time_bound(alike, **CLUSTER, step_time=MEASURED)
    assert gang_seconds(alike, params) == pytest.approx(least.seconds)


def test_gangs_keep_all_requests_and_their_columns() -> None:
    trace = make_trace(10)
    cached = trace.prompt_tokens // 2
    trace = Trace(
        prompt_tokens=trace.prompt_tokens,
        output_tokens=trace.output_tokens,
        columns={"cached_tokens": cached, "session": np.arange(10)},
    )
    found = in_gangs(trace, 2, 2)
    assert set(found.columns) == {"cached_tokens"}
    assert (found.columns["cached_tokens"] == found.prompt_tokens // 2).all()
    pairs = sorted(zip(found.prompt_tokens, found.output_tokens, strict=True))
    assert pairs == sorted(zip(trace.prompt_tokens, trace.output_tokens, strict=True))
    assert (np.sort(found.output_tokens[:4])[::-1] == np.sort(trace.output_tokens)[::-1][:4]).all()


@pytest.mark.parametrize("oracle", ["hindsight-fcfs", "hindsight-free"])
def test_hindsight_is_between_bound_and_policies(oracle: str) -> None:
    found = report("jsq-load", "br-0", oracle=oracle, trace=make_trace(8), budget_s=3.0)
    assert found.best_known_s is not None
    assert found.bound.seconds <= found.lower_bound_s <= found.best_known_s * (1 + 1e-9)
    # What a token of κ rounded off weighs is all that is left between them.
    assert found.best_known_s <= found.lower_bound_s * 1.001
    for row in found.policies:
        assert not row.certified or row.seconds >= found.best_known_s
    assert found.policies[0].certified


def test_a_run_below_its_bound_is_an_error_and_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    def hindsight(trace: Trace, **given: object) -> HindsightResult:
        return HindsightResult(status=Status.BOUND, barrier_bound=10**12, origin="a false prophet")

    monkeypatch.setattr("brsolver.oracles.hindsight.hindsight", hindsight)
    with pytest.raises(SolverError, match="one is wrong"):
        report("jsq-load", oracle="hindsight-fcfs")


def test_the_object_has_what_programmes_read() -> None:
    facts = json.loads(json.dumps(report("jsq-load", "br-0").to_dict(), allow_nan=False))
    assert set(facts) >= {
        "objective", "oracle", "status", "lower_bound_s", "best_known_s", "clairvoyant_s",
        "binding", "valid_for", "wall_s", "policies", "bounds", "hardware",
    }  # fmt: skip
    row = facts["policies"][0]
    assert set(row) >= {"policy", "seconds", "gap", "gap_to_best", "certified", "beyond_bound_s"}
    assert all(name.endswith("_s") for name in row["beyond_bound_s"])
    for bound in facts["bounds"]:
        assert bound["binding"] in bound["proofs_s"]
        assert bound["lower_bound_s"] == pytest.approx(max(bound["proofs_s"].values()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"oracle": "step"}, "oracle is 'step', must be bounds, hindsight-fcfs or hindsight-free"),
        ({"budget_s": 0.0}, "budget_s is 0.0, must be a positive number of seconds"),
        ({"params": SimulationParams(events=(WorkerEvent(kind="fail", worker=0, at_step=9),))},
         "workers fail or join, or have a KV capacity"),
        ({"params": SimulationParams(prefill=Prefill(mode="colocated", cache=5000)),
          "trace": Trace(prompt_tokens=np.array([5]), output_tokens=np.array([2]), columns={
              "hash_offsets": np.array([0, 1]), "hash_values": np.array([7])})},
         "ranks have prefix caches, and what is in them follows from the routing"),
        ({"params": SimulationParams(max_steps=5)}, "some requests did not finish"),
        ({"params": SimulationParams(arrivals=Arrivals(mode="rate", rate=3.0)),
          "oracle": "hindsight-fcfs"}, "hindsight covers requests from a pool"),
        ({"params": SimulationParams(step_time=StepTime(per_token=0.0)),
          "oracle": "hindsight-fcfs"}, "per_token 0, must be bounds"),
    ],
)  # fmt: skip
def test_what_is_not_covered_is_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message) as raised:
        report("jsq-load", **changes)
    assert "\n" not in str(raised.value)


def test_an_unknown_objective_is_named() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'time'"):
        gap(make_trace(), "jsq-load", **CLUSTER, objective="tim")  # type: ignore[call-overload] # not one of them


def test_requests_that_come_by_themselves_are_held_against_the_bound_of_all_runs() -> None:
    params = SimulationParams(arrivals=Arrivals(mode="rate", rate=30.0), step_time=MEASURED)
    found = report("jsq-load", params=params)
    assert [bound.kind for bound in found.bounds] == ["any"]
    assert found.policies[0].certified
    assert found.policies[0].own.kind == "admissions"


def test_time_bounds_know_no_prefill_on_ranks_where_it_is_done_elsewhere() -> None:
    found = TimeBounds.of(make_trace(), SimulationParams(**CLUSTER), 1.0)
    assert found.prefill is None
    assert {bound.budget for bound in found.every} == {0}


def test_weights_of_hindsight_take_loads_that_are_affine_in_effective_load() -> None:
    affine = StepTime(base=0.01, per_token=1e-6)
    loads = StepTime(model="loads", base=0.01, per_token=1e-6, per_sequence=5e-4)
    assert FreeWeights.of_makespan(loads, 500) == FreeWeights.of_makespan(affine)
    with pytest.raises(ParameterError, match="a sequence of 500 KV tokens, must be the 0"):
        FreeWeights.of_makespan(loads)
    with pytest.raises(ParameterError, match="a sequence of 0 KV tokens, must be the 500"):
        FreeWeights.of_makespan(affine, 500)
    shared = StepTime(model="loads", base=0.01, per_token=1e-6, per_mean_token=1e-6)
    with pytest.raises(ParameterError, match="shared or padded loads or experts, must have none"):
        FreeWeights.of_makespan(shared)


def test_what_hindsight_cannot_prove_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def hindsight(trace: Trace, **given: object) -> HindsightResult:
        return HindsightResult(status=Status.LIMIT)

    monkeypatch.setattr("brsolver.oracles.hindsight.hindsight", hindsight)
    found = report("jsq-load", oracle="hindsight-free")
    assert found.lower_bound_s == found.bound.seconds
    assert found.origin == found.bound.binding
    assert [each.name for each in fields(_time_hindsight.ShortestRun)][1] == "lower_s"
