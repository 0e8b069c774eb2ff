from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def compared(brsolver: Callable[..., Any], trace_file: Path) -> Callable[..., str]:
    """Compare in this process and return what was printed."""

    def call(policies: str, out: Path, *options: object) -> str:
        outcome = brsolver(
            "compare", trace_file, "--policies", policies, "--out", out, "--slots", 4, "--jobs", 1,
            *options,
        )  # fmt: skip
        assert outcome.code == 0
        assert outcome.err == f"wrote {out}\n"
        return str(outcome.out)

    return call


def test_table_and_files(compared: Callable[..., str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = compared("jsq,random", out, "--workers", "2,3", "--seeds", 2, "--baseline", "random",
                    "--same-start")  # fmt: skip
    assert "G = 2 workers" in text
    assert "G = 3 workers" in text
    assert "over 2 seeds" in text
    assert "ratio to random" in text
    assert "deterministic" in text
    assert sorted(p.name for p in out.iterdir()) == [
        "figures", "report.html", "results.csv", "results.parquet",
    ]  # fmt: skip
    rows = pq.read_table(out / "results.parquet").to_pylist()
    found = [(row["workers"], row["spec"], row["seed"]) for row in rows]
    assert found == [(g, p, s) for g in (2, 3) for p in ("jsq", "random") for s in (0, 1)]


def test_knobs_and_baseline_by_the_name_asked_for(
    compared: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ("--workers", 2, "--seeds", 1, "--horizon", 5, "--predictor", "oracle")
    text = compared("jsq,br-h:gamma=0.8", out, *options, "--baseline", "br-h:gamma=0.8")
    assert "ratio to br-h:gamma=0.8,horizon=5" in text
    assert "br-h:gamma=0.8,horizon=5 is given true output lengths (oracle)" in text


def test_summary_comes_first_and_all_figures_where_asked_for(
    compared: Callable[..., str], tmp_path: Path
) -> None:
    text = compared("jsq,br-0", tmp_path / "a", "--workers", 2, "--seeds", 3)
    assert "G = 2 worker" not in text.split("Pooled: ")[0]
    assert "Prefill is not modelled: TTFT leaves it out." in text
    assert "each starting a request later than the one before" in text
    assert "Energy" not in text
    whole = compared("jsq,br-0", tmp_path / "b", "--workers", 2, "--seeds", 3, "--all")
    assert "Energy" in whole


def test_json_holds_summary_and_runs(brsolver: Callable[..., Any], trace_file: Path) -> None:
    outcome = brsolver(
        "compare", trace_file, "--policies", "jsq,br-0", "--out", trace_file.parent / "out",
        "--slots", 4, "--jobs", 1, "--workers", 2, "--seeds", 2, "--json",
    )  # fmt: skip
    found = json.loads(outcome.out)
    (summary,) = found["summary"]
    assert (summary["workers"], summary["regime"]) == (2, "pooled")
    assert summary["sentences"][0]
    assert [(run["spec"], run["seed"]) for run in found["runs"]] == [
        ("jsq", 0), ("jsq", 1), ("br-0", 0), ("br-0", 1),
    ]  # fmt: skip
    assert found["failures"] == []


def test_a_policy_that_fails_is_told_in_one_line(
    brsolver: Callable[..., Any], trace_file: Path, quitting_policy: str
) -> None:
    out = trace_file.parent / "out"
    outcome = brsolver(
        "compare", trace_file, "--policies", f"jsq,{quitting_policy},br-0", "--out", out,
        "--slots", 4, "--jobs", 1, "--workers", 2, "--seeds", 2,
    )  # fmt: skip
    assert outcome.code == 1
    (line,) = [each for each in outcome.out.splitlines() if "failed" in each]
    assert line.startswith("quits failed in 2 runs and is left out")
    assert "had enough" in line
    rows = pq.read_table(out / "results.parquet").to_pylist()
    assert [row["spec"] for row in rows] == ["jsq", "jsq", "br-0", "br-0"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert '<p class="failure">quits failed in 2 runs' in page


def test_times_of_all_runs_go_to_a_file(
    brsolver: Callable[..., Any], trace_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "times.csv"
    outcome = brsolver(
        "compare", trace_file, "--policies", "jsq,br-0", "--out", tmp_path / "out", "--slots", 4,
        "--jobs", 1, "--workers", 2, "--seeds", 2, "--requests-out", file,
    )  # fmt: skip
    assert outcome.err == f"wrote {tmp_path / 'out'}\nwrote {file}\n"
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * (80 + 79)
    assert {(row["policy"], row["seed"]) for row in rows} == {
        (policy, seed) for policy in ("jsq", "br-0") for seed in "01"
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policies", "jqs"], "did you mean 'jsq'"),
        (["--policies", "jsq,,br-0"], "beside a comma"),
        (["--policies", "jsq,br-0", "--horizon", 4], "none of jsq, br-0"),
        (["--policies", "jsq", "--workers", "4,0"], "workers is 0"),
        (["--policies", "jsq", "--workers", "4,x"], "workers is '4,x'"),
        (["--policies", "jsq", "--seeds", 0], "seeds is 0"),
        (["--policies", "jsq", "--jobs", 0], "jobs is 0"),
        (["--policies", "jsq", "--slots", 0], "slots is 0"),
        (["--policies", "jsq", "--requests-out", "times.txt"], "must end in .csv, .jsonl or"),
        (["--policies", "jsq", "--requests-out", "nowhere/times.csv"], "nowhere does not exist"),
        (["--policies", "jsq", "--baseline", "br-0"], "unknown baseline 'br-0'"),
        (
            ["--policies", "jsq", "--capacity", 50, "--jobs", 1],
            "must be at most 50, the largest",
        ),
    ],
)
def test_bad_input_leaves_nothing(
    refused: Callable[..., str],
    trace_file: Path,
    tmp_path: Path,
    options: list[object],
    message: str,
) -> None:
    assert message in refused("compare", trace_file, *options, "--out", tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == [trace_file]


def test_folder_is_checked_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str], trace_file: Path
) -> None:
    def run(*_: object, **__: object) -> None:
        raise AssertionError("ran")

    monkeypatch.setattr("brsolver.compare.compare", run)
    line = refused("compare", trace_file, "--policies", "jsq", "--out", trace_file)
    assert "is a file" in line
