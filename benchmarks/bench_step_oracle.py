"""Times of the step oracle: relaxations, local search, Lagrangian bounds, exact solutions.

Prints one table. Compare ratios within one run; absolute times move with the machine.

    python -m benchmarks.bench_step_oracle [--decisions 10] [--limit 3] [--only limits]
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.cluster.view import NO_LIMIT
from brsolver.oracles.backends import Isolation
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
from brsolver.registry import make_policy
from brsolver.simulator import Arrivals, SimulationParams, simulate
from brsolver.traces import load_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from brsolver.cluster.view import ClusterView, Decision, Waiting
    from brsolver.oracles.result import SolveResult

SIZES = ((16, 128, 8), (16, 128, 32), (64, 512, 8), (64, 512, 32))
HORIZON = 80
FREE_ON_TRAJECTORY = 64
OBJECTIVES: tuple[Objective, ...] = ("score", "imbalance")
LIMITS_S = (1.0, 0.2)
LIMITED = (("highs", False), ("cp-sat", False), ("highs-ipm", True), ("highs-pdlp", True))
LIMITED += (("pdlp", True), ("highs", True), ("highs-ds", True), ("glop", True), ("sifting", True))
SEARCHED = (8, 16, 32)
KICKS = (10, 40)
MOST_KICKS = 400


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


def limits() -> None:
    """Print what back ends take of a time limit, in this process and isolated."""
    print(f"{'objective':10} {'back end':12} {'limit':>5} {'here':>6} {'isolated':>8}   seconds")
    with Isolation() as process:
        for objective in OBJECTIVES:
            for backend, relax in LIMITED:
                for limit in LIMITS_S:
                    took = [
                        _took(
                            objective,
                            {"backend": backend, "relax": relax, "isolate": isolate},
                            limit,
                        )
                        for isolate in (False, process)
                    ]
                    name = backend if relax else f"{backend}, int"
                    print(f"{objective:10} {name:12} {limit:5} {took[0]:6.2f} {took[1]:8.2f}")


def _took(objective: Objective, given: dict[str, Any], limit: float) -> float:
    """Return the seconds for the largest decision, solver and process being there already."""
    (small,), (largest,) = decisions(2, 6, 3, 1), decisions(*SIZES[-1], 1)
    solve_step(small, objective, **given)
    began = time.perf_counter()
    solve_step(largest, objective, time_limit_s=limit, **given)
    return time.perf_counter() - began


def search_distribution(count: int) -> None:
    """Print how far local search ends from the relaxation, and from a long search."""
    print(
        f"{'free':>4} {'objective':10} {'kicks':>5} {'CPU ms':>7}   % off: LP P50, P90, worst; best"
    )
    for free in SEARCHED:
        for objective in OBJECTIVES:
            cases = list(decisions(16, 128, free, count))
            local_search(cases[0], objective, kicks=1)
            for kicks in KICKS:
                rows = np.array([_distances(case, objective, kicks) for case in cases])
                mid, high, worst = np.percentile(rows[:, 1], (50, 90, 100))
                print(
                    f"{free:4} {objective:10} {kicks:5} {median(rows[:, 0]):7.1f}   "
                    f"{mid:.3f} {high:.3f} {worst:.3f}; {rows[:, 2].max():.3f}"
                )


def _distances(case: StepInstance, objective: Objective, kicks: int) -> tuple[float, float, float]:
    began = time.process_time()
    found = local_search(case, objective, kicks=kicks)
    took = (time.process_time() - began) * 1e3
    longer = local_search(case, objective, kicks=MOST_KICKS)
    relaxed = solve_step(case, objective, relax=True, backend="sifting")
    value, best = float(found.objective or 0), float(longer.objective or 0)
    base = float(relaxed.objective or 0)
    per_cent = 100 / max(1.0, abs(base))
    return took, abs(value - base) * per_cent, abs(value - best) * per_cent


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, default=10)
    parser.add_argument("--limit", type=float, default=3.0)
    parser.add_argument("--only", choices=("methods", "limits", "search"))
    options = parser.parse_args()
    if options.only in {None, "limits"}:
        limits()
    if options.only in {None, "search"}:
        search_distribution(options.decisions)
    if options.only in {None, "methods"}:
        methods(options.decisions, options.limit)


def methods(count: int, limit: float) -> None:
    """Print times and distances of all methods by size."""
    print(f"{'G':>3} {'W':>4} {'free':>4} {'objective':10} {'method':24} {'ms':>8} {'off LP':>9}")
    for workers, waiting, free in SIZES:
        for objective in OBJECTIVES:
            cases = list(decisions(workers, waiting, free, count + 1))
            measure(cases[0], objective)  # compiles
            runs = [measure(instance, objective) for instance in cases[1:]]
            head = f"{workers:3} {waiting:4} {free:4} {objective:10}"
            for method in runs[0]:
                ms = median(run[method][0] for run in runs)
                off = median(run[method][1] for run in runs)
                worst = max(run[method][1] for run in runs)
                print(f"{head} {method:24} {ms:8.2f} {off:8.4f} % (worst {worst:.4f} %)")
            print(f"{head} exact: {exact(cases[-1], objective, limit)}")
    for objective in OBJECTIVES:
        print(f" 64  512 {objective:10} LP along a trajectory: {along_a_trajectory(objective, 40)}")


if __name__ == "__main__":
    main()
