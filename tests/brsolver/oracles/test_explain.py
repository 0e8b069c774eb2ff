"""Where a run's time goes: every cause is a run without it, the bound lies below them all."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from brsolver import SimulationParams, Trace, simulate
from brsolver.errors import ParameterError
from brsolver.hardware.model import step_time_of
from brsolver.oracles._switches import MOVES_EVERY
from brsolver.oracles.explain import Cause, Explanation, explain
from brsolver.report.explain_page import write_explanation
from brsolver.simulator import Arrivals, Migration, Prefill, Staleness, StepTime, WorkerEvent

if TYPE_CHECKING:
    from pathlib import Path

MODEL = StepTime(
    model="loads",
    base=0.02,
    per_sequence=1e-3,
    per_token=1e-5,
    per_prefill_token=1e-4,
    graph_sizes=(4, 8),
)


def trace(seed: int = 0, count: int = 60) -> Trace:
    rng = np.random.default_rng(seed)
    return Trace(
        prompt_tokens=rng.integers(20, 800, count), output_tokens=rng.integers(3, 60, count)
    )


def params(**changes: Any) -> SimulationParams:
    given = {"workers": 3, "slots": 6, "step_time": MODEL}
    return SimulationParams(**{**given, **changes})


def cause(found: Explanation, name: str) -> Cause:
    return next(each for each in found.causes if each.name == name)


@pytest.mark.parametrize("prefill", [Prefill(), Prefill(mode="colocated", budget=256)])
@pytest.mark.parametrize("policy", ["jsq-load", "br-0", "br-h"])
def test_the_bound_lies_below_the_run_and_below_every_run_with_a_cause_switched_off(
    policy: str, prefill: Prefill
) -> None:
    found = explain(trace(), policy, params(prefill=prefill))
    run = simulate(trace(), policy, params(prefill=prefill))
    assert found.seconds == pytest.approx(run.steps.duration_s.sum())
    assert found.unavoidable_s is not None
    assert 0 < found.unavoidable_s <= found.seconds
    for each in found.present:
        if each.name != "padding":
            assert found.seconds - (each.seconds or 0.0) >= found.unavoidable_s * (1 - 1e-9)


def test_each_cause_is_what_the_run_without_it_saves() -> None:
    given = params(
        routing="immediate", transit_steps=1, staleness=Staleness(steps=4), step_time=MODEL
    )
    found = explain(trace(), "br-h", given)
    without: dict[str, Any] = {
        "staleness": {"staleness": Staleness()},
        "transit": {"transit_steps": 0},
        "immediate": {"routing": "pooled"},
        "padding": {"step_time": replace(MODEL, graph_sizes=tuple(range(1, 7)))},
        "kv": {"step_time": replace(MODEL, per_token=0.0, per_mean_token=1e-5)},
    }
    for name, change in without.items():
        other = simulate(trace(), "br-h", replace(given, **change))
        saved = found.seconds - other.steps.duration_s.sum()
        assert cause(found, name).seconds == pytest.approx(saved), name
    known = simulate(trace(), "br-h", given, predictor="oracle")
    saved = found.seconds - known.steps.duration_s.sum()
    assert cause(found, "lengths").seconds == pytest.approx(saved)


def test_the_bound_takes_for_granted_what_any_run_could_find_in_a_prefix_cache() -> None:
    count, blocks = 60, 7
    same = Trace(
        prompt_tokens=np.full(count, 701),
        output_tokens=np.full(count, 3),
        columns={
            "hash_offsets": np.arange(count + 1) * blocks,
            "hash_values": np.tile(np.arange(blocks), count),
        },
    )
    costly = replace(MODEL, base=1e-6, per_sequence=0.0, per_token=0.0)
    prefill = Prefill(mode="colocated", budget=256, cache=100_000, block=100)
    found = explain(same, "jsq-load", params(prefill=prefill, step_time=costly))
    without = explain(same, "jsq-load", params(prefill=replace(prefill, cache=0), step_time=costly))
    assert found.unavoidable_s is not None
    assert without.unavoidable_s is not None
    assert found.unavoidable_s <= found.seconds < without.unavoidable_s


def test_what_is_not_there_says_why() -> None:
    found = explain(trace(), "jsq-load", params(step_time=replace(MODEL, graph_sizes=())))
    reasons = {each.name: each.why_not for each in found.causes if each.why_not}
    assert reasons == {
        "prefill": "prompts are not prefilled on the decode ranks",
        "padding": "no graph sizes are given",
        "staleness": "information is fresh",
        "transit": "nothing is in transit",
        "immediate": "requests are pooled already",
        "lengths": "jsq-load uses no forecasts",
    }
    assert all(label in " ".join(found.words()) for label in reasons.values())


def test_what_moving_requests_would_buy_stands_apart_from_the_causes() -> None:
    given = params(migration=Migration(kv_bytes=5e4, setup_ms=2.0))
    found = explain(trace(), "br-h", given)
    (moved,) = found.counterfactuals
    other = simulate(
        trace(), "br-h", replace(given, migration=replace(given.migration, every=MOVES_EVERY))
    )
    assert other.metrics.migrations > 0
    assert moved.seconds == pytest.approx(found.seconds - other.steps.duration_s.sum())
    assert moved.tpot_mean_s == other.metrics.tpot_mean_s
    assert moved.name == "migration"
    assert moved.name not in {each.name for each in found.causes}
    assert found.to_dict()["counterfactuals"] == [moved.to_dict()]
    last = found.words()[-1]
    assert last.startswith("Requests cannot move, whatever routes them. A counterfactual, which")
    assert "moved every 4 steps (1 ms per 1,000 KV tokens)" in last
    assert f"{abs(moved.seconds or 0):,.1f} s" in last


@pytest.mark.parametrize(
    ("changes", "why_not"),
    [
        ({"migration": Migration(every=9)}, "they move in this very run"),
        ({"workers": 1}, "there is one worker"),
        (
            {"prefill": Prefill(mode="colocated", budget=64, delayer="atom")},
            "prefill is held back by atom, whose rule knows of no moves",
        ),
    ],
)
def test_where_requests_move_already_or_cannot_be_moved_says_so(
    changes: dict[str, Any], why_not: str
) -> None:
    found = explain(trace(count=20), "jsq-load", params(**changes))
    (moved,) = found.counterfactuals
    assert (moved.seconds, moved.why_not) == (None, why_not)
    assert found.words()[-1] == (f"Requests cannot move; what that costs is not known: {why_not}.")


def test_nothing_is_proven_of_runs_in_which_requests_move() -> None:
    found = explain(trace(count=20), "jsq-load", params(migration=Migration(every=4)))
    assert found.unavoidable_s is None
    assert "nothing is proven unavoidable: running requests move between workers" in found.notes


def test_a_policy_keeps_its_weights_when_coefficients_are_switched_off() -> None:
    model = replace(MODEL, graph_sizes=())
    given = params(request_tokens="auto", step_time=model)
    found = explain(trace(), "br-0", given)
    shared = replace(model, per_sequence=0.0, per_mean_sequence=1e-3)
    other = simulate(
        trace(), "br-0", replace(given, step_time=shared, request_tokens=model.request_tokens)
    )
    saved = found.seconds - other.steps.duration_s.sum()
    assert cause(found, "sequences").seconds == pytest.approx(saved)


def test_a_measured_table_is_explained_by_its_step_log() -> None:
    table = StepTime(model="table", loads=(0, 5000), seconds=(0.01, 0.06))
    found = explain(trace(), "jsq", params(step_time=table))
    run = simulate(trace(), "jsq", params(step_time=table))
    assert cause(found, "kv").seconds == pytest.approx(run.steps.lost_kv_s.sum())
    assert "step log" in cause(found, "kv").without


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"events": (WorkerEvent(kind="fail", worker=1, at_step=5),)}, "workers fail or join"),
        (
            {"capacity": 900, "prefill": Prefill(mode="colocated", budget=256)},
            "requests were preempted",
        ),
    ],
)
def test_what_no_bound_is_about_leaves_nothing_proven(changes: dict[str, Any], reason: str) -> None:
    found = explain(trace(), "jsq", params(**changes))
    assert found.unavoidable_s is None
    assert found.avoidable_s is None
    assert any(reason in note for note in found.notes)


def test_words_and_files_say_the_same(tmp_path: Path) -> None:
    found = explain(trace(), "br-0", params(staleness=Staleness(steps=3)))
    write_explanation(found, tmp_path / "out")
    text = (tmp_path / "out" / "explain.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    written = json.loads(text)
    assert written["seconds"] == pytest.approx(found.seconds)
    assert written["unavoidable_s"] == pytest.approx(found.unavoidable_s)
    assert [each["name"] for each in written["causes"]] == [each.name for each in found.causes]
    page = (tmp_path / "out" / "explain.html").read_text()
    for line in found.words():
        assert line.replace("'", "&#39;") in page
    assert (tmp_path / "out" / "explain-figures" / "time.svg").exists()


def test_counts_that_differ_cost_what_the_largest_is_above_the_mean_with_graphs_too() -> None:
    given = params(arrivals=Arrivals(pool=2))
    found = explain(trace(), "jsq-load", given)
    run = simulate(trace(), "jsq-load", given)
    assert cause(found, "sequences").seconds == pytest.approx(run.steps.lost_sequences_s.sum())
    assert (cause(found, "sequences").seconds or 0.0) > 0.01
    assert cause(found, "padding").seconds == pytest.approx(run.steps.lost_padding_s.sum())


def test_runs_that_do_different_work_are_not_compared() -> None:
    with pytest.raises(ParameterError, match="of 60 requests unfinished, must finish all"):
        explain(trace(), "jsq", params(max_steps=9))


def test_steps_that_take_no_time_are_not_explained() -> None:
    one = Trace(prompt_tokens=np.array([10]), output_tokens=np.array([1]))
    free = params(step_time=step_time_of("dpr"), prefill=Prefill(mode="colocated", budget=64))
    with pytest.raises(ParameterError, match="take 0 s by this step time"):
        explain(one, "jsq", free)
