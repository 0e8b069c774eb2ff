"""What the trace commands say of the columns they take, and how they are told otherwise."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from brsolver.traces import load_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Outcome

LOG = "".join(
    f'{{"ts": "2026-01-01T00:00:0{time}Z", "status": {status}, "usage": {usage}}}\n'
    for time, status, usage in (
        ("0.271", 200, '{"prompt_tokens": 657, "completion_tokens": 86}'),
        ("0.733", 500, "null"),
        ("1.716", 200, '{"prompt_tokens": 167, "completion_tokens": 26}'),
    )
)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_info_reads_a_gateway_log(brsolver: Callable[..., Outcome], tmp_path: Path) -> None:
    result = brsolver("trace", "info", write(tmp_path / "log.jsonl", LOG), "--json")
    stats = json.loads(result.out)
    assert (stats["n"], stats["source_format"], stats["duration_s"]) == (2, "gateway", 1.445)
    assert result.err == (
        "log.jsonl: prompt tokens from usage.prompt_tokens, output tokens from "
        "usage.completion_tokens, times taken as dates from ts\n"
        "log.jsonl: left out 1 rows: 1 failed (status is '500')\n"
    )


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_what_is_converted_is_read_back(
    brsolver: Callable[..., Outcome], tmp_path: Path, suffix: str
) -> None:
    log, target = write(tmp_path / "log.jsonl", LOG), tmp_path / f"out{suffix}"
    assert brsolver("trace", "convert", log, target).code == 0
    again = load_trace(target)
    assert again.source_format == "brsolver"
    assert again.notes == ()
    assert again.fingerprint() == load_trace(log).fingerprint()


def test_columns_and_unit_can_be_given(brsolver: Callable[..., Outcome], tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "at,in,out\n0,5,6\n2500,7,8\n")
    columns = "prompt_tokens=in,output_tokens=out,arrival=at"
    result = brsolver("trace", "info", path, "--json", "--columns", columns, "--time-unit", "ms")
    assert json.loads(result.out)["duration_s"] == 2.5
    assert result.err == (
        "t.csv: prompt tokens from in, output tokens from out, times taken as milliseconds from "
        "at\n"
    )


def test_a_doubtful_unit_is_said(brsolver: Callable[..., Outcome], tmp_path: Path) -> None:
    rows = "".join(
        json.dumps({"timestamp": time, "input_length": 600, "output_length": 50}) + "\n"
        for time in (0.0, 20.2, 60.4)
    )
    path = write(tmp_path / "m.jsonl", rows)
    result = brsolver("trace", "info", path, "--json")
    assert json.loads(result.out)["duration_s"] == pytest.approx(0.0604)
    assert "times taken as milliseconds" in result.err
    assert "if it holds seconds, give --time-unit s" in result.err
    result = brsolver("trace", "info", path, "--json", "--time-unit", "s")
    assert json.loads(result.out)["duration_s"] == pytest.approx(60.4)
    assert result.err == "m.jsonl: times taken as seconds from timestamp\n"


def test_bad_columns_are_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "at,in,out\n0,5,6\n")
    said = refused("trace", "info", path, "--columns", "prompt_tokens=inn,output_tokens=out")
    assert "columns gives 'inn' for prompt_tokens, must be one of: at, in, out" in said
    said = refused("trace", "info", path)
    assert "no known trace format has these columns: at, in, out" in said
