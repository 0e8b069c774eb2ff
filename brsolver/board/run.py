"""Compute a board."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brsolver._version import __version__
from brsolver.board.cells import CLOCKED, places, reference_figures, run_figures, runs, shared_name
from brsolver.board.choice import narrowed
from brsolver.board.policies import policies_of
from brsolver.board.result import Board
from brsolver.board.sources import load_traces
from brsolver.campaign import Campaign, run_campaign
from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from brsolver.board.definition import BoardDefinition
    from brsolver.board.policies import BoardPolicy
    from brsolver.board.sources import LoadedTrace
    from brsolver.campaign import Cell
    from brsolver.executors import Executor

REFERENCES = "references"
"""Folder of the places' bounds and rates, within a board's."""


def run_board(
    definition: BoardDefinition,
    *,
    more: Iterable[str] = (),
    policies: Iterable[str] = (),
    files: Mapping[str, str] | None = None,
    chosen: Mapping[str, tuple[str, ...]] | None = None,
    seeds: int | None = None,
    out: str | Path | None = None,
    executor: Executor | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Board:
    """Run every policy in every place and regime.

    Parameters
    ----------
    definition : BoardDefinition
    more : iterable of str
        Policies besides those of the definition, ``SPEC[@ROUTING]`` each.
    policies : iterable of str
        Lists of policies in place of those of the definition.
    files : mapping of str to str
        Files in place of stand-ins, by name of the trace.
    chosen : mapping of str to tuple of str
        As of `brsolver.board.choice.read_choice`: what is computed of it.
    seeds : int, optional
        Computes so many, from 0 on, in place of the definition's.
    out : str or Path, optional
        Folder where rows are kept as they come; a call with the same folder goes on.
    executor : Executor, optional
    progress : callable, optional
        Called with (what is being done, cells done, all cells).

    Returns
    -------
    Board

    Raises
    ------
    BrsolverError
        Any input is bad, the folder holds another board, or nothing can be carried out. A policy
        that fails in a cell does not raise: see `Board.failures`.
    """
    began = time.perf_counter()
    definition = definition if seeds is None else definition.seeded(seeds)
    part = narrowed(definition, chosen or {})
    listed = policies_of(definition, more=more, only=policies)
    traces = load_traces(part, part.traces, _wanted(definition, part, files or {}))
    baseline = listed[0]
    folder = None if out is None else Path(out)
    told = progress or _silent

    def campaign(name: str, function: Any, cells: Iterable[Cell]) -> Campaign:
        return Campaign(
            name=f"{name} of board {definition.name}",
            function=function,
            cells=tuple(cells),
            shared={
                shared_name(loaded.name, seed): trace
                for loaded in traces
                for seed, trace in loaded.by_seed.items()
            },
            # Not what was chosen of it: the rest may be computed later.
            settings={"definition": definition.fingerprint, "baseline": baseline.text},
            clocked=CLOCKED,
        )

    where = tuple(places(part, traces, baseline))
    if not where:
        raise ParameterError(
            "nothing is left of the board: prefix caches need a trace with hash_ids, which no "
            "stand-in has; give a file by --trace NAME=FILE"
        )
    rows = run_campaign(
        campaign("references", reference_figures, where),
        None if folder is None else folder / REFERENCES,
        executor=executor,
        progress=lambda done, total: told("bounds", done, total),
    ).to_pylist()
    found = {cell.identity: (cell, row) for cell, row in zip(where, rows, strict=True)}
    cells = campaign("cells", run_figures, runs(part, found, listed))
    table = run_campaign(
        cells,
        folder,
        executor=executor,
        progress=lambda done, total: told("cells", done, total),
    )
    return Board(
        definition=part,
        baseline=baseline,
        traces=traces,
        rows=tuple(table.to_pylist()),
        version=__version__,
        wall_s=time.perf_counter() - began,
        left_out=tuple(_left_out(part, traces, listed)),
    )


def _wanted(
    definition: BoardDefinition, part: BoardDefinition, files: Mapping[str, str]
) -> dict[str, str]:
    """Leave out files of traces that are not computed; keep unknown names, to be refused."""
    return {
        name: file
        for name, file in files.items()
        if name in part.traces or name not in definition.traces
    }


def _left_out(
    part: BoardDefinition, traces: tuple[LoadedTrace, ...], policies: tuple[BoardPolicy, ...]
) -> Iterable[str]:
    bare = [loaded.name for loaded in traces if not loaded.has_prefixes]
    for name, prefill in part.prefill.items():
        if prefill.cache and bare:
            yield (
                f"{name}: left out for {', '.join(bare)}, which do not say which prompts begin "
                "alike (hash_ids)"
            )
    idle = [policy.text for policy in policies if policy.cached_only]
    if idle and not any(prefill.cache for prefill in part.prefill.values()):
        yield f"{', '.join(idle)}: left out, as no ranks have prefix caches"


def _silent(what: str, done: int, total: int) -> None:
    del what, done, total
