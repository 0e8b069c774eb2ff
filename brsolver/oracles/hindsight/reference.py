"""The hindsight problems in cvxpy, one decode step at a time, to be read next to the formulae.

Slow by design: tests hold the dynamic programme, the interval model and the state search to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.oracles.backends._load import load

if TYPE_CHECKING:
    from brsolver.oracles.schedule import Schedule
    from brsolver.traces.trace import Trace


def reference_assignment(schedule: Schedule) -> int:
    """Return ``min Σ_k M(k)`` over all assignments under FCFS admission.

    ``min  Σ_k M_k``
    ``M_k >= Σ_{i active at k} w_i(k - x_i + 1)·x_ig``   for all k, g
    ``Σ_{i active at k} x_ig <= B``                     for all k, g
    ``Σ_g x_ig = 1``                                    for all i
    """
    cp = load("cvxpy")
    n, groups = len(schedule), schedule.workers
    x = cp.Variable((n, groups), boolean=True)
    m = cp.Variable(schedule.steps)
    rules: list[Any] = [cp.sum(x, axis=1) == 1]
    for k in range(schedule.steps):
        active = (schedule.start <= k) & (k < schedule.end)
        load_k = np.where(active, schedule.prompt + k - schedule.start, 0)
        for g in range(groups):
            rules += [m[k] >= load_k @ x[:, g], active.astype(int) @ x[:, g] <= schedule.slots]
    return _solve(cp, cp.sum(m), rules)


def reference_free(
    trace: Trace, *, workers: int, slots: int, pool: int, horizon: int, work_conserving: bool
) -> int:
    """Return ``min Σ_k M(k)`` over who starts when and where, time-indexed.

    ``x[g][i, k] = 1`` if request i starts on worker g at step k. A request is revealed once
    all but `pool` of those before it and itself have been admitted; with work conservation at
    every step all slots are full, or all that is revealed is admitted, or everything is.
    """
    cp = load("cvxpy")
    n = len(trace)
    x = [cp.Variable((n, horizon), boolean=True) for _ in range(workers)]
    m = cp.Variable(horizon)
    started = sum(x)
    rules: list[Any] = [cp.sum(started, axis=1) == 1]
    for i in range(n):
        for k in range(horizon):
            if k + trace.output_tokens[i] > horizon:
                rules.append(started[i, k] == 0)
            elif i >= pool:
                before = cp.sum(started[:, :k]) if k else 0
                rules.append(before >= (i - pool + 1) * started[i, k])
    for k in range(horizon):
        running, weight = np.zeros((n, horizon)), np.zeros((n, horizon))
        for i in range(n):
            first = max(0, k - int(trace.output_tokens[i]) + 1)
            running[i, first : k + 1] = 1
            weight[i, first : k + 1] = trace.prompt_tokens[i] + k - np.arange(first, k + 1)
        for g in range(workers):
            rules += [
                m[k] >= cp.sum(cp.multiply(weight, x[g])),
                cp.sum(cp.multiply(running, x[g])) <= slots,
            ]
        if work_conserving:
            full, seen, gone = (cp.Variable(boolean=True) for _ in range(3))
            rules += [
                full + seen + gone >= 1,
                cp.sum(cp.multiply(running, started)) >= workers * slots * full,
                cp.sum(started[:, k]) >= pool * seen,
                cp.sum(started[:, : k + 1]) >= n * gone,
            ]
    return _solve(cp, cp.sum(m), rules)


def _solve(cp: Any, cost: Any, rules: list[Any]) -> int:
    problem = cp.Problem(cp.Minimize(cost), rules)
    problem.solve(solver=cp.HIGHS)
    return round(float(problem.value))
