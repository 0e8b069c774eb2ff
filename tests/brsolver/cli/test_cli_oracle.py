from __future__ import annotations

import json
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from brsolver.errors import MissingExtraError
from brsolver.oracles.backends import BACKENDS, _solve
from brsolver.oracles.result import SolveResult, Status
from brsolver.oracles.step import StepInstance, heuristic, objective_value

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WITHOUT_SOLVER = [("br", "heuristic"), ("local-search", "search"), ("lagrangian", "bound")]


def make_state(**changes: object) -> StepInstance:
    given: dict[str, object] = {
        "projected": np.array([[900], [650], [400]]),
        "room": np.array([1, 2, 2]),
        "token_room": np.array([5000, 5000, 5000]),
        "prompts": np.array([120, 300, 75, 410, 220, 90]),
        "weights": np.ones(1, np.int64),
        "beta": 3,
        "admit": 5,
    }
    return StepInstance(**{**given, **changes})  # type: ignore[arg-type] # by keyword


@pytest.fixture
def state_file(tmp_path: Path) -> Path:
    path = tmp_path / "state.json"
    make_state().save(path)
    return path


@pytest.fixture
def solved(brsolver: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Solve in this process; return the sheets by objective."""

    def call(path: Path, *options: object) -> dict[str, Any]:
        outcome = brsolver("oracle", "step", path, "--json", *options)
        assert (outcome.code, outcome.err) == (0, "")
        facts = json.loads(outcome.out, parse_constant=pytest.fail)
        return {sheet["objective"]: sheet for sheet in facts["objectives"]}

    return call


def test_every_back_end_agrees(solved: Callable[..., dict[str, Any]], state_file: Path) -> None:
    sheets = solved(state_file)
    assert list(sheets) == ["score", "imbalance"]
    for objective, sheet in sheets.items():
        tried = [(row["backend"], row["kind"]) for row in sheet["rows"]]
        lps = [(name, "lp") for name in (*BACKENDS, "sifting") if name != "cp-sat"]
        assert tried == [*WITHOUT_SOLVER, ("highs", "milp"), ("cp-sat", "milp"), *lps]
        assert sheet["proven_by"] == ["highs", "cp-sat"]
        assert sheet["best"] == sheet["bound"]
        assert not sheet["contradictory"]
        sign = 1 if objective == "score" else -1
        for row in sheet["rows"]:
            if row["kind"] != "lp" and row["objective"] is not None:
                assert sign * row["objective"] <= sign * sheet["best"]
                value = objective_value(make_state(), row["assignment"], objective)  # type: ignore[arg-type] # one of two
                assert row["objective"] == value
            if row["dual_bound"] is not None:
                assert sign * row["dual_bound"] >= sign * sheet["best"] - 1e-6


def test_table_shows_them_side_by_side(brsolver: Callable[..., Any], state_file: Path) -> None:
    outcome = brsolver("oracle", "step", state_file, "--objective", "score")
    assert outcome.code == 0
    for expected in ("back end", "dual bound", "build ms", "cp-sat", "sifting", "proven by highs"):
        assert expected in outcome.out
    assert "imbalance" not in outcome.out


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        (["--relax", "--backends", "highs,glop,highs"], [("highs", "lp"), ("glop", "lp")]),
        (["--no-relax", "--backends", "cp-sat,glop"], [("cp-sat", "milp")]),
        (["--backends", " highs "], [("highs", "milp"), ("highs", "lp")]),
    ],
)
def test_back_ends_are_chosen(
    solved: Callable[..., dict[str, Any]], state_file: Path, options: list[str], kinds: list[Any]
) -> None:
    sheet = solved(state_file, "--objective", "score", *options)["score"]
    assert [(row["backend"], row["kind"]) for row in sheet["rows"]] == WITHOUT_SOLVER + kinds


def test_the_saved_decision_is_a_row(
    solved: Callable[..., dict[str, Any]], state_file: Path
) -> None:
    decision = heuristic(make_state()).tolist()
    for assignment, status in ((decision, "feasible"), ([9] * 6, "error"), ("none", "error")):
        taken = {"policy": "br-0", "assignment": assignment}
        state_file.write_text(json.dumps({**make_state().to_json(), "taken": taken}))
        sheet = solved(state_file, "--relax", "--backends", "highs", "--objective", "score")
        row = sheet["score"]["rows"][0]
        assert (row["backend"], row["kind"], row["status"]) == ("br-0", "policy", status)
        assert bool(row["message"]) == (status == "error")


def test_a_wrong_back_end_is_found_out(
    monkeypatch: pytest.MonkeyPatch, brsolver: Callable[..., Any], state_file: Path
) -> None:
    def boast(*_: object, **__: object) -> SolveResult:
        return SolveResult(status=Status.BOUND, dual_bound=-(10**6), origin="a boaster")

    monkeypatch.setattr("brsolver.oracles.step.solve_step", boast)
    outcome = brsolver("oracle", "step", state_file, "--objective", "score")
    assert "back ends disagree" in outcome.out


def lose(monkeypatch: pytest.MonkeyPatch, *lost: str) -> None:
    of = _solve.load

    def load(module: str) -> object:
        package = module.split(".", maxsplit=1)[0]
        if package in lost:
            raise MissingExtraError.for_extra(package, "oracles")
        return of(module)

    monkeypatch.setattr(_solve, "load", load)


def test_in_a_process_apart_or_not_answers_are_the_same(
    solved: Callable[..., dict[str, Any]], state_file: Path
) -> None:
    options = ("--backends", "highs,cp-sat,sifting", "--memory-limit", 8000)
    one, other = solved(state_file, *options), solved(state_file, *options, "--no-isolate")
    for objective, sheet in one.items():
        for row, same in zip(sheet["rows"], other[objective]["rows"], strict=True):
            assert (row["backend"], row["status"]) == (same["backend"], same["status"])
            assert row["objective"] == pytest.approx(same["objective"])


def test_a_missing_back_end_is_a_row(
    monkeypatch: pytest.MonkeyPatch, solved: Callable[..., dict[str, Any]], state_file: Path
) -> None:
    lose(monkeypatch, "ortools")
    rows = solved(state_file, "--objective", "score", "--no-isolate")["score"]["rows"]
    found = {row["backend"]: row for row in rows if row["kind"] != "lp"}
    assert found["highs"]["status"] == "optimal"
    assert found["cp-sat"]["status"] == "error"
    assert "pip install 'brsolver[oracles]'" in found["cp-sat"]["message"]


def test_a_crashing_back_end_is_a_row(
    monkeypatch: pytest.MonkeyPatch, solved: Callable[..., dict[str, Any]], state_file: Path
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise ZeroDivisionError("inside\nthe solver")

    monkeypatch.setitem(BACKENDS, "highs", partial(crash))
    options = ("--objective", "score", "--no-relax", "--no-isolate")
    rows = solved(state_file, *options)["score"]["rows"]
    (highs,) = (row for row in rows if row["backend"] == "highs")
    assert highs["status"] == "error"
    assert highs["message"] == "highs crashed (inside); try backend 'cp-sat'"
    assert rows[-1]["status"] == "optimal"


def test_answers_that_are_kept_are_not_sought_again(
    monkeypatch: pytest.MonkeyPatch,
    solved: Callable[..., dict[str, Any]],
    state_file: Path,
    tmp_path: Path,
) -> None:
    asked = ("--no-relax", "--no-isolate", "--resume", tmp_path / "kept")
    with monkeypatch.context() as without:
        lose(without, "ortools")
        first = solved(state_file, *asked)
    assert {row["backend"]: row["status"] for row in first["score"]["rows"]}["cp-sat"] == "error"
    made = count()
    of = BACKENDS["cp-sat"]

    def counted(*given: Any, **more: Any) -> Any:
        next(made)
        return of(*given, **more)

    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setitem(BACKENDS, "highs", never)
    monkeypatch.setitem(BACKENDS, "cp-sat", counted)
    second = solved(state_file, *asked)
    assert all(sheet["proven_by"] == ["highs", "cp-sat"] for sheet in second.values())
    assert next(made) == 2
    assert solved(state_file, *asked) == second
    assert next(made) == 3
    # What it says tells a state, not what its file is called.
    other = tmp_path / "other.json"
    other.write_bytes(state_file.read_bytes())
    assert solved(other, *asked) == second
    assert next(made) == 4
    rows = pq.read_table(tmp_path / "kept" / "results.parquet").to_pylist()
    assert {(row["name"], row["backend"]) for row in rows if row["kind"] == "milp"} == {
        (str(state_file), "highs"), (str(state_file), "cp-sat"),
    }  # fmt: skip


def test_several_states_are_one_object_and_a_table_each(
    brsolver: Callable[..., Any], state_file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.json"
    make_state(admit=4).save(other)
    asked = ("oracle", "step", state_file, other, "--backends", "highs", "--relax")
    facts = json.loads(brsolver(*asked, "--json").out)
    assert [each["admit"] for each in facts["states"]] == [5, 4]
    alone = json.loads(brsolver("oracle", "step", other, *asked[4:], "--json").out)
    values = [
        [row["objective"] for sheet in each["objectives"] for row in sheet["rows"]]
        for each in (alone, facts["states"][1])
    ]
    assert values[0] == values[1]
    text = brsolver(*asked).out
    assert f"{state_file}: G = 3" in text
    assert f"{other}: G = 3" in text


def test_an_interrupted_answer_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, brsolver: Callable[..., Any], state_file: Path, tmp_path: Path
) -> None:
    def interrupted(*_: object, **__: object) -> SolveResult:
        return SolveResult(status=Status.LIMIT, message="interrupted")

    monkeypatch.setattr("brsolver.oracles.step.solve_step", interrupted)
    asked = ("oracle", "step", state_file, "--no-relax")
    assert "interrupted" in brsolver(*asked).out
    outcome = brsolver(*asked, "--resume", tmp_path / "kept")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "")
    parts = [pq.read_table(part) for part in (tmp_path / "kept" / "parts").glob("*.parquet")]
    assert {kind for part in parts for kind in part["kind"].to_pylist()} <= {
        "heuristic", "search", "bound",
    }  # fmt: skip


def test_no_back_end_at_all_is_one_line(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str], state_file: Path
) -> None:
    lose(monkeypatch, "ortools", "highspy")
    line = refused("oracle", "step", state_file, "--no-isolate")
    assert "no back end works" in line
    assert line.count("ortools is not installed") == 1
    assert "brsolver[oracles]" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objective", "scor"], "did you mean 'score'"),
        (["--backends", "hihgs"], "did you mean 'highs'"),
        (["--backends", ""], "unknown back end ''"),
        (["--backends", "glop", "--no-relax"], "relaxations only: leave out --no-relax"),
        (["--backends", "cp-sat", "--relax"], "integer models only: leave out --relax"),
        (["--memory-limit", "0"], "memory limit is 0.0, must be a positive number"),
        (["--time-limit", "never"], "time limit is 'never', must be a positive time"),
    ],
)
def test_bad_options_are_one_line(
    refused: Callable[..., str], state_file: Path, options: list[str], message: str
) -> None:
    assert message in refused("oracle", "step", state_file, *options)
    assert [p.name for p in state_file.parent.iterdir()] == ["state.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("", "cannot read step instance"),
        ("{", "cannot read step instance"),
        ("[]", "not a step instance"),
        ('{"format": "brsolver-step/1"}', "lacks the field"),
        ({"projected": [[1], [1, 2], [3]]}, "not a step instance"),
        ({"prompts": [10**30]}, "integers"),
        ({"room": [1, 2]}, "room has shape"),
        ({"room": [1, -2, 2]}, "room holds -2"),
        ({"growth": True}, "growth is True, must be 0 or 1"),
        ({"admit": True}, "admit is True, must be between 0 and 5"),
        ({"prompts": [True] * 6}, "prompts of a step instance must be 1-dimensional integers"),
        ({"room": [True, 2, 2]}, "room of a step instance must be 1-dimensional integers"),
        ({"projected": [[900], [650], [True]]}, "must be 2-dimensional integers"),
        ({"token_room": [None, False, None]}, "must be 1-dimensional integers"),
        ({"admit": 9}, "admit is 9, must be between 0 and 5"),
        ({"token_room": [100, 100, 100]}, "5 requests must be admitted and 2 fit a worker"),
    ],
)
def test_bad_states_are_one_line(
    refused: Callable[..., str], tmp_path: Path, content: object, message: str
) -> None:
    path = tmp_path / "state.json"
    if isinstance(content, dict):
        path.write_text(json.dumps({**make_state().to_json(), **content}))
    elif content is not None:
        path.write_text(str(content))
    line = refused("oracle", "step", path)
    assert message in line
    assert "state.json" in line


def test_the_group_alone_shows_help(brsolver: Callable[..., Any]) -> None:
    outcome = brsolver("oracle")
    assert outcome.code == 2
    assert "step" in outcome.out
