"""Bounds where the order of admission is free as well."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.oracles.bounds import _step_kernels as sk
from brsolver.oracles.bounds.admission import earliest_admission, least_steps_by
from brsolver.oracles.bounds.fixed import FixedRuns
from brsolver.oracles.bounds.result import BoundResult, PhaseSplit
from brsolver.oracles.bounds.seconds import Barrier
from brsolver.oracles.bounds.steptime import makespan
from brsolver.oracles.schedule import fcfs_schedule, weighed

if TYPE_CHECKING:
    from brsolver.hardware.step_time import StepTime
    from brsolver.oracles.schedule import Schedule
    from brsolver.traces.trace import Trace

IntArray = NDArray[np.int64]

NEVER = 1 << 62
"""Start of the drain of bounds that do not set it apart."""


def free_bound(
    trace: Trace,
    *,
    workers: int,
    slots: int,
    pool: int | None = None,
    step_time: StepTime | None = None,
    work_conserving: bool = True,
    request_tokens: int = 0,
) -> BoundResult:
    """Bound every run from the same pool, whatever it admits when and where.

    While the free slots exceed the pool, a work-conserving router has no choice of whom to
    admit, so bounds per step hold; in the steps from some k on, long requests are bound to be
    still running, whenever they were admitted; what lies between carries at least the work that
    neither can hold:
    ``Σ_k M(k) >= Σ_fill LB_k + ⌈(W - W_fill - U_k)/G⌉ + Σ_{k' >= k} LB_k'(C_k')``. The makespan
    is at least ``C·K_lb + t·`` that. Proofs are in ``docs/bounds.md``.

    Parameters
    ----------
    trace : Trace
    workers, slots : int
        G, and B per worker.
    pool : int, optional
        Requests kept waiting, ``4·G`` by default.
    step_time : StepTime, optional
        For the makespan; the simulator's default if None.
    work_conserving : bool
        Whether no slot stays free while a request waits. Without it nothing is forced, and the
        bound is ``max(⌈W/G⌉, max_i Σ_j w_i(j))``.
    request_tokens : int
        KV tokens that a request weighs besides those it holds: the bound is then of effective
        loads, see `BoundResult`.

    Raises
    ------
    BrsolverError
        Parameters are contradictory, or the step-time model has no bound.
    """
    began = time.perf_counter()
    schedule = fcfs_schedule(weighed(trace, request_tokens), workers, slots, pool)
    built = time.perf_counter()
    bounded = _work_conserving if work_conserving else _idling
    parts = bounded(schedule)
    places = workers * schedule.slots
    steps = max(
        least_steps_by(
            trace.output_tokens, places, schedule.pool, work_conserving=work_conserving
        ).values()
    )
    return BoundResult(
        kind="free" if work_conserving else "idling",
        total=parts.phases.total,
        phases=parts.phases,
        per_step=parts.per_step,
        active=parts.active,
        start=None,
        fill_end=parts.per_step.size,
        drain_start=parts.drain_start,
        steps=steps,
        total_work=schedule.total_work,
        makespan_s=makespan(
            trace,
            step_time,
            lambda kappa: _known(
                parts
                if kappa == request_tokens
                else bounded(_heavier(schedule, kappa - request_tokens))
            ),
            steps=steps,
            workers=workers,
            slots=schedule.slots,
            fixed=False,
        ),
        workers=workers,
        slots=schedule.slots,
        pool=schedule.pool,
        trace_fingerprint=trace.fingerprint(),
        request_tokens=request_tokens,
        origin="forced fill, total work, long requests" if work_conserving else "total work",
        build_s=built - began,
        solve_s=time.perf_counter() - built,
    )


def forced_steps(schedule: Schedule) -> int:
    """Return before how many steps a work-conserving router could only admit everyone.

    The first step at which fewer slots are free than requests wait is the first with a choice.
    """
    last = int(schedule.start[-1]) + 1
    admitted = np.concatenate(([0], np.cumsum(np.bincount(schedule.start))))
    left = np.cumsum(np.bincount(schedule.end, minlength=last + 1))
    waiting = np.minimum(schedule.pool, len(schedule) - admitted[:last])
    free = schedule.workers * schedule.slots - (admitted[:last] - left[:last])
    choice = np.flatnonzero(waiting > free)
    return int(choice[0]) if choice.size else schedule.steps


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    phases: PhaseSplit
    drain_start: int
    per_step: IntArray
    active: IntArray


def _known(parts: _Parts) -> Barrier:
    return Barrier(parts.phases.total, parts.per_step, parts.active)


def _heavier(schedule: Schedule, kappa: int) -> Schedule:
    """Return the schedule of the same requests, each heavier by κ tokens."""
    return replace(schedule, prompt=schedule.prompt + kappa)


def _idling(schedule: Schedule) -> _Parts:
    total = max(-(-schedule.total_work // schedule.workers), int(_own_work(schedule).max()))
    none = np.zeros(0, np.int64)
    return _Parts(phases=PhaseSplit(steady=total), drain_start=NEVER, per_step=none, active=none)


def _work_conserving(schedule: Schedule) -> _Parts:
    forced = forced_steps(schedule)
    early = schedule.start < forced
    table = _table_of(schedule, early)
    left = schedule.total_work - int(table.work[:forced].sum())
    least = int(table.bound[forced:].sum())
    if not early.all():
        least = max(least, int(_own_work(schedule)[~early].max()))
    middle, drain, drain_start = _beyond_fill(schedule, forced, left, least)
    return _Parts(
        phases=PhaseSplit(fill=int(table.bound[:forced].sum()), steady=middle, drain=drain),
        drain_start=drain_start,
        per_step=table.bound[:forced],
        active=table.active[:forced],
    )


def _own_work(schedule: Schedule) -> IntArray:
    o = schedule.output
    return o * schedule.prompt + o * (o - 1) // 2


def _table_of(schedule: Schedule, chosen: NDArray[np.bool_]) -> sk.StepTable:
    """Return what is known of every step from some requests alone."""
    if not chosen.any():
        return sk.StepTable(*(np.zeros(0, np.int64) for _ in range(3)))
    return sk.step_table(
        FixedRuns(
            prompt=schedule.prompt[chosen],
            start=schedule.start[chosen],
            end=schedule.end[chosen],
            workers=schedule.workers,
            slots=schedule.slots,
        )
    )


def _beyond_fill(schedule: Schedule, forced: int, left: int, least: int) -> tuple[int, int, int]:
    """Return the bound of the steps after the fill in two parts, and where the second begins."""
    average = max(-(-left // schedule.workers), least)
    latest = latest_admission(schedule.output, schedule.workers * schedule.slots, schedule.pool)
    first = max(latest, forced)
    tail = _certain_tail(schedule, latest, first)
    if not tail.size:
        return average, 0, NEVER
    after = np.cumsum(tail[::-1])[::-1]
    movable = _latest_work(schedule, latest, first)[: tail.size]
    middle = np.maximum(-(-(left - movable) // schedule.workers), 0)
    best = int((middle + after).argmax())
    if middle[best] + after[best] <= average:
        return average, 0, NEVER
    return int(middle[best]), int(after[best]), first + best


def _certain_tail(schedule: Schedule, latest: int, first: int) -> IntArray:
    """Bound the steps from `first` on by the requests that must be running there.

    A request admitted no sooner than ``r_i`` and no later than X runs at steps ``X..r_i+o_i-1``,
    with a load of at least ``s_i + k - X``.
    """
    positions = schedule.workers * schedule.slots
    ends = earliest_admission(schedule.output, positions, schedule.pool) + schedule.output
    sure = ends > first
    if not sure.any():
        return np.zeros(0, np.int64)
    ahead = first - latest
    running = FixedRuns(
        prompt=schedule.prompt[sure] + ahead,
        start=np.zeros(int(sure.sum()), np.int64),
        end=ends[sure] - first,
        workers=schedule.workers,
        slots=schedule.slots,
    )
    return sk.step_table(running).bound


def _latest_work(schedule: Schedule, latest: int, first: int) -> IntArray:
    """Return ``U_k``: the most work that steps k, k + 1, … can hold, for k from `first` on.

    No request starts after X, so none does more there than if it started at X.
    """
    span = int(schedule.output.max())
    ended = np.bincount(schedule.output, minlength=span + 1)
    prompts = np.bincount(schedule.output, weights=schedule.prompt, minlength=span + 1)
    count = ended[::-1].cumsum()[::-1]
    tokens = prompts.astype(np.int64)[::-1].cumsum()[::-1]
    work = tokens[1:] + count[1:] * np.arange(span)
    held = np.append(work[::-1].cumsum()[::-1], 0)
    at = np.minimum(np.arange(first - latest, first - latest + span + 1), span)
    most: IntArray = held[at]
    return most


def latest_admission(output_tokens: IntArray, positions: int, pool: int) -> int:
    """Return an upper bound X of the last admission step of any work-conserving run.

    At every step before it either all slots are taken, or all P requests of the pool were
    admitted. The slot-steps used by then are at most ``Σ o_i - 1``, and at most
    ``Σ_i min(o_i, (X - r_i)_+)``: a long request uses but few of its own before X. The
    admissions are at most ``n - 1``.
    """
    admitting = (output_tokens.size - 1) // pool if pool <= positions else 0
    spent = int(output_tokens.sum()) - 1 - admitting * pool
    latest = admitting + max(0, spent // positions)
    steps = np.arange(latest + 1)
    emptied = np.minimum(admitting, steps)
    needed = positions * (steps - emptied) + pool * emptied
    usable = _usable_before(output_tokens, positions, pool, latest)
    return int(np.flatnonzero(needed <= usable)[-1])


def _usable_before(output_tokens: IntArray, positions: int, pool: int, latest: int) -> IntArray:
    """Return ``Σ_i min(o_i, (X - r_i)_+)`` for X = 0..latest."""
    start = earliest_admission(output_tokens, positions, pool)
    length = latest + 1 + int(output_tokens.max()) + int(start[-1])
    change = np.bincount(start, minlength=length)
    change -= np.bincount(start + output_tokens, minlength=length)
    running = np.cumsum(change)[:latest]
    usable: IntArray = np.concatenate(([0], np.cumsum(running)))
    return usable
