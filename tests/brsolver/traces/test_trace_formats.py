"""Every format is recognised by its content, read on request, and read in pieces."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brsolver.traces import FORMATS, load_trace
from brsolver.traces import source as source_module

if TYPE_CHECKING:
    from pathlib import Path

PROMPTS = [100, 7, 2000]
OUTPUTS = [20, 300, 1]
TIMES = [0.0, 0.5, 2.25]
HASHES = [[1, 2], [1, 2, 3], []]


def lines(*rows: str) -> bytes:
    return ("\n".join(rows) + "\n").encode()


def records(*rows: dict[str, Any]) -> bytes:
    return lines(*(json.dumps(row) for row in rows))


AZURE_2023 = lines(
    "TIMESTAMP,ContextTokens,GeneratedTokens\r",
    "2023-11-16 18:15:46.6805900,100,20\r",
    "2023-11-16 18:15:47.1805900,7,300\r",
    "2023-11-16 18:15:48.9305900,2000,1\r",
)
AZURE_2024 = lines(
    "TIMESTAMP,ContextTokens,GeneratedTokens",
    "2024-05-10 00:00:00.009930+00:00,100,20",
    "2024-05-10 00:00:00.509930+00:00,7,300",
    "2024-05-10 00:00:02.259930+00:00,2000,1",
)
BURSTGPT = lines(
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
    "5,ChatGPT,100,20,120,Conversation log",
    "5.5,GPT-4,7,300,307,API log",
    "7.25,GPT-4,2000,1,2001,API log",
)
BURSTGPT_SESSIONS = lines(
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type",
    "5,a-1,3,ChatGPT,100,20,120,Conversation log",
    "5.5,,1,GPT-4,7,300,307,API log",
    '7.25,"b,2",9,GPT-4,2000,1,2001,API log',
)
MOONCAKE = records(
    {"timestamp": 40, "input_length": 100, "output_length": 20, "hash_ids": [1, 2]},
    {"timestamp": 540, "input_length": 7, "output_length": 300, "hash_ids": [1, 2, 3]},
    {"timestamp": 2290, "input_length": 2000, "output_length": 1, "hash_ids": []},
)


def bailian(chat: int, parent: int, time: float, row: int) -> dict[str, Any]:
    return {
        "chat_id": chat,
        "parent_chat_id": parent,
        "timestamp": time,
        "input_length": PROMPTS[row],
        "output_length": OUTPUTS[row],
        "type": "text",
        "turn": row + 1,
        "hash_ids": HASHES[row],
    }


BAILIAN = records(bailian(9, -1, 1.0, 0), bailian(11, 9, 1.5, 1), bailian(12, 11, 3.25, 2))
VIDUR = lines(
    "arrived_at,num_prefill_tokens,num_decode_tokens", "1.0,100,20", "1.5,7,300", "3.25,2000,1"
)
SPLITWISE = lines(
    "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size",
    "0,2,0,1.0,1,100,20",
    "1,2,0,1.5,1,7,300",
    "2,2,0,3.25,1,2000,1",
)
ETALON = lines(
    "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio",
    "100,20,120,5.0",
    "7,300,307,0.02",
    "2000,1,2001,2000.0",
)
OFFLINE = records(
    *(
        {"request_id": i, "type": "text", "input_length": p, "output_length": o, "duration": 9}
        for i, (p, o) in enumerate(zip(PROMPTS, OUTPUTS, strict=True))
    )
)
BFIO = json.dumps(
    {
        "dataset": "x",
        "data": [
            {"input_length": p, "output_length": o} for p, o in zip(PROMPTS, OUTPUTS, strict=True)
        ],
    },
    indent=2,
).encode()
VLLM: dict[str, Any] = {"duration": 3.0, "input_lens": PROMPTS, "output_lens": OUTPUTS, "itls": []}
VLLM_TIMED = json.dumps({**VLLM, "start_times": [77.25, 77.75, 79.5]}).encode()
NATIVE = lines("output_tokens,prompt_tokens,arrival_s", "20,100,3.0", "300,7,3.5", "1,2000,5.25")
NATIVE_JSON = records(
    *(
        {"prompt_tokens": p, "output_tokens": o, "arrival_s": t, "hash_ids": h}
        for p, o, t, h in zip(PROMPTS, OUTPUTS, TIMES, HASHES, strict=True)
    )
)

GATEWAY = records(
    *(
        {"ts": 1767225600.0 + t, "usage": {"prompt_tokens": p, "completion_tokens": o}}
        for p, o, t in zip(PROMPTS, OUTPUTS, TIMES, strict=True)
    )
)

CASES = {
    "azure-2023": ("azure", AZURE_2023, True),
    "azure-2024": ("azure", AZURE_2024, True),
    "burstgpt": ("burstgpt", BURSTGPT, True),
    "burstgpt-sessions": ("burstgpt", BURSTGPT_SESSIONS, True),
    "mooncake": ("mooncake", MOONCAKE, True),
    "bailian": ("bailian", BAILIAN, True),
    "vidur": ("vidur", VIDUR, True),
    "splitwise": ("splitwise", SPLITWISE, True),
    "etalon": ("sharegpt-lengths", ETALON, False),
    "lengths": (
        "sharegpt-lengths",
        lines("input_len,output_len", "100,20", "7,300", "2000,1"),
        False,
    ),
    "servegen-offline": ("sharegpt-lengths", OFFLINE, False),
    "bfio": ("bfio", BFIO, False),
    "vllm": ("vllm-bench", json.dumps(VLLM, indent=1).encode(), False),
    "vllm-timed": ("vllm-bench", VLLM_TIMED, True),
    "gateway": ("gateway", GATEWAY, True),
    "native-csv": ("brsolver", NATIVE, True),
    "native-jsonl": ("brsolver", NATIVE_JSON, True),
    "native-array": ("brsolver", b"[" + b",\n".join(NATIVE_JSON.splitlines()) + b"]", True),
}
case = pytest.mark.parametrize(("format_", "content", "timed"), CASES.values(), ids=CASES)


def check(trace: Any, format_: str, *, timed: bool) -> None:
    assert trace.source_format == format_
    assert trace.prompt_tokens.tolist() == PROMPTS
    assert trace.output_tokens.tolist() == OUTPUTS
    if timed:
        np.testing.assert_allclose(trace.arrival_s, TIMES, rtol=0, atol=1e-12)
    else:
        assert trace.arrival_s is None


@case
def test_content_decides_whatever_the_name(
    tmp_path: Path, format_: str, content: bytes, timed: bool
) -> None:
    path = tmp_path / "trace.dat"
    path.write_bytes(content)
    trace = load_trace(path)
    check(trace, format_, timed=timed)
    assert trace.name == "trace.dat"
    assert not trace.surrogate


@case
def test_format_can_be_named(tmp_path: Path, format_: str, content: bytes, timed: bool) -> None:
    path = tmp_path / "trace"
    path.write_bytes(content)
    check(load_trace(str(path), format=format_), format_, timed=timed)


@case
def test_compressed_files_and_byte_order_marks(
    tmp_path: Path, format_: str, content: bytes, timed: bool
) -> None:
    path = tmp_path / "trace"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + content))
    check(load_trace(path), format_, timed=timed)


@case
def test_blocks_of_a_few_bytes_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str, content: bytes, timed: bool
) -> None:
    monkeypatch.setattr(source_module, "_BLOCK_BYTES", 16)
    path = tmp_path / "trace"
    path.write_bytes(content.rstrip(b"\n"))
    check(load_trace(path), format_, timed=timed)


@case
def test_limit(tmp_path: Path, format_: str, content: bytes, timed: bool) -> None:
    path = tmp_path / "trace"
    path.write_bytes(content)
    trace = load_trace(path, limit=2)
    assert trace.source_format == format_
    assert trace.prompt_tokens.tolist() == PROMPTS[:2]
    assert (trace.arrival_s is not None) is timed


def test_every_format_has_a_case() -> None:
    assert {name for name, _, _ in CASES.values()} == set(FORMATS) - {"servegen"}


@pytest.mark.parametrize("name", ["mooncake", "bailian", "native-jsonl"])
def test_hash_chains_become_a_ragged_pair(tmp_path: Path, name: str) -> None:
    path = tmp_path / "trace"
    path.write_bytes(CASES[name][1])
    columns = load_trace(path).columns
    assert columns["hash_offsets"].tolist() == [0, 2, 5, 5]
    assert columns["hash_values"].tolist() == [1, 2, 1, 2, 3]


def test_bailian_sessions_are_named_by_their_first_chat(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    rows = [bailian(9, -1, 1.0, 0), bailian(11, 9, 1.5, 1), bailian(12, 11, 3.25, 2)]
    rows += [bailian(20, -1, 4.0, 0), bailian(31, 7, 5.0, 0)]
    path.write_bytes(records(*rows))
    assert load_trace(path).columns["session"].tolist() == [9, 9, 9, 20, 7]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "trace.bin"
    columns: dict[str, Any] = {
        "prompt_tokens": pa.array(PROMPTS, type=pa.int32()),
        "output_tokens": OUTPUTS,
        "arrival_s": [1.0, 1.5, 3.25],
        "model": pa.array(["a", "b", "a"]).dictionary_encode(),
        "hash_ids": HASHES,
    }
    pq.write_table(pa.table(columns), path)
    trace = load_trace(path)
    check(trace, "brsolver", timed=True)
    assert trace.columns["model"].tolist() == ["a", "b", "a"]
    assert trace.columns["hash_offsets"].tolist() == [0, 2, 5, 5]


def test_lengths_do_not_drop_times_of_other_names(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(lines("input_len,output_len,arrival_time", "1,2,3", "1,2,4.5"))
    trace = load_trace(path)
    assert trace.arrival_s is not None
    assert trace.arrival_s.tolist() == [0.0, 1.5]
    path.write_bytes(lines("input_len,output_len,run_time", "1,2,3"))
    trace = load_trace(path)
    assert trace.arrival_s is None
    assert "run_time looks like a time" in trace.notes[-1]
    assert load_trace(path, format="sharegpt-lengths").prompt_tokens.tolist() == [1]


def test_a_long_first_record_is_seen_whole(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"notes": "x" * 200_000, **VLLM}))
    check(load_trace(path), "vllm-bench", timed=False)


def test_whole_numbers_may_be_written_with_a_point(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(lines("prompt_tokens,output_tokens", "100.0,20", " 7 ,3e2", '"2000",1'))
    check(load_trace(path), "brsolver", timed=False)


def test_limit_leaves_the_rest_of_the_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "_BLOCK_BYTES", 1000)
    path = tmp_path / "trace"
    path.write_bytes(lines("prompt_tokens,output_tokens", *["5,6"] * 5000))
    read: list[int] = []
    blocks = source_module.Source.blocks

    def counted(source: source_module.Source) -> Any:
        for item in blocks(source):
            read.append(len(item[1]))
            yield item

    monkeypatch.setattr(source_module.Source, "blocks", counted)
    assert len(load_trace(path, limit=400)) == 400
    assert sum(read) < 3000
    assert len(load_trace(path)) == 5000


def test_bad_rows_behind_the_limit_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(lines("prompt_tokens,output_tokens", "5,6", "7,8", "x,9"))
    assert load_trace(path, limit=2).prompt_tokens.tolist() == [5, 7]
    with pytest.raises(ValueError, match="row 4"):
        load_trace(path, limit=3)
