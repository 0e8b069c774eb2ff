"""The least time of one trace on one cluster, found once and held against any number of runs.

`brsolver.oracles.gap_time.time_gap` looks for the strongest bound that holds for all policies it is
given, so that its figures change with who else is asked. Here the bound is that of *all* runs:
it is the same for every policy, whatever it admits, and when.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brsolver.oracles._gangs import gang_seconds
from brsolver.oracles._time_goal import TimeBounds, rank_prefill_of, seconds_of
from brsolver.oracles.bounds.time import any_time_bound
from brsolver.results.logs import RequestStatus

if TYPE_CHECKING:
    from brsolver.oracles.bounds.time_result import TimeBound
    from brsolver.results.result import SimulationResult
    from brsolver.simulator.params import SimulationParams
    from brsolver.traces.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastTime:
    """What the steps of any run take at least, all together.

    Attributes
    ----------
    bound : TimeBound
        Certified for all runs: any order, assignment and time of release. It does not depend on
        when requests arrive.
    clairvoyant_s : float or None
        Seconds of a run by somebody who knows all requests from the beginning: the least time lies
        between the two. None where ranks have prefix caches, whose hits such a run would lose.
    """

    bound: TimeBound
    clairvoyant_s: float | None

    @classmethod
    def of(cls, trace: Trace, params: SimulationParams) -> LeastTime:
        """Find it.

        Where ranks have prefix caches every request is taken to find all of its beginning that
        occurs twice in the trace, which is the most that any routing can make it find.

        Parameters
        ----------
        trace : Trace
        params : SimulationParams
            Arrivals, routing and age of information do not matter.
        """
        bound = any_time_bound(
            trace,
            workers=params.workers,
            slots=max(params.slots_each()),
            step_time=params.step_time,
            prefill=rank_prefill_of(trace, params),
        )
        cached = params.prefill.cache > 0
        return cls(bound=bound, clairvoyant_s=None if cached else gang_seconds(trace, params))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A run beside the least time.

    Attributes
    ----------
    seconds : float
        ``Σ_k Δ(k)``, without the time in which nothing ran.
    gap : float
        ``seconds / bound - 1``.
    uncertified : str
        Why the bound does not hold for the run, so that its gap only compares; empty if it holds.
    routing_gap : float or None
        What lies beyond the best assignment of the requests that were admitted, and prefilled,
        when this run did: what placement alone could have saved. None where that is not bounded.
    """

    seconds: float
    gap: float
    uncertified: str
    routing_gap: float | None


def judge(trace: Trace, run: SimulationResult, bound_s: float) -> Judged:
    """Hold a run against the bound of all runs, and against its own admissions.

    Parameters
    ----------
    trace : Trace
        That of the run.
    run : SimulationResult
    bound_s : float
        `TimeBound.seconds` of `LeastTime.bound` for the same cluster.
    """
    seconds = seconds_of(run)
    why = why_uncertified(run)
    own_s = None if why else _own_seconds(trace, run)
    return Judged(
        seconds=seconds,
        gap=seconds / bound_s - 1.0,
        uncertified=why,
        # A bound of fewer runs is no lower than one of all.
        routing_gap=None if own_s is None else seconds / max(own_s, bound_s) - 1.0,
    )


def why_uncertified(run: SimulationResult) -> str:
    """Say why the bound of all runs does not hold for this one; empty if it does."""
    params = run.params
    if params.events:
        return "workers fail or join"
    if params.migration.active:
        return "running requests move between workers"
    if (run.requests.status != RequestStatus.FINISHED).any():
        return "some requests did not finish"
    if run.metrics.preemptions:
        return "requests were preempted"
    return ""


def _own_seconds(trace: Trace, run: SimulationResult) -> float | None:
    params = run.params
    if params.prefill.cache:
        return None
    prefill = rank_prefill_of(trace, params)
    wider = any_time_bound(
        trace,
        workers=params.workers,
        slots=max(params.slots_each()),
        step_time=params.step_time,
        prefill=prefill,
    )
    return TimeBounds(every=(wider,), prefill=prefill).own(trace, run).seconds
