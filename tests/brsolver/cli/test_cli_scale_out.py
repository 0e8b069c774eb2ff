"""``--executor``, ``--ray-address``, ``--jobs`` and ``--resume``."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from brsolver import registry
from brsolver.cli._progress import late_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Ray leaves sockets of its connections to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
SMALL = ("--slots", 4, "--workers", 2, "--seeds", 2)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    clocked = ("wall_s", "dispatch_us_p50", "dispatch_us_p99", "dispatch_us_max")
    table = pq.read_table(folder / "results.parquet").drop_columns(list(clocked))
    return [{k: repr(v) for k, v in row.items()} for row in table.to_pylist()]


def test_a_cluster_gives_the_same_report_and_gap(
    cluster: Any, brsolver: Callable[..., Any], trace_file: Path, tmp_path: Path
) -> None:
    there = ("--executor", "ray", "--ray-address", cluster.address)
    for out, where in (("here", ("--jobs", 1)), ("there", there)):
        outcome = brsolver(
            "compare", trace_file, "--policies", "br-h,random", *SMALL, *where,
            "--out", tmp_path / out, "--resume", tmp_path / f"{out}-kept",
        )  # fmt: skip
        assert (outcome.code, outcome.err) == (0, f"wrote {tmp_path / out}\n")
    assert rows_of(tmp_path / "there") == rows_of(tmp_path / "here")
    gaps = []
    for where in ((), there):
        outcome = brsolver(
            "gap", trace_file, "--policies", "br-0,jsq", "--workers", 2, "--slots", 4,
            "--budget", "5s", "--json", *where,
        )  # fmt: skip
        assert (outcome.code, outcome.err) == (0, "")
        gaps.append(json.loads(outcome.out))
    assert unclocked(gaps[0]) == unclocked(gaps[1])


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("brsolver.cli._progress.LINE_S", 0.0)
    for lines in (False, True):
        with late_bar("simulating, runs", lines=lines) as bar:
            bar.update(1, 2000)
            bar.update(2000, 2000)
    told = "simulating, runs: 1 of 2,000\nsimulating, runs: 2,000 of 2,000\n"
    assert capsys.readouterr() == ("", told)


def test_gap_in_processes_is_the_same(brsolver: Callable[..., Any], trace_file: Path) -> None:
    found = []
    for jobs in (1, 2):
        outcome = brsolver(
            "gap", trace_file, "--policies", "br-0,jsq", "--workers", 2, "--slots", 4,
            "--objective", "time", "--budget", "5s", "--json", "--jobs", jobs,
        )  # fmt: skip
        assert (outcome.code, outcome.err) == (0, "")
        found.append(unclocked(json.loads(outcome.out)))
    assert found[0] == found[1]


def unclocked(value: Any) -> Any:
    if isinstance(value, dict):
        clocked = ("wall_s", "build_s", "solve_s")
        return {name: unclocked(each) for name, each in value.items() if name not in clocked}
    return [unclocked(each) for each in value] if isinstance(value, list) else value


DECISIONS = ("--oracle", "step", "--decisions", 4)
TIMES = ("--objective", "time", "--oracle", "hindsight-fcfs")


@pytest.mark.parametrize("oracle", [DECISIONS, TIMES])
def test_a_cluster_gives_the_same_of_every_part_of_a_gap(
    cluster: Any,
    brsolver: Callable[..., Any],
    trace_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    oracle: tuple[object, ...],
) -> None:
    # What the clock ends is not the same twice.
    monkeypatch.setattr("brsolver.oracles._regret.MOST_S", 600.0)
    there = ("--executor", "ray", "--ray-address", cluster.address)
    found = []
    for where in ((), there, there):
        folder = tmp_path / f"kept-{len(where)}"
        outcome = brsolver(
            "gap", trace_file, "--policies", "br-0,jsq", "--workers", 2, "--slots", 4,
            "--budget", "10m", "--json", "--resume", folder, *oracle, *where,
        )  # fmt: skip
        assert (outcome.code, outcome.err) == (0, "")
        found.append(unclocked(json.loads(outcome.out)))
    assert found[1] == found[2] == found[0]
    here, away = (
        pq.read_table(tmp_path / name / "results.parquet").drop_columns(["wall_s", "result"])
        for name in ("kept-0", "kept-4")
    )
    assert away.equals(here)
    # The third call found all parts.
    assert _rows_in(tmp_path / "kept-4" / "parts") == here.num_rows


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install a policy `deadly`, which kills its process the first time; returns where it lies."""
    place = tmp_path / "place"
    (place / "deadly-1.dist-info").mkdir(parents=True)
    (place / "deadly-1.dist-info" / "METADATA").write_text("Name: deadly\nVersion: 1\n")
    (place / "deadly-1.dist-info" / "entry_points.txt").write_text(
        "[brsolver.policies]\ndeadly = deadly_policy:Deadly\n"
    )
    (place / "deadly_policy.py").write_text(
        "import os\n"
        "import signal\n"
        "from pathlib import Path\n"
        "mark = Path(__file__).parent / 'died'\n"
        "class Deadly:\n"
        "    def route(self, cluster, waiting):\n"
        "        if not mark.exists():\n"
        "            mark.touch()\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return [(0, int(cluster.room.argmax()))]\n"
    )
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "deadly_policy", raising=False)
    registry._entries.cache_clear()
    yield place
    sys.modules.pop("deadly_policy", None)
    monkeypatch.undo()
    registry._entries.cache_clear()


@pytest.mark.parametrize("where", [("--jobs", 2), ("--executor", "ray")])
def test_a_killed_process_costs_a_gap_its_own_part(
    request: pytest.FixtureRequest,
    brsolver: Callable[..., Any],
    trace_file: Path,
    tmp_path: Path,
    deadly: Path,
    caplog: pytest.LogCaptureFixture,
    where: tuple[object, ...],
) -> None:
    if "ray" in where:
        where = (*where, "--ray-address", request.getfixturevalue("cluster").address)
    kept = tmp_path / "kept"
    outcome = brsolver(
        "gap", trace_file, "--policies", "jsq,deadly", "--workers", 2, "--slots", 4,
        "--budget", "5s", "--json", "--resume", kept, *DECISIONS, *where,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert (deadly / "died").exists()
    facts = json.loads(outcome.out)
    assert [row["regret"]["examined"] for row in facts["policies"]] == [4, 4]
    (said,) = (record.message for record in caplog.records)
    assert said.endswith("and is begun again, 2 of 3 times")
    assert _rows_in(kept / "parts") == 2 + 1 + 2 + 8


def test_an_interrupted_gap_goes_on(trace_file: Path, tmp_path: Path, gated: Path) -> None:
    kept = tmp_path / "kept"
    command = [
        sys.executable, "-m", "brsolver", "gap", str(trace_file), "--policies", "jsq,gated",
        "--workers", "2", "--slots", "4", *map(str, DECISIONS), "--jobs", "2",
        "--resume", str(kept), "--json",
    ]  # fmt: skip
    paths = os.pathsep.join([str(gated), *sys.path])
    set_to: dict[str, Any] = {"env": {**os.environ, "PYTHONPATH": paths}, "text": True}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **set_to)
    _wait_for_rows(kept / "parts", 2, process)
    process.send_signal(signal.SIGINT)
    out_said, said = process.communicate()
    assert (out_said, _without_progress(said)) == ("", "")
    assert process.returncode == 130
    (gated / "gate").unlink()
    done = subprocess.run(command, capture_output=True, check=False, **set_to)
    assert (done.returncode, _without_progress(done.stderr)) == (0, "")
    assert [row["policy"] for row in json.loads(done.stdout)["policies"]] == ["jsq", "gated"]
    # One of the first two policies' runs, bounds: neither was computed twice.
    assert _rows_in(kept / "parts") == 2 + 1 + 2 + 8


@pytest.fixture
def gated(tmp_path: Path) -> Path:
    """Write a policy `gated`, which waits at a pipe as long as there is one; returns where."""
    place = tmp_path / "place"
    (place / "gated-1.dist-info").mkdir(parents=True)
    (place / "gated-1.dist-info" / "METADATA").write_text("Name: gated\nVersion: 1\n")
    (place / "gated-1.dist-info" / "entry_points.txt").write_text(
        "[brsolver.policies]\ngated = gated_policy:Gated\n"
    )
    (place / "gated_policy.py").write_text(
        "from pathlib import Path\n"
        "gate = Path(__file__).parent / 'gate'\n"
        "class Gated:\n"
        "    def route(self, cluster, waiting):\n"
        "        if gate.exists():\n"
        "            gate.read_text()\n"
        "        return [(0, int(cluster.room.argmax()))]\n"
    )
    os.mkfifo(place / "gate")
    return place


def test_an_interrupted_comparison_goes_on(trace_file: Path, tmp_path: Path, gated: Path) -> None:
    kept, out = tmp_path / "kept", tmp_path / "out"
    command = [
        sys.executable, "-m", "brsolver", "compare", str(trace_file), "--policies", "jsq,gated",
        *map(str, SMALL), "--jobs", "2", "--resume", str(kept), "--out", str(out),
    ]  # fmt: skip
    paths = os.pathsep.join([str(gated), *sys.path])
    set_to: dict[str, Any] = {"env": {**os.environ, "PYTHONPATH": paths}, "text": True}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **set_to)
    _wait_for_rows(kept / "parts", 2, process)
    process.send_signal(signal.SIGINT)
    out_said, said = process.communicate()
    assert (out_said, _without_progress(said)) == ("", "")
    assert process.returncode == 130
    assert not out.exists()
    (gated / "gate").unlink()
    done = subprocess.run(command, capture_output=True, check=False, **set_to)
    assert (done.returncode, _without_progress(done.stderr)) == (0, f"wrote {out}\n")
    asked = [(policy, seed) for policy in ("jsq", "gated") for seed in (0, 1)]
    rows = pq.read_table(kept / "results.parquet").to_pylist()
    assert [(row["policy"], row["seed"]) for row in rows] == asked
    assert pq.read_table(out / "results.parquet")["spec"].to_pylist() == [p for p, _ in asked]
    # None of the four was computed twice.
    assert _rows_in(kept / "parts") == len(asked)


def _wait_for_rows(parts: Path, count: int, process: subprocess.Popen[str]) -> None:
    while _rows_in(parts) < count:
        assert process.poll() is None, process.communicate()
        os.sched_yield()


def _without_progress(said: str) -> str:
    """Leave out the lines of what takes more than half a minute on a busy machine."""
    lines = said.splitlines(keepends=True)
    return "".join(line for line in lines if not re.fullmatch(r"[a-z, ]+: [\d,]+ of .*\n", line))


def _rows_in(parts: Path) -> int:
    return sum(pq.read_metadata(part).num_rows for part in parts.glob("*.parquet"))


@pytest.mark.parametrize("command", ["compare", "gap"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--executor", "rya"), "did you mean 'ray'"),
        (("--jobs", 0), "jobs is 0"),
        (("--ray-address", "here:1"), "must be 'ray'"),
        (("--executor", "ray", "--ray-address", "here"), "must be HOST:PORT"),
    ],
)
def test_bad_options_are_one_line(
    refused: Callable[..., str],
    trace_file: Path,
    command: str,
    options: tuple[object, ...],
    message: str,
) -> None:
    pytest.importorskip("ray")
    out = trace_file.parent / "out"
    line = refused(command, trace_file, "--policies", "jsq", "--out", out, "--slots", 4, *options)
    assert message in line
    assert not out.exists()


STATE = {
    "format": "brsolver-step/1", "projected": [[900], [650], [400]], "room": [1, 2, 2],
    "token_room": [5000, 5000, 5000], "prompts": [120, 300, 75, 410, 220, 90], "weights": [1],
    "alpha": 1, "beta": 3, "growth": 0, "admit": 5,
}  # fmt: skip


@pytest.fixture
def state_files(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"state-{at}.json" for at in range(2)]
    for at, file in enumerate(files):
        file.write_text(json.dumps({**STATE, "projected": [[900], [650], [400 + 50 * at]]}))
    return files


def test_states_are_solved_the_same_wherever(
    cluster: Any, brsolver: Callable[..., Any], state_files: list[Path], tmp_path: Path
) -> None:
    there = ("--executor", "ray", "--ray-address", cluster.address)
    found = []
    for at, where in enumerate(((), ("--jobs", 2), there)):
        outcome = brsolver(
            "oracle", "step", *state_files, "--backends", "highs,cp-sat,glop", "--no-isolate",
            "--time-limit", "10m",
            "--json", "--resume", tmp_path / f"kept-{at}", *where,
        )  # fmt: skip
        assert (outcome.code, outcome.err) == (0, "")
        found.append(unclocked(json.loads(outcome.out)))
        assert _rows_in(tmp_path / f"kept-{at}" / "parts") == 2 * 2 * (3 + 4)
    assert [state["state"] for state in found[0]["states"]] == [str(each) for each in state_files]
    assert found[1] == found[2] == found[0]


def test_searches_are_the_same_wherever(
    cluster: Any, brsolver: Callable[..., Any], trace_file: Path, tmp_path: Path
) -> None:
    there = ("--executor", "ray", "--ray-address", cluster.address)
    found = []
    for at, where in enumerate(((), ("--jobs", 2), there)):
        outcome = brsolver(
            "oracle", "hindsight", trace_file, "--workers", "2,3", "--slots", 3, "--seeds", 2,
            "--json", "--resume", tmp_path / f"kept-{at}", *where,
        )  # fmt: skip
        assert (outcome.code, outcome.err) == (0, "")
        found.append(unclocked(json.loads(outcome.out)))
        assert _rows_in(tmp_path / f"kept-{at}" / "parts") == 4
    assert [each["status"] for each in found[0]["searches"]] == ["optimal"] * 4
    assert found[1] == found[2] == found[0]


def test_without_ray_the_extra_is_named(
    refused: Callable[..., str], trace_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for command in ("compare", "gap"):
        line = refused(
            command, trace_file, "--policies", "jsq", "--out", trace_file.parent / "out",
            "--executor", "ray",
        )  # fmt: skip
        assert "pip install 'brsolver[ray]'" in line
    state = trace_file.parent / "state.json"
    state.write_text(json.dumps(STATE))
    assert "brsolver[ray]" in refused("oracle", "step", state, "--executor", "ray")


def test_folders_that_would_mix_are_refused(refused: Callable[..., str], trace_file: Path) -> None:
    out = trace_file.parent / "out"
    for command in ("compare", "gap"):
        asked = (command, trace_file, "--policies", "jsq", "--out", out, "--resume")
        assert "must be another folder than the report's" in refused(*asked, out)
        assert "resume is an empty name" in refused(*asked, "")
