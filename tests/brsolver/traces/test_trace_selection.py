"""Which requests of a file are taken, and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.errors import BrsolverError, ParameterError
from brsolver.traces import ReadOptions, Trace, load_trace, preset_trace
from brsolver.traces import source as source_module

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HEADER = "arrival_s,prompt_tokens,output_tokens\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
DATES = (
    "2026-01-01 00:00:00.0000000",
    "2026-01-01 00:00:05.6900001",
    "2026-01-01 00:00:05.6900002",
    "2026-01-02 12:00:00.0000000",
)


class Row(NamedTuple):
    """A request of a file; outputs number the rows."""

    time: float
    prompt: int
    output: int


def write(path: Path, rows: Sequence[Row]) -> Path:
    lines = [f"{row.time},{row.prompt},{row.output}\n" for row in rows]
    path.write_text(HEADER + "".join(lines))
    return path


def expected(rows: Sequence[Row], options: ReadOptions) -> list[Row]:
    """Choose as the options say, one plain step after another."""
    ordered = sorted(rows, key=lambda row: row.time)
    first = ordered[0].time
    kept = ordered[options.skip :]
    if options.since is not None:
        kept = [row for row in kept if row.time - first >= float(options.since)]
    if options.until is not None:
        kept = [row for row in kept if row.time - first < float(options.until)]
    if options.drop_above is not None:
        kept = [row for row in kept if row.prompt + row.output - 1 <= options.drop_above]
    return kept[: options.limit]


TIMES = st.integers(0, 12).map(lambda quarter: quarter / 4)


@settings(max_examples=200, deadline=None)
@given(
    times=st.lists(TIMES, min_size=1, max_size=12),
    prompts=st.lists(st.integers(1, 30), min_size=12, max_size=12),
    in_order=st.booleans(),
    limit=st.none() | st.integers(1, 6),
    skip=st.integers(0, 4),
    since=st.none() | TIMES,
    width=st.none() | st.sampled_from([0.25, 1.0, 2.5]),
    drop_above=st.none() | st.integers(1, 40),
    block=st.sampled_from([1, 30, 1 << 20]),
)
def test_the_same_as_step_by_step(
    tmp_path_factory: pytest.TempPathFactory,
    times: list[float],
    prompts: list[int],
    limit: int | None,
    skip: int,
    since: float | None,
    width: float | None,
    drop_above: int | None,
    block: int,
    *,
    in_order: bool,
) -> None:
    ordered = sorted(times) if in_order else times
    rows = [Row(*each) for each in zip(ordered, prompts, range(1, 13), strict=False)]
    path = write(tmp_path_factory.mktemp("rows") / "t.csv", rows)
    until = None if width is None else (since or 0.0) + width
    asked: dict[str, Any] = {
        "limit": limit, "skip": skip, "since": since, "until": until, "drop_above": drop_above,
    }  # fmt: skip
    wanted = expected(rows, ReadOptions(**asked))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_module, "_BLOCK_BYTES", block)
        for sort in (True, False) if in_order else (True,):
            check(path, wanted, asked, sort=sort)


def check(path: Path, wanted: Sequence[Row], asked: dict[str, Any], *, sort: bool) -> None:
    if not wanted:
        with pytest.raises(BrsolverError, match="no request is left"):
            load_trace(path, sort=sort, **asked)
        return
    trace = load_trace(path, sort=sort, **asked)
    assert trace.output_tokens.tolist() == [row.output for row in wanted]
    assert trace.prompt_tokens.tolist() == [row.prompt for row in wanted]
    assert trace.arrival_s is not None
    assert trace.arrival_s.tolist() == [row.time - wanted[0].time for row in wanted]
    assert trace.rows is not None
    assert trace.rows.tolist() == [row.output + 1 for row in wanted]


def test_what_is_too_large_is_counted_where_it_would_have_been_taken(tmp_path: Path) -> None:
    sizes = (100, 500_000, 100, 600_000, 100, 700_000)
    rows = [Row(float(i), size, 10) for i, size in enumerate(sizes)]
    path = write(tmp_path / "long.csv", rows)
    trace = load_trace(path, drop_above=400_000, skip=2, limit=2)
    assert trace.prompt_tokens.tolist() == [100, 100]
    assert trace.notes == (
        "long.csv: 1 of 5 requests left out, which grow beyond 400,000 KV tokens",
    )
    assert load_trace(path, drop_above=10**6).notes == ()
    # The last token that is generated is never held.
    assert len(load_trace(path, drop_above=109)) == 3
    with pytest.raises(BrsolverError, match="no request is left of 6 with --drop-oversized 108"):
        load_trace(path, drop_above=108)


def dated(path: Path) -> Path:
    path.write_text(AZURE + "".join(f"{date},{i + 1},1\n" for i, date in enumerate(DATES)))
    return path


@pytest.mark.parametrize(
    ("options", "requests"),
    [
        ({"since": "2026-01-01T00:00:05.6900001Z"}, [2, 3, 4]),
        ({"since": "2026-01-01 00:00:05.6900002"}, [3, 4]),
        ({"until": "2026-01-01T01:00:05.690000100+01:00"}, [1]),
        ({"until": "2026-01-01T00:00:05,6900002"}, [1, 2]),
        ({"since": "2026-01-02"}, [4]),
        ({"since": 5, "until": "2026-01-02"}, [2, 3]),
        ({"since": "5.69", "until": 5.7}, [2, 3]),
    ],
)
def test_dates(tmp_path: Path, options: dict[str, Any], requests: list[int]) -> None:
    trace = load_trace(dated(tmp_path / "a.csv"), **options)
    assert trace.prompt_tokens.tolist() == requests


def test_a_window_needs_times_of_its_kind(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [Row(0.0, 1, 1)])
    with pytest.raises(BrsolverError, match=r"t\.csv: its times are no dates, must have --from"):
        load_trace(path, since="2026-01-01")
    path.write_text("prompt_tokens,output_tokens\n1,2\n")
    for sort in (False, True):
        with pytest.raises(BrsolverError, match=r"t\.csv: has no arrival times, must have them"):
            load_trace(path, until=5, sort=sort)
    assert len(load_trace(path, sort=True)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"since": "yesterday"},
            "from is 'yesterday', must be seconds since the first request, or",
        ),
        ({"until": "2026-13-01"}, "until is '2026-13-01', must be seconds"),
        ({"since": -1}, "from is -1, must be"),
        ({"until": "inf"}, "until is inf, must be"),
        ({"since": "nan"}, "from is nan, must be"),
        ({"since": 5, "until": 5}, "until is 5, must be later than from, which is 5"),
        ({"since": "2026-01-02", "until": "2026-01-01"}, "until is 2026-01-01, must be later"),
        ({"skip": -1}, "skip is -1, must be at least 0"),
        ({"limit": 0}, "limit is 0, must be at least 1 request"),
        ({"drop_above": 0}, "drop_above is 0, must be at least 1 KV token"),
        ({"result": 0}, "result is 0, must be at least 1"),
        ({"time_unit": "h"}, "time_unit is 'h', must be s, ms, us or ns"),
        ({"columns": {"prompt": "a"}}, "unknown name in columns 'prompt': did you mean 'prompt"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        ReadOptions(**options)
    assert str(caught.value).startswith(message)


def test_nothing_behind_the_window_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "0,1,1\n1,2,2\n5,3,3\nx,y,z\n")
    assert load_trace(path, until=5).prompt_tokens.tolist() == [1, 2]
    with pytest.raises(BrsolverError, match=r"row 5 \(line of the file\): prompt_tokens is 'y'"):
        load_trace(path, until=6)


def test_presets_are_chosen_from_as_files_are() -> None:
    whole = preset_trace("chat", n=100, seed=3)
    part = load_trace("preset:chat:n=100,seed=3", skip=10, since=5, until=20, limit=7)
    assert whole.arrival_s is not None
    after = whole.take((whole.arrival_s >= whole.arrival_s[0] + 5).nonzero()[0])
    assert len(part) == 7
    assert set(part.prompt_tokens) <= set(after.prompt_tokens)
    large = load_trace("preset:chat:n=100,seed=3", drop_above=500)
    assert 0 < len(large) < 100
    assert (large.prompt_tokens + large.output_tokens - 1).max() <= 500
    assert large.notes[0].endswith("requests left out, which grow beyond 500 KV tokens")
    for options in ({"time_unit": "s"}, {"columns": {"arrival": "a"}}, {"result": 1}):
        with pytest.raises(ParameterError, match="applies to files only"):
            load_trace("preset:chat:n=5", **options)  # type: ignore[arg-type] # of mixed kinds


def test_parts_keep_their_places(tmp_path: Path) -> None:
    trace = load_trace(write(tmp_path / "t.csv", [Row(float(i), i + 1, 1) for i in range(5)]))
    assert trace.after(2).head(1).place(0) == "row 4 (line of the file)"
    assert Trace(prompt_tokens=trace.prompt_tokens, output_tokens=trace.output_tokens).place(3) == (
        "request 3"
    )


def test_a_time_before_all_requests_is_what_leaves_none(tmp_path: Path) -> None:
    path = dated(tmp_path / "azure.csv")
    for until in (0, "2020-01-01"):
        with pytest.raises(BrsolverError, match=f"no request is left with --until {until}"):
            load_trace(path, until=until)
