"""br-ramp against BR-H and the least load, in pools: the figures of docs/br-ramp.md.

Run ``python -m benchmarks.bench_ramp [FILE ...] [--workers 8,16,64] [--slots 64] [--seeds 3]
[--generations 20] [--part steady,cells,guard,pool,cost] [--each]``. Requests are drawn with
replacement from each file, and anew from each preset, by seed: as many as `generations` times the
slots there are. Steps last what [BFIO] has them last (`--hardware` says otherwise). BR-H is as it
was before its guard, with online Survival.

``steady``: imbalance from the 25th to the 90th percentile of admissions, a full pool, over
  BR-H's; the longest wait, TTFT P99 and throughput over all of the run, over BR-H's.
``cells``: TPOT P50 over the better of BR-H's and `jsq-load`'s, saturated and by Poisson arrivals.
``guard``: TPOT P50 and TTFT P99 of BR-H with and without it, by Poisson arrivals.
``pool``: the same imbalance by the size of the pool.
``cost``: microseconds per decision by the number of workers.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks._table import show, times_us
from benchmarks.bench_dispatch import cluster, waiting
from brsolver import BR0, BRH, SimulationParams, Trace, load_trace, simulate
from brsolver.hardware.model import step_time_of
from brsolver.routers import BR0Params, BRHParams, BRRamp
from brsolver.simulator import Arrivals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from brsolver import Policy, SimulationResult

    Make = Callable[[], Policy | str]

PRESETS = ("uniform", "bfio-normal", "proprietary-like", "azure2024-long-like", "chat")
BASE = "br-h:guard=false"
LEAST = "jsq-load"
ROUTERS: dict[str, Make] = {
    BASE: lambda: BASE,
    "br-0": lambda: "br-0",
    "br-ramp": lambda: "br-ramp",
    "br-ramp, exact": lambda: BRRamp(exact=True),
}
BELOW = {"0.5": 0.5, "0.7": 0.7, "0.85": 0.85, "0.95": 0.95}
POOLS = (4, 16, 64)
COSTS = (4, 16, 64, 256, 1024)


@dataclass(frozen=True)
class Setting:
    """A trace at a size of cluster."""

    source: str
    workers: int
    options: argparse.Namespace

    @property
    def name(self) -> str:
        """What tables call the trace."""
        return Path(self.source).stem

    def trace(self, seed: int) -> Trace:
        """Draw its requests."""
        count = self.options.generations * self.workers * self.options.slots
        if self.source in PRESETS:
            return load_trace(f"preset:{self.source}:n={count},seed={seed}")
        whole = load_trace(self.source)
        rows = np.random.default_rng(seed).integers(0, len(whole), count)
        prompt, output = whole.prompt_tokens[rows], whole.output_tokens[rows]
        return Trace(prompt_tokens=prompt, output_tokens=output, name=whole.name)

    def run(self, trace: Trace, make: Make, arrivals: Arrivals) -> SimulationResult:
        """Carry out a run."""
        params = SimulationParams(
            workers=self.workers,
            slots=self.options.slots,
            step_time=step_time_of(self.options.hardware),
            arrivals=arrivals,
        )
        return simulate(trace, make(), params)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the parts asked for; arguments None are those of the command line."""
    options = _options(arguments)
    parts = {"steady": _steady, "cells": _cells, "guard": _guard, "pool": _pools, "cost": _costs}
    for part in options.part.split(","):
        parts[part](options)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="*")
    parser.add_argument("--workers", default="8,16,64")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--generations", type=int, default=20)
    parser.add_argument("--hardware", default="bfio")
    parser.add_argument("--part", default="steady,cells,guard,pool,cost")
    parser.add_argument("--each", action="store_true", help="print every setting, too")
    return parser.parse_args(arguments)


def _settings(options: argparse.Namespace, workers: int) -> Iterator[Setting]:
    for source in (*options.traces, *PRESETS):
        yield Setting(source, workers, options)


def _workers(options: argparse.Namespace) -> list[int]:
    return [int(each) for each in options.workers.split(",")]


def imbalance(result: SimulationResult) -> float:
    """Return the mean imbalance from the 25th to the 90th percentile of admissions."""
    started = np.sort(result.requests.start_step)
    first, end = (int(started[int(q * started.size)]) for q in (0.25, 0.9))
    return float(result.steps.imbalance_sum()[first:end].mean())


def _figures(result: SimulationResult) -> list[float]:
    m = result.metrics
    return [imbalance(result), m.max_wait_s, m.ttft_p99_s, m.throughput_tok_s]


def _steady(options: argparse.Namespace) -> None:
    for workers in _workers(options):
        settings = list(_settings(options, workers))
        found = np.array([_steady_of(setting) for setting in settings])
        if options.each:
            show(
                f"Steady imbalance over BR-H's, G = {workers}, by seed",
                ("trace", *list(ROUTERS)[1:]),
                [
                    (s.name, *(" ".join(f"{r:.2f}" for r in row[:, a, 0]) for a in range(1, 4)))
                    for s, row in zip(settings, found, strict=True)
                ],
            )
        means = np.exp(np.log(found).mean(axis=(0, 1)))
        show(
            f"Over BR-H's, G = {workers}, {len(settings)} traces × {options.seeds} seeds, "
            "geometric means",
            ("router", "steady imbalance", "longest wait", "TTFT P99", "throughput"),
            [(name, *(f"{x:.3f}" for x in row)) for name, row in zip(ROUTERS, means, strict=True)],
        )


def _steady_of(setting: Setting) -> np.ndarray:
    """Return each router's figures over BR-H's, shape (seeds, routers, figures)."""
    rows = []
    for seed in range(setting.options.seeds):
        trace = setting.trace(seed)
        runs = [_figures(setting.run(trace, make, Arrivals())) for make in ROUTERS.values()]
        rows.append(np.array(runs) / np.array(runs[0]))
    return np.array(rows)


def _cells(options: argparse.Namespace) -> None:
    cells: dict[str, Arrivals] = {"saturated": Arrivals()}
    for name, share in BELOW.items():
        cells[name] = Arrivals(mode="utilization", utilization=share)
    for workers in _workers(options):
        rows = []
        for setting in _settings(options, workers):
            runs = [[_tpot(setting, seed, each) for each in cells.values()]
                    for seed in range(options.seeds)]  # fmt: skip
            mean = np.exp(np.log(np.array(runs)).mean(axis=0))
            rows.append((setting.name, *(" ".join(f"{x:.3f}" for x in cell) for cell in mean)))
        show(
            f"TPOT P50 over the better of BR-H's and jsq-load's, G = {workers}: br-ramp, br-h, "
            f"br-0; geometric means of {options.seeds} seed(s)",
            ("trace", *cells),
            rows,
        )


def _tpot(setting: Setting, seed: int, arrivals: Arrivals) -> list[float]:
    trace = setting.trace(seed)
    by = [
        setting.run(trace, lambda n=name: n, arrivals).metrics.tpot_p50_s
        for name in (BASE, LEAST, "br-ramp", "br-h", "br-0")
    ]
    return [each / min(by[:2]) for each in by[2:]]


def _guard(options: argparse.Namespace) -> None:
    """Show what the guard of BR-H does below saturation."""
    routers = (LEAST, BASE, "br-h", "br-ramp")
    for workers in _workers(options):
        rows = []
        for setting in _settings(options, workers):
            trace = setting.trace(0)
            for share in ("0.7", "0.95"):
                arrivals = Arrivals(mode="utilization", utilization=BELOW[share])
                found = [setting.run(trace, lambda n=n: n, arrivals).metrics for n in routers]
                tpot = " / ".join(f"{1000 * m.tpot_p50_s:.2f}" for m in found)
                ttft = " / ".join(f"{1000 * m.ttft_p99_s:.0f}" for m in found)
                rows.append((setting.name, share, tpot, ttft))
        show(
            f"Below saturation, G = {workers}: {', '.join(routers)}",
            ("trace", "utilization", "TPOT P50 ms", "TTFT P99 ms"),
            rows,
        )


def _pools(options: argparse.Namespace) -> None:
    for workers in _workers(options):
        rows = []
        for setting in _settings(options, workers):
            cells = []
            for pool in POOLS:
                arrivals = Arrivals(pool=pool * workers)
                ratios = [
                    imbalance(setting.run(trace, ROUTERS["br-ramp"], arrivals))
                    / imbalance(setting.run(trace, ROUTERS[BASE], arrivals))
                    for trace in map(setting.trace, range(options.seeds))
                ]
                cells.append(f"{np.exp(np.log(ratios).mean()):.2f}")
            rows.append((setting.name, *cells))
        show(
            f"Steady imbalance over BR-H's by the size of the pool, G = {workers}, geometric "
            f"means of {options.seeds} seed(s)",
            ("trace", *(f"{pool}·G" for pool in POOLS)),
            rows,
        )


def _costs(_: argparse.Namespace) -> None:
    rows = []
    for workers in COSTS:
        state = cluster(workers, 64, max(workers // 8, 1), 900)
        queue = waiting(4 * workers)
        plans: dict[str, Policy] = {
            "br-ramp": _experienced(BRRamp()),
            "br-ramp, exact": _experienced(BRRamp(exact=True)),
            "br-0": BR0(BR0Params(guard=False)),
            "br-h": BRH(BRHParams(guard=False, projection="expected")),
        }
        view = state.view(step=1000)
        row = [times_us(lambda p=p, v=view, q=queue: p.route(v, q), 200) for p in plans.values()]
        rows.append((workers, *(f"{np.percentile(us, 50):.0f} / {np.percentile(us, 99):.0f}"
                                for us in row)))  # fmt: skip
    show(
        "Microseconds per decision, P50 / P99; G/8 slots free, 4·G waiting, B = 64",
        ("G", "br-ramp", "br-ramp, exact", "br-0", "br-h (expected)"),
        rows,
    )


def _experienced(policy: BRRamp) -> BRRamp:
    """Let a router see departures: one from each of four workers every ten steps."""
    state = cluster(4, 16, 8, 900)
    handles = state.handles().tolist()
    for step in range(40):
        policy.route(state.view(step=10 * step), waiting(1))
        state.finish(handles[step])
    return policy


if __name__ == "__main__":
    main()
