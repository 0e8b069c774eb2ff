"""One decision of BR-H or BR-T: latency, and what it does not depend on.

Published for the Python proxy of [BR], G = 8, R_max = 4: P50 1.20 ms, P99 2.77 ms.
"""

from __future__ import annotations

import numpy as np

from benchmarks._table import show, times_us
from brsolver import BR0, BRH, BRHParams, ClusterState, ClusterView, Waiting
from brsolver.cluster._state_kernels import W_BACKLOG, W_CHANGES
from brsolver.cluster.costs import StepCosts
from brsolver.cluster.forecasting import Forecaster
from brsolver.registry import make_predictor
from brsolver.routers import BRT, reference

GAMMA = 0.86
PUBLISHED_US = {50: 1200.0, 99: 2770.0}
COSTS = StepCosts(base_s=0.0256, per_kv_token_s=4e-8, per_prefill_token_s=3e-5, budget=8192)
STEP_S = 0.03


def cluster(workers: int, slots: int, free: int, longest: int, seed: int = 0) -> ClusterState:
    """Return a cluster with all slots busy but `free`, forecasts up to `longest` steps ahead."""
    rng = np.random.default_rng(seed)
    state = ClusterState([slots] * workers, horizon=80, refresh_steps=32)
    handles = [
        state.admit(
            serial,
            serial % workers,
            int(rng.integers(50, 8000)),
            generated=int(rng.integers(0, longest)),
            remaining=int(rng.integers(1, longest)),
        )
        for serial in range(workers * slots)
    ]
    for handle in rng.choice(handles, free, replace=False).tolist():
        state.finish(handle)
    return state


def waiting(count: int) -> Waiting:
    """Return a queue of `count` requests."""
    prompts = np.random.default_rng(1).integers(50, 8000, count)
    return Waiting(prompts, np.arange(count))


def decision_us(
    state: ClusterState, queue: Waiting, params: BRHParams, repeat: int = 2000
) -> np.ndarray:
    """Time decisions, the view of the cluster made anew for each."""
    policy = BRH(params)
    return times_us(lambda: policy.route(state.view(), queue), repeat)


def survival_us(active: int, *, changing: bool, repeat: int = 1000) -> np.ndarray:
    """Time decisions of BR-H as it is by default, forecasts weighed by survival curves.

    What was projected of a worker is kept until something changes there: between two decisions
    of a simulation, everywhere; in the vLLM adapter, which projects when a rank reports, nowhere.
    """
    policy = BRH(BRHParams(r_max=4))
    state = cluster(8, active // 8, 4, 900)
    predictor = make_predictor("survival")
    lengths = np.random.default_rng(2).integers(1, 900, 4000)
    forecaster = Forecaster(predictor, horizon=80, refresh_steps=32)
    forecaster.observe(lengths, lengths, request=np.arange(4000))
    forecaster.update(state, state.handles(), 0)
    queue = waiting(200)

    def decide() -> object:
        state.workers[W_CHANGES] += changing
        view = ClusterView(
            state.view_table(),
            projection=lambda *how: forecaster.project(state, *how),
            active=state.active_requests,
        )
        return policy.route(view, queue)

    return times_us(decide, repeat)


def waves_us(state: ClusterState, queue: Waiting, repeat: int) -> np.ndarray:
    """Time decisions of BR-T, one a step: most hold what could run, some release it."""
    policy, step = BRT(), 0

    def decide() -> object:
        nonlocal step
        step += 1
        view = ClusterView(
            state.view_table(),
            projection=state.projection,
            active=state.active_requests,
            step=step,
            clock_s=step * STEP_S,
            costs=COSTS,
        )
        return policy.route(view, queue)

    return times_us(decide, repeat)


def main() -> None:
    """Print latencies and ratios."""
    params = BRHParams(horizon=80, r_max=4, gamma=GAMMA, projection="expected")
    rows = []
    for workers, slots, queued, frees in (
        (8, 64, 200, (1, 4, 7, 64)),
        (256, 64, 4096, (14, 64, 512)),
    ):
        for free in frees:
            us = decision_us(cluster(workers, slots, free, 900), waiting(queued), params)
            p50, p99 = np.percentile(us, [50, 99])
            rows.append((workers, slots, queued, free, p50, p99, PUBLISHED_US[50] / p50))
    show(
        "BR-H decision, H = 80, R_max = 4 (published: 1200 us P50, 2770 us P99 at G = 8)",
        ("G", "slots", "waiting", "free", "P50 us", "P99 us", "published P50 / ours"),
        rows,
    )
    _as_they_are()
    _in_waves()
    _by_survival()
    _independence(params)
    _against_reference(params)


def _as_they_are() -> None:
    """Show decisions among as many waiting requests as the routers' defaults look at."""
    queue, policies = waiting(200), {"br-0": BR0(), "br-h": BRH(BRHParams(projection="expected"))}
    rows = []
    for free in (1, 4, 7):
        state = cluster(8, 64, free, 900)
        for name, policy in policies.items():
            us = times_us(lambda p=policy, s=state: p.route(s.view(), queue), 1000)
            rows.append((name, free, *np.percentile(us, [50, 99])))
    show(
        "Decisions with the default R_max of 64, G = 8, 200 waiting (br-h: expected projection)",
        ("router", "free", "P50 us", "P99 us"),
        rows,
    )


def _in_waves() -> None:
    rows = []
    for workers, slots, queued, frees, repeat in (
        (8, 64, 200, (1, 7, 64, 512), 1000),
        (256, 64, 4096, (14, 64, 512, 4096), 200),
    ):
        for free in frees:
            state = cluster(workers, slots, free, 900)
            for most in (0, 20_000):
                rng = np.random.default_rng(4)
                state.workers[W_BACKLOG] = rng.integers(0, most + 1, workers)
                us = waves_us(state, waiting(queued), repeat)
                rows.append((workers, slots, queued, free, most, *np.percentile(us, [50, 99])))
    show(
        "BR-T decision, prefill backlogs evenly up to the largest",
        ("G", "slots", "waiting", "free", "largest backlog", "P50 us", "P99 us"),
        rows,
    )


def _by_survival() -> None:
    rows = []
    for active in (128, 512, 2048):
        us = [survival_us(active, changing=changing) for changing in (True, False)]
        rows.append((active, *(np.percentile(each, q) for each in us for q in (50, 99))))
    show(
        "BR-H decision by survival curves, G = 8, H = 80, 200 waiting, 4 free",
        ("active requests", "all changed: P50 us", "P99 us", "nothing changed: P50 us", "P99 us"),
        rows,
    )


def _independence(params: BRHParams) -> None:
    queue = waiting(200)
    rows = []
    for label, states in (
        (
            "outputs up to 100, 1000, 10000 tokens",
            [cluster(8, 64, 4, o) for o in (100, 1000, 10000)],
        ),
        ("active requests 128, 512, 2048", [cluster(8, b, 4, 900) for b in (16, 64, 256)]),
    ):
        medians = [float(np.median(decision_us(s, queue, params))) for s in states]
        rows.append((label, *medians, max(medians) / min(medians)))
    show(
        "What a decision does not depend on",
        ("varied", "P50 us", "P50 us", "P50 us", "max/min"),
        rows,
    )


def _against_reference(params: BRHParams) -> None:
    state, queue = cluster(8, 64, 4, 900), waiting(200)
    fast = float(np.median(decision_us(state, queue, params)))
    weights = reference.Weights(1.0, 8.0, [GAMMA**h for h in range(81)])
    table, projected = state.view_table(), state.projection(80).tolist()

    def plain() -> object:
        workers = [
            reference.Worker(list(row), int(table[4, g]), int(table[5, g]))
            for g, row in enumerate(projected)
        ]
        return reference.route(workers, queue.prompt_tokens.tolist(), weights, 7, 4)

    slow = float(np.median(times_us(plain, 20)))
    show(
        "Kernel against the plain reference",
        ("kernel us", "plain us", "ratio"),
        [(fast, slow, slow / fast)],
    )


if __name__ == "__main__":
    main()
