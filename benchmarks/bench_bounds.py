"""Certified bounds at trace scale: time, memory, and gaps of policies by phase.

Run ``python -m benchmarks.bench_bounds [FILE ...]``; without files, on the synthetic presets.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from typing import TYPE_CHECKING

from brsolver.hardware.model import step_time_of
from brsolver.oracles.bounds import (
    BoundResult,
    admissions_bound,
    fcfs_bound,
    free_bound,
    phase_gaps,
)
from brsolver.oracles.bounds.phases import why_invalid
from brsolver.simulator import SimulationParams, simulate
from brsolver.traces import load_trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.results.result import SimulationResult
    from brsolver.traces.trace import Trace

PRESETS = ("preset:uniform", "preset:chat", "preset:bfio-normal", "preset:proprietary-like")
POLICIES = ("jsq-load", "br-0", "br-h")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one block per trace; arguments None are those of the command line."""
    options = _options(arguments)
    _compile()
    for source in options.traces or PRESETS:
        trace = load_trace(source, limit=options.limit)
        print(
            f"\n{trace.name}: {len(trace):,} requests, G = {options.workers}, B = {options.slots}"
        )
        bounds = _bounds(trace, options.workers, options.slots)
        for spec in options.policies.split(","):
            _policy(trace, spec, bounds, options)
    print(f"\npeak memory {_peak_mib():,.0f} MiB")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="*")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--slots", type=int, default=72)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--predictor", default="oracle")
    return parser.parse_args(arguments)


def _compile() -> None:
    trace = load_trace("preset:uniform:n=40,s_high=90,o_high=40")
    fcfs_bound(trace, workers=2, slots=3)
    free_bound(trace, workers=2, slots=3)


def _bounds(trace: Trace, workers: int, slots: int) -> tuple[BoundResult, ...]:
    cluster = {"workers": workers, "slots": slots}
    found = []
    for label, make in (
        ("fcfs, fast", lambda: fcfs_bound(trace, **cluster, effort="fast")),
        ("fcfs, tight", lambda: fcfs_bound(trace, **cluster)),
        ("free", lambda: free_bound(trace, **cluster)),
    ):
        began = time.perf_counter()
        bound = make()
        took = time.perf_counter() - began
        parts = bound.phases
        print(
            f"  {label:<12} {bound.total:>16,} = fill {parts.fill:,} + steady {parts.steady:,}"
            f" + drain {parts.drain:,}; K >= {bound.steps:,}; average alone"
            f" {-(-bound.total_work // workers):,}; {took:.3f} s, {_peak_mib():,.0f} MiB"
        )
        found.append(bound)
    return tuple(found)


def _policy(
    trace: Trace, spec: str, bounds: tuple[BoundResult, ...], options: argparse.Namespace
) -> None:
    params = SimulationParams(
        workers=options.workers, slots=options.slots, step_time=step_time_of("bfio")
    )
    run = simulate(trace, spec, params, predictor=options.predictor)
    print(f"  {run.policy:<12} {int(run.steps.load_max.sum()):>16,}")
    own = admissions_bound(
        trace, run.requests.start_step, workers=options.workers, slots=options.slots
    )
    for bound in (*bounds[1:], own):
        _gaps(run, bound)


def _gaps(run: SimulationResult, bound: BoundResult) -> None:
    if why_invalid(run, bound):
        return
    gaps = phase_gaps(run, bound)
    text = ", ".join(f"{part.name} {part.gap:7.2%}" for part in (*gaps.phases, gaps.total))
    print(f"    over {bound.kind:<10} {text}")


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024.0**2 if sys.platform == "darwin" else 1024.0)


if __name__ == "__main__":
    main()
