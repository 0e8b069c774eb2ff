"""``brsolver tune`` from end to end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import optuna
import pytest

from brsolver.tuned import read_tuned
from brsolver.tuning.lease import KEPT, Holder
from brsolver.tuning.study import open_study, quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SERVER = ("--workers", 2, "--slots", 4, "--prefill", "colocated:budget=512", "--jobs", 1)
SHORT = (*SERVER, "--policies", "br-t,jsq-load", "--budget", "1h")


def test_all_that_is_written(brsolver: Callable[..., Any], traffic: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = brsolver("tune", traffic, *SHORT, "--trials", 18, "--out", out)
    assert done.code == 0
    assert done.err == f"wrote {out}/tune.html\nwrote {out}/tuned.toml\n"
    assert (
        "vllm serve MODEL --data-parallel-size 2 --enable-expert-parallel --max-num-seqs 4"
        in done.out
    )
    assert "note: the trace says when its requests came, and that is not used: 8 " in done.out
    assert "95 % interval" in done.out or "nothing beats it for certain" in done.out
    names = sorted(path.name for path in out.iterdir())
    assert names == ["study.db", "tune-figures", "tune.html", "tune.json", "tuned.toml"]
    page = (out / "tune.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    for heading in ("Validation", "What was tried", "What mattered", "Throughput against times"):
        assert heading in page
    facts = json.loads((out / "tune.json").read_text())
    assert len(facts["trials"]) == 18
    assert facts["trials"][0]["role"] == "published"
    assert facts["searched"].keys() >= {"policy", "routing", "interval", "br-t.kappa"}
    assert not facts["searched"].keys() & {"slots", "budget", "hardware"}
    assert len(facts["validated"][0]["starts"]) == 3


def test_the_file_is_what_simulate_takes(
    brsolver: Callable[..., Any], traffic: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = brsolver("tune", traffic, *SHORT, "--trials", 4, "--out", out, "--json")
    settings = json.loads(done.out)["settings"]
    written = out / "tuned.toml"
    run = brsolver("simulate", traffic, "--config", written, "--json")
    facts = json.loads(run.out)
    assert facts["policy"] == settings["policy"]
    assert facts["params"]["routing"] == settings["routing"]
    assert facts["params"]["slots"] == 4
    assert facts["params"]["prefill"]["budget"] == 512
    assert facts["params"]["prefill"]["interval"] == settings["interval"]
    assert facts["params"]["step_time"]["hardware"] == "minimax-m2.7-h200-dp4"
    other = brsolver("simulate", traffic, "--config", written, "--policy", "jsq", "--json")
    assert json.loads(other.out)["policy"] == "jsq"


def test_goes_on_and_keeps_what_the_user_added(
    brsolver: Callable[..., Any], traffic: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    brsolver("tune", traffic, *SHORT, "--trials", 2, "--out", out)
    written = out / "tuned.toml"
    written.write_text(written.read_text() + "\n[adapter]\nreload_s = 60.0\n")
    brsolver("tune", traffic, *SHORT, "--trials", 4, "--out", out)
    assert len(json.loads((out / "tune.json").read_text())["trials"]) == 4
    found = read_tuned(written)
    assert found is not None
    assert found.for_adapter()["reload_s"] == 60.0
    assert "reload_s" not in found.for_picker()


def test_a_file_whose_tables_would_be_lost_is_refused_before_anything_is_tried(
    refused: Callable[..., str], traffic: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    text = "[adapter]\nreload_s = 60.0\nrecord = served.jsonl\n"
    (out / "tuned.toml").write_text(text)
    line = refused("tune", traffic, *SHORT, "--trials", 2, "--out", out)
    assert "tuned.toml: cannot be read as TOML: " in line
    assert "for its [adapter] and [picker] to be kept" in line
    assert [each.name for each in out.iterdir()] == ["tuned.toml"]
    assert (out / "tuned.toml").read_text() == text


def test_hardware_that_is_no_preset_goes_with_the_file(
    brsolver: Callable[..., Any], traffic: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'name = "mine"\n[step_time]\nmodel = "loads"\nbase = 0.02\nper_sequence = 6e-5\n'
        "per_token = 4e-8\nper_prefill_token = 3e-5\n"
    )
    out = tmp_path / "out"
    done = brsolver(
        "tune", traffic, *SHORT, "--hardware", mine, "--trials", 2, "--rate", 3, "--goal",
        "latency", "--out", out,
    )  # fmt: skip
    assert done.code == 0
    values = tomllib.loads((out / "tuned.toml").read_text())
    assert values["router"]["hardware"] == "hardware.toml"
    assert values["simulation"]["arrivals"] == {"mode": "rate", "rate": 3.0}
    run = brsolver("simulate", traffic, "--config", out / "tuned.toml", "--json")
    assert json.loads(run.out)["params"]["step_time"]["per_sequence"] == 6e-5


def test_a_policy_that_raises_is_told_and_the_rest_is_shown(
    brsolver: Callable[..., Any], traffic: Path, tmp_path: Path, quitting_policy: str
) -> None:
    done = brsolver(
        "tune", traffic, *SERVER, "--policies", f"br-t,{quitting_policy}", "--trials", 12,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 1
    assert f"failed: {quitting_policy}: RuntimeError: had enough" in done.out
    assert "vllm serve" in done.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--budget", "soon"), "budget is 'soon', must be a positive time"),
        (("--budget", "1ms"), "budget is 0.001 s, must be at least"),
        (("--goal", "goodput"), "must have slo_ttft or slo_tpot"),
        (("--goal", "tokens"), "unknown goal 'tokens'"),
        (("--policies", "br-x"), "unknown policy 'br-x'"),
        (("--slots", "400"), "to be split at 0.5"),
        (("--slots", "4,8"), "slots is 4,8, must be one number"),
        (("--storage", "sqlite:////no/such/folder/x.db"), "cannot be used"),
        (("--executor", "rey"), "unknown executor"),
        (("--trials", "1"), "trials is 1, must be at least 2"),
        (("--starts", "1"), "starts is 1, must be at least 2"),
        (("--validate-from", "2"), "validate_from is 2, must be at most"),
        (("--hardware", "no-such"), "unknown hardware"),
        (("--gpus", "2"), "--gpus and --workers are given"),
        (("--search", "seed"), "unknown setting to search"),
        (("--search", "slots=5..x"), "search is"),
    ],
)
def test_bad_input_is_one_line(
    refused: Callable[..., str],
    traffic: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    message: str,
) -> None:
    out = tmp_path / "new" / "out"
    assert message in refused("tune", traffic, *SERVER, *options, "--out", out)
    assert not out.parent.exists()


def test_what_cannot_run_leaves_no_folder_and_what_was_there_stays(
    refused: Callable[..., str], traffic: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert "cannot run" in refused("tune", traffic, *SHORT, "--capacity", 300, "--out", out)
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert "cannot run" in refused("tune", traffic, *SHORT, "--capacity", 300, "--out", out)
    assert [each.name for each in out.iterdir()] == ["mine.txt"]


def test_a_study_that_another_process_began_meanwhile_stays(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str], traffic: Path, tmp_path: Path
) -> None:
    def later(storage: str, name: str, *given: Any, **more: Any) -> Any:
        with quiet():
            study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
            study.set_user_attr(KEPT, asdict(replace(Holder.me(), mark="the first")))
        return open_study(storage, name, *given, **more)

    monkeypatch.setattr("brsolver.tuning.entry.open_study", later)
    out = tmp_path / "out"
    assert "is gone on with by process" in refused("tune", traffic, *SHORT, "--out", out)
    with quiet():
        study = optuna.load_study(storage=f"sqlite:///{out / 'study.db'}", study_name="tune")
    assert study.user_attrs[KEPT]["mark"] == "the first"


def test_traffic_of_other_prefixes_is_another_study(
    brsolver: Callable[..., Any], refused: Callable[..., str], tmp_path: Path
) -> None:
    path, out = tmp_path / "turns.jsonl", tmp_path / "out"

    def shared(blocks: int) -> None:
        path.write_text("".join(
            json.dumps({
                "arrival_s": i, "prompt_tokens": 64, "output_tokens": 3 + i % 9,
                "hash_ids": [k if k < blocks else 10 * i + k for k in range(4)],
            }) + "\n"
            for i in range(300)
        ))  # fmt: skip

    ask = (*SHORT, "--trials", 2, "--out", out)
    shared(3)
    assert brsolver("tune", path, *ask).code == 0
    before = (out / "study.db").read_bytes()
    shared(1)
    assert "study 'tune': trace is" in refused("tune", path, *ask)
    assert (out / "study.db").read_bytes() == before


WAITS = """
import sys

waited = False


class Waits:
    def route(self, cluster, waiting):
        global waited
        if not waited:
            waited = True
            print("asked", flush=True)
            sys.stdin.readline()
        room = cluster.room.tolist()
        workers = [g for g, most in enumerate(room) for _ in range(most)]
        return list(enumerate(workers[: len(waiting.prompt_tokens)]))
"""


@pytest.fixture
def waiting(traffic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start the command in a process that waits within its second trial."""
    (tmp_path / "waits_for_a_line.py").write_text(WAITS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    begun: list[subprocess.Popen[str]] = []

    def begin(*asked: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "brsolver", "tune", *map(str, asked)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        begun.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n", process.communicate()
        return process

    yield begin
    for process in begun:
        process.kill()
        process.communicate()
    sys.modules.pop("waits_for_a_line", None)


def test_a_second_process_is_told_of_the_first_and_follows_one_that_was_killed(
    brsolver: Callable[..., Any], refused: Callable[..., str], waiting: Any, traffic: Path
) -> None:
    mine = ("--policies", "waits_for_a_line:Waits,jsq-load", "--out", "out", "--trials", 3)
    ask = (traffic, *SERVER, "--budget", "1h", *mine)
    first = waiting(*ask)
    line = refused("tune", *ask)
    assert f"study 'tune' is gone on with by process {first.pid} on " in line
    _, said = first.communicate("go on\n")
    assert first.returncode == 0, said
    again = ("--study", "again")
    killed = waiting(*ask, *again)
    killed.kill()
    killed.communicate()
    followed = brsolver("tune", *ask, *again, "--json")
    assert followed.code == 0
    # What the test's own process is asked reads no line.
    facts = json.loads(followed.out[followed.out.index("{") :])
    assert len(facts["trials"]) == 3
    assert facts["counts"]["failed"] == 0


def test_a_study_of_another_goal_is_one_line(
    brsolver: Callable[..., Any], refused: Callable[..., str], traffic: Path, tmp_path: Path
) -> None:
    where = ("--out", tmp_path / "out")
    brsolver("tune", traffic, *SHORT, "--trials", 2, *where)
    line = refused("tune", traffic, *SHORT, "--trials", 2, "--goal", "latency", *where)
    assert 'goal is "throughput" there and "latency" here' in line


def test_simulate_without_any_policy_is_refused(refused: Callable[..., str], traffic: Path) -> None:
    assert "--policy is missing" in refused("simulate", traffic)
