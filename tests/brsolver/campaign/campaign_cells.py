"""Functions of cells: in a module of their own, which processes can import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping


def figures(task: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Say in a folder that it was computed, and give what the task says; fails if it says so."""
    if "folder" in shared:
        with Path(shared["folder"], "computed").open("a") as stream:
            stream.write(f"{task['number']}\n")
    if task.get("fails") and not Path(shared["folder"], "mended").exists():
        raise ZeroDivisionError("division by zero")
    return {"square": task["number"] ** 2, **task.get("more", {})}


def of_numpy(task: int, shared: Mapping[str, Any]) -> dict[str, Any]:
    del shared
    return {"count": np.int64(task), "mean": np.float64(task / 3), "over": np.bool_(task > 1)}


def simulated(task: tuple[str, int], shared: Mapping[str, Any]) -> dict[str, Any]:
    from brsolver.simulator import SimulationParams, simulate

    policy, seed = task
    run = simulate(shared["trace"], policy, SimulationParams(workers=4, slots=4, seed=seed))
    clocked = {"wall_s", "dispatch_us_p50", "dispatch_us_p99", "dispatch_us_max"}
    own = {"policy", "seed"}
    return {k: v for k, v in run.metrics.to_dict().items() if k not in clocked | own}
