"""Solving in a process apart: limits that hold, crashes that stay there, the best that remains."""

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
from step_cases import random_instance
from test_seam_backends import hard, impossible, knapsack

from brsolver.errors import MissingExtraError
from brsolver.oracles import verify
from brsolver.oracles.backends import BACKENDS, Isolation, _solve, solve
from brsolver.oracles.backends._isolate import ProcessDiedError, working_time
from brsolver.oracles.result import SolverError, Status
from brsolver.oracles.step import solve_step

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STUBBORN = """
    import os, signal, time

    def hang(*, report):
        report("first")
        report("second")
        while True:
            time.sleep(1)

    def hoard(*, report):
        kept = []
        while True:
            kept.append(bytearray(b"x") * (8 << 20))

    def die(how, *, report):
        os.kill(os.getpid(), how)

    def leave(*, report):
        print("noise of a solver")
        os._exit(7)

    def chat(value, *, report):
        os.write(1, b"noise of a solver")
        return value

    def complain(*, report):
        raise ValueError("of its own")
"""


@pytest.fixture
def apart() -> Iterator[Isolation]:
    with Isolation() as process:
        yield process


@pytest.fixture
def stubborn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "stubborn.py").write_text(textwrap.dedent(STUBBORN), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "stubborn"


def test_what_hangs_is_ended_and_its_reports_remain(apart: Isolation, stubborn: str) -> None:
    apart.prepare((stubborn,))
    found = apart.call(stubborn, "hang", (), deadline=time.monotonic() + 0.3)
    assert (found.value, found.reason) == (None, "time limit")
    assert found.reports == ["first", "second"]


def test_what_hoards_memory_is_ended(apart: Isolation, stubborn: str) -> None:
    apart.prepare((stubborn,))
    found = apart.call(stubborn, "hoard", (), memory_limit_mb=400.0)
    assert found.reason == "memory limit"


def test_a_process_serves_again_after_it_was_ended(apart: Isolation, stubborn: str) -> None:
    for value in (1, "two"):
        apart.prepare((stubborn,))
        assert apart.call(stubborn, "chat", (value,)).value == value
        assert apart.call(stubborn, "hang", (), deadline=time.monotonic() + 0.1).reason
    assert solve(knapsack(), isolate=apart).proven


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
@pytest.mark.parametrize(
    ("how", "says"),
    [("SIGSEGV", "segmentation fault"), ("SIGKILL", "out of memory"), ("SIGTERM", "SIGTERM")],
)
def test_a_death_is_named(apart: Isolation, stubborn: str, how: str, says: str) -> None:
    apart.prepare((stubborn,))
    with pytest.raises(ProcessDiedError, match=says):
        apart.call(stubborn, "die", (getattr(signal, how),))
    apart.prepare((stubborn,))
    with pytest.raises(ProcessDiedError, match="status 7"):
        apart.call(stubborn, "leave", ())


def test_a_process_ends_with_whoever_asked_it(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    (tmp_path / "waiting.py").write_text(
        "import threading\n"
        "def waits(path, *, report):\n"
        "    stream = open(path, 'w')\n"
        "    print('here', file=stream, flush=True)\n"
        "    threading.Event().wait()\n"
    )
    asking = (
        "from brsolver.oracles.backends import Isolation\n"
        "apart = Isolation()\n"
        "apart.prepare(())\n"
        f"apart.call('waiting', 'waits', ({str(alive)!r},))\n"
    )
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    caller = subprocess.Popen(
        [sys.executable, "-c", asking], env={**os.environ, "PYTHONPATH": paths}
    )
    with alive.open() as stream:
        assert stream.readline() == "here\n"
        caller.kill()
        caller.wait()
        # The end of the stream is that of the process.
        assert stream.read() == ""


def test_errors_come_back_as_they_were(apart: Isolation, stubborn: str) -> None:
    apart.prepare((stubborn,))
    with pytest.raises(ValueError, match="of its own"):
        apart.call(stubborn, "complain", ())


@pytest.mark.parametrize(
    ("backend", "relax", "other"),
    [("highs", False, "cp-sat"), ("highs", True, "highs-ipm"), ("cp-sat", False, "highs")],
)
def test_a_crash_is_one_line_with_the_back_end_to_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, relax: bool, other: str
) -> None:
    text = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    (tmp_path / "poisoned.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(_solve.MODULES, backend, "poisoned")
    with pytest.raises(SolverError) as raised:
        solve(knapsack(), backend, relax=relax, isolate=True)
    assert str(raised.value) == (
        f"{backend} crashed (its process died: segmentation fault); try backend {other!r}"
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_answers_are_those_of_this_process(apart: Isolation, backend: str) -> None:
    relax = backend not in {"highs", "cp-sat"}
    here = solve(knapsack(), backend, relax=relax)
    there = solve(knapsack(), backend, relax=relax, isolate=apart)
    assert (there.status, there.origin) == (here.status, here.origin)
    assert there.objective == pytest.approx(here.objective)
    assert there.dual_bound == pytest.approx(here.dual_bound)


def test_infeasible_is_said_from_there_too(apart: Isolation) -> None:
    assert solve(impossible(), isolate=apart).status is Status.INFEASIBLE


def test_a_missing_solver_is_named_from_there_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Any module of that name that says it is not there.
    text = "raise ModuleNotFoundError('no highspy', name='highspy')"
    (tmp_path / "highspy.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match=r"brsolver\[oracles\]"):
        solve(knapsack(), isolate=True)


@pytest.mark.parametrize("backend", ["highs", "cp-sat"])
def test_what_a_solver_had_found_when_it_was_ended_is_returned(
    monkeypatch: pytest.MonkeyPatch, apart: Isolation, backend: str
) -> None:
    # Told that it has all the time of the world, it is ended in the midst of its work.
    monkeypatch.setattr(_solve, "working_time", lambda _: 600.0)
    model = hard()
    found = solve(model, backend, time_limit_s=2.0, isolate=apart)
    assert found.message == "time limit"
    assert found.status is Status.FEASIBLE
    assert found.solution is not None
    assert not verify.violation(model, found.solution.astype(np.int64))
    assert found.objective == verify.objective(model, found.solution.astype(np.int64))
    assert found.dual_bound is None or found.dual_bound <= found.objective


def test_a_memory_limit_keeps_the_warm_start(apart: Isolation) -> None:
    model = hard()
    start = np.zeros(62, np.int64)
    start[50:56] = model.row_lower
    found = solve(model, warm_start=start, time_limit_s=30.0, memory_limit_mb=1.0, isolate=apart)
    assert found.message == "memory limit"
    assert found.status is Status.FEASIBLE
    assert found.objective is not None
    assert found.objective <= verify.objective(model, start)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
def test_an_interrupt_ends_the_process_and_returns_the_best(apart: Isolation) -> None:
    model = hard()
    start = np.zeros(62, np.int64)
    start[50:56] = model.row_lower
    solve(knapsack(), isolate=apart)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.7, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    found = solve(model, time_limit_s=60.0, warm_start=start, isolate=apart)
    timer.cancel()
    assert found.message == "interrupted"
    assert found.status is Status.FEASIBLE


@pytest.mark.parametrize("objective", ["score", "imbalance"])
@pytest.mark.parametrize(("backend", "relax"), [("highs", False), ("sifting", True)])
def test_steps_are_solved_apart(
    apart: Isolation, objective: str, backend: str, relax: bool
) -> None:
    instance = random_instance(2, workers=4, waiting=12, free=5, horizon=6)
    here = solve_step(instance, objective, backend=backend, relax=relax)  # type: ignore[arg-type] # one of two
    there = solve_step(instance, objective, backend=backend, relax=relax, isolate=apart)  # type: ignore[arg-type] # as above
    assert there.status is here.status is Status.OPTIMAL
    assert there.objective == pytest.approx(here.objective)


def test_sifting_honours_a_memory_limit(apart: Isolation) -> None:
    instance = random_instance(2, workers=4, waiting=12, free=5, horizon=6)
    for isolate in (apart, True):
        found = solve_step(
            instance, backend="sifting", relax=True, memory_limit_mb=1.0, isolate=isolate
        )
        # Quick solvers may have answered before anyone looked.
        assert found.message == "memory limit" or found.proven


@pytest.mark.parametrize("limit", [None, 0.001, 0.1, 1.0, 100.0])
def test_solvers_are_told_to_return_in_time(limit: float | None) -> None:
    told = working_time(limit)
    if limit is None:
        assert told is None
    else:
        assert told is not None
        assert 0 < told < limit
