"""The options of reading a trace, and what commands say of the reading."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner, Result

from brsolver.cli.main import app
from brsolver.traces import load_trace

if TYPE_CHECKING:
    from pathlib import Path

HEADER = "arrival_s,prompt_tokens,output_tokens\n"
LARGE = HEADER + "0,100,10\n1,500000,10\n2,100,10\n"
LEFT_OUT = "long.csv: 1 of 3 requests left out, which grow beyond 400,000 KV tokens\n"
CLUSTER = ("--timestamps", "--workers", 2, "--slots", 3)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "long.csv"
    path.write_text(LARGE)
    return path


def commands(path: Path, out: Path) -> dict[str, tuple[object, ...]]:
    return {
        "simulate": ("simulate", path, "--policy", "jsq", *CLUSTER, "--json"),
        "explain": ("explain", path, "--policy", "jsq", *CLUSTER, "--json"),
        "compare": (
            "compare", path, "--policies", "jsq,round-robin", *CLUSTER, "--seeds", 2, "--jobs", 1,
            "--out", out,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("command", ["simulate", "explain", "compare"])
def test_requests_that_no_worker_could_hold(large: Path, tmp_path: Path, command: str) -> None:
    arguments = commands(large, tmp_path / "out")[command]
    for capacity in ("400k", "4e5", 400_000):
        refused = call(*arguments, "--capacity", capacity)
        assert refused.exit_code == 2
        assert refused.stderr == (
            "brsolver: error: long.csv: row 3 (line of the file): the request grows to 500,009 KV "
            "tokens (500,000 prompt + 10 output), must be at most 400,000, the largest worker's "
            "capacity; --drop-oversized, or drop_above in load_trace, leaves such requests out\n"
        )
    result = call(*arguments, "--capacity", "100k,400k", "--drop-oversized")
    assert result.exit_code == 0
    assert result.stderr.count(LEFT_OUT) == 1
    if command == "simulate":
        assert json.loads(result.stdout)["finished"] == 2


def test_dropping_needs_a_capacity(large: Path) -> None:
    result = call("simulate", large, "--policy", "jsq", "--drop-oversized")
    assert result.exit_code == 2
    assert result.stderr == (
        "brsolver: error: --drop-oversized is given and capacity is unlimited, must be given with "
        "--capacity\n"
    )


def test_the_capacity_may_stand_in_a_file(large: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("capacity = 400_000\nworkers = 2\n")
    arguments = ("simulate", large, "--policy", "jsq", "--config", config, "--drop-oversized")
    result = call(*arguments, "--json")
    assert result.exit_code == 0
    assert result.stderr == LEFT_OUT


@pytest.fixture
def newest(tmp_path: Path) -> Path:
    path = tmp_path / "newest.csv"
    path.write_text(HEADER + "".join(f"{50 - i},100,{i + 1}\n" for i in range(50)))
    return path


def test_late_rows_are_sorted_in_every_command(newest: Path, tmp_path: Path) -> None:
    small = ("--workers", 2, "--slots", 3)
    every = [
        ("simulate", newest, "--policy", "jsq", *small, "--json"),
        ("explain", newest, "--policy", "jsq", *small, "--json"),
        ("gap", newest, "--policies", "jsq", *small, "--json", "--budget", "1s"),
        ("compare", newest, "--policies", "jsq", *small, "--jobs", 1, "--seeds", 1, "--out",
         tmp_path / "out"),
        ("trace", "info", newest, "--json"),
        ("trace", "convert", newest, tmp_path / "converted.csv"),
        ("trace", "sample", newest, tmp_path / "sample.csv", "--n", 5),
    ]  # fmt: skip
    for arguments in every:
        for more in ((), ("--skip-bad-rows",)):
            refused = call(*arguments, *more)
            assert refused.exit_code == 2
            assert refused.stderr.endswith(
                "row 3 (line of the file): arrival_s is '49', must be no earlier than in the rows "
                "before it; --sort sorts the rows by time\n"
            )
        assert call(*arguments, "--sort").exit_code == 0
    assert load_trace(tmp_path / "converted.csv").output_tokens.tolist() == list(range(50, 0, -1))


def info(*arguments: object) -> dict[str, Any]:
    result = call("trace", "info", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return dict(json.loads(result.stdout))


def test_a_part_by_rows_and_by_time(newest: Path) -> None:
    assert info(newest, "--sort", "--skip", 10)["n"] == 40
    assert info(newest, "--sort", "--from", 10, "--until", 12.5)["n"] == 3
    assert (
        info(newest, "--sort", "--skip", 11, "--from", 10, "--until", 12.5, "--limit", 1)["n"] == 1
    )
    assert info("preset:chat:n=1k", "--limit", "0.5k", "--skip", "1e2")["n"] == 500


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--limit", "1K"), "limit is '1K', must be none or a whole number such as 400000, 400k"),
        (("--skip", "x"), "skip is 'x', must be a whole number"),
        (("--from", "noon"), "from is 'noon', must be seconds since the first request, or a date"),
        (("--columns", "prompt_tokens"), "columns is 'prompt_tokens', must be NAME=VALUE,..."),
        (("--columns", "a=b"), "unknown name in columns 'a'"),
        (("--time-unit", "h"), "time_unit is 'h', must be none or one of 's', 'ms', 'us', 'ns'"),
        (("--result", 2), "newest.csv: holds rows, no results, so --result 2 cannot be"),
    ],
)
def test_bad_options_are_one_line(newest: Path, options: tuple[object, ...], message: str) -> None:
    result = call("trace", "info", newest, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_notes_go_to_standard_error_once(tmp_path: Path) -> None:
    path = tmp_path / "vidur.csv"
    path.write_text("arrived_at;num_prefill_tokens;num_decode_tokens\n0,0;20;25\n0,5;21;2\n")
    note = "vidur.csv: times read with decimal commas: 0,5 is 0.5\n"
    assert call("trace", "info", path, "--json").stderr == note
    arguments = commands(path, tmp_path / "out")["compare"]
    result = call(*arguments)
    assert result.stderr.count(note) == 1
    assert note not in result.stdout
