"""Carry out what is missing of a campaign."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, Any

from brsolver.campaign.cells import FAILED, WALL_S
from brsolver.campaign.store import ResultStore
from brsolver.campaign.tables import as_table
from brsolver.executors import Lost, carry_out, executor_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

    from brsolver.campaign.cells import Campaign, Cell
    from brsolver.executors import Executor

Progress = Callable[[int, int], None]


def run_campaign(
    campaign: Campaign,
    folder: str | Path | None = None,
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> pa.Table:
    """Compute the cells of which `folder` has no figures, and return all rows.

    Parameters
    ----------
    campaign : Campaign
    folder : str or Path, optional
        Where rows are kept, and looked for; without one, all are computed and none is kept.
    executor : Executor, optional
        Default: processes of this machine.
    progress : callable, optional
        Called with (cells that are there, all cells).

    Returns
    -------
    pyarrow.Table
        A row per cell, in their order: its key, its figures, `FAILED` and `WALL_S`. A cell that
        fails has no figures and is tried again by the next call; the others go on.

    Raises
    ------
    ParameterError
        The folder holds another campaign, or another process works on it.
    BrsolverError
        A part of the folder is damaged, or nothing can be carried out: the cluster cannot be
        reached.
    """
    with nullcontext() if folder is None else ResultStore(folder, campaign) as store:
        rows = {} if store is None else _whole(store.rows)
        missing = [cell for cell in campaign.cells if campaign.identity_of(cell) not in rows]
        total = len(campaign.cells)
        tell = progress or _silent
        tell(total - len(missing), total)
        computed = _computed(campaign, missing, executor)
        for done, (cell, row) in enumerate(computed, start=total - len(missing) + 1):
            identity = campaign.identity_of(cell)
            rows[identity] = row
            if store is not None:
                store.add(identity, row)
            tell(done, total)
        kept = [rows[campaign.identity_of(cell)] for cell in campaign.cells]
        table = as_table(kept, campaign.key_names)
        if store is not None:
            store.finish(table)
    return table


def _whole(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {name: row for name, row in rows.items() if row[FAILED] is None}


def _computed(
    campaign: Campaign, cells: Sequence[Cell], executor: Executor | None
) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    if not cells:
        return
    executor = executor or executor_of(most=len(cells))
    tasks = [(campaign.function, cell.task) for cell in cells]
    for at, result in carry_out(executor, _timed, tasks, campaign.shared):
        yield cells[at], _row(cells[at], result)


def _row(cell: Cell, result: Any) -> Mapping[str, Any]:
    if isinstance(result, Lost):
        return {**cell.key, FAILED: result.reason, WALL_S: None}
    figures, wall_s = result
    taken = [name for name in (*cell.key, FAILED, WALL_S) if name in figures]
    if taken:
        reason = f"its figures have the name {taken[0]!r}, which the campaign has another use for"
        return {**cell.key, FAILED: reason, WALL_S: wall_s}
    return {**cell.key, **figures, FAILED: None, WALL_S: wall_s}


def _timed(task: Any, shared: Mapping[str, Any]) -> tuple[Mapping[str, Any], float]:
    function, inner = task
    began = perf_counter()
    figures = {name: _plain(value) for name, value in function(inner, shared).items()}
    return figures, perf_counter() - began


def _plain(value: Any) -> Any:
    """Return Python's own number for one of numpy's: files give back no other."""
    import numpy as np

    return value.item() if isinstance(value, np.generic) else value


def _silent(done: int, total: int) -> None:
    del done, total
