"""When requests run if admission is first come first served: the part no router can change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import ParameterError
from brsolver.oracles import _schedule_kernels as sk
from brsolver.traces.turns import DELAY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.traces.trace import Trace

IntArray = NDArray[np.int64]

MAX_STEPS = 1 << 26
"""Longer runs are refused: figures per step would not fit into memory."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Schedule:
    """Who runs when, on any of ``P = G·B`` interchangeable slot positions.

    Under first-come-first-served, work-conserving admission it depends on the lengths, on
    ``G·B`` and on the pool, and not on who goes where: whenever a slot is free, whichever it
    is, the next waiting request takes it.

    Attributes
    ----------
    prompt, output : ndarray of int64, shape (n,)
        ``s_i`` and ``o_i``.
    start : ndarray of int64, shape (n,)
        Admission step ``x_i``, non-decreasing.
    position : ndarray of int64, shape (n,)
        Slot position of each request, ``0..P-1``, one of many equivalent choices.
    workers, slots, pool : int
        G, B, and how many requests the router sees waiting.
    """

    prompt: IntArray
    output: IntArray
    start: IntArray
    position: IntArray
    workers: int
    slots: int
    pool: int

    def __len__(self) -> int:
        return int(self.prompt.size)

    @property
    def end(self) -> IntArray:
        """Step before which each request has left, ``x_i + o_i``."""
        return self.start + self.output

    @property
    def steps(self) -> int:
        """Number of decode steps K."""
        return int(self.end.max())

    @property
    def total_work(self) -> int:
        """``W = Σ_i Σ_j (s_i + j - 1)``, the same for every assignment."""
        return total_work(self.prompt, self.output)

    def edges(self) -> IntArray:
        """Return the steps at which the active set changes, from 0 to K; shape (intervals + 1,)."""
        return np.unique(np.concatenate((self.start, self.end)))

    def events(self) -> IntArray:
        """Return the steps with an admission, shape (E,)."""
        return np.unique(self.start)

    def active(self, step: int) -> IntArray:
        """Return the indices of the requests that run at `step`."""
        return np.flatnonzero((self.start <= step) & (self.end > step))

    def loads(self, worker: IntArray) -> IntArray:
        """``L_g(k)`` under an assignment, shape (G, K)."""
        return sk.worker_loads(self.prompt, self.start, self.end, worker, self.workers, self.steps)

    def barrier_time(self, worker: IntArray) -> int:
        """``Σ_k max_g L_g(k)`` under an assignment."""
        return int(self.loads(worker).max(axis=0).sum())

    def fits(self, worker: IntArray) -> bool:
        """Whether no worker ever runs more than B requests."""
        if worker.shape != self.start.shape or worker.min() < 0 or worker.max() >= self.workers:
            return False
        return all(
            sk.most_active(self.start, self.end, worker, g, self.steps) <= self.slots
            for g in range(self.workers)
        )

    def interval_bounds(self, edges: IntArray | None = None) -> IntArray:
        """Lower bounds of ``Σ_{k∈I} M(k)`` between edges, shape (intervals,)."""
        at = self.edges() if edges is None else edges
        return sk.interval_bounds(self.prompt, self.start, self.end, at, self.workers, self.slots)


def fcfs_schedule(
    trace: Trace, workers: int, slots: int | Sequence[int], pool: int | None = None
) -> Schedule:
    """Compute admission steps and active sets under first-come-first-served admission.

    Parameters
    ----------
    trace : Trace
        Requests in order of arrival; its times are not used: a pool is kept waiting, see
        "Arrivals" in ``docs/simulator.md``.
    workers : int
        G.
    slots : int or sequence of int
        B; a sequence must name the same B for each worker.
    pool : int, optional
        Requests kept waiting, ``4·G`` by default, as in `simulate`.

    Raises
    ------
    ParameterError
        If G, B or the pool are contradictory, the run would not fit into memory, or turns of the
        trace follow others.
    """
    slots, pool = check_cluster(workers, slots, pool)
    require_known_order(trace)
    start, position = sk.admit_in_order(trace.output_tokens, workers * slots, pool)
    steps = int((start + trace.output_tokens).max())
    if steps * workers > MAX_STEPS:
        raise ParameterError(
            f"{trace.name}: the run is {steps} steps long, must be at most {MAX_STEPS // workers} "
            f"on {workers} workers for hindsight; limit the trace to fewer requests"
        )
    return Schedule(
        prompt=trace.prompt_tokens,
        output=trace.output_tokens,
        start=start,
        position=position,
        workers=workers,
        slots=slots,
        pool=pool,
    )


def require_known_order(trace: Trace) -> None:
    """Raise `ParameterError` if turns follow others: who waits in a pool is then not given."""
    if trace.delay_s is not None:
        raise ParameterError(
            f"turns of {trace.name} follow others, must follow none for hindsight and for bounds "
            "on what a pool admits: use objective time with oracle bounds, which hold for any "
            "order and any times of arrival"
        )


def in_any_order(trace: Trace) -> Trace:
    """Return the same requests with neither times nor turns: any run of theirs is one of these."""
    columns = {key: column for key, column in trace.columns.items() if key != DELAY}
    return replace(trace, arrival_s=None, columns=columns)


def check_cluster(workers: int, slots: int | Sequence[int], pool: int | None) -> tuple[int, int]:
    """Return B and the pool, or raise `ParameterError` with what is wrong."""
    if workers < 1:
        raise ParameterError(f"workers is {workers}, must be at least 1")
    each = (slots,) * workers if isinstance(slots, int) else tuple(slots)
    if len(each) != workers:
        raise ParameterError(
            f"slots has {len(each)} entries for {workers} workers, must have one each"
        )
    if len(set(each)) > 1:
        raise ParameterError(
            f"slots are {min(each)} to {max(each)}, must be the same on each worker for hindsight"
        )
    if each[0] < 1:
        raise ParameterError(f"slots is {each[0]}, must be at least 1")
    if pool is not None and pool < 1:
        raise ParameterError(f"pool is {pool}, must be at least 1 request")
    return int(each[0]), 4 * workers if pool is None else int(pool)


def weighed(trace: Trace, request_tokens: int) -> Trace:
    """Return the trace whose KV tokens are the effective loads of `trace`.

    With κ tokens for every request a request's load is ``κ + s + j - 1``: that of a prompt longer
    by κ. So whatever is proven of loads holds of effective ones. Capacities are another matter.

    Raises
    ------
    ParameterError
        κ is negative.
    TraceError
        A prompt is longer than traces allow with it.
    """
    if request_tokens < 0:
        raise ParameterError(f"request_tokens is {request_tokens}, must be at least 0")
    if not request_tokens:
        return trace
    return replace(trace, prompt_tokens=trace.prompt_tokens + request_tokens)


def total_work(prompt: IntArray, output: IntArray) -> int:
    """Return ``W = Σ_i (o_i·s_i + o_i(o_i - 1)/2)``."""
    return int((output * prompt + output * (output - 1) // 2).sum())


def least_loaded(schedule: Schedule) -> IntArray:
    """Return the assignment of JSQ-Load: each request to the worker with the fewest KV tokens."""
    return sk.assign_least_loaded(
        schedule.prompt, schedule.start, schedule.end, schedule.workers, schedule.slots
    )
