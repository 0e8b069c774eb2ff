"""Carry out what is missing of a campaign."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

from brsolver.campaign.store import ResultStore, as_table
from brsolver.executors import Lost, carry_out, executor_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pyarrow as pa

    from brsolver.campaign.cells import Campaign, Cell
    from brsolver.executors import Executor

FAILED = "failed"
"""Column of the reason why a cell has no figures; null for one that has."""
WALL_S = "wall_s"
"""Column of the seconds that a cell took."""
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
        The folder holds another campaign.
    BrsolverError
        Nothing can be carried out: the cluster cannot be reached.
    """
    store = None if folder is None else ResultStore(folder, campaign)
    rows = {} if store is None else _whole(store.rows)
    missing = [cell for cell in campaign.cells if cell.identity not in rows]
    total = len(campaign.cells)
    tell = progress or _silent
    tell(total - len(missing), total)
    try:
        computed = _computed(campaign, missing, executor)
        for done, (cell, row) in enumerate(computed, start=total - len(missing) + 1):
            rows[cell.identity] = row
            if store is not None:
                store.add(cell.identity, row)
            tell(done, total)
    finally:
        if store is not None:
            store.flush()
    table = as_table(rows[cell.identity] for cell in campaign.cells)
    if store is not None:
        store.finish(table)
    return table


def _whole(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {name: row for name, row in rows.items() if row.get(FAILED) is None}


def _computed(
    campaign: Campaign, cells: list[Cell], executor: Executor | None
) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    if not cells:
        return
    executor = executor or executor_of(most=len(cells))
    tasks = [(campaign.function, cell.task) for cell in cells]
    for at, result in carry_out(executor, _timed, tasks, campaign.shared):
        cell = cells[at]
        if isinstance(result, Lost):
            yield cell, {**cell.key, FAILED: result.reason, WALL_S: None}
        else:
            figures, wall_s = result
            yield cell, {**cell.key, **figures, FAILED: None, WALL_S: wall_s}


def _timed(task: Any, shared: Mapping[str, Any]) -> tuple[Mapping[str, Any], float]:
    function, inner = task
    began = perf_counter()
    figures = function(inner, shared)
    return figures, perf_counter() - began


def _silent(done: int, total: int) -> None:
    del done, total
