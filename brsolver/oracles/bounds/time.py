"""Certified lower bounds of whole runs in seconds; proofs in ``docs/bounds.md`` §5."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.oracles.bounds.admission import least_steps_by
from brsolver.oracles.bounds.fixed import admissions_bound, fcfs_bound
from brsolver.oracles.bounds.free import free_bound
from brsolver.oracles.bounds.seconds import (
    Barrier,
    fixed_proofs,
    free_proofs,
    own_seconds,
    rank_prefill_proofs,
)
from brsolver.oracles.bounds.time_case import decoding_case, prefill_case, time_bound
from brsolver.oracles.schedule import check_cluster, fcfs_schedule, in_any_order

if TYPE_CHECKING:
    from brsolver.hardware.step_time import StepTime
    from brsolver.oracles.bounds.fixed import Effort
    from brsolver.oracles.bounds.rank_prefill import RankPrefill
    from brsolver.oracles.bounds.result import BoundResult
    from brsolver.oracles.bounds.time_result import TimeBound, TimeKind
    from brsolver.traces.trace import Trace

IntArray = NDArray[np.int64]


def fcfs_time_bound(
    trace: Trace,
    *,
    workers: int,
    slots: int,
    step_time: StepTime | None = None,
    pool: int | None = None,
    effort: Effort = "tight",
    budget_s: float = 60.0,
) -> TimeBound:
    """Bound the seconds of every assignment under first-come-first-served admission.

    Prefill is done elsewhere: on the decode ranks it takes steps that depend on the assignment,
    so that no schedule is common to all.

    Parameters
    ----------
    trace : Trace
    workers, slots : int
        G, and B per worker.
    step_time : StepTime, optional
        The simulator's default if not given.
    pool, effort, budget_s
        As in `fcfs_bound`.

    Raises
    ------
    BrsolverError
        Parameters are contradictory.
    """
    began = time.perf_counter()
    schedule = fcfs_schedule(trace, workers, slots, pool)
    case = decoding_case(trace, schedule.steps, workers, schedule.slots, step_time)

    def at(kappa: int) -> Barrier:
        return _barrier(
            fcfs_bound(
                heavier(trace, kappa),
                workers=workers,
                slots=slots,
                pool=pool,
                effort=effort,
                budget_s=budget_s,
            )
        )

    return time_bound("fcfs", trace, case, fixed_proofs(case, at), began, pool=schedule.pool)


def admissions_time_bound(
    trace: Trace,
    start: IntArray,
    *,
    workers: int,
    slots: int,
    step_time: StepTime | None = None,
    effort: Effort = "tight",
    budget_s: float = 60.0,
) -> TimeBound:
    """Bound the seconds of every assignment of requests whose admission steps are given.

    Parameters
    ----------
    trace : Trace
    start : ndarray of int64, shape (n,)
        First decode steps, as of `admissions_bound`; prefill is done elsewhere.
    workers, slots, step_time, effort, budget_s
        As in `fcfs_time_bound`.
    """
    began = time.perf_counter()
    steps = int((np.asarray(start) + trace.output_tokens).max())
    case = decoding_case(trace, steps, workers, slots, step_time)

    def at(kappa: int) -> Barrier:
        return _barrier(
            admissions_bound(
                heavier(trace, kappa),
                start,
                workers=workers,
                slots=slots,
                effort=effort,
                budget_s=budget_s,
            )
        )

    return time_bound("admissions", trace, case, fixed_proofs(case, at), began)


def free_time_bound(
    trace: Trace,
    *,
    workers: int,
    slots: int,
    step_time: StepTime | None = None,
    pool: int | None = None,
    work_conserving: bool = True,
) -> TimeBound:
    """Bound the seconds of every run from the same pool; prefill is done elsewhere.

    Parameters
    ----------
    trace : Trace
    workers, slots : int
    step_time : StepTime, optional
    pool : int, optional
        As in `free_bound`; as many as there are requests, if all are known from the beginning.
    work_conserving : bool
        Whether no slot stays free while a request waits.
    """
    began = time.perf_counter()
    slots, pool = check_cluster(workers, slots, pool)
    needed = least_steps_by(
        trace.output_tokens, workers * slots, pool, work_conserving=work_conserving
    )
    by = max(needed, key=lambda name: needed[name])
    case = decoding_case(trace, needed[by], workers, slots, step_time)

    def at(kappa: int) -> Barrier:
        return _barrier(
            free_bound(
                heavier(trace, kappa),
                workers=workers,
                slots=slots,
                pool=pool,
                work_conserving=work_conserving,
            )
        )

    kind: TimeKind = "free" if work_conserving else "idling"
    return time_bound(kind, trace, case, free_proofs(case, at), began, pool=pool, steps_by=by)


def any_time_bound(
    trace: Trace,
    *,
    workers: int,
    slots: int,
    step_time: StepTime | None = None,
    prefill: RankPrefill | None = None,
) -> TimeBound:
    """Bound the seconds of every run: any order, any assignment, any time of release.

    Requests are not preempted.

    Parameters
    ----------
    trace : Trace
    workers, slots, step_time
        As in `fcfs_time_bound`.
    prefill : RankPrefill, optional
        Where prompts are computed on the ranks that decode them, in any pieces that fit into the
        budget; otherwise prefill is done elsewhere.
    """
    if prefill is None:
        known = free_time_bound(
            in_any_order(trace),
            workers=workers,
            slots=slots,
            step_time=step_time,
            pool=len(trace),
            work_conserving=False,
        )
        return replace(known, kind="any", pool=0, trace_fingerprint=trace.fingerprint())
    began = time.perf_counter()
    check_cluster(workers, slots, None)
    needed = prefill.least_steps(trace.output_tokens, workers, slots)
    by = max(needed, key=lambda name: needed[name])
    case = prefill_case(trace, prefill, needed[by], workers, slots, step_time)
    proofs = rank_prefill_proofs(case, own_seconds(case, prefill.tokens, prefill.context))
    return time_bound("any", trace, case, proofs, began, budget=prefill.budget, steps_by=by)


def heavier(trace: Trace, kappa: int) -> Trace:
    """Return the trace whose KV tokens are the effective loads of `trace`."""
    return replace(trace, prompt_tokens=trace.prompt_tokens + kappa) if kappa else trace


def _barrier(bound: BoundResult) -> Barrier:
    return Barrier(bound.total, bound.per_step, bound.active, bound.windows)
