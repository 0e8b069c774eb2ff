"""What is written is read back exactly, or not written at all."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.errors import OutputError, ParameterError, UnknownNameError
from brsolver.traces import Trace, load_trace, preset_trace, sample_trace, write_trace
from brsolver.traces import export as export_module
from brsolver.traces.trace import MAX_LENGTH

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = (".csv", ".jsonl", ".parquet")

lengths = st.integers(1, MAX_LENGTH)
limits = st.integers(1, 2**40)
gaps = st.floats(0, 1e6, allow_nan=False)
# CSV cannot hold line breaks, and numpy drops NUL at the end of texts.
texts = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\u2028\u2029"),
    max_size=8,
)
numbers = st.integers(-(2**63) + 1, 2**63 - 1)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    n = draw(st.integers(1, 12))

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=n, max_size=n))

    columns: dict[str, Any] = {}
    if draw(st.booleans()):
        columns["max_tokens"] = np.array(column(limits))
    if draw(st.booleans()):
        columns["cached_tokens"] = np.array(column(st.integers(0, 2**24)))
    for name in ("session", "model", "tenant", "prompt_hash"):
        kind = draw(st.sampled_from(["none", "text", "number"]))
        if kind == "number":
            columns[name] = np.array(column(numbers), dtype=np.int64)
        elif kind == "text":
            # The letter keeps CSV from taking a column of digits for numbers.
            columns[name] = np.array(["x" + text for text in column(texts)])
    arrival = None
    if draw(st.booleans()):
        arrival = np.cumsum([0.0, *column(gaps)[1:]])
    return Trace(
        prompt_tokens=np.array(column(lengths)),
        output_tokens=np.array(column(lengths)),
        arrival_s=arrival,
        surrogate=draw(st.booleans()),
        columns=columns,
    )


def with_hashes(trace: Trace, chains: list[list[int]]) -> Trace:
    chains = (chains * len(trace))[: len(trace)]
    offsets = np.cumsum([0, *(len(chain) for chain in chains)])
    values = np.array([value for chain in chains for value in chain], dtype=np.int64)
    return Trace(
        prompt_tokens=trace.prompt_tokens,
        output_tokens=trace.output_tokens,
        arrival_s=trace.arrival_s,
        surrogate=trace.surrogate,
        columns={**trace.columns, "hash_offsets": offsets, "hash_values": values},
    )


def assert_same(left: Trace, right: Trace) -> None:
    assert left.fingerprint() == right.fingerprint()
    assert (left.arrival_s is None) is (right.arrival_s is None)
    assert left.surrogate is right.surrogate
    assert set(left.columns) == set(right.columns)
    for name, values in left.columns.items():
        assert values.dtype.kind == right.columns[name].dtype.kind
        assert values.tolist() == right.columns[name].tolist()


@settings(max_examples=60, deadline=None)
@given(trace=traces(), suffix=st.sampled_from(SUFFIXES))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, trace: Trace, suffix: str) -> None:
    path = tmp_path_factory.mktemp("trip") / f"t{suffix}"
    write_trace(trace, path)
    assert_same(load_trace(path), trace)


@settings(max_examples=30, deadline=None)
@given(
    trace=traces(),
    chains=st.lists(st.lists(numbers, max_size=4), min_size=1, max_size=5),
    suffix=st.sampled_from([".jsonl", ".parquet"]),
)
def test_round_trip_of_hash_chains(
    tmp_path_factory: pytest.TempPathFactory, trace: Trace, chains: list[list[int]], suffix: str
) -> None:
    path = tmp_path_factory.mktemp("trip") / f"t{suffix}"
    hashed = with_hashes(trace, chains)
    write_trace(hashed, path)
    assert_same(load_trace(path), hashed)
    write_trace(hashed, path, drop_hashes=True)
    assert_same(load_trace(path), trace)


@settings(max_examples=30, deadline=None)
@given(trace=traces(), order=st.permutations(SUFFIXES))
def test_converting_from_one_to_the_next_and_back(
    tmp_path_factory: pytest.TempPathFactory, trace: Trace, order: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("trip")
    current = trace
    for suffix in order:
        write_trace(current, folder / f"t{suffix}")
        current = load_trace(folder / f"t{suffix}")
    assert_same(current, trace)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_surrogates_stay_surrogates(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    write_trace(preset_trace("proprietary-like", n=10), path)
    assert load_trace(path).surrogate
    write_trace(preset_trace("chat", n=10), path)
    assert not load_trace(path).surrogate


def test_text_that_looks_like_numbers(tmp_path: Path) -> None:
    trace = Trace(
        prompt_tokens=np.array([1, 2]),
        output_tokens=np.array([3, 4]),
        columns={"session": np.array(["07", "8"]), "tenant": np.array(["7", "8"])},
    )
    write_trace(trace, tmp_path / "t.csv")
    columns = load_trace(tmp_path / "t.csv").columns
    assert columns["session"].tolist() == ["07", "8"]
    assert columns["tenant"].tolist() == [7, 8]
    write_trace(trace, tmp_path / "t.jsonl")
    assert load_trace(tmp_path / "t.jsonl").columns["tenant"].tolist() == ["7", "8"]


def test_mixed_labels_become_text(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = [{"prompt_tokens": 1, "output_tokens": 1, "session": s} for s in (7, "a", None)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert load_trace(path).columns["session"].tolist() == ["7", "a", ""]


def test_csv_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    trace = preset_trace("chat", n=2)
    hashed = with_hashes(trace, [[1]])
    with pytest.raises(OutputError, match="CSV cannot hold prefix hashes"):
        write_trace(hashed, tmp_path / "t.csv")
    broken = Trace(
        prompt_tokens=np.array([1]),
        output_tokens=np.array([1]),
        columns={"model": np.array(["a\nb"])},
    )
    with pytest.raises(OutputError, match="line breaks in column model"):
        write_trace(broken, tmp_path / "t.csv")
    assert list(tmp_path.iterdir()) == []
    write_trace(hashed, tmp_path / "t.csv", drop_hashes=True)
    assert load_trace(tmp_path / "t.csv").fingerprint() == trace.fingerprint()


def test_unknown_extensions_suggest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean '\.parquet'"):
        write_trace(preset_trace("chat", n=2), tmp_path / "t.parqet")
    with pytest.raises(UnknownNameError, match="unknown trace file extension ''"):
        write_trace(preset_trace("chat", n=2), tmp_path / "t")


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    trace = preset_trace("chat", n=2)
    with pytest.raises(OutputError, match="cannot be written: No such file"):
        write_trace(trace, tmp_path / "none" / "t.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        write_trace(trace, tmp_path / "folder.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(OutputError, match="is not a regular file"):
        write_trace(trace, tmp_path / "pipe.csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written: Not a directory"):
        write_trace(trace, tmp_path / "file" / "t.csv")


def test_nothing_partial_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("as it was")

    def full(table: object) -> Any:
        yield "half a line"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "_json_lines", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_trace(preset_trace("chat", n=2), path)
    assert path.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [path]


def test_links_are_followed(tmp_path: Path) -> None:
    target = tmp_path / "real.csv"
    target.write_text("")
    link = tmp_path / "link.csv"
    link.symlink_to(target)
    write_trace(preset_trace("chat", n=2), link)
    assert link.is_symlink()
    assert len(load_trace(target)) == 2


def numbered(n: int) -> Trace:
    return Trace(
        prompt_tokens=np.arange(1, n + 1),
        output_tokens=np.ones(n, dtype=np.int64),
        arrival_s=np.arange(n) * 0.5,
    )


@pytest.mark.parametrize("contiguous", [True, False])
def test_samples_keep_the_order_of_arrival(contiguous: bool) -> None:
    trace = numbered(1000)
    sample = sample_trace(trace, 100, seed=3, contiguous=contiguous)
    assert len(sample) == 100
    steps = np.diff(sample.prompt_tokens)
    assert (steps == 1).all() if contiguous else (steps >= 1).all() and (steps > 1).any()
    assert sample.arrival_s is not None
    np.testing.assert_array_equal(
        sample.arrival_s, (sample.prompt_tokens - sample.prompt_tokens[0]) * 0.5
    )
    again = sample_trace(trace, 100, seed=3, contiguous=contiguous)
    assert again.fingerprint() == sample.fingerprint()
    starts = {
        int(sample_trace(trace, 100, seed=seed, contiguous=contiguous).prompt_tokens[0])
        for seed in range(8)
    }
    assert len(starts) > 1


def test_samples_of_everything_and_too_much() -> None:
    trace = numbered(5)
    assert sample_trace(trace, 5).fingerprint() == trace.fingerprint()
    for n in (0, 6):
        with pytest.raises(ParameterError, match="must be from 1 to the 5 requests"):
            sample_trace(trace, n)
    with pytest.raises(ParameterError, match="seed"):
        sample_trace(trace, 1, seed=-1)
