"""Processes of this machine: killed ones, orphans, interruptions."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import executor_tasks as tasks
import pytest

from brsolver.errors import BrsolverError
from brsolver.executors import Lost, carry_out
from brsolver.executors.local import LocalExecutor

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Gates

    from brsolver.executors import Function

DRIVER = """
import os
from pathlib import Path
from brsolver.executors import carry_out
from brsolver.executors.local import LocalExecutor

def waits(task, shared):
    with Path(task, "hello").open("w") as hello:
        hello.write(f"{os.getpid()}\\n")
    Path(task, "gate-0").read_text()

if __name__ == "__main__":
    import sys
    list(carry_out(LocalExecutor(jobs=2), waits, [sys.argv[1]] * 2))
"""


def test_a_killed_process_costs_its_own_task_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shared = {"folder": str(tmp_path), "deadly": {2, 5}}
    found = dict(carry_out(LocalExecutor(jobs=2), tasks.dies_once, list(range(8)), shared))
    assert found == {at: at for at in range(8)}
    begun = {at: len((tmp_path / f"begun-{at}").read_text()) for at in range(8)}
    assert begun == {at: 1 + (at in shared["deadly"]) for at in range(8)}
    said = "was lost (a worker process ended abruptly) and is begun again, 2 of 3 times"
    told = sorted(record.message for record in caplog.records)
    assert told == [f"task 3 {said}", f"task 6 {said}"]


def test_a_task_that_kills_every_process_is_given_up() -> None:
    found = dict(carry_out(LocalExecutor(jobs=2), tasks.always_dies, list(range(4)), {}))
    assert found.pop(1) == Lost(
        reason="a worker process ended abruptly 3 times, maybe for lack of memory: try fewer jobs"
    )
    assert found == {0: 0, 2: 2, 3: 3}


STARTS_BADLY = """
import os
from pathlib import Path

FLAG = Path(__file__).with_name("flag")
if FLAG.exists():
    {first}
    {ends}

def doubled(task, shared):
    return 2 * task
"""


@pytest.fixture
def starts_badly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Function]:
    """A function of a module whose import does something where there is a flag."""

    def make(name: str, *, ends: str, once: bool) -> Function:
        first = "FLAG.unlink()" if once else "pass"
        (tmp_path / f"{name}.py").write_text(STARTS_BADLY.format(first=first, ends=ends))
        monkeypatch.syspath_prepend(tmp_path)
        module = importlib.import_module(name)
        module.FLAG.touch()
        return module.doubled

    return make


KILLS = "os.kill(os.getpid(), 9)"


def test_a_process_that_is_killed_as_it_starts_costs_its_own_task(starts_badly) -> None:
    function = starts_badly("killed_once", ends=KILLS, once=True)
    assert dict(carry_out(LocalExecutor(jobs=1), function, [1, 2], {})) == {0: 2, 1: 4}


@pytest.mark.parametrize("ends", [KILLS, "os._exit(1)"])
def test_where_no_process_can_start_nothing_is_carried_out(starts_badly, ends, caplog) -> None:
    function = starts_badly(f"never_{len(ends)}", ends=ends, once=False)
    with pytest.raises(BrsolverError, match="before it did anything"):
        list(carry_out(LocalExecutor(jobs=1), function, [1, 2], {}))
    # Who ends by itself would do so again: a script without a guard is told at once.
    assert len(caplog.records) == (2 if ends == KILLS else 0)


def test_a_process_that_has_other_code_of_ours_computes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As if a file had been edited between the command's start and the process's.
    monkeypatch.setattr("brsolver.executors.local.own_code", lambda: "as it was")
    found = dict(carry_out(LocalExecutor(jobs=1), tasks.shifted, [1, 2], {"offset": 5}))
    reason = "brsolver's own code was changed meanwhile, must stay as it is: start again"
    assert found == {0: Lost(reason=reason), 1: Lost(reason=reason)}


def test_a_result_that_cannot_travel_is_lost_alone() -> None:
    names = ["cannot travel", "fine"]
    found = dict(carry_out(LocalExecutor(jobs=2), tasks.unruly, names, {}))
    assert "pickle" in found[0].reason.lower()
    assert found[1] == "fine"


def test_processes_are_kept_and_end_with_the_lane() -> None:
    found = dict(carry_out(LocalExecutor(jobs=2), tasks.process_id, list(range(10)), {}))
    assert len(set(found.values())) <= 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in found.values())


def test_a_lane_that_is_left_early_ends_its_processes(gates: Gates) -> None:
    with LocalExecutor(jobs=2).open(tasks.waits_at_gate) as lane:
        for _ in range(2):
            lane.submit(str(gates.folder))
        pids = [int(each) for each in gates.hello(2)]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_process_outlives_its_parent(gates: Gates, kill: signal.Signals) -> None:
    script = gates.folder / "driver.py"
    script.write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(script), str(gates.folder)], stderr=subprocess.PIPE
    )
    children = [int(each) for each in gates.hello(2)]
    driver.send_signal(kill)
    _, said = driver.communicate()
    assert driver.returncode != 0
    # Only the driver may speak of an interruption.
    assert said.count(b"Traceback") == (kill == signal.SIGINT)
    while any(runs(pid) for pid in children):
        os.sched_yield()


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
