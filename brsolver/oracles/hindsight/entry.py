"""`hindsight`: one call for the best possible run of a trace, or how far it is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import ParameterError, UnknownNameError
from brsolver.oracles.hindsight.anytime import hindsight_anytime
from brsolver.oracles.hindsight.cp_sat import hindsight_cp_sat
from brsolver.oracles.hindsight.dp import dp_reaches, hindsight_dp
from brsolver.oracles.hindsight.follow import Replay, check_value, replay
from brsolver.oracles.hindsight.free import (
    as_it_stands,
    hindsight_free,
    model_fits,
    plan_cost,
    total_work_bound,
)
from brsolver.oracles.hindsight.free_search import hindsight_free_search
from brsolver.oracles.hindsight.local_search import smoothest
from brsolver.oracles.hindsight.result import Admission, HindsightResult, Outcome, RunObjective
from brsolver.oracles.hindsight.weights import FreeWeights
from brsolver.oracles.result import Status
from brsolver.oracles.schedule import Schedule, fcfs_schedule, least_loaded, weighed
from brsolver.simulator import StepTime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.oracles.bounds.result import BoundResult
    from brsolver.traces.trace import Trace

IntArray = NDArray[np.int64]
Method = Literal["auto", "dp", "cp-sat", "anytime", "search"]

MAX_DP_WORK = 4e9
"""State updates up to which `auto` takes the dynamic programme whatever the budget."""

FREE_REACH = 60
"""Requests up to which free admission is searched state by state."""

# Of the budget: for the bound at trace scale, where none is given, and what is left for the search
# whatever came before it.
BOUND_SHARE, MIN_LEFT = 0.2, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    trace: Trace
    schedule: Schedule
    objective: RunObjective
    admission: Admission
    step_time: StepTime
    work_conserving: bool
    horizon: int
    any_run: bool
    budget_s: float
    method: Method
    threads: int
    seed: int
    warm_start: IntArray
    bound: BoundResult | None
    left_s: float
    request_tokens: int

    @property
    def weights(self) -> FreeWeights:
        """Integer objective; under FCFS admission always barrier time."""
        if self.objective == "makespan" and self.admission == "free":
            return FreeWeights.of_makespan(self.step_time, self.request_tokens)
        return FreeWeights()


def hindsight(
    trace: Trace,
    *,
    workers: int,
    slots: int | Sequence[int],
    pool: int | None = None,
    objective: RunObjective = "barrier",
    admission: Admission = "fcfs",
    budget_s: float = 60.0,
    method: Method = "auto",
    step_time: StepTime | None = None,
    work_conserving: bool = True,
    horizon: int | None = None,
    warm_start: IntArray | None = None,
    bound: BoundResult | None = None,
    threads: int = 1,
    seed: int = 0,
    request_tokens: int = 0,
) -> HindsightResult:
    """Find the least barrier time that any routing of `trace` could have had.

    Total work ``W = Σ_i Σ_j w_i(j)`` is the same for every run, so the least ``Σ_k M(k)`` is
    also the least total imbalance ``G·Σ_k M(k) - W``; and under FCFS admission, which fixes the
    number of steps K, also the least affine makespan ``C·K + t·Σ_k M(k)``.

    Parameters
    ----------
    trace : Trace
        Requests in order of arrival, replayed from a pool, see "Arrivals" in
        ``docs/simulator.md``.
    workers, slots : int
        G, and B; as a sequence the same on each worker.
    pool : int, optional
        Requests kept waiting, ``4·G`` by default.
    objective : {"barrier", "makespan", "imbalance"}
        What the result is expressed in, and under free admission what is minimised.
    admission : {"fcfs", "free"}
        First come first served (assignment only), or any order the pool allows.
    budget_s : float
        Wall-clock seconds, honoured to within 10 % but for compilation and the final replay.
    method : {"auto", "dp", "cp-sat", "anytime", "search"}
        FCFS: ``dp``, ``cp-sat`` or ``anytime``. Free: ``search`` or ``cp-sat``. ``auto`` takes
        ``dp`` and ``search`` within their reach.
    step_time : StepTime, optional
        Affine model for ``objective="makespan"``.
    work_conserving : bool
        Free admission: whether a slot may stay empty while a request waits.
    horizon : int, optional
        Free admission: steps T that a run may take; a proof then covers runs of at most T. By
        default any run: ``search`` needs no limit, ``cp-sat`` plans within the steps of FCFS and
        certifies no more than total work does, unless the plan meets that.
    warm_start : ndarray of int64, shape (n,), optional
        Workers of a FCFS run to start from. Where a search starts, the cheapest of some that
        look ahead takes its place if it is cheaper, see `smoothest`.
    bound : BoundResult, optional
        A bound at trace scale to begin with: of `fcfs_bound`, or under free admission of
        `free_bound`. Computed if not given, within a fifth of the budget.
    threads : int
        Threads of solvers.
    seed : int
        Of random choices.
    request_tokens : int
        KV tokens κ that a request weighs besides those it holds: ``M(k) = max_g (L_g + κ·n_g)``.

    Raises
    ------
    ParameterError
        If a parameter is out of range, or the method cannot take the instance.
    SolverError
        If a plan does not cost on replay what its solver claims.

    Examples
    --------
    >>> from brsolver import load_trace
    >>> trace = load_trace("preset:uniform:n=40,s_high=500,o_high=50")
    >>> hindsight(trace, workers=2, slots=4).status.value
    'optimal'
    """
    began = perf_counter()
    _check_names(objective, admission, method, budget_s, threads)
    if objective == "makespan":
        FreeWeights.of_makespan(step_time or StepTime(), request_tokens)
    about, trace = (trace.fingerprint(), request_tokens), weighed(trace, request_tokens)
    schedule = fcfs_schedule(trace, workers, slots, pool)
    start = least_loaded(schedule) if warm_start is None else warm_start
    if not schedule.fits(start):
        raise ParameterError(
            "warm_start is no assignment of this run, must keep each worker within "
            f"{schedule.slots} requests under FCFS admission"
        )
    chosen = _method(schedule, admission, method, budget_s)
    if chosen == "anytime":
        start = min(start, smoothest(schedule), key=schedule.barrier_time)
    if bound is not None:
        _check_bound(bound, about, schedule, admission, work_conserving)
    elif chosen != "dp":
        bound = _trace_bound(trace, schedule, admission, work_conserving, BOUND_SHARE * budget_s)
    task = _Task(
        trace=trace,
        schedule=schedule,
        objective=objective,
        admission=admission,
        step_time=step_time or StepTime(),
        request_tokens=request_tokens,
        work_conserving=work_conserving,
        horizon=_horizon(schedule, trace, chosen) if horizon is None else horizon,
        any_run=horizon is None,
        budget_s=budget_s,
        method=chosen,
        threads=threads,
        seed=seed,
        warm_start=start,
        bound=bound,
        left_s=max(MIN_LEFT * budget_s, budget_s - (perf_counter() - began)),
    )
    outcome = _free(task) if admission == "free" else _fcfs(task)
    return replace(_result(task, _at_least(task, outcome), began), request_tokens=request_tokens)


def _check_bound(
    bound: BoundResult, about: tuple[Any, ...], plan: Schedule, admission: str, conserving: bool
) -> None:
    needed = "fcfs" if admission == "fcfs" else "free" if conserving else "idling"
    where = (bound.trace_fingerprint, bound.request_tokens, bound.workers, bound.slots, bound.pool)
    if where != (*about, plan.workers, plan.slots, plan.pool):
        raise ParameterError(
            "bound is about another trace, cluster or pool, or of other request_tokens, must be of "
            "these"
        )
    if bound.kind not in {needed, *(("idling",) if admission == "free" else ())}:
        raise ParameterError(f"bound is of kind {bound.kind!r}, must be {needed!r} for these runs")


def _trace_bound(
    trace: Trace, schedule: Schedule, admission: str, work_conserving: bool, budget_s: float
) -> BoundResult:
    from brsolver.oracles.bounds.fixed import fcfs_bound
    from brsolver.oracles.bounds.free import free_bound

    workers, slots, pool = schedule.workers, schedule.slots, schedule.pool
    if admission == "fcfs":
        return fcfs_bound(trace, workers=workers, slots=slots, pool=pool, budget_s=budget_s)
    return free_bound(
        trace, workers=workers, slots=slots, pool=pool, work_conserving=work_conserving
    )


def _at_least(task: _Task, outcome: Outcome) -> Outcome:
    """Raise the bound that a method found to the one at trace scale, if that is higher."""
    if task.bound is None or outcome.bound is None or outcome.infeasible:
        return outcome
    steps = task.bound.steps if task.weights.per_step else 0
    least = task.weights.per_step * steps + task.weights.per_token * task.bound.total
    if least <= outcome.bound:
        return outcome
    return replace(outcome, bound=least, origin=task.bound.origin)


def _horizon(schedule: Schedule, trace: Trace, method: Method) -> int:
    # Every step of a run that is worth considering generates a token, so none takes more.
    return int(trace.output_tokens.sum()) if method == "search" else schedule.steps


def _check_names(
    objective: str, admission: str, method: str, budget_s: float, threads: int
) -> None:
    for label, value, known in (
        ("objective", objective, get_args(RunObjective)),
        ("admission", admission, get_args(Admission)),
        ("method", method, get_args(Method)),
    ):
        if value not in known:
            raise UnknownNameError.suggest(label, value, known)
    if not (math.isfinite(budget_s) and budget_s > 0):
        raise ParameterError(f"budget_s is {budget_s}, must be a positive number of seconds")
    if threads < 1:
        raise ParameterError(f"threads is {threads}, must be at least 1")


def _method(schedule: Schedule, admission: str, method: Method, budget_s: float) -> Method:
    allowed = ("search", "cp-sat") if admission == "free" else ("dp", "cp-sat", "anytime")
    if method not in {"auto", *allowed}:
        raise ParameterError(
            f"method is {method!r}, must be auto, {', '.join(allowed[:-1])} or {allowed[-1]} for "
            f"admission {admission!r}"
        )
    if method != "auto":
        return method
    if admission == "free":
        return "search" if len(schedule) <= FREE_REACH else "cp-sat"
    if not dp_reaches(schedule.workers, schedule.slots):
        return "anytime"
    from brsolver.oracles.hindsight.dp import partition_count

    updates = partition_count(schedule.workers, schedule.slots) * float(len(schedule))
    return "dp" if updates <= min(MAX_DP_WORK, 2e7 * budget_s) else "anytime"


def _fcfs(task: _Task) -> Outcome:
    schedule = task.schedule
    if task.method == "dp":
        found = hindsight_dp(schedule, budget_s=task.left_s)
        if found.value is None:
            value = schedule.barrier_time(task.warm_start)
            return replace(found, value=value, worker=task.warm_start)
        return found
    if task.method == "cp-sat":
        return hindsight_cp_sat(
            schedule, budget_s=task.left_s, warm_start=task.warm_start, threads=task.threads
        )
    return hindsight_anytime(
        schedule,
        budget_s=task.left_s,
        warm_start=task.warm_start,
        known=task.bound,
        threads=task.threads,
        seed=task.seed,
    )


def _free(task: _Task) -> Outcome:
    schedule, weights = task.schedule, task.weights
    plan = (task.warm_start, schedule.start) if schedule.steps <= task.horizon else None
    if task.method == "search":
        known = plan and plan_cost(task.trace, *plan, schedule.workers, weights)
        found = hindsight_free_search(
            task.trace,
            workers=schedule.workers,
            slots=schedule.slots,
            pool=schedule.pool,
            horizon=task.horizon,
            work_conserving=task.work_conserving,
            weights=weights,
            budget_s=task.left_s,
            known=known,
        )
        if found.worker is None and plan is not None:
            return replace(found, worker=plan[0], start=plan[1])
        return found
    if task.any_run and plan and not model_fits(task.trace, schedule.workers, task.horizon):
        return as_it_stands(task.trace, plan, schedule.workers, schedule.slots, weights)
    found = hindsight_free(
        task.trace,
        workers=schedule.workers,
        slots=schedule.slots,
        pool=schedule.pool,
        horizon=task.horizon,
        work_conserving=task.work_conserving,
        weights=weights,
        budget_s=task.left_s,
        warm_start=plan,
        threads=task.threads,
    )
    return _for_any_run(task, found) if task.any_run else found


def _for_any_run(task: _Task, found: Outcome) -> Outcome:
    """Keep of a proof over runs of at most T steps what holds for all."""
    if task.horizon >= int(task.trace.output_tokens.sum()):
        return found
    schedule = task.schedule
    floor = total_work_bound(task.trace, schedule.workers, schedule.slots, task.weights)
    return replace(found, bound=floor, infeasible=False, origin="total work")


def _result(task: _Task, outcome: Outcome, began: float) -> HindsightResult:
    schedule = task.schedule
    ran: Replay | None = None
    start = schedule.start if outcome.start is None else outcome.start
    if outcome.worker is not None and outcome.value is not None:
        ran = replay(
            task.trace,
            outcome.worker,
            start,
            workers=schedule.workers,
            slots=schedule.slots,
            pool=schedule.pool,
        )
        found = task.weights.per_step * ran.steps + task.weights.per_token * ran.barrier_time
        check_value(outcome.value, found, task.method)
    trades = task.weights.per_step > 0
    return HindsightResult(
        status=_status(outcome),
        objective=task.objective,
        admission=task.admission,
        lower_bound=None if outcome.bound is None else _express(task, outcome.bound),
        best_known=None if ran is None or outcome.value is None else _express(task, outcome.value),
        barrier_bound=None if trades else outcome.bound,
        barrier_best=None if ran is None else ran.barrier_time,
        worker=outcome.worker,
        start=None if outcome.worker is None else start,
        steps=None if ran is None else ran.steps,
        curve=outcome.curve,
        build_s=outcome.build_s,
        solve_s=outcome.solve_s,
        wall_s=perf_counter() - began,
        memory_bytes=outcome.memory_bytes,
        origin=outcome.origin,
        method=task.method,
        message=outcome.message,
    )


def _status(outcome: Outcome) -> Status:
    if outcome.infeasible:
        return Status.INFEASIBLE
    if outcome.value is None:
        return Status.LIMIT if outcome.bound is None else Status.BOUND
    return Status.OPTIMAL if outcome.proven else Status.FEASIBLE


def _express(task: _Task, value: int) -> float:
    """Return a figure of the integer objective in the units of the objective asked for."""
    if task.objective == "barrier":
        return float(value)
    if task.objective == "imbalance":
        return float(task.schedule.workers * value - task.schedule.total_work)
    model = task.step_time
    if task.admission == "free":
        return value * model.per_token / task.weights.per_token
    return model.base * task.schedule.steps + model.per_token * value
