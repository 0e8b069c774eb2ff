from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def computed(brsolver: Callable[..., Any], tiny: Path) -> Callable[..., Any]:
    def call(*options: object) -> Any:
        return brsolver("board", "--definition", tiny, "--jobs", 1, *options)

    return call


def test_table_page_and_rows(computed: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = computed("--out", out, "--policy", "lpt")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0].startswith("3 policies in 6 cells: traces drawn*; prefill elsewhere;")
    for policy in ("jsq@immediate", "br-0@pooled", "lpt@pooled"):
        assert sum(line.startswith(policy) for line in lines) == 1
    assert "every gap is certified" in outcome.out
    assert "* a preset stands in for the public trace" in outcome.out
    assert outcome.err.splitlines()[-1] == f"wrote {out}"
    names = {path.name for path in out.iterdir()}
    assert {"board.html", "board.md", "results.parquet", "campaign.json"} <= names
    rows = pq.read_table(out / "results.parquet").to_pylist()
    assert [(row["regime"], row["policy"]) for row in rows] == [
        (regime, policy) for regime in ("full", "half") for policy in ("jsq", "br-0", "lpt")
    ]
    text = (out / "board.md").read_text(encoding="utf-8")
    assert "| `lpt@pooled` |" in text


def test_more_seeds_go_on_in_the_same_folder(computed: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    one = computed("--only", "regime=full", "--out", out)
    assert "±" not in one.out
    first = pq.read_table(out / "results.parquet").to_pylist()
    three = computed("--only", "regime=full", "--seeds", 3, "--out", out)
    assert three.code == 0
    assert "seeds 0, 1, 2" in three.out
    assert next(line for line in three.out.splitlines() if line.startswith("br-0")).count("±") == 2
    assert "95 % interval of a mean over 3 seeds" in three.out.replace("\n", " ")
    rows = pq.read_table(out / "results.parquet").to_pylist()
    assert [(row["seed"], row["policy"]) for row in rows] == [
        (seed, policy) for seed in (0, 1, 2) for policy in ("jsq", "br-0")
    ]
    kept = {(row["seed"], row["policy"]): row for row in rows}
    # Not computed again: a clock would have told another time.
    assert [kept[0, row["policy"]]["wall_s"] for row in first] == [row["wall_s"] for row in first]
    page = (out / "board.html").read_text(encoding="utf-8")
    assert "bfio, seed 2</span>" in page
    assert 'data-name="seed"' in page


def test_a_log_is_told_of_a_board_that_is_kept(
    computed: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brsolver.cli._progress.LINE_S", 0.0)
    asked = ("--only", "regime=full", "--json")
    told = computed(*asked, "--out", tmp_path / "out").err.splitlines()
    assert "simulating, bounds: 1 of 1" in told
    assert "simulating, cells: 2 of 2" in told
    assert not [line for line in computed(*asked).err.splitlines() if "simulating" in line]


def test_json_is_one_object(computed: Callable[..., Any]) -> None:
    found = json.loads(computed("--json", "--only", "regime=full").out)
    assert [one["policy"] for one in found["standings"]] == ["br-0", "jsq"]
    assert len(found["cells"]) == 2
    assert found["failures"] == []
    assert found["traces"] == [
        {"name": "drawn", "origin": "stand-in",
         "source": "preset:uniform:n=60,s_high=300,o_high=30"}
    ]  # fmt: skip


def test_a_policy_that_fails_is_named_and_the_rest_is_shown(
    computed: Callable[..., Any], quitting_policy: str, tmp_path: Path
) -> None:
    outcome = computed("--policy", quitting_policy, "--out", tmp_path / "out")
    assert outcome.code == 1
    assert "failed: quits@pooled failed in 2 cells" in outcome.err
    assert "had enough" in outcome.err
    assert any(line.startswith("br-0@pooled") for line in outcome.out.splitlines())
    page = (tmp_path / "out/board.html").read_text(encoding="utf-8")
    assert '<p class="failure">quits@pooled failed in 2 cells' in page


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--policy", "br-9"], "unknown policy 'br-9'"),
        (["--policy", "br-0@twice"], "must be pooled or immediate"),
        (["--policies", "br-0,br-0"], "policies has 'br-0@pooled' twice"),
        (["--only", "regime=fool"], "unknown regime of board tiny 'fool'"),
        (["--only", "hardware=h100"], "unknown hardware of board tiny 'h100'"),
        (["--only", "speed=1"], "unknown part of a board 'speed'"),
        (["--trace", "drawn"], "trace is 'drawn', must be NAME=FILE"),
        (["--trace", "azure=x.csv"], "unknown trace of the board 'azure'"),
        (["--trace", "drawn=x.csv"], "x.csv: no such file"),
        (["--trace", "drawn=a", "--trace", "drawn=b"], "trace drawn is given twice"),
        (["--quick"], "--quick and --definition exclude each other"),
        (["--executor", "slurm"], "unknown executor 'slurm'"),
        (["--seeds", "0"], "seeds is 0, must be at least 1"),
        (["--jobs", "0"], "jobs is 0, must be at least 1"),
    ],
)
def test_bad_input_is_one_line(
    refused: Callable[..., str], tiny: Path, options: list[str], says: str
) -> None:
    assert says in refused("board", "--definition", tiny, *options)


def test_a_folder_of_another_board_is_refused(
    computed: Callable[..., Any], refused: Callable[..., str], tiny: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert computed("--only", "regime=full", "--out", out).code == 0
    tiny.write_text(tiny.read_text().replace("workers = 2", "workers = 3"))
    said = refused("board", "--definition", tiny, "--only", "regime=full", "--out", out)
    assert "must be the same to go on" in said
