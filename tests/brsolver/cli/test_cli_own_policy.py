"""A policy in a file of the working directory: what anyone has to do to try one of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from brsolver.registry import PolicySpec
from brsolver.tuned import read_tuned

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODULE = "policy_of_ones_own"
NAME = f"{MODULE}:Emptiest"
TEXT = '''
from dataclasses import dataclass


class Emptiest:
    """Next request to the worker with the most room."""

    @dataclass(frozen=True, kw_only=True)
    class Params:
        least: int = 1

    def __init__(self, params):
        self.params = params

    def route(self, cluster, waiting):
        room, pairs = cluster.room.tolist(), []
        for i in range(len(waiting.prompt_tokens)):
            worker = max(range(len(room)), key=room.__getitem__)
            if room[worker] < self.params.least:
                break
            pairs.append((i, worker))
            room[worker] -= 1
        return pairs
'''
SERVER = ("--workers", 2, "--slots", 4)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with such a file, which nothing else of this process knows of."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / f"{MODULE}.py").write_text(TEXT)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    return folder


@pytest.fixture
def traffic(here: Path) -> Path:
    path = here / "traffic.csv"
    rows = [f"{0.2 * i:.1f},{100 + 37 * i % 900},{3 + 11 * i % 40}" for i in range(300)]
    path.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows]) + "\n")
    return path


def test_simulate(brsolver: Callable[..., Any], traffic: Path) -> None:
    done = brsolver("simulate", traffic, *SERVER, "--policy", f"{NAME}:least=2", "--json")
    facts = json.loads(done.out)
    assert (facts["policy"], facts["policy_params"]) == (f"{NAME}:least=2", {"least": 2})
    assert facts["finished"] == 300


def test_compare_in_processes_of_their_own(traffic: Path, here: Path) -> None:
    # Without the folder on the path: as the installed command has it, whose folder is another.
    done = subprocess.run(
        [sys.executable, "-P", "-m", "brsolver", "compare", str(traffic), "--policies",
         f"vllm,{NAME},least=2,{NAME}", *map(str, SERVER), "--seeds", "2", "--jobs", "2",
         "--resume", "kept", "--out", "report"],
        capture_output=True, text=True, check=False, cwd=here,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{NAME}:least=2" in done.stdout
    rows = pq.read_table(here / "kept" / "results.parquet").to_pylist()
    code = {row["policy"]: row["code"] for row in rows}
    assert code["vllm"] == ""
    assert code[NAME] == code[f"{NAME}:least=2"] != ""
    assert NAME in (here / "report" / "report.html").read_text()


def test_tune_and_what_it_writes_is_loaded_from_there(
    brsolver: Callable[..., Any], traffic: Path, here: Path
) -> None:
    done = brsolver(
        "tune", traffic, *SERVER, "--policies", f"{NAME},jsq-load", "--budget", "1h", "--trials", 8,
        "--jobs", 1, "--out", "out", "--json",
    )  # fmt: skip
    assert done.code == 0
    facts = json.loads(done.out)
    assert facts["trials"][1]["settings"]["policy"] == NAME
    assert f"{NAME}.least" in facts["searched"]
    assert NAME in (here / "out" / "tune.html").read_text()
    written = here / "out" / "tuned.toml"
    written.write_text(written.read_text().replace(facts["settings"]["policy"], NAME))
    tuned = read_tuned(written)
    assert tuned is not None
    assert PolicySpec.parse(tuned.for_adapter()["policy"]).factory.__name__ == "Emptiest"
    run = brsolver("simulate", traffic, "--config", written, "--json")
    assert json.loads(run.out)["policy"] == NAME


def test_board(brsolver: Callable[..., Any], here: Path) -> None:
    done = brsolver(
        "board", "--quick", "--only", "trace=chat", "--only", "regime=saturated", "--policies",
        "jsq", "--policy", NAME, "--policy", f"{NAME}:least=1@immediate", "--jobs", 1, "--out",
        "board",
    )  # fmt: skip
    assert done.code == 0
    lines = done.out.splitlines()
    for label in (f"{NAME}@pooled", f"{NAME}:least=1@immediate"):
        assert sum(line.startswith(label) for line in lines) == 1
    rows = pq.read_table(here / "board" / "results.parquet").to_pylist()
    assert all((row["policy_code"] is not None) == row["policy"].startswith(NAME) for row in rows)


def test_gap_and_explain(brsolver: Callable[..., Any], traffic: Path) -> None:
    gap = brsolver("gap", traffic, "--policies", f"{NAME},jsq", *SERVER, "--budget", "1s", "--json")
    assert NAME in gap.out
    told = brsolver("explain", traffic, "--policy", NAME, *SERVER)
    assert told.code == 0


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("policy_of_nobody:Emptiest", "which is neither installed nor here, must be MODULE:CLASS"),
        (f"{MODULE}:Fullest", f"module '{MODULE}' has no attribute 'Fullest'"),
        (f"{MODULE}:dataclass", "is a function, must be a class with a method route"),
        (f"{MODULE}.py:Emptiest", "a file is named MODULE:CLASS"),
        (f"{NAME}:most=1", f"unknown parameter of {NAME} 'most': known: least"),
        ("jsq:Emptiest", "'Emptiest' is not KEY=VALUE"),
    ],
)
def test_what_is_no_policy_is_one_line(
    refused: Callable[..., str], traffic: Path, policy: str, says: str
) -> None:
    assert says in refused("simulate", traffic, *SERVER, "--policy", policy)


def test_a_file_that_raises_is_one_line(
    refused: Callable[..., str], traffic: Path, here: Path
) -> None:
    (here / f"{MODULE}.py").write_text("import policy_of_nobody\n")
    line = refused("simulate", traffic, *SERVER, "--policy", NAME)
    assert f"policy '{NAME}' cannot be loaded: No module named 'policy_of_nobody'" in line


def test_a_file_that_ends_the_process_is_one_line(
    refused: Callable[..., str], traffic: Path, here: Path
) -> None:
    (here / f"{MODULE}.py").write_text("import sys\nsys.exit(0)\n" + TEXT)
    line = refused("simulate", traffic, *SERVER, "--policy", NAME)
    assert "its module ends the process when it is imported (0), must do so behind if" in line


def test_what_is_installed_takes_precedence(
    refused: Callable[..., str], traffic: Path, here: Path
) -> None:
    (here / "json.py").write_text(TEXT)
    line = refused("simulate", traffic, *SERVER, "--policy", "json:Emptiest")
    assert "module 'json' has no attribute 'Emptiest'; what is installed takes" in line
    assert "precedence over json.py here: rename the file" in line
