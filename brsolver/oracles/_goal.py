"""Which bound a set of runs is held against, and what is known of the best run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brsolver.errors import ParameterError
from brsolver.oracles.bounds.phases import why_invalid
from brsolver.oracles.result import SolverError, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.oracles.bounds.result import BoundResult
    from brsolver.oracles.hindsight.result import HindsightResult
    from brsolver.results.result import SimulationResult
    from brsolver.simulator.params import SimulationParams
    from brsolver.traces.trace import Trace


def barrier_time(run: SimulationResult) -> int:
    """Return ``Σ_k M(k)`` of a run, in KV-token steps: effective ones where requests weigh."""
    return int(run.steps.load_max.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Bounds of one trace and cluster, strongest first; see `VALID_FOR`."""

    fcfs: BoundResult
    free: BoundResult
    idling: BoundResult

    @classmethod
    def of(cls, trace: Trace, params: SimulationParams, budget_s: float) -> Bounds:
        """Compute all three; `budget_s` limits the strongest."""
        from brsolver.oracles.bounds import fcfs_bound, free_bound

        where: dict[str, Any] = {
            "workers": params.workers,
            "slots": params.slots_each()[0],
            "pool": params.arrivals.pool,
            "step_time": params.step_time,
            "request_tokens": params.request_weight,
        }
        return cls(
            fcfs=fcfs_bound(trace, budget_s=budget_s, **where),
            free=free_bound(trace, **where),
            idling=free_bound(trace, work_conserving=False, **where),
        )

    def common(self, runs: Sequence[SimulationResult]) -> BoundResult:
        """Return the strongest bound that holds for all runs, or say why none does."""
        for bound in (self.fcfs, self.free):
            if not any(why_invalid(run, bound) for run in runs):
                return bound
        for run in runs:
            if reason := why_invalid(run, self.idling):
                raise ParameterError(f"{run.policy}: no bound holds for its run: {reason}")
        return self.idling


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What runs are held against."""

    status: Status
    lower_bound: int | None
    best_known: int | None
    valid_for: str
    origin: str
    certified: tuple[str, ...]

    @classmethod
    def of(
        cls, runs: Sequence[SimulationResult], bounds: Bounds, best: HindsightResult | None
    ) -> Goal:
        """Hold runs against the best bound that fits them, or against hindsight.

        Raises
        ------
        ParameterError
            No bound holds for a run.
        SolverError
            A run costs less than the bound that holds for it.
        """
        common = bounds.common(runs)
        if best is None:
            bound, lower, origin, known = common, common.total, common.origin, None
        else:
            bound = bounds.fcfs if best.admission == "fcfs" else bounds.free
            lower, origin = _stronger(bound, best)
            known = best.barrier_best
        held = [run for run in runs if not why_invalid(run, bound)]
        costs = [barrier_time(run) for run in held] + ([] if known is None else [known])
        cheapest = min(costs, default=None)
        return cls(
            status=_status(lower, cheapest),
            lower_bound=lower,
            best_known=cheapest,
            valid_for=bound.valid_for,
            origin=origin,
            certified=tuple(run.policy for run in held),
        )


def _stronger(bound: BoundResult, best: HindsightResult) -> tuple[int, str]:
    if best.barrier_bound is not None and best.barrier_bound >= bound.total:
        return best.barrier_bound, best.origin
    return bound.total, bound.origin


def _status(lower: int | None, cheapest: int | None) -> Status:
    if cheapest is None:
        return Status.BOUND if lower is not None else Status.LIMIT
    if lower is not None and cheapest < lower:
        raise SolverError(
            f"a run costs {cheapest:,} and the bound of all runs says {lower:,}: one is wrong"
        )
    return Status.OPTIMAL if cheapest == lower else Status.FEASIBLE
