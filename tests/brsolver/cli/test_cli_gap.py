from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from brsolver.cli import gap as module

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLUSTER = ("--workers", 2, "--slots", 3)


@pytest.fixture
def measured(brsolver: Callable[..., Any], trace_file: Path) -> Callable[..., str]:
    """Run ``brsolver gap`` in this process and return what was printed."""

    def call(policies: str, *options: object) -> str:
        outcome = brsolver(
            "gap", trace_file, "--policies", policies, *CLUSTER, "--budget", "2s", *options
        )
        assert outcome.code == 0, outcome.err
        return str(outcome.out)

    return call


@pytest.mark.parametrize("oracle", ["bounds", "step", "hindsight-fcfs", "hindsight-free"])
def test_json_has_what_programmes_read(measured: Callable[..., str], oracle: str) -> None:
    facts = json.loads(measured("jsq-load,br-0", "--oracle", oracle, "--limit", 10, "--json"))
    assert set(facts) >= {"oracle", "status", "lower_bound", "best_known", "wall_s", "policies"}
    assert facts["oracle"] == oracle
    assert facts["status"] in {"optimal", "feasible", "bound", "limit"}
    assert 0 < facts["lower_bound"] <= facts["best_known"]
    assert [row["policy"] for row in facts["policies"]] == ["jsq-load", "br-0"]
    for row in facts["policies"]:
        assert row["gap"] == pytest.approx(row["barrier_time"] / facts["lower_bound"] - 1)


def test_weights_and_their_unit_are_said(measured: Callable[..., str]) -> None:
    weighed = ("jsq-load", "--request-tokens", 1500, "--limit", 10)
    facts = json.loads(measured(*weighed, "--json"))
    assert (facts["unit"], facts["request_tokens"]) == ("effective tokens", 1500)
    without = ("jsq-load", "--request-tokens", "auto", "--hardware", "bfio", "--limit", 10)
    plain = json.loads(measured(*without, "--json"))
    assert (plain["unit"], plain["request_tokens"]) == ("KV tokens", 0)
    assert facts["lower_bound"] > plain["lower_bound"]
    text = measured(*weighed)
    assert "a request weighs 1,500 tokens besides its KV tokens" in text
    assert "effective-token steps" in text


@pytest.mark.parametrize("oracle", ["bounds", "hindsight-fcfs", "hindsight-free"])
def test_json_of_time_is_in_seconds(measured: Callable[..., str], oracle: str) -> None:
    facts = json.loads(
        measured(
            "jsq-load,br-0", "--objective", "time", "--oracle", oracle, "--limit", 10, "--json",
            "--step-time", "loads:base=0.02,per_sequence=6e-5,per_token=4e-8",
        )
    )  # fmt: skip
    assert facts["objective"] == "time"
    assert 0 < facts["lower_bound_s"] <= facts["best_known_s"] * (1 + 1e-9)
    for row in facts["policies"]:
        assert row["gap"] == pytest.approx(row["seconds"] / facts["lower_bound_s"] - 1)


def test_table_of_time_names_parts(measured: Callable[..., str]) -> None:
    text = measured("jsq-load,br-0", "--objective", "time")
    for expected in ("seconds", "gap to bound", "more steps", "KV", "routing alone", "lower bound"):
        assert expected in text


def test_report_in_seconds(measured: Callable[..., str], tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    facts = json.loads(measured("jsq-load", "--objective", "time", "--out", out, "--json"))
    assert {p.name for p in out.iterdir()} == {"gap.html", "gap.json", "gap-figures"}
    assert json.loads((out / "gap.json").read_text(encoding="utf-8")) == facts
    assert {p.name for p in (out / "gap-figures").iterdir()} == {
        "beyond_bound.png", "beyond_bound.svg", "least_time.png", "least_time.svg",
    }  # fmt: skip
    page = (out / "gap.html").read_text(encoding="utf-8")
    assert "Seconds from the shortest possible run" in page
    assert "jsq-load" in page


def test_table_names_bound_and_policies(measured: Callable[..., str]) -> None:
    text = measured("jsq-load,br-0")
    for expected in ("jsq-load", "br-0", "barrier time", "lower bound", "the bound holds for"):
        assert expected in text


def test_report_and_a_worst_state_to_replay(
    brsolver: Callable[..., Any], measured: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / "new" / "out"
    facts = json.loads(measured("br-0", "--oracle", "step", "--out", out, "--json"))
    assert {p.name for p in out.iterdir()} == {
        "gap.html", "gap.json", "gap-figures", "worst-br-0-score.json", "worst-br-0-imbalance.json",
    }  # fmt: skip
    assert json.loads((out / "gap.json").read_text(encoding="utf-8")) == facts
    worst = out / "worst-br-0-imbalance.json"
    replay = brsolver("oracle", "step", worst, "--backends", "highs", "--no-relax", "--json")
    assert replay.code == 0
    (sheet,) = (s for s in json.loads(replay.out)["objectives"] if s["objective"] == "imbalance")
    (taken,) = (row for row in sheet["rows"] if row["kind"] == "policy")
    assert taken["backend"] == "br-0"
    assert sheet["best"] <= taken["objective"]
    # Regret is a bound of what was missed, so at least what the optimum shows was missed.
    worst_regret = facts["policies"][0]["regret"]["imbalance"]["worst"]
    assert taken["objective"] - sheet["best"] <= worst_regret


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policies", "jqs"], "did you mean 'jsq'"),
        (["--policies", ""], "a name is missing"),
        (["--policies", "jsq", "--oracle", "hindsigt-fcfs"], "did you mean 'hindsight-fcfs'"),
        (["--policies", "jsq", "--objective", "tim"], "did you mean 'time'"),
        (["--policies", "jsq", "--objective", "time", "--oracle", "step"], "must be bounds, hind"),
        (["--policies", "jsq", "--budget", "soon"], "budget is 'soon', must be a positive time"),
        (["--policies", "jsq", "--budget", "0s"], "must be a positive time"),
        (["--policies", "jsq", "--budget", "9" * 400], "must be a positive time"),
        (["--policies", "jsq", "--workers", 0], "workers is 0"),
        (["--policies", "jsq", "--slots", 0], "slots is 0"),
        (["--policies", "jsq", "--pool", -1], "-1"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    refused: Callable[..., str],
    trace_file: Path,
    tmp_path: Path,
    options: list[object],
    message: str,
) -> None:
    out = tmp_path / "out"
    assert message in refused("gap", trace_file, *options, "--out", out)
    assert [p.name for p in tmp_path.iterdir()] == [trace_file.name]


@pytest.mark.parametrize("more", [(), ("--jobs", 2), ("--objective", "time")])
def test_a_policy_that_raises_is_named_and_the_others_are_shown(
    brsolver: Callable[..., Any], trace_file: Path, quitting_policy: str, more: tuple[object, ...]
) -> None:
    asked = (*CLUSTER, "--limit", 10, "--json", *more)
    outcome = brsolver("gap", trace_file, "--policies", f"jsq,{quitting_policy},br-0", *asked)
    assert outcome.code == 1, outcome.err
    facts = json.loads(outcome.out)
    assert [row["policy"] for row in facts["policies"]] == ["jsq", "br-0"]
    (failed,) = facts["failures"]
    assert (failed["policy"], failed["reason"]) == (quitting_policy, "RuntimeError: had enough")
    assert "quits failed and is left out: RuntimeError: had enough" in facts["notes"]
    alone = json.loads(brsolver("gap", trace_file, "--policies", "jsq,br-0", *asked).out)
    assert facts["policies"] == alone["policies"]
    assert alone["failures"] == []


@pytest.mark.parametrize("more", [(), ("--jobs", 2), ("--objective", "time")])
def test_policies_that_all_raise_leave_one_line(
    refused: Callable[..., str], trace_file: Path, quitting_policy: str, more: tuple[object, ...]
) -> None:
    line = refused("gap", trace_file, "--policies", quitting_policy, *CLUSTER, *more)
    assert line.startswith("brsolver: error: quits: RuntimeError: had enough")


def test_missing_trace_is_one_line(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "no such file" in refused("gap", tmp_path / "none.csv", "--policies", "jsq")


def test_impossible_folder_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str], trace_file: Path
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("brsolver.oracles.gap.gap", never)
    line = refused("gap", trace_file, "--policies", "jsq", "--out", trace_file)
    assert "is a file" in line


def test_interruption_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, brsolver: Callable[..., Any], trace_file: Path, tmp_path: Path
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_report", interrupt)
    outcome = brsolver("gap", trace_file, "--policies", "jsq", "--out", tmp_path / "out")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "")
    assert not (tmp_path / "out").exists()
