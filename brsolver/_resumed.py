"""A grid whose runs are kept in a folder as they end, and not carried out again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver._grid import Failed, Progress, Task, execute, lost
from brsolver.campaign import FAILED, WALL_S, Campaign, Cell, run_campaign
from brsolver.traces.prints import print_of
from brsolver.wiring import code_of

if TYPE_CHECKING:
    from pathlib import Path

    from brsolver.executors import Executor
    from brsolver.results.comparison import Run
    from brsolver.simulator.held_out import HeldOut
    from brsolver.simulator.params import SimulationParams

RUN = "run"
"""Column of the whole run, as `brsolver.results.kept` writes it."""
KEYED = frozenset({"workers", "seed"})
"""Parameters that every run has its own of."""
LONGEST = 80
"""Characters of a setting that are written out; of a longer one stands what tells it apart."""


def run_kept(
    tasks: Sequence[Task],
    held: Mapping[str, HeldOut],
    folder: str | Path,
    *,
    executor: Executor,
    progress: Progress,
) -> tuple[Run | Failed, ...]:
    """Carry out the tasks of which `folder` has no run; see `brsolver._grid.run_all`.

    Parameters
    ----------
    tasks : sequence of Task
    held : mapping of str to HeldOut
    folder : str or Path
        A campaign's; see `brsolver.campaign.run_campaign`.
    executor : Executor
    progress : callable
    """
    prints = {name: print_of_held(each) for name, each in held.items()}
    campaign = Campaign(
        name="compare",
        function=_kept_run,
        cells=tuple(
            Cell(key=_key(task, prints[task.held], code_of(task.policy)), task=task)
            for task in tasks
        ),
        shared=held,
        settings={
            "times of requests": tasks[0].keep_times,
            **settings_of(tasks[0].params, held[tasks[0].held]),
        },
        clocked=frozenset({RUN}),
    )
    rows = run_campaign(campaign, folder, executor=executor, progress=progress).to_pylist()
    return tuple(_outcome(task, row) for task, row in zip(tasks, rows, strict=True))


def _kept_run(task: Task, held: Mapping[str, Any]) -> Mapping[str, Any]:
    from brsolver.results.kept import run_to_bytes

    run = execute(task, held)
    beside = {*_key(task, "", ""), FAILED, WALL_S}
    figures = {name: each for name, each in run.metrics.to_dict().items() if name not in beside}
    return {**figures, RUN: run_to_bytes(run)}


def _outcome(task: Task, row: Mapping[str, Any]) -> Run | Failed:
    from brsolver.results.kept import run_from_bytes

    return run_from_bytes(row[RUN]) if row[FAILED] is None else lost(task, row[FAILED])


def _key(task: Task, fingerprint: str, code: str) -> dict[str, Any]:
    return {
        "policy": task.policy.text,
        "workers": task.params.workers,
        "seed": task.params.seed,
        "trace": fingerprint,
        "start": task.start,
        "first_row": task.first_row,
        "pictured": task.keep_curves,
        "code": code,
    }


def settings_of(params: SimulationParams, held: HeldOut) -> dict[str, Any]:
    """Return what runs depend on and keys do not say.

    Parameters
    ----------
    params : SimulationParams
    held : HeldOut
    """
    return {
        "trace": held.trace.name,
        "predictor": held.predictor_name,
        "predictor's code": held.code,
        **flat({name: each for name, each in params.to_dict().items() if name not in KEYED}),
    }


def print_of_held(held: HeldOut) -> str:
    """Tell apart what runs are of: their requests, and those that trained the predictor before."""
    own = print_of(held.trace)
    return f"{own} after {held.trained_by}" if held.trained_by else own


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested parameters by dotted names, long ones by a digest of them."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = _short(value)
    return found


def _short(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else json.dumps(value, default=_listed)
    return text if len(text) <= LONGEST else f"sha256 {hashlib.sha256(text.encode()).hexdigest()}"


def _listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else repr(value)
