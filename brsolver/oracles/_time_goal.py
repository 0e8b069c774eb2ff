"""Which bounds in seconds hold for a run, and how its time beyond them arose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.errors import ParameterError
from brsolver.oracles.bounds.phases import idles_at, pool_of, why_no_bound
from brsolver.oracles.bounds.rank_prefill import RankPrefill
from brsolver.oracles.bounds.time import (
    admissions_time_bound,
    any_time_bound,
    fcfs_time_bound,
    free_time_bound,
)
from brsolver.oracles.bounds.time_steps import StepContents, steps_time_bound
from brsolver.oracles.result import SolverError, Status
from brsolver.oracles.schedule import fcfs_schedule
from brsolver.results.logs import RequestStatus
from brsolver.simulator.prefix import most_cached

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from brsolver.oracles.bounds.time_result import TimeBound
    from brsolver.results.result import SimulationResult
    from brsolver.simulator.params import SimulationParams
    from brsolver.traces.trace import Trace

    IntArray = NDArray[np.int64]

TOLERANCE = 1e-9
"""Relative difference within which a run counts as short as its bound: sums of floats differ."""


def seconds_of(run: SimulationResult) -> float:
    """Return ``Σ_k Δ(k)`` of a run."""
    return float(run.steps.duration_s.sum())


def rank_prefill_of(trace: Trace, params: SimulationParams) -> RankPrefill | None:
    """Return what prompts ask of decode ranks at least; None if prefill is done elsewhere."""
    prefill: Any = params.prefill
    if prefill.mode != "colocated":
        return None
    cached: Any = trace.columns.get("cached_tokens")
    if prefill.cache:
        cached = most_cached(trace, prefill.block)
    return RankPrefill.of(trace, prefill.budget, cached=cached, chunk=prefill.threshold or None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TimeBounds:
    """Bounds of one trace and cluster, strongest first.

    Attributes
    ----------
    every : tuple of TimeBound
        The last one is of all runs.
    due : ndarray of int64, shape (n,), or None
        Admission steps that a bound of kind ``"fcfs"`` is tied to.
    prefill : RankPrefill or None
        What prompts ask of decode ranks.
    """

    every: tuple[TimeBound, ...]
    due: IntArray | None = None
    prefill: RankPrefill | None = None

    @classmethod
    def of(cls, trace: Trace, params: SimulationParams, budget_s: float) -> TimeBounds:
        """Compute all that there are; `budget_s` limits the strongest.

        Raises
        ------
        ParameterError
            The regime is one that no bound covers.
        """
        if reason := why_no_bound(params):
            raise ParameterError(f"no bound of time holds for these runs: {reason}")
        where: dict[str, Any] = {
            "workers": params.workers,
            "slots": params.slots_each()[0],
            "step_time": params.step_time,
        }
        prefill = rank_prefill_of(trace, params)
        ordered = params.arrivals.mode == "pool" and trace.delay_s is None
        if prefill is not None or not ordered:
            return cls(every=(any_time_bound(trace, prefill=prefill, **where),), prefill=prefill)
        pool = params.arrivals.pool
        schedule = fcfs_schedule(trace, params.workers, where["slots"], pool)
        return cls(
            every=(
                fcfs_time_bound(trace, pool=pool, budget_s=budget_s, **where),
                free_time_bound(trace, pool=pool, **where),
                free_time_bound(trace, pool=pool, work_conserving=False, **where),
                any_time_bound(trace, **where),
            ),
            due=schedule.start,
        )

    def common(self, runs: Sequence[SimulationResult]) -> TimeBound:
        """Return the strongest bound that holds for all runs, or say why none does."""
        for bound in self.every:
            if all(not self.why_invalid(run, bound) for run in runs):
                return bound
        reasons = ((run.policy, self.why_invalid(run, self.every[-1])) for run in runs)
        policy, reason = next((who, why) for who, why in reasons if why)
        raise ParameterError(f"{policy}: no bound of time holds for its run: {reason}")

    def why_invalid(self, run: SimulationResult, bound: TimeBound) -> str:
        """Say why a bound does not hold for a run; empty if it does."""
        if (run.requests.status != RequestStatus.FINISHED).any():
            return "some requests did not finish"
        if bound.pool and pool_of(run) != bound.pool:
            return f"it is about a pool of {bound.pool} waiting requests"
        if bound.kind == "fcfs" and (run.requests.start_step != self.due).any():
            return "requests were admitted in another order than first come first served"
        if bound.kind == "free" and (idle := idles_at(run, bound.pool)) is not None:
            return f"a slot stayed free while requests waited at step {idle}"
        return ""

    def own(self, trace: Trace, run: SimulationResult) -> TimeBound:
        """Bound the best assignment of what the run admitted, and prefilled, when it did."""
        where: dict[str, Any] = {
            "workers": run.params.workers,
            "slots": run.params.slots_each()[0],
            "step_time": run.params.step_time,
        }
        if self.prefill is not None:
            own = steps_time_bound(trace, self.prefill, contents_of(trace, run), **where)
            return own.at_least(self.every[-1])
        first = self.every[0]
        if first.kind == "fcfs" and not self.why_invalid(run, first):
            return first
        return admissions_time_bound(trace, run.requests.start_step, effort="fast", **where)


def contents_of(trace: Trace, run: SimulationResult) -> StepContents:
    """Return what a run with prefill on the ranks computed in every step."""
    ended = run.requests.first_token_step
    prefill = run.steps.prefill_tokens
    last = run.requests.finish_step
    # Steps in which sequences wait for others' prefill, where these exclude each other.
    apart = bool((last - ended > trace.output_tokens - 1).any())
    return StepContents(
        prefilled_from=run.requests.start_step,
        decoded_from=ended + 1,
        prefill_tokens=prefill,
        decodes=prefill == 0 if apart else np.ones(prefill.size, np.bool_),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeParts:
    """Where a run's seconds beyond the least possible went; all add up to the whole difference.

    Attributes
    ----------
    more_steps_s : float
        Steps beyond the least number, at what they cost without load; of a measured grid also
        what a step with every rank at the mean lies above the coefficients of the bound.
    sequences_s, kv_s, prefill_s, padding_s : float
        Lost at the barrier, by load; a load that the slowest ranks had less of is negative.
    unavoidable_s : float
        Of these, what the bound proves that no run can avoid: at most 0.
    """

    more_steps_s: float
    sequences_s: float
    kv_s: float
    prefill_s: float
    padding_s: float
    unavoidable_s: float

    @classmethod
    def of(cls, run: SimulationResult, total_work_s: float, lower_s: float) -> TimeParts:
        """Split the difference between a run and a bound.

        Parameters
        ----------
        run : SimulationResult
        total_work_s : float
            As of `TimeBound`.
        lower_s : float
            The bound.
        """
        log = run.steps
        level = seconds_of(run) - float(log.lost_s().sum())
        return cls(
            more_steps_s=level - total_work_s,
            sequences_s=float(log.lost_sequences_s.sum()),
            kv_s=float(log.lost_kv_s.sum()),
            prefill_s=float(log.lost_prefill_s.sum()),
            padding_s=float(log.lost_padding_s.sum()),
            unavoidable_s=total_work_s - lower_s,
        )

    def __iter__(self) -> Iterator[float]:
        return (getattr(self, name) for name in self.__slots__)


def status_of(lower_s: float, shortest_s: float | None) -> Status:
    """Return what is known of the shortest run.

    Raises
    ------
    SolverError
        A run is shorter than the bound that holds for it.
    """
    if shortest_s is None:
        return Status.BOUND
    if shortest_s < lower_s * (1 - TOLERANCE):
        raise SolverError(
            f"a run takes {shortest_s:.6g} s and the bound of all runs says {lower_s:.6g} s: "
            "one is wrong"
        )
    return Status.OPTIMAL if shortest_s <= lower_s * (1 + TOLERANCE) else Status.FEASIBLE
