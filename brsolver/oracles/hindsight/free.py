"""Admission and assignment together: when requests start, and where."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import ParameterError
from brsolver.oracles._schedule_kernels import worker_loads
from brsolver.oracles.backends import solve
from brsolver.oracles.hindsight.result import CurvePoint, Outcome
from brsolver.oracles.hindsight.weights import FreeWeights
from brsolver.oracles.linear_model import Kind, LinearModel, ModelBuilder, Sense
from brsolver.oracles.result import Status
from brsolver.oracles.schedule import check_cluster, require_known_order

if TYPE_CHECKING:
    from brsolver.traces.trace import Trace

IntArray = NDArray[np.int64]

MAX_STARTS = 2_000_000
MAX_POOL_ENTRIES = 4_000_000
"""Models with more start columns, or entries in the pool's rows, are refused, not built."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FreeModel:
    """The time-indexed model.

    Attributes
    ----------
    model : LinearModel
        Columns ``x`` (starts, G), ``m`` (T,), ``used`` (T,), and with work conservation
        ``full``, ``seen`` and ``gone`` (T,).
    request, step : ndarray of int64, shape (starts,)
        What every row of ``x`` starts, and when.
    """

    model: LinearModel
    request: IntArray
    step: IntArray

    def plan(self, solution: IntArray) -> tuple[IntArray, IntArray]:
        """Return worker and start of every request."""
        at, g = np.nonzero(solution[self.model.column("x")])
        worker = np.empty(at.size, np.int64)
        start = np.empty(at.size, np.int64)
        worker[self.request[at]], start[self.request[at]] = g, self.step[at]
        return worker, start


def hindsight_free(
    trace: Trace,
    *,
    workers: int,
    slots: int,
    horizon: int,
    pool: int | None = None,
    work_conserving: bool = True,
    weights: FreeWeights | None = None,
    budget_s: float = 60.0,
    warm_start: tuple[IntArray, IntArray] | None = None,
    threads: int = 1,
    backend: str = "cp-sat",
) -> Outcome:
    """Minimise over who starts when and where, within a horizon of T steps.

    Parameters
    ----------
    trace : Trace
    workers, slots, pool : int
        G, B and the pool, ``4·G`` by default. Request i is revealed once ``i - pool + 1``
        requests have been admitted at earlier steps.
    horizon : int
        T: every request has finished after step ``T - 1``. Without work conservation and
        without a cost per step, more steps never cost more.
    work_conserving : bool
        Whether a slot may stay empty while a revealed request waits.
    weights : FreeWeights, optional
        Barrier time if not given.
    budget_s : float
        Wall-clock seconds.
    warm_start : (worker, start), optional
        A plan within the horizon to start from.
    threads : int
    backend : str
        ``"cp-sat"`` or ``"highs"``.

    Returns
    -------
    Outcome
        `start` is compressed: a step at which nothing runs costs nothing and is left out.
    """
    slots, pool = check_cluster(workers, slots, pool)
    require_known_order(trace)
    check_horizon(trace, horizon)
    _check_size(trace, workers, horizon)
    began = perf_counter()
    weights = weights or FreeWeights()
    made = build_free(
        trace, workers, slots, pool, horizon, work_conserving=work_conserving, weights=weights
    )
    built = perf_counter() - began
    floor = total_work_bound(trace, workers, slots, weights)
    hint = None if warm_start is None else _hint(made, trace, warm_start, workers, slots, pool)
    seconds = max(0.02, budget_s - (perf_counter() - began))
    answer = solve(made.model, backend, time_limit_s=seconds, threads=threads, warm_start=hint)
    known = floor if answer.dual_bound is None else max(floor, int(answer.dual_bound))
    worker = start = value = None
    if answer.solution is not None:
        worker, start = made.plan(answer.solution.astype(np.int64))
        start = compress(start, trace.output_tokens)
        value = plan_cost(trace, worker, start, workers, weights)
    now = perf_counter() - began
    return Outcome(
        value=value,
        bound=None if answer.status is Status.INFEASIBLE else known,
        worker=worker,
        start=start,
        infeasible=answer.status is Status.INFEASIBLE,
        build_s=built,
        solve_s=answer.solve_s,
        origin=f"{answer.origin}, time-indexed model" if known > floor else "total work",
        curve=(CurvePoint(time_s=now, incumbent=value, bound=known, by=backend),),
        message=answer.message,
    )


def check_horizon(trace: Trace, horizon: int) -> None:
    """Raise `ParameterError` if no run can be that short."""
    longest = int(trace.output_tokens.max())
    if horizon < longest:
        raise ParameterError(
            f"horizon is {horizon} steps, must be at least {longest}: the longest output"
        )


def model_fits(trace: Trace, workers: int, horizon: int) -> bool:
    """Tell whether `hindsight_free` would build the model."""
    starts = len(trace) * horizon * workers
    return starts <= MAX_STARTS and (len(trace) * horizon) ** 2 * workers <= MAX_POOL_ENTRIES


def as_it_stands(
    trace: Trace, plan: tuple[IntArray, IntArray], workers: int, slots: int, weights: FreeWeights
) -> Outcome:
    """Return a plan and the bound by total work, where no method reaches further."""
    value = plan_cost(trace, *plan, workers, weights)
    bound = total_work_bound(trace, workers, slots, weights)
    return Outcome(
        value=value,
        bound=bound,
        worker=plan[0],
        start=plan[1],
        origin="total work",
        curve=(CurvePoint(time_s=0.0, incumbent=value, bound=bound, by="start"),),
        message="" if value == bound else "too large to search: the run to start from is the best",
    )


def _check_size(trace: Trace, workers: int, horizon: int) -> None:
    if len(trace) * horizon * workers > MAX_STARTS:
        raise ParameterError(
            f"free admission is {len(trace)} requests x {horizon} steps x {workers} workers, must "
            f"be at most {MAX_STARTS} in all; use fewer requests or admission 'fcfs'"
        )
    if (len(trace) * horizon) ** 2 * workers > MAX_POOL_ENTRIES:
        raise ParameterError(
            f"free admission is {len(trace)} requests x {horizon} steps x {workers} workers, must "
            f"make a model of at most {MAX_POOL_ENTRIES} entries; use fewer requests or admission "
            "'fcfs'"
        )


def total_work_bound(trace: Trace, workers: int, slots: int, weights: FreeWeights) -> int:
    """Bound the objective of any plan by ``ΣM >= W/G`` and ``K >= max(⌈Σo/(GB)⌉, max o)``."""
    output, prompt = trace.output_tokens, trace.prompt_tokens
    work = int((output * prompt + output * (output - 1) // 2).sum())
    steps = max(-(-int(output.sum()) // (workers * slots)), int(output.max()))
    return weights.per_step * steps + weights.per_token * -(-work // workers)


def plan_cost(
    trace: Trace, worker: IntArray, start: IntArray, workers: int, weights: FreeWeights
) -> int:
    """Return the objective of a plan."""
    end = start + trace.output_tokens
    steps = int(end.max())
    loads = worker_loads(trace.prompt_tokens, start, end, worker, workers, steps)
    return weights.per_step * steps + weights.per_token * int(loads.max(axis=0).sum())


def compress(start: IntArray, output: IntArray) -> IntArray:
    """Return admission steps without the steps at which nothing runs."""
    steps = int((start + output).max())
    change = np.zeros(steps + 1, np.int64)
    np.add.at(change, start, 1)
    np.add.at(change, start + output, -1)
    empty: IntArray = np.cumsum(np.cumsum(change) == 0)
    moved: IntArray = start - empty[start]
    return moved


def earliest_starts(count: int, pool: int, positions: int) -> IntArray:
    """Return the first step at which each request can have been revealed.

    At most ``min(pool, GB)`` requests are admitted per step, and request i needs
    ``i - pool + 1`` of them to have been admitted before.
    """
    needed = np.maximum(np.arange(count) - pool + 1, 0)
    first: IntArray = -(-needed // min(pool, positions))
    return first


def build_free(
    trace: Trace,
    workers: int,
    slots: int,
    pool: int,
    horizon: int,
    *,
    work_conserving: bool,
    weights: FreeWeights,
) -> FreeModel:
    """Build the time-indexed model.

        ``Σ_{k,g} x_ikg = 1``,
        ``Σ_{i,k'} (s_i + k - k')·x_ik'g <= m_k``         over what still runs at k,
        ``Σ_{i,k'} x_ik'g <= B``,
        ``Σ_{j,k'<k,g} x_jk'g >= (i - pool + 1)·Σ_g x_ikg``  for i >= pool,

    and, if no slot may stay empty, at every step one of: all slots full, all that is revealed
    admitted, all requests admitted.
    """
    output = trace.output_tokens
    first = earliest_starts(len(trace), pool, workers * slots)
    last = horizon - output
    counts = np.maximum(last - first + 1, 0)
    request = np.repeat(np.arange(len(trace)), counts)
    step = np.concatenate([np.arange(a, b + 1) for a, b in zip(first, last, strict=True)])
    builder = ModelBuilder(Sense.MIN)
    x = builder.add_columns("x", (request.size, workers), upper=1, kind=Kind.INTEGER)
    builder.add_columns("m", (horizon,), upper=1 << 48, cost=weights.per_token, kind=Kind.IMPLIED)
    builder.add_columns("used", (horizon,), upper=1, cost=weights.per_step, kind=Kind.INTEGER)
    _add_starts(builder, trace, request, step, x, horizon, slots)
    _add_pool(builder, request, step, x, pool)
    if work_conserving:
        _add_conservation(builder, trace, request, step, x, horizon, slots, pool)
    return FreeModel(model=builder.build(), request=request, step=step)


def _add_starts(
    builder: ModelBuilder,
    trace: Trace,
    request: IntArray,
    step: IntArray,
    x: IntArray,
    horizon: int,
    slots: int,
) -> None:
    n, workers = len(trace), x.shape[1]
    m = x.size + np.arange(horizon)
    used = m + horizon
    one = builder.add_rows("one", (n,), lower=1, upper=1)
    builder.add_entries(one[request][:, None], x, 1)
    load = builder.add_rows("load", (horizon, workers), upper=0)
    room = builder.add_rows("slots", (horizon, workers), upper=0)
    builder.add_entries(load, m[:, None], -1)
    builder.add_entries(room, used[:, None], -slots)
    for j in range(request.size):
        i = request[j]
        runs = np.arange(step[j], step[j] + trace.output_tokens[i])
        builder.add_entries(load[runs], x[j], (trace.prompt_tokens[i] + runs - step[j])[:, None])
        builder.add_entries(room[runs], x[j], 1)
    order = builder.add_rows("order", (horizon - 1,), lower=0)
    builder.add_entries(order, used[:-1], 1)
    builder.add_entries(order, used[1:], -1)
    work = builder.add_rows("work", (1,), lower=-(-_work(trace) // workers))
    builder.add_entries(work, m, 1)


def _work(trace: Trace) -> int:
    output = trace.output_tokens
    return int((output * trace.prompt_tokens + output * (output - 1) // 2).sum())


def _add_pool(
    builder: ModelBuilder, request: IntArray, step: IntArray, x: IntArray, pool: int
) -> None:
    late = np.flatnonzero(request >= pool)
    rows = builder.add_rows("pool", (late.size,), lower=0)
    for row, j in zip(rows, late, strict=True):
        builder.add_entries(row, x[j], -(request[j] - pool + 1))
        builder.add_entries(row, x[step < step[j]], 1)


def _add_conservation(
    builder: ModelBuilder,
    trace: Trace,
    request: IntArray,
    step: IntArray,
    x: IntArray,
    horizon: int,
    slots: int,
    pool: int,
) -> None:
    n, positions = len(trace), x.shape[1] * slots
    full, seen, gone = (
        builder.add_columns(name, (horizon,), upper=1, kind=Kind.INTEGER)
        for name in ("full", "seen", "gone")
    )
    either = builder.add_rows("either", (horizon,), lower=1)
    for column in (full, seen, gone):
        builder.add_entries(either, column, 1)
    running = builder.add_rows("running", (horizon,), lower=0)
    admitted = builder.add_rows("admitted", (horizon,), lower=0)
    over = builder.add_rows("over", (horizon,), lower=0)
    builder.add_entries(running, full, -positions)
    builder.add_entries(admitted, seen, -pool)
    builder.add_entries(over, gone, -n)
    for k in range(horizon):
        runs = (step <= k) & (step + trace.output_tokens[request] > k)
        builder.add_entries(running[k], x[runs], 1)
        builder.add_entries(admitted[k], x[step == k], 1)
        builder.add_entries(over[k], x[step <= k], 1)


def _hint(
    made: FreeModel,
    trace: Trace,
    plan: tuple[IntArray, IntArray],
    workers: int,
    slots: int,
    pool: int,
) -> IntArray:
    """Return the values of all columns under a plan."""
    worker, start = plan
    model = made.model
    values = np.zeros(model.num_columns, np.int64)
    x, m, used = (model.column(name) for name in ("x", "m", "used"))
    chosen = start[made.request] == made.step
    values[x[chosen, worker[made.request[chosen]]]] = 1
    end = start + trace.output_tokens
    steps = int(end.max())
    loads = worker_loads(trace.prompt_tokens, start, end, worker, workers, steps)
    values[m[:steps]] = loads.max(axis=0)
    values[used[:steps]] = 1
    if any(block.name == "full" for block in model.columns):
        k = np.arange(m.size)[:, None]
        values[model.column("full")] = ((start <= k) & (end > k)).sum(axis=1) == workers * slots
        values[model.column("seen")] = (start == k).sum(axis=1) >= pool
        values[model.column("gone")] = (start <= k).all(axis=1)
    return values
