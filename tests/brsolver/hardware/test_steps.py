"""Step logs of several runs in one folder: each is kept apart, and ranks stand side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.errors import ParameterError
from brsolver.hardware import fit_steps, read_measurements
from brsolver.hardware.readers.steps import joined, read_steps

if TYPE_CHECKING:
    from pathlib import Path

HEADER = "wave,step,end_s,kv_tokens,running,waiting,scheduled"
BASE, SEQUENCE, TOKEN = 0.02, 1e-3, 2e-6


def run_of(began: float, steps: int, *, wave: int = 0, seconds: float = 0.1) -> list[str]:
    """Return rows of a run whose steps all last as long."""
    return [
        f"{wave},{k},{began + (k + 1) * seconds:.6f},{100 + k},1,0,1" for k in range(max(steps, 0))
    ]


def write(folder: Path, *ranks: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for rank, rows in enumerate(ranks):
        (folder / f"rank-{rank}.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return folder


def test_the_second_run_in_a_folder_has_its_own_durations(tmp_path: Path) -> None:
    rows = run_of(10.0, 5) + run_of(610.0, 4, seconds=0.2)
    steps = read_steps(write(tmp_path / "s", rows, rows))
    second = steps.between(610.0, 700.0)
    assert steps.run.tolist() == [0] * 5 + [1] * 4
    assert steps.runs == 2
    assert np.isnan(second.duration_s[0])
    assert second.duration_s[1:] == pytest.approx(0.2)
    assert steps.duration_s[1:5] == pytest.approx(0.1)
    assert steps.latest().end_s.tolist() == second.end_s.tolist()


def test_ranks_that_were_stopped_at_different_steps_are_aligned(tmp_path: Path) -> None:
    first = run_of(10.0, 6) + run_of(610.0, 3)
    other = run_of(10.0, 5) + run_of(610.0, 4)
    steps = read_steps(write(tmp_path / "s", first, other))
    assert steps.run.tolist() == [0] * 5 + [1] * 3
    assert (steps.kv_tokens[:, 0] == steps.kv_tokens[:, 1]).all()
    assert np.nanmax(steps.duration_s) == pytest.approx(0.1)


def test_a_clock_that_goes_back_begins_a_run(tmp_path: Path) -> None:
    # The machine was started again, and the first lines of the second run are gone.
    rows = run_of(5000.0, 3) + run_of(10.0, 6)[4:]
    steps = read_steps(write(tmp_path / "s", rows))
    assert steps.run.tolist() == [0, 0, 0, 1, 1]
    assert np.isnan(steps.duration_s[[0, 3]]).all()
    assert steps.latest().end_s.max() < 11


def test_a_run_of_another_number_of_ranks_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", run_of(10.0, 5) + run_of(610.0, 5), run_of(610.0, 5))
    with pytest.raises(ParameterError) as caught:
        read_steps(folder)
    assert str(caught.value) == (
        f"{folder}: runs of a server in rank-1.csv are 1, must be 2 as in rank-0.csv; let every "
        "server log to a folder of its own"
    )


def test_no_duration_spans_a_missing_step(tmp_path: Path) -> None:
    rows = run_of(10.0, 6)
    steps = read_steps(write(tmp_path / "s", rows, rows[:2] + rows[3:]))
    assert np.isnan(steps.duration_s).tolist() == [True, False, True, False, False]


def test_counts_that_are_no_whole_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"row 2: kv_tokens is 1\.5, must be a whole number"):
        read_steps(write(tmp_path / "s", ["0,0,1.0,1.5,1,0,1"]))


def test_logs_of_several_servers_stand_one_after_the_other(tmp_path: Path) -> None:
    parts = [read_steps(write(tmp_path / name, run_of(10.0, 3))) for name in "ab"]
    assert len(joined(parts)) == 6
    assert np.isnan(joined(parts).duration_s[[0, 3]]).all()


def served(began: float, steps: int, seed: int) -> tuple[list[str], list[str]]:
    """Return rows of two ranks whose steps last as the fuller one has it."""
    rng, clock = np.random.default_rng(seed), began
    ranks: tuple[list[str], list[str]] = ([], [])
    for k in range(steps):
        n = rng.integers(1, 64, 2)
        kv = n * rng.integers(10, 2000, 2)
        clock += BASE + float((SEQUENCE * n + TOKEN * kv).max())
        for rank, rows in enumerate(ranks):
            rows.append(f"0,{k},{clock:.9f},{kv[rank]},{n[rank]},0,{n[rank]}")
    return ranks


def test_a_folder_that_was_used_again_is_fitted(tmp_path: Path) -> None:
    before, after = served(10.0, 200, 0), served(700.0, 200, 1)
    folder = write(tmp_path / "s", before[0] + after[0], before[1][:-3] + after[1])
    measured = read_measurements(folder)
    assert len(measured) == 199 + 196
    assert measured.origin.notes[0] == "2 runs of a server, each by itself"
    assert measured.seconds.max() < 1
    fit = fit_steps(measured)
    assert fit.base == pytest.approx(BASE, rel=1e-3)
    assert fit.per_sequence == pytest.approx(SEQUENCE, rel=1e-3)
    assert fit.per_kv_token == pytest.approx(TOKEN, rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=2), min_size=1, max_size=4))
def test_any_runs_are_kept_apart(tmp_path_factory, runs: list[list[int]]) -> None:
    began = [100.0 * at for at in range(1, len(runs) + 1)]
    ranks = [
        [row for at, each in zip(began, runs, strict=True) for row in run_of(at, each[rank])]
        for rank in (0, 1)
    ]
    steps = read_steps(write(tmp_path_factory.mktemp("runs") / "s", *ranks))
    assert np.bincount(steps.run).tolist() == [min(each) for each in runs]
    for at, (start, each) in enumerate(zip(began, runs, strict=True)):
        seconds = steps.between(start, start + 99).duration_s
        assert (steps.where(steps.run == at).end_s > start).all()
        assert seconds[1:] == pytest.approx(np.full(min(each) - 1, 0.1), abs=1e-5)
