"""Processes of this machine: killed ones, orphans, interruptions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import executor_tasks as tasks
import pytest

from brsolver.executors import Lost, carry_out
from brsolver.executors.local import LocalExecutor

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
DRIVER = """
import os
from pathlib import Path
from brsolver.executors import carry_out
from brsolver.executors.local import LocalExecutor

def waits(task, shared):
    with open(shared["folder"] + "/hello", "w") as hello:
        hello.write(f"{os.getpid()}\\n")
    Path(shared["folder"], "gate-0").read_text()

if __name__ == "__main__":
    import sys
    list(carry_out(LocalExecutor(jobs=2), waits, [1, 2], {"folder": sys.argv[1]}))
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
    assert [record.message for record in caplog.records] == [f"task 3 {said}", f"task 6 {said}"]


def test_a_task_that_kills_every_process_is_given_up() -> None:
    found = dict(carry_out(LocalExecutor(jobs=2), tasks.always_dies, list(range(4)), {}))
    assert found.pop(1) == Lost(
        reason="a worker process ended abruptly 3 times, maybe for lack of memory: try fewer jobs"
    )
    assert found == {0: 0, 2: 2, 3: 3}


def test_a_result_that_cannot_travel_is_lost_alone() -> None:
    names = ["cannot travel", "fine"]
    found = dict(carry_out(LocalExecutor(jobs=2), tasks.unruly, names, {}))
    assert "pickle" in found[0].reason.lower()
    assert found[1] == "fine"


def test_processes_are_kept_and_end_with_the_lane() -> None:
    found = dict(carry_out(LocalExecutor(jobs=2), tasks.process_id, list(range(10)), {}))
    assert len(set(found.values())) <= 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in found.values())


def test_a_lane_that_is_left_early_ends_its_processes(gates: Path) -> None:
    with pytest.raises(RuntimeError, match="enough"):
        _leave_early(gates)
    assert _processes_that_know(gates) == []


def _leave_early(gates: Path) -> None:
    with LocalExecutor(jobs=2).open(waits_at_gate, {"folder": str(gates)}) as lane:
        lane.submit(0)
        lane.submit(1)
        assert len(_read_hello(gates, 2)) == 2
        raise RuntimeError("enough")


def waits_at_gate(task: int, shared: dict[str, str]) -> None:
    folder = Path(shared["folder"])
    with (folder / "hello").open("w") as hello:
        hello.write(f"{os.getpid()}\n")
    (folder / f"gate-{task}").read_text()


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_process_outlives_its_parent(gates: Path, kill: signal.Signals) -> None:
    script = gates / "driver.py"
    script.write_text(DRIVER)
    driver = subprocess.Popen([sys.executable, str(script), str(gates)], stderr=subprocess.PIPE)
    children = _read_hello(gates, 2)
    driver.send_signal(kill)
    _, said = driver.communicate()
    assert driver.returncode != 0
    # Only the driver may speak of an interruption.
    assert said.count(b"Traceback") == (kill == signal.SIGINT)
    _wait_until(lambda: not any(_runs(pid) for pid in children))


def _read_hello(gates: Path, lines: int) -> list[int]:
    found: list[str] = []
    while len(found) < lines:
        found += (gates / "hello").read_text().split()
    return [int(each) for each in found]


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _processes_that_know(folder: Path) -> list[str]:
    """Return the processes of this machine, but our own, that have a file of the folder open."""
    found = []
    for each in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = str(each.readlink())
        except OSError:
            continue
        if target.startswith(str(folder)) and f"/{os.getpid()}/" not in str(each):
            found.append(target)
    return found


def _wait_until(seen: Callable[[], bool]) -> None:
    while not seen():
        os.sched_yield()
