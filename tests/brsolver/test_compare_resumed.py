"""Comparisons that go on where they were."""

from __future__ import annotations

import hashlib
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from brsolver import registry
from brsolver._resumed import print_of_held
from brsolver.compare import TraceSource, compare
from brsolver.errors import BrsolverError, ParameterError
from brsolver.report.tables import flat_rows
from brsolver.simulator.held_out import hold_out
from brsolver.simulator.params import SimulationParams
from brsolver.traces.prints import print_of
from brsolver.traces.read_options import ReadOptions
from brsolver.traces.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from brsolver.results.comparison import Comparison

PARAMS = SimulationParams(slots=4)
CLOCKED = ("wall_s", "dispatch_us_p50", "dispatch_us_p99", "dispatch_us_max")
COUNTED = """
from pathlib import Path

class Counted:
    def __init__(self):
        with (Path(__file__).parent / "made").open("a") as stream:
            stream.write("x")

    def route(self, cluster, waiting):
        if (Path(__file__).parent / "broken").exists():
            raise RuntimeError("had enough")
        return [(0, int(cluster.room.argmax()))]
"""


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install a policy `counted` that says how often it was made; returns where it lies."""
    place = tmp_path / "place"
    (place / "counted-1.dist-info").mkdir(parents=True)
    (place / "counted-1.dist-info" / "METADATA").write_text("Name: counted\nVersion: 1\n")
    (place / "counted-1.dist-info" / "entry_points.txt").write_text(
        "[brsolver.policies]\ncounted = counted_policy:Counted\n"
    )
    (place / "counted_policy.py").write_text(COUNTED)
    monkeypatch.syspath_prepend(place)
    registry._entries.cache_clear()
    yield place
    sys.modules.pop("counted_policy", None)
    monkeypatch.undo()
    registry._entries.cache_clear()


def trace() -> Trace:
    rng = np.random.default_rng(1)
    return Trace(prompt_tokens=rng.integers(50, 2000, 40), output_tokens=rng.integers(5, 60, 40))


def small(policies: str, folder: Path | None, **changes: Any) -> Comparison:
    given: dict[str, Any] = {"params": PARAMS, "workers": (2,), "jobs": 1, **changes}
    return compare(given.pop("trace", None) or trace(), policies, resume=folder, **given)


def change(place: Path) -> None:
    with (place / "counted_policy.py").open("a") as stream:
        stream.write("\n# changed\n")


def forget() -> None:
    """Import anew, as another process does."""
    sys.modules.pop("counted_policy", None)


def figures(comparison: Comparison) -> list[dict[str, str]]:
    rows = flat_rows(comparison)
    return [{k: repr(v) for k, v in row.items() if k not in CLOCKED} for row in rows]


def runs_of(place: Path) -> int:
    """Return how many runs were carried out since last asked: a policy is also made to be asked."""
    found = place / "made"
    count = len(found.read_text()) if found.exists() else 0
    found.unlink(missing_ok=True)
    return count


def test_resumed_runs_are_those_that_were_kept(tmp_path: Path) -> None:
    fresh = small("fcfs,random,br-h", None, seeds=2)
    kept = [small("fcfs,random,br-h", tmp_path / "kept", seeds=2) for _ in range(2)]
    for each in kept:
        assert figures(each) == figures(fresh)
    again, first = kept[1].runs[0], kept[0].runs[0]
    assert again.curves is not None
    assert first.curves is not None
    np.testing.assert_array_equal(again.curves.load, first.curves.load)
    # Also what a clock said is what was kept.
    assert [run.metrics.wall_s for run in kept[1].runs] == [
        run.metrics.wall_s for run in kept[0].runs
    ]


def test_runs_are_told_apart_by_what_trained_their_predictor() -> None:
    whole = trace()
    # As long as it was, and what is left to be run is the same.
    past = np.where(np.arange(len(whole)) < 5, 60, whole.output_tokens)
    other = Trace(prompt_tokens=whole.prompt_tokens, output_tokens=past)
    one, two, again = (
        hold_out(each, "survival:train=0.25") for each in (whole, other, trace())
    )  # fmt: skip
    assert print_of(one.trace) == print_of(two.trace)
    assert print_of_held(one) == print_of_held(again) != print_of_held(two)
    assert print_of_held(hold_out(whole, "survival")) == print_of(whole)


def test_more_of_a_grid_computes_what_is_new(tmp_path: Path, counted: Path) -> None:
    small("fcfs", None, workers=(3,))
    runs_of(counted)
    small("counted", tmp_path / "kept", seeds=2)
    first = runs_of(counted)
    small("counted", tmp_path / "kept", seeds=2)
    asked_only = runs_of(counted)
    assert first - asked_only == 2
    more = small("counted,fcfs", tmp_path / "kept", seeds=3, workers=(2, 3))
    assert runs_of(counted) - asked_only == 4
    assert len(more.runs) == 12
    assert figures(more) == figures(small("counted,fcfs", None, seeds=3, workers=(2, 3)))


def test_a_strangers_code_that_changed_is_run_again(tmp_path: Path, counted: Path) -> None:
    small("counted", tmp_path / "kept")
    runs_of(counted)
    small("counted", tmp_path / "kept")
    asked_only = runs_of(counted)
    change(counted)
    forget()
    small("counted", tmp_path / "kept")
    assert runs_of(counted) - asked_only == 1


def test_code_that_changed_since_it_was_imported_is_not_kept(tmp_path: Path, counted: Path) -> None:
    small("counted", None)
    change(counted)
    line = r"^counted: module counted_policy is not what it was when it was read first, must stay"
    with pytest.raises(ParameterError, match=line):
        small("counted", tmp_path / "kept")


def test_processes_that_import_changed_code_keep_nothing(tmp_path: Path, counted: Path) -> None:
    def edited(done: int, total: int) -> None:
        # Runs have their names by now, and no process has begun with them.
        if done == 0:
            change(counted)

    found = small("fcfs,counted", tmp_path / "kept", seeds=2, jobs=2, progress=edited)
    assert found.policies == ("fcfs",)
    assert len(found.failures) == 2
    assert all(
        "counted: module counted_policy is not what" in each.reason for each in found.failures
    )
    forget()
    runs_of(counted)
    again = small("fcfs,counted", tmp_path / "kept", seeds=2)
    assert figures(again) == figures(small("fcfs,counted", None, seeds=2))


def test_a_run_in_this_process_is_of_the_code_that_was_imported(
    tmp_path: Path, counted: Path
) -> None:
    found = small(
        "counted", tmp_path / "kept", seeds=2,
        progress=lambda done, total: None if done else change(counted),
    )  # fmt: skip
    assert found.failures == ()
    (code,) = {row["code"] for row in pq.read_table(tmp_path / "kept/results.parquet").to_pylist()}
    assert code == hashlib.sha256(COUNTED.encode()).hexdigest()[:12]


def test_within_cells_a_strangers_code_counts_as_well(tmp_path: Path, counted: Path) -> None:
    cells = "cells:size=2,inner=counted"
    small(cells, tmp_path / "kept")
    runs_of(counted)
    small(cells, tmp_path / "kept")
    asked_only = runs_of(counted)
    change(counted)
    forget()
    small(cells, tmp_path / "kept")
    assert runs_of(counted) > asked_only


def test_a_run_that_failed_is_tried_again(tmp_path: Path, counted: Path) -> None:
    (counted / "broken").touch()
    found = small("fcfs,counted", tmp_path / "kept")
    assert found.policies == ("fcfs",)
    (failure,) = found.failures
    assert (failure.policy, failure.workers, failure.seed) == ("counted", 2, 0)
    assert "had enough" in failure.reason
    with pytest.raises(BrsolverError, match="had enough"):
        small("counted", tmp_path / "kept")
    (counted / "broken").unlink()
    mended = small("fcfs,counted", tmp_path / "kept")
    assert mended.policies == ("fcfs", "counted")
    assert mended.failures == ()


def test_drawn_traces_are_told_apart_by_seed(tmp_path: Path) -> None:
    source = TraceSource(
        source="preset:uniform:s_high=500,o_high=40", options=ReadOptions(limit=30)
    )
    whole = small("fcfs", tmp_path / "kept", trace=source, seeds=3)
    again = small("fcfs", tmp_path / "kept", trace=source, seeds=3)
    assert len({run.trace_fingerprint for run in whole.runs}) == 3
    assert figures(again) == figures(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": SimulationParams(slots=5)}, "slots is 4 there and 5 here"),
        ({"predictor": "oracle"}, "predictor is 'survival' there and 'oracle' here"),
        ({"keep_times": True}, "times of requests is False there and True here"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    small("fcfs", tmp_path / "kept")
    with pytest.raises(ParameterError, match=message):
        small("fcfs", tmp_path / "kept", **change)


def test_columns_that_only_prefix_caches_read_count_too(tmp_path: Path) -> None:
    small("fcfs", tmp_path / "kept")
    plain = trace()
    cached = Trace(
        prompt_tokens=plain.prompt_tokens, output_tokens=plain.output_tokens,
        columns={"cached_tokens": plain.prompt_tokens // 2},
    )  # fmt: skip
    small("fcfs", tmp_path / "kept", trace=cached)
    assert pq.read_table(tmp_path / "kept" / "results.parquet").num_rows == 1
    parts = (tmp_path / "kept" / "parts").glob("*.parquet")
    traces = {row for part in parts for row in pq.read_table(part)["trace"].to_pylist()}
    assert len(traces) == 2


def test_figures_stand_in_the_folder_as_in_the_report(tmp_path: Path) -> None:
    found = small("fcfs,br-0", tmp_path / "kept", seeds=2)
    table = pq.read_table(tmp_path / "kept" / "results.parquet")
    assert table["policy"].to_pylist() == [run.policy for run in found.runs]
    makespans = [run.metrics.makespan_s for run in found.runs]
    assert table["makespan_s"].to_pylist() == makespans
