"""Turns that follow others: files that have them, and what becomes of them when traces are cut."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from brsolver.cli.trace import app
from brsolver.errors import TraceError
from brsolver.simulator import Arrivals, SimulationParams, simulate
from brsolver.traces import load_trace, sample_trace, trace_stats, write_trace
from brsolver.traces.trace import Trace

SESSIONS = [
    {"session_id": "a", "timestamp": 1000, "input_length": 600, "output_length": 50},
    {"session_id": "a", "delay": 500, "input_length": 200, "output_length": 40},
    {"session_id": "b", "timestamp": 2000, "input_length": 600, "output_length": 30},
    {"session_id": "a", "delay": 0, "input_length": 300, "output_length": 20},
    {"timestamp": 3500, "input_length": 100, "output_length": 10},
]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def turns(delays, *, arrivals=None, session=None, **columns) -> Trace:
    size = len(delays)
    labels = np.zeros(size, np.int64) if session is None else np.array(session)
    return Trace(
        prompt_tokens=np.arange(1, size + 1),
        output_tokens=np.arange(1, size + 1),
        arrival_s=None if arrivals is None else np.array(arrivals, np.float64),
        columns={"session": labels, "delay_s": np.array(delays, np.float64), **columns},
    )


def test_mooncake_sessions(tmp_path: Path) -> None:
    trace = load_trace(write(tmp_path / "t", SESSIONS))
    assert trace.source_format == "mooncake"
    assert trace.origin_s == 1.0
    assert trace.arrival_s == pytest.approx([0, np.nan, 1, np.nan, 2.5], nan_ok=True)
    assert trace.delay_s == pytest.approx([np.nan, 0.5, np.nan, 0, np.nan], nan_ok=True)
    assert trace.previous.tolist() == [-1, 0, -1, 1, -1]
    assert trace.columns["session"].tolist() == ["a", "a", "b", "a", ""]


def test_sessions_without_any_times(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "timestamp"} for row in SESSIONS]
    trace = load_trace(write(tmp_path / "t", rows))
    assert trace.source_format == "mooncake"
    assert trace.arrival_s is None
    assert trace.previous.tolist() == [-1, 0, -1, 1, -1]


def test_json_and_csv_too(tmp_path: Path) -> None:
    wanted = load_trace(write(tmp_path / "t", SESSIONS)).fingerprint()
    (tmp_path / "array").write_text(json.dumps(SESSIONS))
    assert load_trace(tmp_path / "array").fingerprint() == wanted
    names = ("session_id", "timestamp", "delay", "input_length", "output_length")
    lines = [names, *([str(row.get(name, "")) for name in names] for row in SESSIONS)]
    (tmp_path / "csv").write_text("".join(",".join(line) + "\n" for line in lines))
    assert load_trace(tmp_path / "csv").fingerprint() == wanted
    columns = {name: [row.get(name) for row in SESSIONS] for name in names}
    pq.write_table(pa.table(columns), tmp_path / "parquet")
    assert load_trace(tmp_path / "parquet").fingerprint() == wanted


def test_sessions_without_delays_come_at_their_times(tmp_path: Path) -> None:
    rows = [
        {"session_id": "a", "timestamp": at, "input_length": 9, "output_length": 9} for at in (0, 7)
    ]
    trace = load_trace(write(tmp_path / "t", rows))
    assert trace.columns["session"].tolist() == ["a", "a"]
    assert not trace.follows.any()
    assert trace.arrival_s.tolist() == [0.0, 0.007]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("timed", [True, False])
def test_round_trip(tmp_path: Path, suffix: str, timed: bool) -> None:
    trace = load_trace(write(tmp_path / "t", SESSIONS))
    if not timed:
        trace = replace(trace, arrival_s=None)
    write_trace(trace, tmp_path / f"own{suffix}")
    again = load_trace(tmp_path / f"own{suffix}")
    assert again.source_format == "brsolver"
    assert again.fingerprint() == trace.fingerprint()
    assert again.columns["session"].tolist() == trace.columns["session"].tolist()
    mode = "timestamps" if timed else "pool"
    params = SimulationParams(workers=2, slots=2, arrivals=Arrivals(mode=mode))
    first, second = (simulate(each, "jsq", params).requests for each in (trace, again))
    assert first.finish_s.tobytes() == second.finish_s.tobytes()


def row(**values) -> dict:
    return {"input_length": 9, "output_length": 9, **values}


FIRST = row(session_id="a", timestamp=0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(delay=5), "delay is 5, must be left out without a session_id"),
        (row(session_id="b", delay=5), "delay is 5, must be left out in the first row of a ses"),
        (row(session_id="a", delay=5, timestamp=3), "delay is 5 and timestamp is 3, must be one"),
        (row(session_id="a", delay=-5), "delay is '-5', must be a finite number of at least 0"),
        (row(session_id="a", delay="x"), "delay is 'x', must be a finite number of at least 0"),
        (row(session_id="a"), "timestamp is missing, must be a finite number, or there must be a"),
    ],
)
def test_bad_rows(tmp_path: Path, bad: dict, message: str) -> None:
    path = write(tmp_path / "t", [FIRST, bad, row(session_id="a", delay=1)])
    with pytest.raises(TraceError, match=message) as error:
        load_trace(path)
    assert "row 2 (line of the file)" in str(error.value)
    assert "\n" not in str(error.value)
    trace = load_trace(path, skip_bad_rows=True)
    assert trace.skipped_rows == 1
    assert trace.previous.tolist() == [-1, 0]


@pytest.mark.parametrize("skip", [False, True])
def test_late_rows_are_not_bad_but_to_be_sorted(tmp_path: Path, skip: bool) -> None:
    late = [row(session_id="b", timestamp=-1, input_length=7), row(session_id="b", delay=5)]
    path = write(tmp_path / "t", [FIRST, row(session_id="a", delay=1, input_length=3), *late])
    with pytest.raises(TraceError, match=r"row 3 .*timestamp is '-1', must be no earlier .*--sort"):
        load_trace(path, skip_bad_rows=skip)
    trace = load_trace(path, skip_bad_rows=skip, sort=True)
    assert trace.columns["session"].tolist() == ["b", "b", "a", "a"]
    assert trace.previous.tolist() == [-1, 0, -1, 2]
    assert trace.rows.tolist() == [3, 4, 1, 2]


def test_a_part_of_turns_is_taken_of_whole_sessions_as_far_as_they_go(tmp_path: Path) -> None:
    rows = [
        FIRST,
        row(session_id="a", delay=1000),
        row(session_id="b", timestamp=5000),
        row(session_id="b", delay=2000),
        row(session_id="a", delay=3000),
    ]
    path = write(tmp_path / "t", rows)
    whole = load_trace(path)
    assert whole.delay_s[whole.follows].tolist() == [1, 2, 3]
    later = load_trace(path, since="4")
    assert later.rows.tolist() == [3, 4, 5]
    assert later.previous.tolist() == [-1, 0, -1]
    assert later.columns["detached"].tolist() == [False, False, True]
    assert load_trace(path, until="4").previous.tolist() == [-1, 0]
    assert load_trace(path, limit=4, skip=1).rows.tolist() == [2, 3, 4, 5]
    assert load_trace(path, skip=2, limit=2).previous.tolist() == [-1, 0]


def test_the_unit_of_the_times_is_that_of_the_delays(tmp_path: Path) -> None:
    rows = [FIRST, row(session_id="a", delay=1), row(session_id="b", timestamp=5)]
    trace = load_trace(write(tmp_path / "t", rows), time_unit="s")
    assert trace.delay_s[1] == 1
    assert trace.arrival_s[2] == 5


def test_bad_rows_without_times(tmp_path: Path) -> None:
    first = row(session_id="a")
    late = write(tmp_path / "late", [first, row(session_id="a", delay=1), row(timestamp=3)])
    with pytest.raises(TraceError, match="timestamp is 3, must be left out: the first row has no"):
        load_trace(late)
    no_delay = write(tmp_path / "no", [first, row(session_id="a", delay=1), first])
    with pytest.raises(TraceError, match="delay is missing, must be at least 0 in a later row of"):
        load_trace(no_delay)


def test_what_follows_a_bad_row_is_bad_too(tmp_path: Path) -> None:
    rows = [row(timestamp=0), row(session_id="a", timestamp="x"), row(session_id="a", delay=5)]
    trace = load_trace(write(tmp_path / "t", rows), skip_bad_rows=True)
    assert len(trace) == 1
    assert trace.skipped_rows == 2


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: turns([1, 1]), "row 0: delay_s is 1, must be left out: the request has no sess"),
        (lambda: turns([np.nan, -1]), "row 1: delay_s is -1, must be at least 0 s and finite"),
        (lambda: turns([np.nan, np.inf]), "row 1: delay_s is inf, must be at least 0 s and fin"),
        (lambda: turns([np.nan, 1], arrivals=[0, 1]), "row 1: delay_s is 1, must be left out: "),
        (lambda: turns([np.nan, 1], session=["", ""]), "row 1: delay_s is 1, must be left out"),
        (lambda: turns([np.nan, np.nan, 1], arrivals=[0, np.nan, np.nan]), "row 1: arrival time"),
        (lambda: turns([np.nan, 1, np.nan], arrivals=[5, np.nan, 4]), "row 2: arrival time 4.0"),
        (lambda: turns([np.nan], prompt=np.zeros(1)).take(np.array([0])), None),
    ],
)
def test_traces_check_their_turns(made, message) -> None:
    if message is None:
        assert made().delay_s is None
        return
    with pytest.raises(TraceError, match=message):
        made()


def test_a_turn_follows_the_last_one_that_is_left() -> None:
    trace = turns([np.nan, 1, 2, 4], arrivals=[3, np.nan, np.nan, np.nan])
    taken = trace.take(np.array([0, 3]))
    assert taken.previous.tolist() == [-1, 0]
    assert taken.delay_s[1] == 4
    assert not taken.columns.get("detached", np.zeros(2)).any()


def test_a_turn_without_any_before_it_comes_when_it_could_have() -> None:
    session = [0, 0, 0, 1, 0, 1]
    delays = [np.nan, 1, 2, np.nan, 4, 1]
    trace = turns(delays, arrivals=[5, np.nan, np.nan, 7, np.nan, np.nan], session=session)
    later = trace.after(1)
    assert later.origin_s == 6.0
    assert later.arrival_s == pytest.approx([0, np.nan, 1, np.nan, np.nan], nan_ok=True)
    assert later.columns["detached"].tolist() == [True, False, False, False, False]
    # By its delays it came at 12, by the rows around it no later than the next first turn.
    late = turns([np.nan, 7, np.nan, 1], arrivals=[5, np.nan, 7, np.nan], session=[0, 0, 1, 1])
    assert late.after(1).arrival_s == pytest.approx([0, 0, np.nan], nan_ok=True)
    assert late.after(1).origin_s == 7.0
    assert trace.head(3).columns.get("detached") is None


@st.composite
def traces(draw):
    size = draw(st.integers(1, 20))
    session = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    numbers = st.sampled_from([None, 0.0, 0.3, 7.0])
    delay = np.array(draw(st.lists(numbers, min_size=size, max_size=size)), np.float64)
    delay[[label not in session[:at] for at, label in enumerate(session)]] = np.nan
    gaps = draw(st.lists(st.sampled_from([0.0, 0.1, 5.0]), min_size=size, max_size=size))
    arrival = np.where(np.isnan(delay), np.cumsum(gaps) - gaps[0], np.nan)
    return turns(delay, arrivals=arrival, session=session)


@settings(max_examples=300, deadline=None)
@given(traces(), st.data())
def test_any_part_of_a_trace_is_a_trace(trace, data) -> None:
    size = len(trace)
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1))))
    part = trace.take(rows)
    assert np.array_equal(np.isnan(part.arrival_s), part.follows)
    detached = part.columns.get("detached", np.zeros(rows.size, np.bool_))
    labels = trace.columns["session"][rows].tolist()
    for at, taken in enumerate(rows.tolist()):
        earlier = labels[at] in labels[:at]
        assert part.follows[at] == (trace.follows[taken] and earlier)
        assert detached[at] == (trace.follows[taken] and not earlier)
        if not trace.follows[taken]:
            given_s = trace.arrival_s[taken] + trace.origin_s
            assert part.arrival_s[at] + part.origin_s == pytest.approx(given_s)
    assert part.take(np.arange(rows.size)).fingerprint() == part.fingerprint()


def test_samples_keep_sessions(tmp_path: Path) -> None:
    trace = load_trace(write(tmp_path / "t", SESSIONS))
    assert sample_trace(trace, 5, seed=1).fingerprint() == trace.fingerprint()
    part = sample_trace(trace, 3, seed=2, contiguous=True)
    assert part.follows.sum() + part.columns.get("detached", np.zeros(1)).sum() >= 1


def test_a_run_says_which_turns_lost_the_one_before() -> None:
    trace = turns([np.nan, 1, np.nan], arrivals=[0, np.nan, 1], session=[0, 0, 1])
    params = SimulationParams(workers=1, slots=1, arrivals=Arrivals(mode="timestamps"))
    notes = " ".join(simulate(trace.after(1), "jsq", params).notes)
    assert "1 turns of trace follow one that is not part of the run" in notes
    pooled = " ".join(simulate(trace, "jsq", SimulationParams(workers=1, slots=1)).notes)
    assert "1 turns of trace come once the one before has ended, without their delays" in pooled


def test_statistics_count_turns_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "t", SESSIONS)
    stats = trace_stats(load_trace(path))
    assert (stats.following, stats.sessions_following, stats.delay_mean_s) == (2, 1, 0.25)
    assert (stats.duration_s, stats.rate) == (2.5, 2 / 2.5)
    shown = CliRunner().invoke(app, ["info", str(path), "--png", str(tmp_path / "t.png")])
    assert shown.exit_code == 0
    assert "turns that follow others" in shown.output
    assert "nan" not in shown.output


@pytest.mark.parametrize("times", [True, False])
def test_turns_stay_turns_where_columns_are_named(tmp_path: Path, times: bool) -> None:
    keys = {"session_id", "delay", "input_length", "output_length", *(["timestamp"] * times)}
    rows = [{k: v for k, v in row.items() if k in keys} for row in SESSIONS]
    path = write(tmp_path / "t.jsonl", rows)
    columns = {"session": "session_id", "prompt_tokens": "output_length"}
    trace = load_trace(path, columns=columns | ({"arrival": "timestamp"} if times else {}))
    plain = load_trace(path)
    assert trace.previous.tolist() == plain.previous.tolist() == [-1, 0, -1, 1, -1]
    np.testing.assert_equal(trace.arrival_s, plain.arrival_s)
    np.testing.assert_equal(trace.delay_s, plain.delay_s)
    assert trace.prompt_tokens.tolist() == trace.output_tokens.tolist()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_one_column_may_be_two_things(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    write_trace(turns([np.nan, 0.5], arrivals=[0, np.nan]), path)
    trace = load_trace(path, columns={"prompt_tokens": "output_tokens", "tenant": "output_tokens"})
    assert trace.prompt_tokens.tolist() == trace.columns["tenant"].tolist() == [1, 2]


def test_turns_say_nothing_of_the_unit_of_times(tmp_path: Path) -> None:
    rows = [row for row in SESSIONS if "session_id" in row]
    trace = load_trace(write(tmp_path / "t.jsonl", [*rows, *[rows[1]] * 5000]))
    assert trace.notes == ("t.jsonl: times taken as milliseconds from timestamp",)
