"""What tells requests apart is kept: conversations, and prefix blocks of any 64-bit hash."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brsolver.errors import BrsolverError
from brsolver.traces import load_trace, write_trace

if TYPE_CHECKING:
    from pathlib import Path

LARGE = 2**63 + 11


def mooncake(**more: Any) -> dict[str, Any]:
    return {"timestamp": 0, "input_length": 5, "output_length": 2, **more}


def records(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_hashes_of_64_bits_without_sign_stay_different(tmp_path: Path) -> None:
    path = records(
        tmp_path / "t", mooncake(hash_ids=[LARGE, 2**64 - 1]), mooncake(hash_ids=[LARGE, 3, -4])
    )
    values = load_trace(path).columns["hash_values"].tolist()
    assert values[0] == values[2]
    assert len(set(values)) == 4
    assert [value % 2**64 for value in values] == [LARGE, 2**64 - 1, LARGE, 3, 2**64 - 4]


@pytest.mark.parametrize("kind", [pa.uint64(), pa.int64(), pa.int32()])
def test_hashes_in_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "t"
    last = LARGE if kind == pa.uint64() else 8
    hashes = pa.array([[1, 2], [], [1, last]], pa.list_(kind))
    columns = {"prompt_tokens": [5, 6, 7], "output_tokens": [1, 2, 3], "hash_ids": hashes}
    pq.write_table(pa.table(columns), path)
    columns = load_trace(path).columns
    assert columns["hash_offsets"].tolist() == [0, 2, 2, 4]
    assert [value % 2**64 for value in columns["hash_values"].tolist()] == [1, 2, 1, last]


@pytest.mark.parametrize("bad", [2**64, -(2**63) - 1, "a", 1.5])
def test_other_hashes_are_bad_rows(tmp_path: Path, bad: object) -> None:
    path = records(tmp_path / "t", mooncake(hash_ids=[1]), mooncake(hash_ids=[bad]))
    with pytest.raises(BrsolverError, match="must be a list of whole numbers of 64 bits"):
        load_trace(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_large_hashes_survive_being_written(tmp_path: Path, suffix: str) -> None:
    trace = load_trace(records(tmp_path / "t", mooncake(hash_ids=[LARGE, 1])))
    write_trace(trace, tmp_path / f"o{suffix}")
    again = load_trace(tmp_path / f"o{suffix}")
    assert again.columns["hash_values"].tolist() == trace.columns["hash_values"].tolist()


def test_a_first_turn_may_have_no_parent(tmp_path: Path) -> None:
    turn = {"timestamp": 1, "input_length": 5, "output_length": 2}
    rows = [
        {"chat_id": 1, "parent_chat_id": None, **turn},
        {"chat_id": 2, "parent_chat_id": 1, **turn},
        {"chat_id": 3, "parent_chat_id": -1, **turn},
    ]
    trace = load_trace(records(tmp_path / "t", *rows))
    assert trace.source_format == "bailian"
    assert trace.columns["session"].tolist() == [1, 1, 3]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p")
    assert load_trace(tmp_path / "p").columns["session"].tolist() == [1, 1, 3]


def test_sessions_of_mooncake(tmp_path: Path) -> None:
    rows = [mooncake(session_id=name, hash_ids=[1]) for name in ("a", "b", "a")]
    trace = load_trace(records(tmp_path / "t", *rows))
    assert trace.source_format == "mooncake"
    assert trace.columns["session"].tolist() == ["a", "b", "a"]


def test_sessions_of_burstgpt(tmp_path: Path) -> None:
    header = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens"
    path = tmp_path / "t"
    path.write_text(f"{header}\n5,7,3,GPT-4,100,20,120\n6,9,3,GPT-4,100,20,120\n7,7,1,x,1,2,3\n")
    trace = load_trace(path)
    assert trace.source_format == "burstgpt"
    assert trace.columns["session"].tolist() == [7, 9, 7]
