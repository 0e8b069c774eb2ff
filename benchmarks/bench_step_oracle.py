"""Times of the step oracle: relaxations, local search, Lagrangian bounds, exact solutions.

Prints one table. Compare ratios within one run; absolute times move with the machine.

    python benchmarks/bench_step_oracle.py [--decisions 10] [--limit 3]
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from brsolver.oracles.step import (
    Objective,
    StepInstance,
    StepRelaxer,
    heuristic,
    lagrangian_bound,
    local_search,
    objective_value,
    solve_step,
)
from brsolver.policy import NO_LIMIT
from brsolver.registry import make_policy
from brsolver.simulator import Arrivals, SimulationParams, simulate
from brsolver.traces import load_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from brsolver.oracles.result import SolveResult
    from brsolver.policy import ClusterView, Decision, Waiting

SIZES = ((16, 128, 8), (16, 128, 32), (64, 512, 8), (64, 512, 32))
HORIZON = 80
FREE_ON_TRAJECTORY = 64
OBJECTIVES: tuple[Objective, ...] = ("score", "imbalance")


def decisions(workers: int, waiting: int, free: int, count: int) -> Iterator[StepInstance]:
    """Yield decisions as a balanced cluster meets them: margins of about one prompt."""
    rng = np.random.default_rng(workers * 1000 + free)
    steps = np.arange(HORIZON + 1)
    for _ in range(count):
        loads = rng.normal(90_000, 3000, workers).astype(np.int64)
        ended = rng.exponential(600, (workers, HORIZON)) * (rng.random((workers, HORIZON)) < 0.4)
        fallen = np.cumsum(np.pad(ended.astype(np.int64), ((0, 0), (1, 0))), axis=1)
        yield StepInstance(
            projected=np.maximum(loads[:, None] - fallen, 0),
            room=np.bincount(rng.integers(0, workers, free), minlength=workers),
            token_room=np.full(workers, NO_LIMIT),
            prompts=np.minimum(rng.lognormal(6.5, 1.2, waiting).astype(np.int64) + 1, 16_000),
            weights=np.rint(1000 * 0.98**steps).astype(np.int64),
            beta=workers,
            admit=min(free, waiting),
        )


def timed(run: Callable[[], SolveResult]) -> tuple[SolveResult, float]:
    """Return a result and its milliseconds."""
    began = time.perf_counter()
    result = run()
    return result, (time.perf_counter() - began) * 1e3


def measure(instance: StepInstance, objective: Objective) -> dict[str, tuple[float, float]]:
    """Return milliseconds and distance from the relaxation in per cent, by method."""
    full, full_ms = timed(lambda: solve_step(instance, objective, relax=True))
    base = float(full.objective or 0.0)

    def off(value: float | None) -> float:
        return float("nan") if value is None else 100 * abs(value - base) / max(1.0, abs(base))

    known = heuristic(instance).tolist()
    rows = {
        "LP, all columns": (full_ms, 0.0),
        "heuristic": (0.0, off(objective_value(instance, known, objective))),
    }
    sifted, ms = timed(lambda: solve_step(instance, objective, relax=True, backend="sifting"))
    rows["LP, sifting"] = (ms, off(sifted.objective))
    for kicks in (0, 8, 40):
        found, ms = timed(lambda k=kicks: local_search(instance, objective, kicks=k))  # type: ignore[misc]
        rows[f"local search, {kicks} kicks"] = (ms, off(found.objective))
    best = None if found.solution is None else found.solution.astype(np.int64)
    bound, ms = timed(lambda: lagrangian_bound(instance, objective, incumbent=best))
    rows["Lagrangian bound"] = (ms, off(bound.dual_bound))
    return rows


class Recorder:
    """BR-H that keeps the decisions it faces while the cluster is full."""

    horizon = HORIZON

    def __init__(self) -> None:
        self.inner = make_policy("br-h", {})
        self.met: list[StepInstance] = []

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Keep the decision and route."""
        instance = StepInstance.from_view(cluster, waiting, horizon=HORIZON, gamma=0.98)
        if 0 < int(instance.room.sum()) <= FREE_ON_TRAJECTORY:
            self.met.append(instance)
        return self.inner.route(cluster, waiting)


def trajectory(workers: int, waiting: int, count: int) -> list[StepInstance]:
    """Return consecutive decisions of a run, after its start."""
    recorder = Recorder()
    arrivals = Arrivals(mode="pool", pool=waiting)
    params = SimulationParams(workers=workers, slots=32, arrivals=arrivals, max_steps=200 + count)
    simulate(load_trace(f"preset:chat:n={40 * workers + 12 * count}"), recorder, params)
    return recorder.met[-count:]


def along_a_trajectory(objective: Objective, count: int) -> str:
    """Return times of relaxations along a run, each by itself and each from the one before."""
    relaxer = StepRelaxer(objective)
    runs: dict[str, Callable[[StepInstance], SolveResult]] = {
        "cold": lambda i: solve_step(i, objective, relax=True, backend="sifting"),
        "warm": relaxer.solve,
    }
    times = {}
    for name, run in runs.items():
        # Decisions remember what was derived from them: each way gets its own.
        met = trajectory(64, 512, count + 1)
        times[name] = [timed(lambda i=i, run=run: run(i))[1] for i in met]  # type: ignore[misc]
    free = median(int(instance.room.sum()) for instance in met)
    parts = [
        f"{name} {median(ms[1:]):.2f} ms (worst {max(ms[1:]):.2f})" for name, ms in times.items()
    ]
    return f"{len(met) - 1} decisions, {free:.0f} free: {', '.join(parts)}"


def exact(instance: StepInstance, objective: Objective, limit: float) -> str:
    """Return how each solver of integer models fared."""
    parts = []
    for backend in ("highs", "cp-sat"):
        found = solve_step(instance, objective, backend=backend, time_limit_s=limit)
        gap = "" if found.gap is None else f", gap {100 * found.gap:.3f} %"
        parts.append(f"{backend} {found.status.value} {found.solve_s:.2f} s{gap}")
    return "; ".join(parts)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, default=10)
    parser.add_argument("--limit", type=float, default=3.0)
    options = parser.parse_args()
    print(f"{'G':>3} {'W':>4} {'free':>4} {'objective':10} {'method':24} {'ms':>8} {'off LP':>9}")
    for workers, waiting, free in SIZES:
        for objective in OBJECTIVES:
            cases = list(decisions(workers, waiting, free, options.decisions + 1))
            measure(cases[0], objective)  # compiles
            runs = [measure(instance, objective) for instance in cases[1:]]
            head = f"{workers:3} {waiting:4} {free:4} {objective:10}"
            for method in runs[0]:
                ms = median(run[method][0] for run in runs)
                off = median(run[method][1] for run in runs)
                worst = max(run[method][1] for run in runs)
                print(f"{head} {method:24} {ms:8.2f} {off:8.4f} % (worst {worst:.4f} %)")
            print(f"{head} exact: {exact(cases[-1], objective, options.limit)}")
    for objective in OBJECTIVES:
        print(f" 64  512 {objective:10} LP along a trajectory: {along_a_trajectory(objective, 40)}")


if __name__ == "__main__":
    main()
