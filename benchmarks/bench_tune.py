"""Tuning on the first half of a trace, held against the second: docs/tune.md.

Run ``python -m benchmarks.bench_tune AZURE BURSTGPT MOONCAKE [--budget 3m] [--jobs N]
[--out DIR]``. Prompts computed by the workers and elsewhere; requests kept waiting (goal
throughput) and by arrivals at 70 % of the slots (goal latency). With ``--out`` studies are kept,
and the same line goes on with them.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks._table import show
from brsolver import SimulationParams, load_trace
from brsolver.cli._spans import parse_span
from brsolver.executors import ExecutorParams, executor_of
from brsolver.report.tune_page import write_tune
from brsolver.report.write import check_out_dir
from brsolver.simulator import Arrivals
from brsolver.simulator.prefill import Prefill
from brsolver.tuning import TuneParams, tune, write_tuned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.tuning import TuneResult

WORKERS, SLOTS = 8, 64
UTILIZATION = 0.7
HEADER = (
    *("prompts", "requests", "trace", "trials", "in full", "recommended", "settings"),
    *("over published", "tuned over published", "tuned over project's", "gap left", "wall s"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """How requests come, and who computes prompts.

    Attributes
    ----------
    prompts, requests, goal : str
    params : SimulationParams
    """

    prompts: str
    requests: str
    goal: str
    params: SimulationParams

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.prompts}-{self.goal}"


def regimes(workers: int = WORKERS, slots: int = SLOTS) -> tuple[Regime, ...]:
    """Return what is measured."""
    by_time = Arrivals(mode="utilization", utilization=UTILIZATION)
    return tuple(
        Regime(
            prompts=prompts,
            requests=requests,
            goal=goal,
            params=SimulationParams(
                workers=workers, slots=slots, prefill=prefill, arrivals=arrivals
            ),
        )
        for prompts, prefill in (
            ("workers", Prefill(mode="colocated")),
            ("elsewhere", Prefill()),
        )
        for requests, goal, arrivals in (
            ("kept waiting", "throughput", Arrivals()),
            ("by arrivals", "latency", by_time),
        )
    )


def measured(
    source: str, regime: Regime, *, budget_s: float, jobs: int | None, out: str | None
) -> TuneResult:
    """Tune one trace in one regime; slots are kept, as more of them are always more throughput."""
    trace = load_trace(source)
    folder = None if out is None else check_out_dir(f"{out}/{trace.name}-{regime.name}")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    result = tune(
        trace,
        regime.params,
        TuneParams(
            goal=regime.goal,
            budget_s=budget_s,
            given=frozenset({"slots"}),
            storage="" if folder is None else f"sqlite:///{folder}/study.db",
        ),
        executor=executor_of(ExecutorParams(jobs=jobs)),
    )
    if folder is not None:
        write_tuned(result, folder)
        write_tune(result, folder)
    return result


def row_of(regime: Regime, result: TuneResult) -> tuple[object, ...]:
    """Return a line of the table."""
    counts = result.counts()
    gap, chosen = result.gap, result.chosen
    return (
        regime.prompts,
        regime.requests,
        result.trace_name,
        sum(counts.values()),
        counts["complete"],
        result.recommended,
        "" if chosen is None else str(chosen.candidate),
        _gain(result, result.recommended, "published"),
        _gain(result, "tuned", "published"),
        _gain(result, "tuned", "project"),
        "–" if gap is None or gap.gap is None else f"{100 * gap.gap:.1f} %",
        f"{result.wall_s:.0f}",
    )


def _gain(result: TuneResult, role: str, other: str) -> str:
    each = result.by_role(role)
    return "–" if each is None or other not in each.gains else str(each.gains[other])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="*", default=["preset:proprietary-like:n=12000"])
    parser.add_argument("--budget", default="3m")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--out")
    parser.add_argument("--only", default="", help="names of regimes, separated by commas")
    given = parser.parse_args(arguments)
    rows = []
    for source in given.traces:
        for regime in regimes():
            if given.only and regime.name not in given.only.split(","):
                continue
            print(f"{source} {regime.name}", file=sys.stderr)
            result = measured(
                source, regime,
                budget_s=parse_span(given.budget), jobs=given.jobs, out=given.out,
            )  # fmt: skip
            rows.append(row_of(regime, result))
            show(f"G = {WORKERS}, B = {SLOTS}, budget {given.budget}", HEADER, rows[-1:])
    show(f"G = {WORKERS}, B = {SLOTS}, budget {given.budget}", HEADER, rows)


if __name__ == "__main__":
    main()
