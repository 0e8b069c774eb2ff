"""Statistics against direct computation, and pictures that are pictures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brsolver.errors import OutputError, UnknownNameError
from brsolver.traces import Trace, preset_trace, trace_stats
from brsolver.traces.plots import plot_trace, text_histogram, trace_figure

if TYPE_CHECKING:
    from pathlib import Path


def trace_of(prompt: list[int], output: list[int], **rest: Any) -> Trace:
    return Trace(prompt_tokens=np.array(prompt), output_tokens=np.array(output), **rest)


def test_lengths_and_arrivals() -> None:
    trace = trace_of([1, 2, 3, 10], [4, 3, 2, 1], arrival_s=np.array([0.0, 1.0, 1.0, 4.0]))
    stats = trace_stats(trace)
    assert stats.n == 4
    assert stats.prompt.mean == 4.0
    assert stats.prompt.std == pytest.approx(12.5**0.5)
    assert (stats.prompt.min, stats.prompt.p50, stats.prompt.max) == (1, 2.5, 10)
    assert stats.prompt.p95 == pytest.approx(8.95)
    assert stats.output.p99 == pytest.approx(3.97)
    assert stats.correlation == pytest.approx(np.corrcoef([1, 2, 3, 10], [4, 3, 2, 1])[0, 1])
    assert stats.duration_s == 4.0
    assert stats.rate == 0.75
    assert stats.burstiness == pytest.approx(np.std([1, 0, 3]) / (4 / 3))
    assert json.loads(json.dumps(stats.to_dict()))["prompt"]["max"] == 10


def test_what_cannot_be_computed_is_none() -> None:
    stats = trace_stats(trace_of([5], [7]))
    assert (stats.correlation, stats.duration_s, stats.rate) == (None, None, None)
    at_once = trace_stats(trace_of([5, 6], [7, 7], arrival_s=np.zeros(2)))
    assert (at_once.duration_s, at_once.rate, at_once.burstiness) == (0.0, None, None)
    assert at_once.correlation is None
    assert at_once.repeated_prefix is None


def naive_share(chains: list[list[int]]) -> float | None:
    seen: set[int] = set()
    repeated = 0
    for chain in chains:
        for block in chain:
            if block not in seen:
                break
            repeated += 1
        seen.update(chain)
    total = sum(map(len, chains))
    return repeated / total if total else None


@given(st.lists(st.lists(st.integers(0, 5), max_size=5, unique=True), min_size=1, max_size=8))
def test_repeated_prefixes(chains: list[list[int]]) -> None:
    columns: dict[str, Any] = {
        "hash_offsets": np.cumsum([0, *map(len, chains)]),
        "hash_values": np.array([b for chain in chains for b in chain], dtype=np.int64),
    }
    ones = [1] * len(chains)
    share = trace_stats(trace_of(ones, ones, columns=columns)).repeated_prefix
    expected = naive_share(chains)
    assert share is None if expected is None else share == pytest.approx(expected)


@pytest.mark.parametrize(("name", "panels"), [("uniform", 2), ("chat", 3)])
def test_figure_counts_every_request(name: str, panels: int) -> None:
    trace = preset_trace(name, n=500)
    figure = trace_figure(trace)
    assert len(figure.axes) == panels
    assert figure.get_suptitle() == trace.name
    for axes in figure.axes:
        assert sum(bar.get_height() for bar in axes.patches) == 500  # type: ignore[attr-defined]


def test_pictures(tmp_path: Path) -> None:
    trace = preset_trace("proprietary-like", n=100)
    plot_trace(trace, tmp_path / "t.png")
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    plot_trace(trace, str(tmp_path / "t.SVG"))
    assert ET.parse(tmp_path / "t.SVG").getroot().tag.endswith("svg")  # noqa: S314
    with pytest.raises(UnknownNameError, match="picture file extension"):
        plot_trace(trace, tmp_path / "t.gif")
    with pytest.raises(OutputError, match="cannot be written"):
        plot_trace(trace, tmp_path / "none" / "t.png")
    assert {path.name for path in tmp_path.iterdir()} == {"t.png", "t.SVG"}


def test_text_histogram() -> None:
    lines = text_histogram(np.array([0, 0, 0, 0, 10]), bins=2, width=8)
    assert lines == [" 0 to 5  ████████ 4", "5 to 10  ██ 1"]
    constant = text_histogram(np.array([7, 7]), bins=3)
    assert [line.rsplit(" ", 1)[1] for line in constant].count("2") == 1
