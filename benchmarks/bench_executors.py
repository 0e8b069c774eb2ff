"""What it costs, and brings, to carry out cells elsewhere: docs/scale-out.md.

Run ``python -m benchmarks.bench_executors [--cells N] [--requests N] [--parts cost,grid,kill]``.

``cost``: cells that do nothing, by executor, and what it costs to keep a row.
``grid``: the same grid of simulations on one process, on processes, and on Ray; the figures are
held against each other to the bit. ``kill``: a campaign on a Ray cluster of three nodes on this
machine, one of which is killed in the middle, beside the same without a cluster.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._table import show
from brsolver.campaign import WALL_S, Campaign, Cell, run_campaign
from brsolver.executors import ExecutorParams, executor_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from brsolver.executors import Executor, Lane

POLICIES = ("br-h", "br-0", "jsq-load", "random")
CLOCKED = frozenset({"wall_s", "dispatch_us_p50", "dispatch_us_p99", "dispatch_us_max"})
WORKERS, SLOTS = 16, 64
NODES = 3


def nothing(task: int, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return at once."""
    del shared
    return {"task": task}


def simulated(task: tuple[str, int], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Run a policy on the trace with a seed's requests left out at the start."""
    from brsolver.simulator import SimulationParams, simulate

    policy, seed = task
    params = SimulationParams(workers=WORKERS, slots=SLOTS, seed=seed)
    metrics = simulate(shared["trace"].after(seed), policy, params).metrics.to_dict()
    return {
        name: each for name, each in metrics.items() if name not in CLOCKED | {"policy", "seed"}
    }


def grid_of(cells: int, requests: int) -> Campaign:
    """Return so many runs of a preset: policies × seeds."""
    from brsolver.traces.load import read_trace
    from brsolver.traces.read_options import ReadOptions

    trace = read_trace("preset:azure2024-long-like", None, ReadOptions(limit=requests))
    asked = [(POLICIES[at % len(POLICIES)], at // len(POLICIES)) for at in range(cells)]
    return Campaign(
        name="grid",
        function=simulated,
        cells=tuple(Cell(key={"policy": p, "of seed": s}, task=(p, s)) for p, s in asked),
        shared={"trace": trace},
    )


def executors(jobs: int) -> Iterator[tuple[str, Executor]]:
    """Yield what is compared; the first is what others are held against."""
    yield "this process", executor_of(ExecutorParams(jobs=1))
    yield f"local, {jobs} processes", executor_of(ExecutorParams(jobs=jobs))
    yield f"ray, {jobs} processors", executor_of(ExecutorParams(executor="ray", jobs=jobs))


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call returns, and its seconds."""
    began = time.perf_counter()
    return call(), time.perf_counter() - began


def cost_rows(cells: int, jobs: int) -> Iterator[Sequence[str]]:
    """Measure cells that do nothing, in a lane that has begun: what each costs, and the start."""
    for name, executor in executors(jobs):
        began = time.perf_counter()
        with executor.open(nothing) as lane:
            _drained(lane, 4 * jobs)
            start_s = time.perf_counter() - began
            _, wall_s = timed(lambda each=lane: _drained(each, cells))
        yield name, f"{start_s:.1f}", f"{1e6 * wall_s / cells:,.0f}"


def _drained(lane: Lane, cells: int) -> None:
    for at in range(cells):
        lane.submit(at)
    for _ in range(cells):
        lane.next()


def row_us(cells: int) -> float:
    """Measure what it costs to keep a row: a campaign with a folder, less the same without one."""
    executor = executor_of(ExecutorParams(jobs=1))
    numbers = tuple(Cell(key={"number": each}, task=each) for each in range(cells))
    campaign = Campaign(name="nothing", function=nothing, cells=numbers)
    walls = []
    for keeps in (False, True, False, True):  # the first two import what files need
        with tempfile.TemporaryDirectory() as folder:
            where = folder if keeps else None
            walls.append(timed(lambda at=where: run_campaign(campaign, at, executor=executor))[1])
    return 1e6 * (walls[3] - walls[2]) / cells


def same(one: pa.Table, other: pa.Table) -> bool:
    """Tell whether tables are equal to the bit, columns and rows in the same order."""
    mine, theirs = (table.drop_columns([WALL_S]) for table in (one, other))
    if mine.schema != theirs.schema:
        return False
    # By their texts, which floats have for their own: NaN equals nothing.
    bits = (
        [list(map(repr, column.to_pylist())) for column in each.columns] for each in (mine, theirs)
    )
    return next(bits) == next(bits)


def grid_rows(campaign: Campaign, jobs: int) -> Iterator[Sequence[str]]:
    """Carry out the grid by each executor; the first time compiles and is not counted."""
    run_campaign(grid_of(len(POLICIES), 200), executor=executor_of(ExecutorParams(jobs=1)))
    first: tuple[pa.Table, float] | None = None
    for name, executor in executors(jobs):
        table, wall_s = timed(lambda e=executor: run_campaign(campaign, executor=e))
        first = first or (table, wall_s)
        yield (
            name,
            f"{wall_s:.1f}",
            f"×{first[1] / wall_s:.2f}",
            "yes" if same(table, first[0]) else "NO",
        )


def killed(campaign: Campaign) -> None:
    """Kill a node in the middle of a campaign; prints what happens as it does."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(NODES - 1)]
    began = time.perf_counter()

    def say(text: str) -> None:
        print(f"{time.perf_counter() - began:7.2f} s  {text}", flush=True)

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage())

    def progress(done: int, total: int) -> None:
        if done % max(total // 10, 1) == 0:
            say(f"{done} of {total} cells")
        if done == total // 3 and nodes:
            say(f"killing a node of {len(cluster.list_all_nodes())}")
            cluster.remove_node(nodes.pop(), allow_graceful=False)

    handler = Said()
    logging.getLogger("brsolver").addHandler(handler)
    where = ExecutorParams(executor="ray", ray_address=cluster.address)
    try:
        with tempfile.TemporaryDirectory() as folder:
            table = run_campaign(campaign, folder, executor=executor_of(where), progress=progress)
            say(f"{len(list(Path(folder, 'parts').iterdir()))} parts on disk")
    finally:
        logging.getLogger("brsolver").removeHandler(handler)
        cluster.shutdown()
    alone = run_campaign(campaign, executor=executor_of(ExecutorParams(jobs=1)))
    verdict = "the same to the bit as" if same(table, alone) else "DIFFERENT from"
    say(f"all {table.num_rows} rows are {verdict} those of one process")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print tables, and the log of the node that is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--requests", type=int, default=40_000)
    parser.add_argument("--empty", type=int, default=2000, help="cells that do nothing")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--parts", default="cost,grid,kill")
    asked = parser.parse_args(arguments)
    parts = asked.parts.split(",")
    if "cost" in parts:
        head = ("executor", "start, s", "µs per cell")
        show(
            f"{asked.empty:,} cells that do nothing", head, list(cost_rows(asked.empty, asked.jobs))
        )
        print(f"  a row on disk: {row_us(asked.empty):,.0f} µs more")
    if "grid" in parts:
        head = ("executor", "seconds", "speed-up", "same to the bit")
        campaign = grid_of(asked.cells, asked.requests)
        show(f"A grid of {asked.cells} cells", head, list(grid_rows(campaign, asked.jobs)))
    if "kill" in parts:
        killed(grid_of(asked.cells, asked.requests))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
