"""Arrival times under any usual name, in any usual unit; and columns that the user names."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brsolver.compare import TraceSource
from brsolver.errors import BrsolverError, ParameterError
from brsolver.traces import Trace, load_trace
from brsolver.traces.read_options import ReadOptions
from brsolver.traces.vocabulary import ARRIVAL_NAMES, LENGTH_PAIRS, SESSION_NAMES, UNIT_ENDINGS

START = 1767225600
"""2026-01-01T00:00:00Z in seconds since 1970."""
NAMES = [
    *("timestamp", "ts", "created", "created_at", "start_time", "startTime", "arrived_at"),
    *("arrival_time", "arrival", "request_time", "started_at", "@timestamp", "time", "Timestamp"),
]


def csv(path: Path, header: str, *rows: object) -> Path:
    path.write_text("\n".join([header, *map(str, rows)]) + "\n")
    return path


def own(path: Path, name: str, *times: object) -> Path:
    """Write a file with our own names for lengths."""
    return csv(path, f"{name},prompt_tokens,output_tokens", *(f"{time},100,20" for time in times))


def arrivals(trace: Trace) -> list[float]:
    assert trace.arrival_s is not None
    return trace.arrival_s.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_names(tmp_path: Path, name: str) -> None:
    trace = load_trace(own(tmp_path / "t", name, 0, 5, 12))
    assert trace.source_format == "brsolver"
    assert arrivals(trace) == [0.0, 5.0, 12.0]
    assert trace.notes == (f"t: times taken as seconds from {name}",)


@pytest.mark.parametrize(
    ("ending", "ticks", "words"),
    [
        ("_s", 1, "seconds"),
        ("_seconds", 1, "seconds"),
        ("_ms", 10**3, "milliseconds"),
        ("_millis", 10**3, "milliseconds"),
        ("Us", 10**6, "microseconds"),
        ("_ns", 10**9, "nanoseconds"),
        ("_unix_nano", 10**9, "nanoseconds"),
    ],
)
@pytest.mark.parametrize("name", ["arrival", "timestamp", "created_at", "start_time"])
@pytest.mark.parametrize("origin", [0, START])
def test_units_in_names(
    tmp_path: Path, name: str, ending: str, ticks: int, words: str, origin: int
) -> None:
    times = ((origin + t) * ticks for t in (0, 5, 12))
    trace = load_trace(own(tmp_path / "t", name + ending, *times))
    assert arrivals(trace) == [0.0, 5.0, 12.0]
    assert trace.origin_s == origin
    since = " since 1970" if origin else ""
    said = (f"t: times taken as {words}{since} from {name}{ending}",)
    assert trace.notes == (() if name + ending == "arrival_s" else said)


@pytest.mark.parametrize(
    ("unit", "ticks"),
    [("seconds", 1), ("milliseconds", 10**3), ("microseconds", 10**6), ("nanoseconds", 10**9)],
)
def test_units_of_times_since_1970_are_told_by_size(tmp_path: Path, unit: str, ticks: int) -> None:
    trace = load_trace(own(tmp_path / "t", "ts", *((START + t) * ticks for t in (0, 5, 12))))
    assert arrivals(trace) == [0.0, 5.0, 12.0]
    assert trace.notes == (f"t: times taken as {unit} since 1970 from ts",)


def test_nanoseconds_since_1970_lose_nothing(tmp_path: Path) -> None:
    start = START * 10**9 + 1
    path = tmp_path / "t"
    for content in (
        "ts,prompt_tokens,output_tokens\n" + f"{start},1,1\n{start + 3},1,1\n",
        "".join(
            json.dumps({"ts": start + t, "prompt_tokens": 1, "output_tokens": 1}) + "\n"
            for t in (0, 3)
        ),
    ):
        path.write_text(content)
        assert arrivals(load_trace(path)) == [0.0, 3e-9]


@pytest.mark.parametrize(
    "dates",
    [
        ("2026-01-01T00:00:00.271Z", "2026-01-01T00:00:00.733Z"),
        ("2026-01-01 00:00:00.271", "2026-01-01 00:00:00.733"),
        ("2026-01-01T00:00:00.271+00:00", "2026-01-01T00:00:00.733+00:00"),
        ("2026-01-01T02:00:00.271+02:00", "2026-01-01T00:00:00.733Z"),
        ("2026-01-01 00:00:00.271+00", "2026-01-01 00:00:00.733+00"),
        ("2026-01-01 00:00:00.271 UTC", "2026-01-01 00:00:00.733 UTC"),
        ("2026/01/01 00:00:00.271", "2026/01/01 00:00:00.733"),
    ],
)
@pytest.mark.parametrize("name", ["arrival_s", "ts"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_dates(tmp_path: Path, dates: tuple[str, str], name: str, kind: str) -> None:
    path = tmp_path / "t"
    rows = [{name: date, "prompt_tokens": 1, "output_tokens": 2} for date in dates]
    if kind == "csv":
        own(path, name, *dates)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    trace = load_trace(path)
    assert arrivals(trace) == [0.0, 0.462]
    assert trace.origin_s == pytest.approx(START + 0.271, abs=1e-6)
    assert trace.notes == (f"t: times taken as dates from {name}",)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_typed_times_of_parquet(tmp_path: Path, unit: str, zone: str | None) -> None:
    moments = [datetime(2026, 1, 1, 0, 0, s, tzinfo=UTC if zone else None) for s in (0, 5, 12)]
    stamps = pa.array(moments, pa.timestamp(unit, zone))
    lengths = pa.array([1, 2, 3])
    columns = {"arrival_s": stamps, "prompt_tokens": lengths, "output_tokens": lengths}
    pq.write_table(pa.table(columns), tmp_path / "p")
    trace = load_trace(tmp_path / "p")
    assert arrivals(trace) == [0.0, 5.0, 12.0]
    assert trace.notes == ("p: times taken as dates from arrival_s",)


@pytest.mark.parametrize(
    ("unit", "last"), [("s", 12.0), ("ms", 12e-3), ("us", 12e-6), ("ns", 12e-9)]
)
@pytest.mark.parametrize("name", ["arrival_s", "arrival_ms", "ts"])
def test_a_unit_that_is_asked_for(tmp_path: Path, unit: Any, last: float, name: str) -> None:
    trace = load_trace(own(tmp_path / "t", name, 0, 5, 12), time_unit=unit)
    assert arrivals(trace)[-1] == pytest.approx(last, rel=1e-12)


def test_dates_have_no_unit(tmp_path: Path) -> None:
    path = own(tmp_path / "t", "ts", "2026-01-01T00:00:00Z")
    with pytest.raises(BrsolverError, match="t: time_unit is ms, must be left out: ts holds dates"):
        load_trace(path, time_unit="ms")


def mooncake(path: Path, *times: float) -> Path:
    rows = ({"timestamp": t, "input_length": 5, "output_length": 2, "hash_ids": [0]} for t in times)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_mooncake_in_milliseconds_is_said(tmp_path: Path) -> None:
    trace = load_trace(mooncake(tmp_path / "m", 0, 3000, 6000))
    assert arrivals(trace) == [0.0, 3.0, 6.0]
    assert trace.notes == ("m: times taken as milliseconds from timestamp",)


@pytest.mark.parametrize(
    ("times", "doubt"),
    [
        ((0.0, 20.2, 60.4), "timestamp has fractions of milliseconds"),
        ((0, 1, 2, 4), "timestamp in milliseconds means 750 requests per second"),
        ((5, 5, 5), "timestamp in milliseconds means inf requests per second"),
    ],
)
def test_mooncake_in_seconds_is_doubted(
    tmp_path: Path, times: tuple[float, ...], doubt: str
) -> None:
    path = mooncake(tmp_path / "m", *times)
    assert load_trace(path).notes[1] == (
        f"m: warning: {doubt}; if it holds seconds, give --time-unit s"
    )
    trace = load_trace(path, time_unit="s")
    assert arrivals(trace) == [t - times[0] for t in times]
    assert not any("warning" in note for note in trace.notes)


def test_too_large_a_unit_is_doubted(tmp_path: Path) -> None:
    path = own(tmp_path / "t", "arrival_s", START * 1000, START * 1000 + 7)
    assert load_trace(path).notes == (
        "t: warning: arrival_s in seconds is later than the year 5000; --time-unit ms is likely "
        "meant",
    )
    assert arrivals(load_trace(path, time_unit="ms")) == [0.0, 0.007]


def test_azure_columns_with_numbers(tmp_path: Path) -> None:
    header = "TIMESTAMP,ContextTokens,GeneratedTokens"
    trace = load_trace(csv(tmp_path / "t", header, "0.5,1,2", "2.5,3,4"))
    assert (trace.source_format, arrivals(trace)) == ("azure", [0.0, 2.0])
    assert trace.notes == ("t: times taken as seconds from TIMESTAMP",)


def test_dates_where_a_format_has_seconds(tmp_path: Path) -> None:
    header = "arrived_at,num_prefill_tokens,num_decode_tokens"
    rows = ("2026-01-01T00:00:00Z,1,2", "2026-01-01T00:00:01.5Z,3,4")
    trace = load_trace(csv(tmp_path / "t", header, *rows))
    assert (trace.source_format, arrivals(trace)) == ("vidur", [0.0, 1.5])


def test_the_best_name_is_taken_and_the_rest_told(tmp_path: Path) -> None:
    header = "created,start_time,prompt_tokens,completion_tokens,latency_ms,end_time"
    trace = load_trace(csv(tmp_path / "t", header, "7,1,5,6,900,8", "9,4,5,6,900,9"))
    assert arrivals(trace) == [0.0, 3.0]
    assert trace.notes[0].endswith("from start_time, not used: created, end_time")


def test_a_time_like_column_that_is_not_used_is_a_warning(tmp_path: Path) -> None:
    path = own(tmp_path / "t", "when", "2026-01-01T00:00:00Z", "2026-01-01T00:00:02Z")
    trace = load_trace(path)
    assert trace.arrival_s is None
    assert trace.notes == (
        "t: warning: read without arrival times; when looks like a time: --columns arrival=when "
        "takes it",
    )
    assert arrivals(load_trace(path, columns={"arrival": "when"})) == [0.0, 2.0]


@pytest.mark.parametrize("name", ["response_time_ms", "queue_time", "candidates", "latency"])
def test_lasting_is_no_time(tmp_path: Path, name: str) -> None:
    trace = load_trace(own(tmp_path / "t", name, 800, 700, 900))
    assert trace.arrival_s is None
    assert trace.notes == ()


COLUMNS = {"prompt_tokens": "a", "output_tokens": "b.c", "arrival": "t", "session": "who"}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_columns_that_the_user_names(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    rows = [{"a": 5 + i, "b": {"c": 7}, "t": 1 + 2 * i, "who": "u", "ts": 0} for i in range(3)]
    if kind == "csv":
        csv(path, "a,b.c,t,who,ts", *(f"{r['a']},7,{r['t']},u,0" for r in rows))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    trace = load_trace(path, columns=COLUMNS, time_unit="ms")
    assert trace.prompt_tokens.tolist() == [5, 6, 7]
    assert trace.output_tokens.tolist() == [7, 7, 7]
    assert arrivals(trace) == pytest.approx([0.0, 0.002, 0.004])
    assert trace.columns["session"].tolist() == ["u", "u", "u"]
    assert trace.notes[0] == (
        "x: prompt tokens from a, output tokens from b.c, times taken as milliseconds from t"
        ", not used: ts"
    )


def test_columns_are_heeded_for_every_seed(tmp_path: Path) -> None:
    path = csv(tmp_path / "t", "at,in,out", "0,5,6", "4,7,8")
    columns = {"prompt_tokens": "in", "output_tokens": "out", "arrival": "at"}
    source = TraceSource(source=str(path), options=ReadOptions(columns=columns))
    assert [arrivals(trace) for trace in source.load_all([1, 2]).values()] == [[0.0, 4.0]] * 2


def test_columns_of_a_format_that_is_named(tmp_path: Path) -> None:
    path = csv(tmp_path / "t", "at,num_prefill_tokens,num_decode_tokens", "1,5,6", "3,7,8")
    trace = load_trace(path, format="vidur", columns={"arrival": "at"})
    assert (trace.source_format, arrivals(trace)) == ("vidur", [0.0, 2.0])


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    path = own(tmp_path / "t", "ts", 1)
    has = "must be one of: ts, prompt_tokens, output_tokens"
    for format_ in (None, "brsolver"):
        with pytest.raises(BrsolverError, match=f"t: columns gives 'x' for arrival, {has}"):
            load_trace(path, format=format_, columns={"arrival": "x"})


def test_columns_and_units_where_there_are_none(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text(json.dumps({"data": [{"input_length": 1, "output_length": 2}]}))
    with pytest.raises(
        ParameterError, match="time_unit is given, must be left out for format bfio"
    ):
        load_trace(path, time_unit="ms")
    with pytest.raises(ParameterError, match="columns is given, must be left out for format bfio"):
        load_trace(path, format="bfio", columns={"arrival": "x"})


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (
            "arrived_at,num_prefill_tokens,outputs",
            "arrived_at, num_prefill_tokens, outputs; nearest is vidur, which lacks "
            "num_decode_tokens and has arrived_at, num_prefill_tokens; --columns",
        ),
        (
            "timestamp,input_length,answer",
            "nearest is mooncake, which lacks output_length and has timestamp, input_length;",
        ),
        (
            "prompt_tokens,ts",
            "nearest is brsolver, which lacks output_tokens and has prompt_tokens",
        ),
        ("tokens_in,x", "nearest is gateway, which lacks tokens_out and has tokens_in; --columns"),
        ("colour,shape", "colour, shape; none is the length of a prompt or an output; --columns"),
    ],
)
def test_an_unrecognised_file_is_told_what_is_nearest(
    tmp_path: Path, header: str, said: str
) -> None:
    path = csv(tmp_path / "t", header, ",".join("1" for _ in header.split(",")))
    with pytest.raises(BrsolverError) as caught:
        load_trace(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: no known trace format has these columns: ")
    assert said in text
    assert "prompt_tokens=NAME,output_tokens=NAME,arrival=NAME" in text
    assert "\n" not in text


def test_the_documentation_has_every_name() -> None:
    text = (Path(__file__).parents[3] / "docs" / "traces.md").read_text()
    pairs = [name for pair in LENGTH_PAIRS for name in pair]
    for name in (*ARRIVAL_NAMES, *pairs, *SESSION_NAMES):
        assert f"`{name}`" in text
    for ending, unit in UNIT_ENDINGS.items():
        assert unit is None or f"`_{ending}`" in text
