"""Functions that tests have carried out: in a module of their own, which processes can import."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping


def shifted(task: int, shared: Mapping[str, Any]) -> int:
    return task + int(shared["offset"])


def process_id(task: int, shared: Mapping[str, Any]) -> int:
    del task, shared
    return os.getpid()


def facts(task: str, shared: Mapping[str, Any]) -> tuple[bool, bool, int, dict[str, str | None]]:
    """Say of an array what kernels would see, and what libraries may do."""
    del task
    array = shared["array"]
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    same = array is shared["array"]
    return array.flags.writeable, same, int(array.sum()), {n: os.environ.get(n) for n in names}


def unruly(task: str, shared: Mapping[str, Any]) -> object:
    del shared
    if task == "raises":
        raise ZeroDivisionError("division\nby zero")
    if task == "leaves":
        sys.exit(3)
    if task == "two arguments":
        raise TwoArgumentsError("one", "two")
    if task == "cannot travel":
        return lambda: None
    return task


class TwoArgumentsError(Exception):
    """One that pickle cannot make again."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def dies_once(task: int, shared: Mapping[str, Any]) -> int:
    """Kill this process the first time, and say every time that it was begun."""
    begun = Path(shared["folder"]) / f"begun-{task}"
    first = not begun.exists()
    with begun.open("a") as stream:
        stream.write("x")
    if first and task in shared["deadly"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def always_dies(task: int, shared: Mapping[str, Any]) -> int:
    del shared
    if task == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def waits_at_gate(task: str, shared: Mapping[str, Any]) -> None:
    """Wait at the first gate of a folder; says which process does."""
    del shared
    with Path(task, "hello").open("w") as hello:
        hello.write(f"{os.getpid()}\n")
    Path(task, "gate-0").read_text()


def held_at_gate(task: tuple[str, int], shared: Mapping[str, Any]) -> tuple[int, str]:
    """Wait, the first time, until the test opens this task's gate; says on which node it ran."""
    import ray

    del shared
    folder, number = Path(task[0]), task[1]
    node = ray.get_runtime_context().get_node_id()
    begun = folder / f"begun-{number}"
    if not begun.exists():
        begun.touch()
        with (folder / "hello").open("w") as hello:
            hello.write(f"{number} {node}\n")
        (folder / f"gate-{number}").read_text()
    return number, node


def simulated(task: tuple[str, int], shared: Mapping[str, Any]) -> bytes:
    """Run a policy and return all that it logged, but for what a clock said."""
    from brsolver.simulator import SimulationParams, simulate

    policy, seed = task
    run = simulate(shared["trace"], policy, SimulationParams(workers=4, slots=4, seed=seed))
    log = run.requests
    return b"".join(
        np.ascontiguousarray(column).tobytes()
        for column in (log.worker, log.start_s, log.finish_s, run.steps.duration_s)
    )


def counted(task: tuple[int, str, int], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Give a simulation's figures, for a campaign; those that are held wait the first time."""
    from brsolver.simulator import SimulationParams, simulate

    number, policy, seed = task
    with Path(shared["folder"], "computed").open("a") as stream:
        stream.write(f"{number}\n")
    if number in shared["held"]:
        held_at_gate((shared["folder"], number), {})
    run = simulate(shared["trace"], policy, SimulationParams(workers=4, slots=4, seed=seed))
    clocked = {"wall_s", "dispatch_us_p50", "dispatch_us_p99", "dispatch_us_max"}
    return {k: v for k, v in run.metrics.to_dict().items() if k not in clocked}
