"""Where in a run its distance from the bound arises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import ParameterError
from brsolver.results.logs import RequestStatus

if TYPE_CHECKING:
    from brsolver.oracles.bounds.result import BoundResult
    from brsolver.results.result import SimulationResult
    from brsolver.simulator.params import SimulationParams

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseGap:
    """One phase of a run beside the bound.

    Attributes
    ----------
    name : {"fill", "steady", "drain", "total"}
    steps : int
    barrier_time : int
        ``Σ_k M(k)`` of the run over the phase, in the bound's unit.
    lower_bound : int
    """

    name: str
    steps: int
    barrier_time: int
    lower_bound: int

    @property
    def gap(self) -> float:
        """``barrier_time / lower_bound - 1``; 0 for a phase without steps."""
        return self.barrier_time / self.lower_bound - 1.0 if self.lower_bound else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseGaps:
    """A policy's run beside a bound that holds for it.

    Attributes
    ----------
    policy : str
    kind : str
        Kind of the bound.
    phases : tuple of PhaseGap
        Fill, steady and drain as the bound cuts them; they add up to `total`.
    total : PhaseGap
    """

    policy: str
    kind: str
    phases: tuple[PhaseGap, ...]
    total: PhaseGap

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, one per phase."""
        return {
            part.name: {
                "steps": part.steps,
                "barrier_time": part.barrier_time,
                "lower_bound": part.lower_bound,
                "gap": part.gap,
            }
            for part in (*self.phases, self.total)
        }


def phase_gaps(result: SimulationResult, bound: BoundResult) -> PhaseGaps:
    """Compare a run with a bound, phase by phase.

    Parameters
    ----------
    result : SimulationResult
        A complete pooled run on the trace and the cluster of the bound.
    bound : BoundResult

    Raises
    ------
    ParameterError
        The bound does not hold for the run, with the reason and the bound to use instead.
    """
    check_valid(result, bound)
    steps = len(result.steps)
    cuts = {
        "fill": (0, bound.fill_end),
        "steady": (bound.fill_end, bound.drain_start),
        "drain": (bound.drain_start, steps),
    }
    parts = tuple(_part(result, name, cuts[name], getattr(bound.phases, name)) for name in cuts)
    return PhaseGaps(
        policy=result.policy,
        kind=bound.kind,
        phases=parts,
        total=_part(result, "total", (0, steps), bound.total),
    )


def _part(result: SimulationResult, name: str, cut: tuple[int, int], lower_bound: int) -> PhaseGap:
    first, end = cut
    return PhaseGap(
        name=name,
        steps=max(0, end - first),
        barrier_time=int(result.steps.load_max[first:end].sum()),
        lower_bound=lower_bound,
    )


def check_valid(result: SimulationResult, bound: BoundResult) -> None:
    """Raise `ParameterError` unless `bound` holds for the run."""
    reason = why_invalid(result, bound)
    if reason:
        raise ParameterError(f"{result.policy}: the {bound.kind} bound does not hold: {reason}")


def why_invalid(result: SimulationResult, bound: BoundResult) -> str:
    """Say why `bound` does not hold for the run; empty if it does.

    The run is judged by what it did, not by its policy's name: by its admission steps, and by
    whether slots stayed free while requests waited.
    """
    return _wrong_run(result, bound) or {
        "fcfs": _wrong_start,
        "admissions": _wrong_start,
        "free": _idles,
        "idling": _no_more,
    }[bound.kind](result, bound)


def _wrong_run(result: SimulationResult, bound: BoundResult) -> str:
    params = result.params
    cluster = (params.workers, set(params.slots_each()))
    if result.trace_fingerprint != bound.trace_fingerprint:
        return f"it is about another trace than {result.trace_name}"
    if cluster != (bound.workers, {bound.slots}):
        return f"it is about {bound.workers} workers of {bound.slots} slots"
    if reason := _other_weight(params, bound) or _not_covered(params):
        return reason
    if (result.requests.status != RequestStatus.FINISHED).any():
        return "some requests did not finish"
    if bound.pool and (params.arrivals.mode != "pool" or pool_of(result) != bound.pool):
        return f"it is about a pool of {bound.pool} waiting requests"
    return ""


def _other_weight(params: SimulationParams, bound: BoundResult) -> str:
    if params.request_weight == bound.request_tokens:
        return ""
    return (
        f"it is about requests that weigh {bound.request_tokens:,} tokens besides their KV "
        f"tokens, not {params.request_weight:,}"
    )


def _not_covered(params: SimulationParams) -> str:
    if params.prefill.mode not in {"none", "delay", "tier"}:
        return "prompts are computed on the decode ranks; objective time covers that"
    return why_no_bound(params)


def why_no_bound(params: SimulationParams) -> str:
    """Say what of a run's regime no bound covers; empty if there is nothing."""
    if params.events or params.capacity is not None:
        return "workers fail or join, or have a KV capacity, which it does not cover"
    if params.migration.active:
        return "running requests move between workers, and it takes them to stay"
    if params.prefill.cache:
        return "ranks have prefix caches, and what is in them follows from the routing"
    if params.routing == "immediate" and params.transit_steps:
        return "requests in transit to a free slot do not count in the pool, as it takes them to"
    return ""


def pool_of(result: SimulationResult) -> int:
    """Return how many requests the run kept waiting."""
    return result.params.arrivals.pool or 4 * result.params.workers


def _wrong_start(result: SimulationResult, bound: BoundResult) -> str:
    due = result.requests.start_step if bound.start is None else bound.start
    differs = np.flatnonzero(result.requests.start_step != due)
    if not differs.size:
        return ""
    i = int(differs[0])
    return (
        f"request {i} was admitted at step {result.requests.start_step[i]}, not at "
        f"{due[i]}; use free_bound, or admissions_bound with the run's own steps"
    )


def _idles(result: SimulationResult, bound: BoundResult) -> str:
    idle = idles_at(result, bound.pool)
    if idle is None:
        return ""
    return (
        f"a slot stayed free while requests waited at step {idle}; "
        "use free_bound with work_conserving=False"
    )


def idles_at(result: SimulationResult, pool: int) -> int | None:
    """Return the first step at which a slot stayed free while requests of the pool waited."""
    admitted = np.cumsum(np.bincount(result.requests.start_step, minlength=len(result.steps)))
    before = np.concatenate(([0], admitted[:-1]))
    waiting = np.minimum(pool + before, len(result.requests.start_step)) - admitted
    places = sum(result.params.slots_each())
    idle = np.flatnonzero((waiting > 0) & (result.steps.active < places))
    return int(idle[0]) if idle.size else None


def _no_more(result: SimulationResult, bound: BoundResult) -> str:
    del result, bound
    return ""
