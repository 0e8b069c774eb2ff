"""The trace commands: results on standard output, remarks on standard error."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner, Result

from brsolver.cli._input import DROP_OVERSIZED, input_flags
from brsolver.cli.main import app as main_app
from brsolver.cli.trace import app
from brsolver.errors import BrsolverError
from brsolver.traces import load_trace, preset_trace, sample_trace

if TYPE_CHECKING:
    from pathlib import Path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    rows = "".join(f"{10 + i},{i + 1},{i * 0.5}\n" for i in range(40))
    path.write_text("prompt_tokens,output_tokens,arrival_s\n" + rows)
    return path


def test_info_prints_tables_and_histograms(trace_file: Path) -> None:
    result = call("info", trace_file)
    assert result.exit_code == 0
    assert "in.csv" in result.stdout
    assert "prompt length (tokens)" in result.stdout
    assert "arrivals over time (s)" in result.stdout
    assert "█" in result.stdout
    assert result.stderr == ""


def test_info_says_surrogate() -> None:
    result = call("info", "preset:azure2024-long-like:n=30")
    assert "preset:azure2024-long-like (surrogate)" in result.stdout
    assert json.loads(call("info", "preset:proprietary-like:n=5", "--json").stdout)["surrogate"]


def test_info_json_and_options(trace_file: Path) -> None:
    trace_file.write_text(trace_file.read_text() + "0,1,99\n")
    result = call("info", trace_file, "--json", "--skip-bad-rows", "--format", "brsolver")
    stats = json.loads(result.stdout)
    assert (stats["n"], stats["skipped_rows"], stats["prompt"]["max"]) == (40, 1, 49)
    assert "left out 1 bad rows" in result.stderr
    assert json.loads(call("info", trace_file, "--json", "--limit", 3).stdout)["n"] == 3


def test_info_seed_goes_to_presets() -> None:
    first = call("info", "preset:chat:n=9", "--json", "--seed", 3).stdout
    assert first == call("info", "preset:chat:n=9,seed=3", "--json", "--seed", 4).stdout
    assert first != call("info", "preset:chat:n=9", "--json").stdout


def test_info_draws_a_picture(trace_file: Path, tmp_path: Path) -> None:
    picture = tmp_path / "t.png"
    result = call("info", trace_file, "--png", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) in result.stderr


def test_names_with_brackets_are_not_markup(tmp_path: Path, trace_file: Path) -> None:
    odd = trace_file.rename(tmp_path / "a[red]b.csv")
    assert "a[red]b.csv" in call("info", odd).stdout


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_convert(trace_file: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"out{suffix}"
    result = call("convert", trace_file, target)
    assert result.exit_code == 0
    assert result.stdout == ""
    assert f"wrote 40 requests to {target}" in result.stderr
    assert load_trace(target).fingerprint() == load_trace(trace_file).fingerprint()


def test_convert_can_drop_hashes(tmp_path: Path) -> None:
    source = tmp_path / "m.jsonl"
    row = {"timestamp": 0, "input_length": 5, "output_length": 6, "hash_ids": [1]}
    source.write_text(json.dumps(row))
    refused = call("convert", source, tmp_path / "o.csv")
    assert isinstance(refused.exception, BrsolverError)
    assert call("convert", source, tmp_path / "o.csv", "--drop-hashes").exit_code == 0
    assert load_trace(tmp_path / "o.csv").columns == {}


@pytest.mark.parametrize("flag", ["--contiguous", "--random"])
def test_sample(tmp_path: Path, flag: str) -> None:
    target = tmp_path / "s.parquet"
    spec = "preset:bursty:n=200,seed=1"
    result = call("sample", spec, target, "--n", 20, "--seed", 6, flag)
    assert result.exit_code == 0
    expected = sample_trace(
        preset_trace("bursty", n=200, seed=1), 20, seed=6, contiguous=flag == "--contiguous"
    )
    assert load_trace(target).fingerprint() == expected.fingerprint()


def test_errors_pass_through_as_one_family(trace_file: Path, tmp_path: Path) -> None:
    for arguments in (
        ("info", tmp_path / "none.csv"),
        ("info", "preset:nothing"),
        ("info", trace_file, "--format", "azure"),
        ("convert", trace_file, tmp_path / "out.txt"),
        ("sample", trace_file, tmp_path / "out.csv", "--n", "41"),
    ):
        assert isinstance(call(*arguments).exception, BrsolverError)


def test_importing_the_commands_is_light() -> None:
    code = (
        "import sys, brsolver.cli.trace;"
        "print([m for m in ('numpy', 'pyarrow', 'matplotlib', 'brsolver.traces.load')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "command",
    ["simulate", "compare", "gap", "explain", "trace info", "trace convert", "trace sample"],
)
def test_every_command_reads_traces_with_the_same_options(command: str) -> None:
    options = {flag.option for flag in input_flags()}
    assert options > {"--limit", "--skip", "--from", "--until", "--sort", "--format", "--result"}
    shown = CliRunner().invoke(main_app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    listed = set(re.findall(r"--[a-z-]+", shown.stdout))
    assert options <= listed
    assert (DROP_OVERSIZED.option in listed) == ("--capacity" in listed)
