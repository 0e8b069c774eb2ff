"""Bounds where admission steps are given, so that active sets do not depend on routing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import ParameterError
from brsolver.oracles.bounds import _pack_kernels as pk
from brsolver.oracles.bounds import _step_kernels as sk
from brsolver.oracles.bounds import _window_kernels as wk
from brsolver.oracles.bounds.result import BoundKind, BoundResult, PhaseSplit, Window
from brsolver.oracles.bounds.seconds import Barrier
from brsolver.oracles.bounds.steptime import makespan
from brsolver.oracles.schedule import check_cluster, fcfs_schedule, total_work, weighed

if TYPE_CHECKING:
    from brsolver.hardware.step_time import StepTime
    from brsolver.traces.trace import Trace

IntArray = NDArray[np.int64]
Effort = Literal["fast", "tight"]

PACK_ACTIVE_PER_WORKER = 4
"""Steps with more active requests per worker are not searched: average and optimum nearly meet."""

PACK_NODES = 2000
"""Nodes of one search; the searches that matter end within hundreds."""

PACK_CHUNK = 32
"""Steps between two looks at the clock."""

WINDOW_ACTIVE = 96
"""Windows begin when no more requests are left: memory grows with the cube of their number."""

WINDOW_STARTS = 6
"""Sets are grown from each of the largest few requests."""


class FixedRuns(NamedTuple):
    """Requests with their admission steps, by admission step, as kernels take them.

    Attributes
    ----------
    prompt, start, end : ndarray of int64, shape (n,)
        ``s_i``, ``x_i`` and ``x_i + o_i``.
    workers, slots : int
        G and B; at most G·B requests are active at once.
    """

    prompt: IntArray
    start: IntArray
    end: IntArray
    workers: int
    slots: int

    @classmethod
    def of(cls, trace: Trace, start: IntArray, workers: int, slots: int) -> FixedRuns:
        """Sort the requests of `trace` by admission step."""
        order = np.argsort(start, kind="stable")
        return cls(
            prompt=trace.prompt_tokens[order],
            start=np.ascontiguousarray(start[order]),
            end=(start + trace.output_tokens)[order],
            workers=workers,
            slots=slots,
        )

    @property
    def drain_start(self) -> int:
        """First step after the last admission."""
        return int(self.start[-1]) + 1

    def active_at(self, step: int) -> IntArray:
        """Return the requests that run at `step`."""
        return np.flatnonzero((self.start <= step) & (self.end > step))


def fcfs_bound(
    trace: Trace,
    *,
    workers: int,
    slots: int,
    pool: int | None = None,
    step_time: StepTime | None = None,
    effort: Effort = "tight",
    budget_s: float = 60.0,
    request_tokens: int = 0,
) -> BoundResult:
    """Bound every assignment under first-come-first-served, work-conserving admission.

    ``Σ_k LB_k``, where ``LB_k`` is the largest of: the average ``⌈Σ_i w_i/G⌉``; the largest
    load; for every q, the q + 1 smallest of the ``qG + 1`` largest loads; the largest load with
    the ``n - (G-1)B - 1`` smallest. Proofs are in ``docs/bounds.md``.

    Parameters
    ----------
    trace : Trace
        Its arrival times are not used: a pool is kept waiting, see "Arrivals" in
        ``docs/simulator.md``.
    workers, slots : int
        G, and B per worker.
    pool : int, optional
        Requests kept waiting, ``4·G`` by default.
    step_time : StepTime, optional
        For the makespan; the simulator's default if None.
    effort : {"fast", "tight"}
        ``tight`` adds searches of single steps with few requests and joint bounds over windows
        of the drain.
    budget_s : float
        Seconds that ``tight`` may take beyond ``fast``.
    request_tokens : int
        KV tokens that a request weighs besides those it holds: the bound is then of effective
        loads, see `BoundResult`.

    Raises
    ------
    BrsolverError
        Parameters are contradictory, or the step-time model has no bound.
    """
    _check_effort(effort, budget_s)
    began = time.perf_counter()
    heavy = weighed(trace, request_tokens)
    schedule = fcfs_schedule(heavy, workers, slots, pool)
    return _bound(
        trace,
        FixedRuns.of(heavy, schedule.start, workers, schedule.slots),
        schedule.start,
        kind="fcfs",
        pool=schedule.pool,
        step_time=step_time,
        budget_s=budget_s if effort == "tight" else 0.0,
        began=began,
        request_tokens=request_tokens,
    )


def admissions_bound(
    trace: Trace,
    start: IntArray,
    *,
    workers: int,
    slots: int,
    step_time: StepTime | None = None,
    effort: Effort = "tight",
    budget_s: float = 60.0,
    request_tokens: int = 0,
) -> BoundResult:
    """Bound every assignment of requests whose admission steps are given.

    For a policy that chooses whom to admit, the steps of its own run say how far its *routing*
    was from the best, given its choice of order.

    Parameters
    ----------
    trace : Trace
    start : ndarray of int64, shape (n,)
        ``x_i >= 0``, e.g. ``result.requests.start_step``.
    workers, slots, step_time, effort, budget_s, request_tokens
        As in `fcfs_bound`.

    Raises
    ------
    ParameterError
        A request was never admitted, or more run at once than there are slots.
    """
    _check_effort(effort, budget_s)
    began = time.perf_counter()
    start = _check_starts(trace, start, workers, slots)
    return _bound(
        trace,
        FixedRuns.of(weighed(trace, request_tokens), start, workers, slots),
        start,
        kind="admissions",
        pool=0,
        step_time=step_time,
        budget_s=budget_s if effort == "tight" else 0.0,
        began=began,
        request_tokens=request_tokens,
    )


def _check_effort(effort: str, budget_s: float) -> None:
    if effort not in ("fast", "tight"):
        raise ParameterError(f"effort is {effort!r}, must be fast or tight")
    if not budget_s > 0:
        raise ParameterError(f"budget_s is {budget_s}, must be a positive number of seconds")


def _check_starts(trace: Trace, start: IntArray, workers: int, slots: int) -> IntArray:
    slots, _ = check_cluster(workers, slots, None)
    steps = np.asarray(start)
    if steps.dtype.kind not in "iu" or steps.shape != (len(trace),):
        raise ParameterError(
            f"start is {steps.dtype} of shape {steps.shape}, must be one whole admission step for "
            f"each of {len(trace)} requests"
        )
    if steps.min() < 0:
        raise ParameterError(
            f"start[{int(steps.argmin())}] is {steps.min()}, must be at least 0: a request that "
            "was never admitted has no bound; run the policy to the end"
        )
    steps = steps.astype(np.int64)
    most = _most_active(steps, steps + trace.output_tokens)
    if most > workers * slots:
        raise ParameterError(
            f"start has {most} requests running at once, must have at most {workers * slots}, one "
            "per slot: these are the admission steps of another cluster"
        )
    return steps


def _most_active(start: IntArray, end: IntArray) -> int:
    change = np.bincount(start, minlength=int(end.max()) + 1)
    return int(np.cumsum(change - np.bincount(end, minlength=change.size)).max())


def _bound(
    trace: Trace,
    runs: FixedRuns,
    start: IntArray,
    *,
    kind: BoundKind,
    pool: int,
    step_time: StepTime | None,
    budget_s: float,
    began: float,
    request_tokens: int,
) -> BoundResult:
    built = time.perf_counter()
    table = sk.step_table(runs)
    per_step = table.bound
    windows: tuple[Window, ...] = ()
    joint: tuple[Window, ...] = ()
    if budget_s > 0:
        windows, joint, per_step = _tighten(runs, table.active, per_step, built + budget_s)
    fill_end = fill_end_of(table.active, runs)
    phases = _split(per_step, windows, fill_end, runs.drain_start)
    work = total_work(trace.prompt_tokens + request_tokens, trace.output_tokens)
    known = Barrier(phases.total, per_step, table.active, windows)
    return BoundResult(
        kind=kind,
        total=phases.total,
        phases=phases,
        per_step=per_step,
        windows=windows,
        joint=joint,
        active=table.active,
        start=start,
        fill_end=fill_end,
        drain_start=runs.drain_start,
        steps=per_step.size,
        total_work=work,
        makespan_s=makespan(
            trace,
            step_time,
            lambda kappa: (
                known if kappa == request_tokens else _heavier(runs, kappa - request_tokens)
            ),
            steps=per_step.size,
            workers=runs.workers,
            slots=runs.slots,
            fixed=True,
        ),
        workers=runs.workers,
        slots=runs.slots,
        pool=pool,
        trace_fingerprint=trace.fingerprint(),
        request_tokens=request_tokens,
        origin="bounds per step" if budget_s <= 0 else "bounds per step, searches, windows",
        build_s=built - began,
        solve_s=time.perf_counter() - built,
    )


def _heavier(runs: FixedRuns, kappa: int) -> Barrier:
    """Bound the same runs, each request heavier by κ tokens, step by step."""
    table = sk.step_table(runs._replace(prompt=runs.prompt + kappa))
    return Barrier(int(table.bound.sum()), table.bound, table.active)


def fill_end_of(active: IntArray, runs: FixedRuns) -> int:
    """Return the step at which all slots are first taken, at most the start of the drain."""
    full = np.flatnonzero(active[: runs.drain_start] == runs.workers * runs.slots)
    return int(full[0]) if full.size else runs.drain_start


def _split(
    per_step: IntArray, windows: tuple[Window, ...], fill_end: int, drain_start: int
) -> PhaseSplit:
    gain = sum(window.gain for window in windows)
    return PhaseSplit(
        fill=int(per_step[:fill_end].sum()),
        steady=int(per_step[fill_end:drain_start].sum()),
        drain=int(per_step[drain_start:].sum()) + gain,
    )


def _tighten(
    runs: FixedRuns, active: IntArray, per_step: IntArray, deadline: float
) -> tuple[tuple[Window, ...], tuple[Window, ...], IntArray]:
    lifted = _search_steps(runs, active, per_step, deadline)
    first = _window_start(runs, active)
    if first is None or time.perf_counter() > deadline:
        return (), (), lifted
    return *_window_bounds(runs, first, lifted), lifted


def _search_steps(
    runs: FixedRuns, active: IntArray, per_step: IntArray, deadline: float
) -> IntArray:
    few = active <= PACK_ACTIVE_PER_WORKER * runs.workers
    steps = np.flatnonzero(few & (active > 1))
    lifted = per_step.copy()
    for at in range(0, steps.size, PACK_CHUNK):
        if time.perf_counter() > deadline:
            break
        chunk = steps[at : at + PACK_CHUNK]
        lifted[chunk] = pk.lift_steps(runs, chunk, per_step[chunk], PACK_NODES)
    return lifted


def _window_start(runs: FixedRuns, active: IntArray) -> int | None:
    steps = np.flatnonzero(active[runs.drain_start :] <= WINDOW_ACTIVE)
    if not steps.size:
        return None
    first = int(steps[0]) + runs.drain_start
    return first if active[first] > runs.workers else None


def _window_bounds(
    runs: FixedRuns, first: int, per_step: IntArray
) -> tuple[tuple[Window, ...], tuple[Window, ...]]:
    """Return the best disjoint windows, and all that gain something."""
    left = runs.active_at(first)
    key = runs.prompt[left] - runs.start[left]
    order = np.argsort(-key, kind="stable")
    edges = np.unique(np.append(runs.end[left], first))
    excess = wk.pair_excess(key[order], runs.end[left][order], edges, first, per_step[first:])
    gains = wk.window_gains(excess, runs.workers, WINDOW_STARTS)
    opened = wk.best_windows(gains)
    every = zip(*(at.tolist() for at in np.nonzero(gains)), strict=True)
    return _chosen(gains, opened, edges), tuple(_window(gains, edges, a, b) for a, b in every)


def _window(gains: IntArray, edges: IntArray, opens: int, closes: int) -> Window:
    return Window(first=int(edges[opens]), end=int(edges[closes]), gain=int(gains[opens, closes]))


def _chosen(gains: IntArray, opened: IntArray, edges: IntArray) -> tuple[Window, ...]:
    windows, closes = [], edges.size - 1
    while closes > 0:
        opens = int(opened[closes])
        if gains[opens, closes] > 0:
            windows.append(_window(gains, edges, opens, closes))
        closes = opens
    return tuple(reversed(windows))
