"""What executors bring to oracles, and what a second call costs: docs/scale-out.md.

Run ``python -m benchmarks.bench_oracle_campaign [--parts judge,search,states] [--jobs N]``.

``judge``: a gap by the step oracle, so many decisions of each policy. ``search``: the best runs in
hindsight of several clusters and seeds. ``states``: the worst decisions of ``judge``, by every
solver. Each in one process, in processes and on Ray, and then again with everything kept; results
are held against each other to the bit, but for what a clock says.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from benchmarks._table import show
from brsolver.executors import ExecutorParams
from brsolver.oracles._parts import BY_CLOCK, ENDED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from brsolver.traces.trace import Trace

    Call = Callable[[ExecutorParams | None, Path], Any]

POLICIES = ("br-h", "br-0", "jsq-load")
CLUSTER: dict[str, int] = {"workers": 16, "slots": 64}
CLOCKED = ("wall_s", "build_s", "solve_s", "result")


def trace_of(requests: int) -> Trace:
    """Return so many requests of a preset."""
    from brsolver.traces.load import read_trace
    from brsolver.traces.read_options import ReadOptions

    return read_trace("preset:azure2024-long-like", None, ReadOptions(limit=requests))


def executors(jobs: int) -> Iterator[tuple[str, ExecutorParams | None]]:
    """Yield what is compared; the first is what others are held against."""
    yield "this process", None
    yield f"local, {jobs} processes", ExecutorParams(jobs=jobs)
    yield f"ray, {jobs} processors", ExecutorParams(executor="ray", jobs=jobs)


def judging(trace: Trace, decisions: int) -> Call:
    """Return a gap of all policies by the step oracle."""
    from brsolver.oracles.gap import gap

    def call(executor: ExecutorParams | None, kept: Path) -> Any:
        return gap(
            trace, list(POLICIES), **CLUSTER, oracle="step", decisions=decisions,
            executor=executor, resume=kept,
        )  # fmt: skip

    return call


def searching(seeds: int, requests: int) -> Call:
    """Return searches for the best runs, small enough for proofs."""
    from brsolver.oracles.searches import SearchParams, search_runs

    trace = trace_of(requests)
    params = SearchParams(slots=5, budget_s=600.0)

    def call(executor: ExecutorParams | None, kept: Path) -> Any:
        traces = dict.fromkeys(range(seeds), trace)
        return search_runs(traces, (3,), params, executor=executor, resume=kept)

    return call


def solving(trace: Trace, decisions: int) -> Call:
    """Return the solving of the worst decisions of all policies."""
    from brsolver.oracles.states import Way, solve_states, ways_of
    from brsolver.oracles.step import StepInstance

    with tempfile.TemporaryDirectory() as folder:
        report = judging(trace, decisions)(None, Path(folder))
    worst = {
        f"{row.policy}, {name}": StepInstance.from_json(row.regret[name]["worst_state"])
        for row in report.policies
        for name in ("score", "imbalance")
    }
    plan = [("highs", "milp"), *((name, "lp") for name in ("highs", "glop", "sifting"))]
    ways: list[Way] = list(ways_of(plan))

    def call(executor: ExecutorParams | None, kept: Path) -> Any:
        objectives: Any = ("score", "imbalance")
        return solve_states(worst, objectives, ways, executor=executor, resume=kept)

    return call


def processor_s() -> float:
    """Return the processor's seconds that this process and those it has waited for took."""
    each = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in each)


def rows_of(kept: Path) -> list[tuple[str, bool]]:
    """Return what a campaign's folder says, a text for each row, and whether the clock ended it."""
    table = pq.read_table(kept / "results.parquet")
    table = table.drop_columns([name for name in CLOCKED if name in table.column_names])
    # By their texts, which floats have for their own: NaN equals nothing.
    return [(repr(row), row.get(ENDED) == BY_CLOCK) for row in table.to_pylist()]


def measured(call: Call, jobs: int) -> Iterator[Sequence[str]]:
    """Carry out a campaign by each executor, and again with everything kept."""
    first: tuple[list[tuple[str, bool]], float] | None = None
    for name, executor in executors(jobs):
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder, "kept")
            walls, spent_s = [], processor_s()
            for again in (False, True):
                began = time.perf_counter()
                call(executor, kept)
                walls.append(time.perf_counter() - began)
                if not again:
                    spent_s = processor_s() - spent_s
            rows = rows_of(kept)
        first = first or (rows, walls[0])
        pairs = list(zip(rows, first[0], strict=True))
        whole = [(one, other) for (one, cut), (other, also) in pairs if not (cut or also)]
        yield (
            name,
            f"{walls[0]:.1f}",
            f"×{first[1] / walls[0]:.2f}",
            # Ray's processes are no children of this one.
            "–" if executor is not None and executor.executor == "ray" else f"{spent_s:.1f}",
            f"{len(rows):,}",
            f"{sum(cut for _, cut in rows):,}",
            f"{sum(one != other for one, other in whole):,}",
            f"{walls[1]:.2f}",
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for each part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="judge,search,states")
    parser.add_argument("--requests", type=int, default=4_000)
    parser.add_argument("--decisions", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--search-requests", type=int, default=3_000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args(arguments)
    head = (
        "executor",
        "seconds",
        "speed-up",
        "processor, s",
        "parts",
        "by the clock",
        "others that differ",
        "again, s",
    )
    for part in asked.parts.split(","):
        trace = trace_of(asked.requests)
        call = {
            "judge": lambda each=trace: judging(each, asked.decisions),
            "search": lambda: searching(asked.seeds, asked.search_requests),
            "states": lambda each=trace: solving(each, 40),
        }[part]()
        # The first time compiles, and is not counted.
        with tempfile.TemporaryDirectory() as folder:
            call(None, Path(folder, "kept"))
        show(part, head, list(measured(call, asked.jobs)))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
