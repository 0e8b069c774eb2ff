"""``brsolver classifier`` as people and scripts call it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from brsolver.cli._input import input_flags
from brsolver.cli.main import app

if TYPE_CHECKING:
    from pathlib import Path

PROMISED = (
    "kind", "horizon", "n", "auc", "average_precision", "brier", "brier_survival", "ece", "mae",
    "crps",
)  # fmt: skip
SMALL = ("--workers", 2, "--slots", 8, "--bootstrap", 5)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one call of the command left behind."""

    code: int
    out: str
    err: str


def classifier(*arguments: object) -> Outcome:
    result = CliRunner().invoke(app, ["classifier", *(str(argument) for argument in arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(code=result.exit_code, out=result.stdout, err=result.stderr)


def facts(*arguments: object) -> dict[str, Any]:
    outcome = classifier(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    return dict(json.loads(outcome.out, parse_constant=refuse_constant))


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def refused(*arguments: object) -> str:
    """Call the command with bad input, and return the one line it says about it."""
    outcome = classifier(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("brsolver: error: ")
    assert outcome.err.count("\n") == 1
    return outcome.err


def write_trace(path: Path, outputs: np.ndarray, **columns: np.ndarray) -> Path:
    names = ["prompt_tokens", "output_tokens", *columns]
    prompts = 100 + np.arange(outputs.size) * 37 % 900
    table = np.column_stack([prompts, outputs, *columns.values()])
    rows = [",".join(map(str, row)) for row in table.tolist()]
    path.write_text("\n".join([",".join(names), *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def outputs() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 200, size=600)


@pytest.fixture
def trace(tmp_path: Path, outputs: np.ndarray) -> Path:
    return write_trace(tmp_path / "trace.csv", outputs)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, outputs: np.ndarray) -> Path:
    folder = tmp_path_factory.mktemp("model")
    path = folder / "model.skops"
    outcome = classifier(
        "train", write_trace(folder / "trace.csv", outputs), "--kind", "hazard-lr", "--horizon",
        40, "--out", path,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "300 of 600" in outcome.out
    return path


@pytest.mark.parametrize("kind", ["survival", "exact"])
def test_kinds_without_a_file_are_judged_on_the_later_part(trace: Path, kind: str) -> None:
    found = facts("evaluate", trace, "--kind", kind, "--horizon", 40, *SMALL)
    assert not [name for name in PROMISED if name not in found]
    assert (found["kind"], found["horizon"]) == (kind, 40)
    assert (found["training_rows"], found["testing_rows"]) == (300, 300)
    assert found["brier_survival"] == pytest.approx(found["brier"], abs=0.02)
    assert found["brier"] < found["brier_climatology"]
    assert {each["kind"] for each in found["scores"]} == {"climatology", "survival", kind}
    low, high = found["intervals"]["brier"]
    assert low <= found["brier"] <= high


def test_a_model_is_not_judged_on_what_trained_it(model: Path, trace: Path) -> None:
    found = facts("evaluate", trace, "--model", model, *SMALL)
    assert (found["kind"], found["horizon"]) == ("hazard-lr", 40)
    assert (found["training_rows"], found["testing_rows"]) == (300, 300)
    assert "the first 300 of 600 requests trained the model and are left out" in found["notes"]
    assert found["model"]["training_rows"] == 300


def test_a_limit_does_not_hide_the_training_rows(model: Path, trace: Path) -> None:
    assert "trained the model" in refused("evaluate", trace, "--model", model, "--limit", 200)
    found = facts("evaluate", trace, "--model", model, "--limit", 400, *SMALL)
    assert found["testing_rows"] == 100


def test_a_part_of_the_trace_does_not_hide_the_training_rows(model: Path, trace: Path) -> None:
    for part in (("--skip", 10), ("--from", 1), ("--until", 5)):
        text = refused("evaluate", trace, "--model", model, *part)
        assert "its first 300 requests trained the model, so it must be read from its start" in text


@pytest.mark.parametrize("command", ["train", "evaluate", "compare"])
def test_traces_are_read_with_the_options_of_other_commands(command: str) -> None:
    help_ = CliRunner().invoke(app, ["classifier", command, "--help"], env={"COLUMNS": "200"})
    assert {flag.option for flag in input_flags()} <= set(re.findall(r"--[a-z-]+", help_.stdout))


def test_a_model_meets_another_trace_after_its_earlier_part(
    model: Path, tmp_path: Path, outputs: np.ndarray
) -> None:
    other = write_trace(tmp_path / "other.csv", outputs[::-1])
    found = facts("evaluate", other, "--model", model, "--train", "0.25", *SMALL)
    assert (found["training_rows"], found["testing_rows"]) == (150, 450)
    assert any("the model was trained on trace.csv" in note for note in found["notes"])


def test_the_page_needs_nothing_else(trace: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    outcome = classifier("evaluate", trace, "--kind", "survival", "--html", page, *SMALL)
    assert outcome.code == 0
    assert outcome.err == f"wrote {page}\n"
    text = page.read_text("utf-8")
    assert text.count("data:image/svg+xml;base64,") == 2
    assert "Calibration" in text
    assert "ROC" in text
    for outside in ('src="http', 'href="http', "<script", "<link"):
        assert outside not in text
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".html"] == ["page.html"]


def test_a_comparison_leaves_a_report(trace: Path, tmp_path: Path) -> None:
    outcome = classifier(
        "compare", trace, "--kinds", "survival,exact", "--horizon", 40, "--value-workers", "2",
        "--out", tmp_path / "report", *SMALL,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    for text in ("climatology", "survival", "exact", "br-0", "oracle", "share of gap"):
        assert text in outcome.out
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "report.html",
        "results.json",
    ]
    results = json.loads((tmp_path / "report" / "results.json").read_text("utf-8"))
    routed = [(row["kind"], row["projection"]) for row in results["decision_value"]]
    assert routed[:3] == [("br-0", ""), ("oracle", ""), ("survival", "expected")]
    assert all(row["imbalance"] > 0 for row in results["decision_value"])
    assert "Decision values" in (tmp_path / "report" / "report.html").read_text("utf-8")


def test_constant_outputs_within_the_horizon_are_judged_without_ranking(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "same.csv", np.full(400, 30))
    found = facts("evaluate", trace, "--kind", "survival", "--horizon", 40, *SMALL)
    assert found["auc"] is None
    assert found["brier"] == pytest.approx(0)
    assert any("AUC is undefined" in note for note in found["notes"])


def test_bad_input_gets_one_line(trace: Path, tmp_path: Path) -> None:
    evaluate = ("evaluate", trace)
    assert "did you mean 'survival'" in refused(*evaluate, "--kind", "survivel")
    assert "one of them" in refused(*evaluate)
    assert "one of them" in refused(*evaluate, "--kind", "exact", "--model", "m.skops")
    assert "too few to judge" in refused(*evaluate, "--kind", "survival", "--train", "0.99")
    assert "too few to train on" in refused(*evaluate, "--kind", "survival", "--limit", 20)
    assert "train is 1.5" in refused(*evaluate, "--kind", "survival", "--train", "1.5")
    assert "horizon is 0" in refused(*evaluate, "--kind", "survival", "--horizon", 0)
    assert "samples is 0" in refused(*evaluate, "--kind", "survival", "--samples", 0)
    assert "bootstrap is -1" in refused(*evaluate, "--kind", "survival", "--bootstrap", -1)
    assert "is a folder" in refused(*evaluate, "--kind", "survival", "--html", tmp_path)
    nowhere = tmp_path / "none" / "page.html"
    assert "page.html" in refused(*evaluate, "--kind", "survival", "--html", nowhere)
    assert "names a kind twice" in refused("compare", trace, "--kinds", "exact,exact")
    assert "starts is 0" in refused("compare", trace, "--starts", 0)
    assert "is a file" in refused("compare", trace, "--out", trace)
    assert "no such file" in refused("evaluate", tmp_path / "gone.csv", "--kind", "survival")


def test_requests_that_are_all_cut_get_one_line(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "cut.csv", np.full(400, 30), max_tokens=np.full(400, 30))
    message = refused("evaluate", trace, "--kind", "survival", "--horizon", 40)
    assert "max_tokens cuts every request sooner" in message


def test_bad_training_gets_one_line(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.skops"
    assert "did you mean 'hazard-lr'" in refused(
        "train", trace, "--kind", "hazard-ls", "--out", out
    )
    assert "horizon is 0" in refused("train", trace, "--horizon", 0, "--out", out)
    assert "is a folder" in refused("train", trace, "--out", tmp_path)
    assert "too few" in refused("train", trace, "--limit", 30, "--out", out)
    assert not out.exists()


def test_bad_models_get_one_line(model: Path, trace: Path, tmp_path: Path) -> None:
    assert "gone.skops" in refused("evaluate", trace, "--model", tmp_path / "gone.skops")
    assert "forecasts 40 steps, not 80" in refused(
        "evaluate", trace, "--model", model, "--horizon", 80
    )
    tampered = tmp_path / "tampered.skops"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 0xFF
    tampered.write_bytes(bytes(content))
    assert "tampered.skops" in refused("evaluate", trace, "--model", tampered)
    tampered.write_text("not a model")
    assert "tampered.skops" in refused("evaluate", trace, "--model", tampered)
