from __future__ import annotations

import csv
import json
import math
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest

from brsolver import SimulationParams, Trace, simulate
from brsolver.errors import OutputError, ParameterError
from brsolver.results.comparison import Run
from brsolver.results.request_times import ENDINGS, check_times_file, write_times

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    """Two runs that stop before all has finished, so that times are missing."""
    rng = np.random.default_rng(3)
    trace = Trace(prompt_tokens=rng.integers(5, 90, 40), output_tokens=rng.integers(1, 30, 40))
    made = []
    for seed in (0, 1):
        params = SimulationParams(workers=2, slots=3, seed=seed, max_steps=40)
        result = simulate(trace, "fcfs", params)
        made.append(Run.of(result, trace, policy="fcfs", keep_times=True, first_row=7 * seed))
    return made


def read(path: Path) -> list[dict[str, object]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(newline="", encoding="utf-8") as stream:
        return [{key: _number(text) for key, text in row.items()} for row in csv.DictReader(stream)]


def _number(text: str) -> object:
    if text == "":
        return None
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def test_every_format_holds_the_same(runs: list[Run], tmp_path: Path) -> None:
    found = [read(write_times(runs, tmp_path / f"times{ending}")) for ending in ENDINGS]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 80
    assert any(row["finish_s"] is None for row in found[0])
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "times.csv", "times.jsonl", "times.parquet",
    ]  # fmt: skip


def test_durations_are_differences_of_times(runs: list[Run], tmp_path: Path) -> None:
    rows = read(write_times(runs, tmp_path / "times.PARQUET".lower()))
    finished = [row for row in rows if row["status"] == "finished"]
    assert finished
    for row in finished:
        assert row["e2e_s"] == row["finish_s"] - row["arrival_s"]
        assert row["ttft_s"] == row["first_token_s"] - row["arrival_s"]
        assert row["queue_s"] == row["start_s"] - row["ready_s"]


def test_rows_are_those_of_the_trace_that_was_given(runs: list[Run], tmp_path: Path) -> None:
    rows = read(write_times(runs, tmp_path / "times.csv"))
    assert [row["row"] for row in rows] == [*range(40), *range(7, 47)]
    assert [row["seed"] for row in rows] == [0] * 40 + [1] * 40


def test_metrics_are_of_the_same_times(runs: list[Run]) -> None:
    columns = runs[0].times.columns
    done = columns["status"] == "finished"
    assert runs[0].metrics.e2e_p90_s == np.percentile(columns["e2e_s"][done], 90)
    ttft = columns["ttft_s"][~np.isnan(columns["ttft_s"])]
    assert runs[0].metrics.ttft_p90_s == np.percentile(ttft, 90)
    assert not math.isnan(runs[0].metrics.e2e_mean_s)


@pytest.mark.parametrize("name", ["times.txt", "times", "times.csv.gz", ".csv"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ParameterError, match=r"must end in \.csv, \.jsonl or \.parquet"):
        check_times_file(tmp_path / name)


def test_impossible_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OutputError, match=r"folder\.csv: is a folder"):
        check_times_file(tmp_path / "folder.csv")
    with pytest.raises(OutputError, match="does not exist, make it first"):
        check_times_file(tmp_path / "nowhere" / "times.csv")
