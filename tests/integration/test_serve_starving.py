"""How long a process has waited for a processor."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from integration.serve.starving import Spent

BEFORE = Spent(computing_s=10.0, waiting_s=3.0, ready=False)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


@pytest.mark.parametrize(
    ("computed_s", "waited_s", "ready", "found_s"),
    [
        # Asleep or stopped for all of two seconds, but for a short wait.
        (0.0, 0.1, False, 0.1),
        # In the queue ever since.
        (0.0, 0.0, True, 2.0),
        (0.5, 0.1, True, 1.5),
        # Computing without end.
        (2.0, 0.0, True, 0.0),
        # Counted a little after the clock was read.
        (0.0, 2.1, False, 2.0),
        (2.1, 0.0, True, 0.0),
    ],
)
def test_waits_are_told_from_sleep_and_from_work(computed_s, waited_s, ready, found_s):
    now = Spent(BEFORE.computing_s + computed_s, BEFORE.waiting_s + waited_s, ready)
    assert now.waited_since(BEFORE, 2.0) == pytest.approx(found_s)


@LINUX
def test_a_process_that_sleeps_has_done_little_and_is_not_ready():
    command = "import sys; print('.', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout.read(1) == b"."
        while (found := Spent.of(child.pid)).ready:
            pass
        child.stdin.close()
    assert found.computing_s > 0
    assert found.waiting_s >= 0


@LINUX
def test_a_process_that_looks_at_itself_is_ready():
    assert Spent.of(os.getpid()).ready


@LINUX
def test_a_process_that_has_gone_has_nothing_to_tell():
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    assert Spent.of(child.pid) is None


@pytest.mark.parametrize("schedstat", ["", "1 2", "a b c", "0 0 0"])
def test_a_system_that_tells_otherwise_is_not_asked(tmp_path, schedstat):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "schedstat").write_text(schedstat)
    (tmp_path / "7" / "stat").write_text("7 (a) R) S 1")
    assert Spent.of(7, tmp_path) is None


def test_names_of_processes_may_hold_anything(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "schedstat").write_text("2000000000 500000000 3")
    (tmp_path / "7" / "stat").write_text("7 (a) R) S 1 2")
    assert Spent.of(7, tmp_path) == Spent(2.0, 0.5, ready=False)
