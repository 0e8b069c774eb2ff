"""Requests drawn from ServeGen's client files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from brsolver.errors import BrsolverError
from brsolver.traces import load_trace

if TYPE_CHECKING:
    from pathlib import Path


def write_client(folder: Path, number: int, rate: float, prompt: str, pattern: str) -> Path:
    windows = [
        "0,0,0,,0,0",
        f"600,{rate},1.1,{pattern},0.5,0.1",
        f"1200,{2 * rate},1.1,{pattern},0.5,0.1",
        "1800,0,0,,0,0",
    ]
    path = folder / f"chunk-{number}-trace.csv"
    path.write_text("\n".join(windows) + "\n")
    data = {
        "0": {"input_tokens": prompt, "output_tokens": "{5: 0.25, 6: 0.75, 0: 0.5}"},
        "1200": {"input_tokens": "{77: 1.0}", "output_tokens": "{8: 1}", "ratio": "{0.5: 1.0}"},
        "1800": {"input_tokens": "{}", "output_tokens": "{}"},
    }
    (folder / f"chunk-{number}-dataset.json").write_text(json.dumps(data))
    return path


@pytest.mark.parametrize("pattern", ["Gamma", "Weibull", "Exponential"])
@pytest.mark.parametrize("suffix", ["trace.csv", "dataset.json"])
def test_one_client(tmp_path: Path, pattern: str, suffix: str) -> None:
    write_client(tmp_path, 3, 2.0, "{10: 0.5, 20: 0.5}", pattern)
    trace = load_trace(tmp_path / f"chunk-3-{suffix}", seed=1)
    assert trace.source_format == "servegen"
    assert len(trace) == 1200 + 2400
    assert trace.arrival_s is not None
    assert trace.arrival_s[0] == 0
    assert 1190 < trace.arrival_s[-1] <= 1200
    assert set(trace.prompt_tokens[:1200].tolist()) == {10, 20}
    assert set(trace.prompt_tokens[1200:].tolist()) == {77}
    assert set(trace.output_tokens[1200:].tolist()) == {8}
    assert set(trace.columns["tenant"].tolist()) == {3}
    share = np.mean(trace.output_tokens[:1200] == 6)
    assert 0.7 < share < 0.8


def write_windows(folder: Path, number: int, *windows: str) -> Path:
    """Write a client whose requests are all of 100 and 50 tokens."""
    path = folder / f"chunk-{number}-trace.csv"
    path.write_text("\n".join(windows) + "\n")
    data = {"0": {"input_tokens": "{100: 1.0}", "output_tokens": "{50: 1.0}"}}
    (folder / f"chunk-{number}-dataset.json").write_text(json.dumps(data))
    return path


def times(source: Path, **options: int) -> np.ndarray:
    trace = load_trace(source, **options)
    assert trace.arrival_s is not None
    return trace.arrival_s + trace.origin_s


def idle(*starts: int) -> list[str]:
    return [f"{start},0,0,,0,0" for start in starts]


def test_a_window_ends_where_an_idle_one_begins(tmp_path: Path) -> None:
    busy = ["0,1.0,1.0,Exponential,1.0,1.0", "2400,1.0,1.0,Exponential,1.0,1.0"]
    path = write_windows(tmp_path, 7, busy[0], *idle(600, 1200, 1800), busy[1])
    arrival = times(path)
    assert arrival.size == 1200
    assert np.histogram(arrival, [0, 600, 2400, 3000])[0].tolist() == [600, 0, 600]


def test_a_line_that_is_left_out_still_ends_the_window_before_it(tmp_path: Path) -> None:
    bad = "600,1.0,1.0,Pareto,1.0,1.0"
    path = write_windows(tmp_path, 7, "0,1.0,1.0,Exponential,1.0,1.0", bad, *idle(1200))
    trace = load_trace(path, skip_bad_rows=True)
    assert len(trace) == 600


def test_the_last_window_is_as_long_as_the_one_before(tmp_path: Path) -> None:
    rates = "Exponential,1.0,1.0"
    path = write_windows(tmp_path, 7, f"0,1.0,1.0,{rates}", f"60,2.0,1.0,{rates}")
    assert np.histogram(times(path), [0, 60, 120, 3000])[0].tolist() == [60, 120, 0]


def test_clients_with_windows_of_their_own_keep_their_rates(tmp_path: Path) -> None:
    rates = "Exponential,1.0,1.0"
    write_windows(tmp_path, 1, f"0,2.0,1.0,{rates}", f"600,4.0,1.0,{rates}", *idle(1200))
    write_windows(tmp_path, 2, f"300,1.0,1.0,{rates}", *idle(400))
    trace = load_trace(tmp_path, seed=3)
    assert np.count_nonzero(trace.columns["tenant"] == 1) == 3600
    assert np.count_nonzero(trace.columns["tenant"] == 2) == 100
    assert np.histogram(times(tmp_path, seed=3), [0, 300, 400, 600, 1200])[0].tolist() == [
        600,
        300,
        400,
        2400,
    ]
    assert load_trace(tmp_path, seed=3, limit=700).fingerprint() == trace.head(700).fingerprint()


def test_gaps_have_the_shape(tmp_path: Path) -> None:
    write_client(tmp_path, 1, 20.0, "{10: 1}", "Weibull")
    arrival = load_trace(tmp_path / "chunk-1-trace.csv").arrival_s
    assert arrival is not None
    gaps = np.diff(arrival[:12_000])
    # A Weibull distribution of shape 0.5 has a coefficient of variation of sqrt(5).
    assert gaps.std() / gaps.mean() == pytest.approx(5**0.5, rel=0.15)


def test_a_folder_is_merged_by_time_and_drawn_from_the_seed(tmp_path: Path) -> None:
    write_client(tmp_path, 10, 1.0, "{10: 1}", "Gamma")
    write_client(tmp_path, 2, 0.5, "{20: 1}", "Gamma")
    trace = load_trace(tmp_path, seed=4)
    assert len(trace) == 3 * 900
    assert np.count_nonzero(trace.columns["tenant"] == 10) == 1800
    assert load_trace(tmp_path, seed=4).fingerprint() == trace.fingerprint()
    assert load_trace(tmp_path, seed=5).fingerprint() != trace.fingerprint()
    assert load_trace(tmp_path, seed=4, limit=1000).fingerprint() == trace.head(1000).fingerprint()


def test_bad_windows(tmp_path: Path) -> None:
    path = write_client(tmp_path, 1, 1.0, "{10: 1}", "Gamma")
    good = load_trace(path)
    path.write_text(path.read_text() + "2400,5,1,Pareto,1,1\n")
    with pytest.raises(BrsolverError, match=r"row 5 \(line of the file\): record is '2400,5,1,P"):
        load_trace(path)
    assert len(load_trace(path, skip_bad_rows=True)) == len(good)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("{a: 1}", "must be a text {length: probability"),
        ("{10: -1}", "positive probabilities"),
        ("{0: 1.0}", "positive probabilities"),
        ("{1, 2: 3}", "must be a text {length: probability"),
        ("{10: Infinity}", "positive probabilities"),
    ],
)
def test_bad_distributions(tmp_path: Path, prompt: str, message: str) -> None:
    path = write_client(tmp_path, 1, 1.0, prompt, "Gamma")
    with pytest.raises(BrsolverError, match=message) as caught:
        load_trace(path)
    assert "chunk-1-dataset.json: window '0': input_tokens" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_partner_is_named(tmp_path: Path) -> None:
    path = write_client(tmp_path, 1, 1.0, "{10: 1}", "Gamma")
    (tmp_path / "chunk-1-dataset.json").unlink()
    with pytest.raises(BrsolverError, match=r"chunk-1-dataset\.json: no such file"):
        load_trace(path)


def test_no_windows_with_requests(tmp_path: Path) -> None:
    path = write_client(tmp_path, 1, 0.0, "{10: 1}", "Gamma")
    path.write_text("0,0,0,,0,0\n")
    with pytest.raises(BrsolverError, match="no window has a rate above 0"):
        load_trace(path)


def test_other_names_and_folders_are_refused(tmp_path: Path) -> None:
    path = write_client(tmp_path, 1, 1.0, "{10: 1}", "Gamma")
    with pytest.raises(BrsolverError, match="must be named chunk-N-trace"):
        load_trace(path.rename(tmp_path / "windows.csv"))
    with pytest.raises(BrsolverError, match="is a folder without ServeGen client files"):
        load_trace(tmp_path)
    with pytest.raises(BrsolverError, match="no files named chunk-N-trace"):
        load_trace(tmp_path, format="servegen")
    (tmp_path / "chunk-1-trace.csv").write_text("0,1,1,Gamma,1,1\n")
    (tmp_path / "chunk-1-dataset.json").write_text("[]")
    with pytest.raises(BrsolverError, match="is no ServeGen dataset"):
        load_trace(tmp_path)


def test_lengths_and_windows_have_limits(tmp_path: Path) -> None:
    path = write_client(tmp_path, 1, 2.0, "{1e300: 1}", "Gamma")
    with pytest.raises(BrsolverError, match="at most 16,777,216 tokens"):
        load_trace(path)
    path = write_client(tmp_path, 1, 1e300, "{10: 1}", "Gamma")
    with pytest.raises(BrsolverError, match="must be at most 100,000,000"):
        load_trace(path)
