"""Gaps whose parts are carried out anywhere, kept as they end, and not computed again."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import part_tasks
import pyarrow.parquet as pq
import pytest

from brsolver.campaign import FAILED
from brsolver.compare import compare
from brsolver.errors import ParameterError
from brsolver.executors import ExecutorParams
from brsolver.oracles._goal import Bounds
from brsolver.oracles._kept import packed, unpacked
from brsolver.oracles._parts import BY_CLOCK, BY_ITSELF, ENDED, Done, Kept, Part, Parts
from brsolver.oracles._time_goal import TimeBounds
from brsolver.oracles.gap import gap
from brsolver.oracles.hindsight import hindsight
from brsolver.oracles.hindsight.result import HindsightResult
from brsolver.oracles.result import SolverError, Status
from brsolver.simulator import Prefill, SimulationParams, simulate
from brsolver.simulator.held_out import hold_out
from brsolver.traces.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLUSTER = SimulationParams(workers=2, slots=3)
SEARCH = "brsolver.oracles.hindsight.hindsight"
HERE = None
PLENTY_S = 600.0
"""Also on a machine that is busy with other things: what the clock ends is not the same twice."""
PROCESSES = ExecutorParams(jobs=2)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brsolver.oracles._regret.MOST_S", PLENTY_S)


def make_trace(requests: int = 60, seed: int = 3) -> Trace:
    rng = np.random.default_rng(seed)
    return Trace(
        prompt_tokens=rng.integers(1, 900, requests), output_tokens=rng.integers(1, 40, requests)
    )


def report(policies: str, folder: Path | None = None, **changes: Any) -> Any:
    given: dict[str, Any] = {
        "workers": 2,
        "slots": 3,
        "budget_s": PLENTY_S,
        "resume": folder,
        **changes,
    }
    return gap(given.pop("trace", None) or make_trace(), policies, **given)


def facts(found: Any) -> dict[str, Any]:
    """Return all that a report says, but for what a clock says."""
    said = {name: each for name, each in found.to_dict().items() if name not in ("wall_s", "curve")}
    return unclocked(said)  # type: ignore[no-any-return] # a dict, as it was


def unclocked(value: Any) -> Any:
    if isinstance(value, dict):
        clocked = ("wall_s", "build_s", "solve_s")
        return {name: unclocked(each) for name, each in value.items() if name not in clocked}
    return [unclocked(each) for each in value] if isinstance(value, list | tuple) else repr(value)


def computed(folder: Path) -> int:
    """Return how many rows were ever written: a part that is computed twice has two."""
    parts = (folder / "parts").glob("*.parquet")
    return sum(pq.read_metadata(part).num_rows for part in parts)


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / "results.parquet").to_pylist()
    return found


def kinds(folder: Path) -> list[str]:
    return [row["part"] for row in rows(folder)]


ASKED: list[tuple[dict[str, Any], int]] = [
    ({}, 3),
    ({"oracle": "step", "decisions": 6}, 3 + 2 + 12),
    ({"oracle": "hindsight-fcfs"}, 4),
    ({"oracle": "hindsight-free", "trace": make_trace(8)}, 4),
    ({"objective": "time"}, 4),
    ({"objective": "time", "oracle": "hindsight-fcfs"}, 5),
]


@pytest.mark.parametrize(("asked", "parts"), ASKED)
def test_what_is_kept_is_what_was_computed(
    tmp_path: Path, asked: dict[str, Any], parts: int
) -> None:
    fresh = facts(report("jsq-load,br-0", **asked))
    first = report("jsq-load,br-0", tmp_path / "kept", **asked)
    assert facts(first) == fresh
    assert computed(tmp_path / "kept") == len(rows(tmp_path / "kept")) == parts
    again = report("jsq-load,br-0", tmp_path / "kept", **asked)
    assert facts(again) == fresh
    assert computed(tmp_path / "kept") == parts
    for one, other in zip(again.results, first.results, strict=True):
        # Also what reports draw, and what a clock said at the time.
        assert packed(one) == packed(other)
        assert one.params == other.params


@pytest.mark.parametrize(("asked", "parts"), ASKED)
def test_processes_give_the_same(tmp_path: Path, asked: dict[str, Any], parts: int) -> None:
    alone = report("jsq-load,br-0", **asked)
    spread = report("jsq-load,br-0", tmp_path, **asked, executor=PROCESSES)
    assert facts(spread) == facts(alone)
    assert len(rows(tmp_path)) == parts


def test_a_policy_more_computes_its_parts_alone(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"oracle": "step", "decisions": 3}
    report("jsq-load", tmp_path, **asked)
    assert kinds(tmp_path) == ["run", "bounds", "states", *["judgement"] * 3]
    both = report("jsq-load,br-0", tmp_path, **asked)
    assert computed(tmp_path) == 6 + 1 + 1 + 3
    assert facts(both) == facts(report("jsq-load,br-0", **asked))
    report("br-0,jsq-load", tmp_path, oracle="step", decisions=5)
    assert computed(tmp_path) == 11 + 2 * 2


def test_another_size_or_seed_or_trace_stands_beside(tmp_path: Path) -> None:
    report("random", tmp_path)
    for change in ({"workers": 3}, {"seed": 1}, {"trace": make_trace(seed=4)}):
        before = computed(tmp_path)
        found = report("random", tmp_path, **change)
        assert computed(tmp_path) == before + 2
        assert facts(found) == facts(report("random", **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": 4}, "slots is 3 there and 4 here"),
        ({"predictor": "oracle"}, "predictor is 'survival' there and 'oracle' here"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    report("jsq-load", tmp_path)
    with pytest.raises(ParameterError, match=message):
        report("jsq-load", tmp_path, **change)


def test_the_folder_of_a_comparison_is_refused(tmp_path: Path) -> None:
    compare(make_trace(), "jsq-load", params=CLUSTER, workers=(2,), jobs=1, resume=tmp_path)
    with pytest.raises(ParameterError, match="campaign is 'compare' there and 'gap' here"):
        report("jsq-load", tmp_path)


def sought(monkeypatch: pytest.MonkeyPatch, *answers: HindsightResult | Exception) -> Any:
    """Have the search answer this, one after the other; returns how often it was asked."""
    asked = count()

    def search(trace: Trace, **given: Any) -> HindsightResult:
        answer = answers[next(asked)]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(SEARCH, search)
    return asked


def best(message: str, status: Status = Status.FEASIBLE) -> HindsightResult:
    return HindsightResult(status=status, barrier_best=10**9, origin="a sage", message=message)


def test_a_search_that_the_clock_ended_is_made_again_with_more_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = sought(monkeypatch, best("time limit"), best("time limit"), best("", Status.OPTIMAL))
    for budget_s, made in ((5.0, 1), (5.0, 1), (2.0, 1), (6.0, 2), (7.0, 3), (8.0, 3)):
        report("jsq-load", tmp_path, oracle="hindsight-fcfs", budget_s=budget_s)
        assert computed(tmp_path) == 2 + made
    assert next(asked) == 3
    (search,) = (row for row in rows(tmp_path) if row["part"] == "search")
    assert (search[ENDED], search["limit_s"]) == (BY_ITSELF, 7.0)


def test_a_search_that_was_interrupted_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = sought(monkeypatch, best("interrupted"), best("time limit"))
    found = report("jsq-load", tmp_path, oracle="hindsight-fcfs")
    assert found.notes[0] == "hindsight: interrupted"
    assert report("jsq-load", tmp_path, oracle="hindsight-fcfs").notes[0] == "hindsight: time limit"
    assert next(asked) == 2
    assert rows(tmp_path)[-1][ENDED] == BY_CLOCK


def test_a_search_that_fails_is_named_and_leaves_the_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sought(monkeypatch, SolverError("it\ncrashed"), best("time limit"))
    found = report("jsq-load", tmp_path, oracle="hindsight-fcfs")
    (failure,) = found.failures
    assert (failure.policy, failure.reason) == ("hindsight-fcfs", "it crashed")
    assert found.lower_bound == report("jsq-load").lower_bound
    assert "runs are held against the bounds alone: it crashed" in found.notes[0]
    assert rows(tmp_path)[-1][FAILED] == "it crashed"
    assert report("jsq-load", tmp_path, oracle="hindsight-fcfs").failures == ()


def test_a_search_that_cannot_be_had_ends_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    sought(monkeypatch, ParameterError("no such search"))
    with pytest.raises(ParameterError, match="no such search"):
        report("jsq-load", oracle="hindsight-fcfs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decisions": 3}, "decisions is 3, must be left out with oracle 'bounds'"),
        ({"decisions": 0, "oracle": "step"}, "decisions is 0, must be between 1 and 512"),
    ],
)
def test_bad_decisions_are_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        report("jsq-load", **change)


def test_progress_counts_parts_and_ends_at_all() -> None:
    seen: list[tuple[int, int]] = []
    report("jsq-load,br-0", oracle="step", decisions=3, progress=lambda *each: seen.append(each))
    done = [each for each, _ in seen]
    assert done == sorted(done)
    assert seen[-1] == (2 + 1 + 2 + 6, 2 + 1 + 2 + 6)


def results() -> dict[str, Callable[[], Any]]:
    trace, prefill = make_trace(), Prefill(mode="colocated", budget=256)
    colocated = SimulationParams(workers=2, slots=3, prefill=prefill)
    return {
        "run": lambda: simulate(trace, "br-h:horizon=5", CLUSTER),
        "bounds": lambda: Bounds.of(trace, CLUSTER, 5.0),
        "time": lambda: TimeBounds.of(trace, CLUSTER, 5.0),
        "time, colocated": lambda: TimeBounds.of(trace, colocated, 5.0),
        "search": lambda: hindsight(trace, workers=2, slots=3, budget_s=5.0),
    }


@pytest.mark.parametrize("name", list(results()))
def test_results_come_back_from_bytes_to_the_bit(name: str) -> None:
    result = results()[name]()
    back = unpacked(packed(result), CLUSTER)
    assert type(back) is type(result)
    assert packed(back) == packed(result)


def asked_for(function: Any, folder: Path, numbers: int, **more: Any) -> list[Part]:
    return [
        Part(
            kind="task", name=f"task {number}", function=function,
            arguments=(str(folder), number), key={"number": number}, **more,
        )
        for number in range(numbers)
    ]  # fmt: skip


def kept_in(folder: Path) -> Kept:
    return Kept(folder=folder / "kept", settings={}, key={"trace": "t"})


def carried_out(
    folder: Path, parts: list[Part], executor: ExecutorParams | None, **limits: Any
) -> dict[int, Done]:
    held = hold_out(make_trace(), None)
    with Parts(held, CLUSTER, executor=executor, kept=kept_in(folder)) as carrier:
        found = {done.at: done for done in carrier.results(parts, **limits)}
        carrier.finish()
    return found


def begun(folder: Path) -> list[int]:
    found = sorted(folder.glob("begun-*"), key=lambda path: int(path.name.split("-")[1]))
    return [len(path.read_text()) for path in found]


def test_a_killed_process_costs_its_own_part_alone(tmp_path: Path) -> None:
    found = carried_out(tmp_path, asked_for(part_tasks.dies_once, tmp_path, 4), PROCESSES)
    assert {at: done.value for at, done in found.items()} == {at: 60 * at for at in range(4)}
    assert begun(tmp_path) == [1, 2, 1, 1]
    assert computed(tmp_path / "kept") == 4


@pytest.mark.parametrize("executor", [HERE, PROCESSES])
def test_a_part_that_fails_is_named_and_tried_again(
    tmp_path: Path, executor: ExecutorParams | None
) -> None:
    parts = asked_for(part_tasks.raises, tmp_path, 3)
    found = carried_out(tmp_path, parts, executor)
    assert [found[at].failed for at in range(3)] == [False, True, False]
    assert str(found[1].value) == "task 1: ZeroDivisionError: division"
    assert [row[FAILED] for row in rows(tmp_path / "kept")] == [
        None, "ZeroDivisionError: division", None,
    ]  # fmt: skip
    (tmp_path / "mended").touch()
    found = carried_out(tmp_path, parts, executor)
    assert [found[at].value for at in range(3)] == [0, 60, 120]
    assert begun(tmp_path) == [1, 2, 1]


def test_seconds_that_are_kept_count_for_a_limit(tmp_path: Path) -> None:
    parts = asked_for(part_tasks.counted, tmp_path, 5)
    carried_out(tmp_path, parts, HERE, most_s=1e-12, least=2)
    assert begun(tmp_path) == [1, 1]
    carried_out(tmp_path, parts, HERE, most_s=1e-12, least=2)
    assert begun(tmp_path) == [1, 1]
    carried_out(tmp_path, parts, HERE, most_s=1e9)
    assert begun(tmp_path) == [1, 1, 1, 1, 1]


def test_what_was_under_way_when_time_was_up_is_there_again(tmp_path: Path) -> None:
    # As several processes leave it: more is kept than one would have begun in the time.
    parts = asked_for(part_tasks.counted, tmp_path, 6)
    carried_out(tmp_path, parts[:4], HERE)
    for executor in (HERE, PROCESSES):
        found = carried_out(tmp_path, parts, executor, most_s=1e-12, least=2)
        assert sorted(found) == [0, 1, 2, 3]
    assert begun(tmp_path) == [1, 1, 1, 1]


def test_where_all_is_kept_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = asked_for(part_tasks.counted, tmp_path, 3)
    carried_out(tmp_path, parts, HERE)

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("brsolver.executors.local.LocalExecutor.open", never)
    assert len(carried_out(tmp_path, parts, PROCESSES)) == 3


def test_two_at_a_time_are_refused(tmp_path: Path) -> None:
    parts = asked_for(part_tasks.counted, tmp_path, 3)
    first = Parts(hold_out(make_trace(), None), CLUSTER, kept=kept_in(tmp_path))
    with first, pytest.raises(ParameterError, match="another process works on it"):
        carried_out(tmp_path, parts, HERE)
