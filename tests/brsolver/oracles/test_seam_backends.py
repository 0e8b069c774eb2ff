"""The solver seam: one vocabulary, checked answers, limits, and solvers that are not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.errors import ParameterError, UnknownNameError
from brsolver.oracles import verify
from brsolver.oracles.backends import _solve, solve
from brsolver.oracles.backends._base import Answer, Job
from brsolver.oracles.linear_model import Kind, LinearModel, ModelBuilder, Sense
from brsolver.oracles.result import SolverError, Status

if TYPE_CHECKING:
    from pathlib import Path

RELAXING = ("highs", "highs-ds", "highs-ipm", "highs-pdlp", "glop", "pdlp")


def knapsack(seed: int = 0, items: int = 20, rows: int = 3) -> LinearModel:
    rng = np.random.default_rng(seed)
    builder = ModelBuilder(Sense.MAX)
    cost = rng.integers(1, 100, items)
    x = builder.add_columns("x", (items,), upper=1, cost=cost, kind=Kind.INTEGER)
    cap = builder.add_rows("cap", (rows,), lower=0, upper=12 * items)
    builder.add_entries(cap[:, None], x[None, :], rng.integers(1, 60, (rows, items)))
    return builder.build()


def hard() -> LinearModel:
    """A market-split problem: far beyond a second for any solver."""
    rng = np.random.default_rng(3)
    builder = ModelBuilder(Sense.MIN)
    x = builder.add_columns("x", (50,), upper=1, kind=Kind.INTEGER)
    over = builder.add_columns("over", (6,), upper=10_000, cost=1, kind=Kind.INTEGER)
    under = builder.add_columns("under", (6,), upper=10_000, cost=1, kind=Kind.INTEGER)
    weights = rng.integers(0, 100, (6, 50))
    half = weights.sum(axis=1) // 2
    rows = builder.add_rows("split", (6,), lower=half, upper=half)
    builder.add_entries(rows[:, None], x[None, :], weights)
    builder.add_entries(rows, over, 1)
    builder.add_entries(rows, under, -1)
    return builder.build()


def wide(loads: np.ndarray) -> LinearModel:
    """A makespan problem per row of loads, whose columns have far too generous bounds."""
    times, items = loads.shape
    builder = ModelBuilder(Sense.MIN)
    x = builder.add_columns("x", (items, 4), upper=1, kind=Kind.INTEGER)
    envelope = builder.add_columns(
        "envelope", (times,), lower=loads.max(axis=1), upper=1 << 48, cost=1, kind=Kind.IMPLIED
    )
    builder.add_entries(builder.add_rows("one", (items,), lower=1, upper=1)[:, None], x, 1)
    rows = builder.add_rows("load", (times, 4), lower=0)
    builder.add_entries(rows, envelope[:, None], 1)
    for g in range(4):
        builder.add_entries(rows[:, g, None], x[:, g], -loads)
    return builder.build()


def impossible() -> LinearModel:
    builder = ModelBuilder(Sense.MIN)
    x = builder.add_columns("x", (2,), upper=1, cost=1, kind=Kind.INTEGER)
    row = builder.add_rows("r", (1,), lower=3, upper=3)
    builder.add_entries(row[0], x, 1)
    return builder.build()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_integer_back_ends_agree_with_everything_tried(seed: int) -> None:
    model = knapsack(seed, items=8, rows=2)
    points = (np.arange(256)[:, None] >> np.arange(8)) & 1
    best = max(verify.objective(model, x) for x in points if not verify.violation(model, x))
    for backend in ("highs", "cp-sat"):
        found = solve(model, backend)
        assert found.status is Status.OPTIMAL
        assert found.objective == found.dual_bound == best
        assert found.gap == 0.0
        assert isinstance(found.objective, int)
        assert found.origin


@pytest.mark.parametrize("backend", RELAXING)
def test_relaxations_agree_and_their_bounds_are_safe(backend: str) -> None:
    model = knapsack()
    found = solve(model, backend, relax=True)
    exact = solve(model)
    assert found.objective == pytest.approx(solve(model, relax=True).objective, rel=1e-5)
    assert found.dual_bound is not None
    assert exact.objective is not None
    assert found.dual_bound >= exact.objective


@pytest.mark.parametrize("backend", ["highs", "cp-sat"])
def test_infeasible_is_said(backend: str) -> None:
    found = solve(impossible(), backend)
    assert found.status is Status.INFEASIBLE
    assert found.solution is None
    assert found.objective is None
    assert found.dual_bound is None


@pytest.mark.parametrize("backend", ["highs", "highs-ds"])
def test_unbounded_is_an_error(backend: str) -> None:
    builder = ModelBuilder(Sense.MAX)
    builder.add_columns("x", (1,), cost=1)
    builder.add_rows("r", (1,), upper=1)
    with pytest.raises(SolverError, match="unbounded"):
        solve(builder.build(), backend, relax=True)


@pytest.mark.parametrize("backend", ["highs", "cp-sat"])
def test_a_time_limit_leaves_what_is_known(backend: str) -> None:
    found = solve(hard(), backend, time_limit_s=0.5)
    assert found.status in {Status.FEASIBLE, Status.BOUND, Status.LIMIT}
    if found.solution is not None:
        assert not verify.violation(hard(), found.solution.astype(np.int64))
    if found.status is Status.LIMIT:
        assert found.objective is None
        assert found.dual_bound is None


def test_bounds_beyond_32_bits_do_not_hang_highs() -> None:
    # Without care for such bounds HiGHS 1.14 walks through their values for ever.
    rng = np.random.default_rng(0)
    loads = np.minimum(rng.lognormal(8, 2, (12, 24)).astype(np.int64) + 1, 3_000_000)
    loads *= rng.random(loads.shape) < 0.4
    model = wide(loads)
    began = time.monotonic()
    found = solve(model, "highs", time_limit_s=1.0)
    assert time.monotonic() - began < 20.0
    assert found.status in {Status.OPTIMAL, Status.FEASIBLE, Status.BOUND, Status.LIMIT}
    if found.solution is not None:
        assert not verify.violation(model, found.solution.astype(np.int64))


def test_a_memory_limit_stops_the_solver() -> None:
    found = solve(hard(), "highs", time_limit_s=20.0, memory_limit_mb=1.0)
    assert found.message == "memory limit"
    assert found.status is not Status.OPTIMAL


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
@pytest.mark.parametrize("backend", ["highs", "cp-sat"])
def test_an_interrupt_returns_the_best_so_far(backend: str) -> None:
    start = np.zeros(62, np.int64)
    model = hard()
    start[56:] = 0
    start[50:56] = model.row_lower
    solve(knapsack(), backend)  # loading a solver is not what is interrupted
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.7, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    found = solve(model, backend, time_limit_s=60.0, warm_start=start)
    timer.cancel()
    assert found.message == "interrupted"
    assert found.status is Status.FEASIBLE
    assert found.objective is not None
    assert found.objective <= verify.objective(model, start)


def test_a_warm_start_must_be_feasible_and_is_kept() -> None:
    model = knapsack()
    with pytest.raises(ParameterError, match="must be feasible"):
        solve(model, warm_start=np.full(model.num_columns, 2))
    with pytest.raises(ParameterError, match="one value per column"):
        solve(model, warm_start=[0])
    assert solve(model, warm_start=np.zeros(model.num_columns)).proven


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        (Answer(status=Status.OPTIMAL, solution=np.full(20, 1.0), bound=9e9), Status.BOUND, "none"),
        (Answer(status=Status.OPTIMAL, solution=np.full(20, 1.0)), Status.LIMIT, "none"),
        (
            Answer(status=Status.OPTIMAL, solution=np.zeros(20), bound=-9.0),
            Status.FEASIBLE,
            "refutes",
        ),
        (Answer(status=Status.OPTIMAL, solution=np.zeros(20), bound=50.0), Status.FEASIBLE, ""),
        (Answer(status=Status.LIMIT, bound=50.0), Status.BOUND, ""),
        (Answer(status=Status.LIMIT), Status.LIMIT, ""),
    ],
)
def test_answers_are_not_believed(
    monkeypatch: pytest.MonkeyPatch, answer: Answer, status: Status, says: str
) -> None:
    monkeypatch.setitem(_solve.BACKENDS, "highs", lambda *_: answer)
    found = solve(knapsack())
    assert found.status is status
    assert says in found.message


def test_a_crash_names_another_back_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> Answer:
        raise RuntimeError("boom\nwith a trace")

    monkeypatch.setitem(_solve.BACKENDS, "highs", crash)
    with pytest.raises(SolverError, match=r"^highs crashed \(boom\); try backend 'cp-sat'$"):
        solve(knapsack())


@pytest.mark.parametrize(
    ("backend", "options", "error"),
    [
        ("hihgs", {}, UnknownNameError),
        ("highs", {"time_limit_s": 0.0}, ParameterError),
        ("highs", {"threads": 0}, ParameterError),
        ("glop", {}, SolverError),
        ("highs-ipm", {}, SolverError),
        ("cp-sat", {"relax": True}, SolverError),
    ],
)
def test_bad_requests_are_refused(
    backend: str, options: dict[str, float], error: type[Exception]
) -> None:
    with pytest.raises(error):
        solve(knapsack(), backend, **options)  # type: ignore[arg-type]


def run(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": path},
    )


@pytest.mark.parametrize("first", ["highspy", "ortools.sat.python.cp_model"])
def test_solvers_share_a_process_in_either_order(first: str) -> None:
    done = run(f"""
        import {first}, highspy, ortools.sat.python.cp_model, cvxpy
        highspy.Highs(); print(ortools.sat.python.cp_model.CpModel())
    """)
    assert done.returncode == 0, done.stderr


CALL = """
    from brsolver.oracles.backends import solve
    from brsolver.oracles.linear_model import ModelBuilder, Sense
    builder = ModelBuilder(Sense.MAX)
    builder.add_columns("x", (1,), upper=1, cost=1)
    try:
        solve(builder.build(), "{backend}", relax=True)
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize(("backend", "module"), [("highs", "highspy"), ("glop", "ortools")])
def test_a_clash_of_solvers_is_one_clear_line(tmp_path: Path, backend: str, module: str) -> None:
    package = tmp_path / module
    package.mkdir()
    package.joinpath("__init__.py").write_text(
        "raise ImportError('_core.so: undefined symbol: _ZN5Highs')", encoding="utf-8"
    )
    done = run(CALL.format(backend=backend), tmp_path)
    assert done.stdout.startswith(f"SolverLoadError {module} cannot be loaded beside")
    assert "highspy>=1.11,<1.15" in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(("backend", "module"), [("highs", "highspy"), ("pdlp", "ortools")])
def test_a_missing_solver_names_the_extra(backend: str, module: str) -> None:
    hide = f"import sys; sys.modules['{module}'] = None\n"
    done = run(hide + textwrap.dedent(CALL.format(backend=backend)))
    assert "brsolver[oracles]" in done.stdout, done.stdout + done.stderr


def test_solvers_load_only_when_used() -> None:
    done = run("""
        import sys, brsolver.oracles.backends, brsolver.oracles.step, brsolver.oracles.policies
        print([name for name in ("highspy", "ortools", "cvxpy") if name in sys.modules])
    """)
    assert done.stdout.strip() == "[]", done.stderr


def test_job_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Job().threads = 2  # type: ignore[misc]


def test_timer_is_not_left_running() -> None:
    before = time.monotonic()
    solve(knapsack(), "cp-sat", time_limit_s=60.0)
    assert time.monotonic() - before < 60.0
