"""Whatever a file holds: the good rows, or one line that says what is wrong."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.errors import BrsolverError, OutputError, ParameterError, TraceError, UnknownNameError
from brsolver.traces import FORMATS, Trace, load_trace
from brsolver.traces import source as source_module

if TYPE_CHECKING:
    from pathlib import Path

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens"
FIRST = "2023-11-16 18:15:46.6805900,100,20"
WHOLE = "must be a whole number of tokens, at least 1"

BAD_ROWS = {
    "zero": ("2023-11-16 18:15:47,0,20", f"ContextTokens is '0', {WHOLE}"),
    "negative": ("2023-11-16 18:15:47,7,-3", f"GeneratedTokens is '-3', {WHOLE}"),
    "fraction": ("2023-11-16 18:15:47,7,2.5", f"GeneratedTokens is '2.5', {WHOLE}"),
    "text": ("2023-11-16 18:15:47,many,2", f"ContextTokens is 'many', {WHOLE}"),
    "nan": ("2023-11-16 18:15:47,nan,2", f"ContextTokens is 'nan', {WHOLE}"),
    "inf": ("2023-11-16 18:15:47,inf,2", f"ContextTokens is 'inf', {WHOLE}"),
    "huge": (
        "2023-11-16 18:15:47,99999999999999999999,2",
        "ContextTokens is '99999999999999999999'",
    ),
    "empty": ("2023-11-16 18:15:47,,2", f"ContextTokens is missing, {WHOLE}"),
    "no time": (",7,2", "TIMESTAMP is missing, must be a time such as"),
    "bad time": ("yesterday,7,2", "TIMESTAMP is 'yesterday', must be a time such as"),
    "bad month": ("2023-13-16 18:15:47,7,2", "TIMESTAMP is '2023-13-16 18:15:47', must be a time"),
    "early": (
        "2023-11-16 18:15:45,7,2",
        "TIMESTAMP is '2023-11-16 18:15:45', must be no earlier than in the rows before it",
    ),
    "short": ("2023-11-16 18:15:47,7", "record is '2023-11-16 18:15:47,7', must be 3 fields"),
    "long": ("2023-11-16 18:15:47,7,2,1", "must be 3 fields separated by commas"),
    "quoted": ('2023-11-16 18:15:47,7,"2"3', "must be 3 fields separated by commas"),
    "quotes": ('"2023-11-16 18:15:47,7",2', "must be 3 fields separated by commas"),
}


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


def message(path: Path, **options: Any) -> str:
    with pytest.raises(BrsolverError) as caught:
        load_trace(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(("row", "problem"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_strict_names_file_row_column_value(tmp_path: Path, row: str, problem: str) -> None:
    path = write(tmp_path / "a.csv", AZURE, FIRST, "", row, "2023-11-16 18:15:50,7,2")
    text = message(path)
    assert text.startswith(f"{path}: row 4 (line of the file): ")
    assert problem in text


SKIPPED = {name: row for name, (row, _) in BAD_ROWS.items() if name != "early"}


@pytest.mark.parametrize("row", SKIPPED.values(), ids=SKIPPED)
def test_skipping_leaves_out_and_counts(tmp_path: Path, row: str) -> None:
    last = "2023-11-16 18:15:50.6805900,7,2"
    trace = load_trace(write(tmp_path / "a.csv", AZURE, FIRST, row, last), skip_bad_rows=True)
    assert trace.skipped_rows == 1
    assert trace.prompt_tokens.tolist() == [100, 7]
    assert trace.arrival_s is not None
    assert trace.arrival_s.tolist() == [0.0, 4.0]


@pytest.mark.parametrize(("row", "problem"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_rows_are_counted_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str, problem: str
) -> None:
    monkeypatch.setattr(source_module, "_BLOCK_BYTES", 64)
    path = write(tmp_path / "a.csv", "", AZURE, *[FIRST] * 20, row)
    text = message(path)
    assert text.startswith(f"{path}: row 23 (line of the file): ")
    assert problem in text


def test_the_first_bad_row_is_reported(tmp_path: Path) -> None:
    rows = ("5,6", "7,x", "1,2,3", "0,1")
    assert "row 3 " in message(write(tmp_path / "a.csv", "prompt_tokens,output_tokens", *rows))
    rows = ("5,6", "1,2,3", "7,x", "0,1")
    assert "row 3 " in message(write(tmp_path / "b.csv", "prompt_tokens,output_tokens", *rows))


def test_late_rows_are_not_bad(tmp_path: Path) -> None:
    rows = [f"1,{i},{50 - i}" for i in range(1, 51)]
    path = write(tmp_path / "newest.csv", "prompt_tokens,output_tokens,arrival_s", "1,0,9", *rows)
    for options in ({}, {"skip_bad_rows": True}):
        where, problem = ("row 2", "output_tokens is '0'") if not options else ("row 4", "'48'")
        text = message(path, **options)
        assert f"{where} (line of the file): " in text
        assert problem in text
    assert text.endswith(
        "must be no earlier than in the rows before it; --sort sorts the rows by time"
    )
    trace = load_trace(path, sort=True, skip_bad_rows=True)
    assert (len(trace), trace.skipped_rows) == (50, 1)
    assert trace.output_tokens.tolist() == list(range(50, 0, -1))
    assert trace.arrival_s is not None
    assert trace.arrival_s.tolist() == [float(i) for i in range(50)]
    assert [trace.place(i) for i in (0, 49)] == [
        "row 52 (line of the file)", "row 3 (line of the file)",
    ]  # fmt: skip


def test_skipped_rows_behind_the_limit_are_not_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "prompt_tokens,output_tokens", "0,1", "5,6", "7,8", "0,1")
    assert load_trace(path, skip_bad_rows=True, limit=2).skipped_rows == 1
    assert load_trace(path, skip_bad_rows=True).skipped_rows == 2


def test_burstgpt_failures_are_bad_rows(tmp_path: Path) -> None:
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    path = write(tmp_path / "b.csv", header, "1,GPT-4,5,0,5,API log", "2,GPT-4,5,6,11,API log")
    assert "row 2 (line of the file): Response tokens is '0'" in message(path)
    trace = load_trace(path, skip_bad_rows=True)
    assert (trace.skipped_rows, trace.output_tokens.tolist()) == (1, [6])


JSON_ROWS = {
    "missing": ({"timestamp": 1, "input_length": 5}, "output_length is missing"),
    "null": ({"timestamp": 1, "input_length": None, "output_length": 5}, "input_length is missing"),
    "true": ({"timestamp": 1, "input_length": True, "output_length": 5}, "input_length is 'true'"),
    "list": ({"timestamp": 1, "input_length": [3], "output_length": 5}, "input_length is '[3]'"),
    "fraction": (
        {"timestamp": 1, "input_length": 3.5, "output_length": 5},
        "input_length is '3.5'",
    ),
    "nan": (
        {"timestamp": float("nan"), "input_length": 3, "output_length": 5},
        "timestamp is 'NaN'",
    ),
    "early": (
        {"timestamp": -1, "input_length": 3, "output_length": 5, "hash_ids": []},
        "timestamp is '-1.0', must be no earlier",
    ),
    "array": ([1, 2], "record is '[1, 2]', must be a JSON object"),
    "hashes": (
        {"timestamp": 1, "input_length": 3, "output_length": 5, "hash_ids": [1, "a"]},
        "hash_ids is '[1, \"a\"]', must be a list of whole numbers",
    ),
    "hash null": (
        {"timestamp": 1, "input_length": 3, "output_length": 5, "hash_ids": [1, None]},
        "hash_ids is '[1, null]'",
    ),
    "no hashes": ({"timestamp": 1, "input_length": 3, "output_length": 5}, "hash_ids is missing"),
}


@pytest.mark.parametrize(("record", "problem"), JSON_ROWS.values(), ids=JSON_ROWS)
def test_json_lines(tmp_path: Path, record: Any, problem: str) -> None:
    good = {"timestamp": 0, "input_length": 1, "output_length": 2, "hash_ids": [1]}
    path = write(tmp_path / "m", *(json.dumps(r) for r in (good, record, {**good, "timestamp": 9})))
    assert f"{path}: row 2 (line of the file): {problem}" in message(path)
    late = problem.startswith("timestamp is '-1.0'")
    trace = load_trace(path, skip_bad_rows=True, sort=late)
    assert (len(trace), trace.skipped_rows) == ((3, 0) if late else (2, 1))
    assert trace.columns["hash_values"].tolist() == [1, 1]


def test_truncated_json_lines(tmp_path: Path) -> None:
    good = json.dumps({"timestamp": 0, "input_length": 1, "output_length": 2})
    path = tmp_path / "m"
    path.write_text(good + "\n" + good[:30])
    assert 'row 2 (line of the file): record is \'{"timestamp": 0,' in message(path)
    assert load_trace(path, skip_bad_rows=True).skipped_rows == 1


def test_json_arrays_count_by_index(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    data = [{"input_length": 1, "output_length": 2}, {"input_length": 0, "output_length": 2}]
    path.write_text(json.dumps({"data": data}))
    assert f"{path}: row 1 (index from 0): input_length is '0', {WHOLE}" in message(path)


def test_parquet_rows_count_by_index(tmp_path: Path) -> None:
    path = tmp_path / "p"
    pq.write_table(pa.table({"prompt_tokens": [1.0, 2.5], "output_tokens": [3, None]}), path)
    assert f"{path}: row 1 (index from 0): prompt_tokens is '2.5', {WHOLE}" in message(path)
    assert load_trace(path, skip_bad_rows=True).prompt_tokens.tolist() == [1]


def test_vllm_lists(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"input_lens": [1, 2], "output_lens": [1]}))
    assert "lists differ in length: 2 input_lens, 1 output_lens" in message(path)
    path.write_text(json.dumps({"input_lens": [1, 2], "output_lens": 3}))
    assert "needs a list under 'output_lens'" in message(path)
    path.write_text(
        json.dumps({"input_lens": [1, 2], "output_lens": [3, 0], "start_times": [5.0, 0.0]})
    )
    assert load_trace(path, skip_bad_rows=True).skipped_rows == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        (AZURE.encode(), "holds no requests, only a header"),
        (AZURE.encode() + b"\n", "holds no requests, only a header"),
        (b"a,b,c\n1,2,3\n", "no known trace format has these columns: a, b, c; none is the len"),
        (b"{}\n", "no known trace format has these columns: none"),
        (b"[]", "no known trace format has these columns: none"),
        (b"\x00\x01\x02\xff", "binary data, must be a text trace or a Parquet file"),
        (b"\xff\xfe\xfa" * 50_000, "binary data"),
        (AZURE.encode("utf-16"), "is UTF-16 text, must be UTF-8; iconv -f UTF-16 -t UTF-8 x >"),
        (b"PAR1" + b"\x00" * 100, "damaged Parquet file"),
        (b"\x1f\x8b\x08\x00junk", "cannot be read"),
        (gzip.compress(FIRST.encode() * 999)[:-30], "cannot be read"),
        (b'{"data": [{"input_length": 5, "outp', "not valid JSON at line 1 column"),
        (b'{\n "data": [\n', "not valid JSON at line 3 column 1"),
        (b'{"data": 5}', "format bfio needs a list under 'data'"),
        (b'{"data": [', "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"prompt_tokens,output_tokens,prompt_tokens\n1,2,3\n", "appears more than once"),
    ],
)
def test_files_that_are_no_trace(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    text = message(path)
    assert text.startswith(f"{path}: ")
    assert problem in text


def test_all_rows_bad(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "prompt_tokens,output_tokens", "0,1", "x,1")
    assert "no good rows: all 2 rows are bad" in message(path, skip_bad_rows=True)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    body = b"prompt_tokens,output_tokens,model\n" + b"5,6,m\n" * 20_000 + b"7,8,\xff\n"
    path.write_bytes(body)
    assert "row 20002 (line of the file): record is" in message(path)
    assert len(load_trace(path, skip_bad_rows=True)) == 20_000


def test_places_that_are_no_file(tmp_path: Path) -> None:
    assert message(tmp_path / "none.csv") == f"{tmp_path / 'none.csv'}: no such file"
    assert message(tmp_path) == (
        f"{tmp_path}: is a folder without ServeGen client files, must be a trace file"
    )
    assert "is a folder" in message(tmp_path, format="azure")


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.csv", AZURE, FIRST)

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    assert message(path) == f"{path}: cannot be read: Permission denied"


def test_unknown_format_names_suggest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", AZURE, FIRST)
    with pytest.raises(UnknownNameError, match="did you mean 'azure'"):
        load_trace(path, format="azur")


@pytest.mark.parametrize("format_", sorted(FORMATS))
def test_a_format_that_does_not_fit(tmp_path: Path, format_: str) -> None:
    path = write(tmp_path / "a.csv", "colour,shape", "red,round")
    with pytest.raises(TraceError) as caught:
        load_trace(path, format=format_)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_options_out_of_range(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", AZURE, FIRST)
    for options in ({"limit": 0}, {"limit": -5}, {"seed": -1}):
        with pytest.raises(ParameterError, match="must be at least"):
            load_trace(path, **options)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="applies to files only"):
        load_trace("preset:chat", format="azure")


def test_errors_are_one_family() -> None:
    assert issubclass(TraceError, BrsolverError)
    assert issubclass(OutputError, BrsolverError)


@settings(max_examples=200, deadline=None)
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(str.encode),
        st.lists(st.text(alphabet='0123456789,.-"{}[]: \r\n\tneaE', max_size=30), max_size=8).map(
            lambda rows: ("prompt_tokens,output_tokens\n" + "\n".join(rows)).encode()
        ),
    ),
    skip=st.booleans(),
)
def test_no_content_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, skip: bool
) -> None:
    path = tmp_path_factory.mktemp("any") / "x"
    path.write_bytes(content)
    outcome = outcome_of(path, skip=skip)
    if isinstance(outcome, str):
        assert outcome.startswith(f"{path}: ")
        assert "\n" not in outcome
    else:
        assert outcome.prompt_tokens.min() >= 1
        assert outcome.output_tokens.min() >= 1


def outcome_of(path: Path, *, skip: bool) -> Trace | str:
    try:
        return load_trace(path, skip_bad_rows=skip)
    except BrsolverError as error:
        return str(error)


@pytest.mark.parametrize("block", [40, 1 << 20])
def test_times_with_and_without_zone_may_be_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(source_module, "_BLOCK_BYTES", block)
    rows = (
        "2024-05-10 01:00:00,1,1",
        "2024-05-10 02:00:01+01:00,2,2",
        "2024-05-10 01:00:02Z,3,3",
        "2024-05-10 01:00:03.5,4,4",
    )
    arrival = load_trace(write(tmp_path / "a.csv", AZURE, *rows)).arrival_s
    assert arrival is not None
    assert arrival.tolist() == [0.0, 1.0, 2.0, 3.5]


@pytest.mark.parametrize("block", [1, 9, 1 << 20])
def test_times_are_compared_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(source_module, "_BLOCK_BYTES", block)
    rows = ("1,1,5", "1,2,7", "1,3,6", "1,4,7", "1,5,6")
    path = write(tmp_path / "a.csv", "prompt_tokens,output_tokens,arrival_s", *rows)
    assert "row 4 (line of the file): arrival_s is '6'" in message(path)
    assert load_trace(path, sort=True).output_tokens.tolist() == [1, 3, 5, 2, 4]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("a.csv", ("prompt_tokens,output_tokens", "5,6", "7,1000000000000")),
        ("b.csv", ("prompt_tokens,output_tokens", "5,6", "7,1e12")),
        ("c.csv", ("num_prefill_tokens,num_decode_tokens", "5,6", "16777217,1")),
    ],
)
def test_lengths_have_a_limit(tmp_path: Path, name: str, rows: tuple[str, ...]) -> None:
    path = write(tmp_path / name, *rows)
    text = message(path)
    assert "row 3 (line of the file)" in text
    assert "must be at most 16,777,216 tokens" in text
    assert load_trace(path, skip_bad_rows=True).skipped_rows == 1


def test_cached_tokens_cannot_be_negative(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "prompt_tokens,output_tokens,cached_tokens", "5,1,0", "5,1,-1")
    text = message(path)
    assert "row 2 (line of the file)" in text or "row 3 (line of the file)" in text
    assert "must be a whole number of tokens, at least 0" in text


def test_the_longest_length_is_fine(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "prompt_tokens,output_tokens,max_tokens", f"5,{2**24},{2**40}")
    assert load_trace(path).output_tokens.tolist() == [2**24]
    with pytest.raises(TraceError, match="must be at most 16,777,216 tokens"):
        Trace(prompt_tokens=np.array([1]), output_tokens=np.array([2**24 + 1]))
