"""The gap of any policy: what its run cost beside what it had to cost."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from brsolver.errors import ParameterError, UnknownNameError
from brsolver.oracles._goal import Bounds, Goal, barrier_time
from brsolver.oracles.bounds.phases import PhaseGaps, phase_gaps, why_invalid

if TYPE_CHECKING:
    from brsolver.oracles.bounds.fixed import IntArray
    from brsolver.oracles.bounds.result import BoundResult
    from brsolver.oracles.hindsight.result import CurvePoint, HindsightResult
    from brsolver.oracles.result import Status
    from brsolver.simulator.held_out import HeldOut
    from brsolver.simulator.params import SimulationParams
    from brsolver.simulator.result import SimulationResult
    from brsolver.traces.model import Trace

Oracle = Literal["bounds", "hindsight-fcfs", "hindsight-free", "step"]
Progress = Callable[[int, int], None]

ORACLES: tuple[str, ...] = get_args(Oracle)
"""Where lower bounds and best known runs may come from."""

MAX_HORIZON = 100_000

BOUND_SHARE = 0.2
"""Part of a hindsight oracle's budget that goes into the bound it starts from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyGap:
    """One policy's run beside the oracle.

    Attributes
    ----------
    policy : str
    barrier_time : int
        ``Σ_k M(k)`` in KV-token steps.
    gap : float or None
        ``barrier_time / lower_bound - 1``, the report's lower bound; None if there is none.
    gap_to_best : float or None
        ``barrier_time / best_known - 1``.
    certified : bool
        Whether the lower bound holds for this run. One that admits in another order than the
        oracle's runs may cost less than their optimum: then its gap compares, and proves nothing.
    routing : PhaseGaps
        The run beside the best assignment of requests *admitted when this run admitted them*,
        phase by phase: what routing alone could have saved.
    regret : dict
        Per-step regret, with the oracle ``"step"``; else empty.
    bound : BoundResult
        What `routing` was held against.
    """

    policy: str
    barrier_time: int
    gap: float | None
    gap_to_best: float | None
    certified: bool
    routing: PhaseGaps
    regret: dict[str, Any]
    bound: BoundResult = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "policy": self.policy,
            "barrier_time": self.barrier_time,
            "gap": self.gap,
            "gap_to_best": self.gap_to_best,
            "certified": self.certified,
            "routing": {"kind": self.routing.kind, **self.routing.to_dict()},
            **({"regret": self.regret} if self.regret else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GapReport:
    """Policies beside an oracle.

    Attributes
    ----------
    oracle : str
        One of `ORACLES`.
    status : Status
        What is known of the best run.
    lower_bound, best_known : int or None
        Certified lower bound of ``Σ_k M(k)``, and the cheapest run known among those that the
        bound holds for.
    valid_for : str
        Which runs the bound holds for.
    origin : str
        Who vouches for it.
    policies : tuple of PolicyGap
    trace_name : str
    workers, slots, requests : int
        The cluster, and the requests that were run.
    wall_s : float
        Seconds, simulations included.
    curve : tuple of CurvePoint
        What hindsight knew when; empty for other oracles.
    results : tuple of SimulationResult
        The runs, in the order of `policies`.
    notes : tuple of str
        What a reader of the figures must know.
    """

    oracle: str
    status: Status
    lower_bound: int | None
    best_known: int | None
    valid_for: str
    origin: str
    policies: tuple[PolicyGap, ...]
    trace_name: str
    workers: int
    slots: int
    requests: int
    wall_s: float
    curve: tuple[CurvePoint, ...] = ()
    results: tuple[SimulationResult, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what ``brsolver gap --json`` prints."""
        return {
            "oracle": self.oracle,
            "status": self.status.value,
            "lower_bound": self.lower_bound,
            "best_known": self.best_known,
            "wall_s": self.wall_s,
            "valid_for": self.valid_for,
            "origin": self.origin,
            "trace": self.trace_name,
            "requests": self.requests,
            "workers": self.workers,
            "slots": self.slots,
            "policies": [row.to_dict() for row in self.policies],
            "curve": [
                {"time_s": p.time_s, "incumbent": p.incumbent, "bound": p.bound, "by": p.by}
                for p in self.curve
            ],
            "notes": list(self.notes),
        }


def gap(
    trace: Trace,
    policies: Sequence[str],
    *,
    workers: int,
    slots: int,
    oracle: Oracle = "bounds",
    budget_s: float = 60.0,
    params: SimulationParams | None = None,
    predictor: str | None = None,
    seed: int = 0,
    horizon: int | None = None,
    progress: Progress | None = None,
) -> GapReport:
    """Simulate policies and say how far each was from the best possible.

    Parameters
    ----------
    trace : Trace
    policies : sequence of str
        Policy specifications.
    workers, slots : int
        G, and B per worker.
    oracle : {"bounds", "hindsight-fcfs", "hindsight-free", "step"}
        ``bounds``: certified lower bounds at trace scale. ``hindsight-*``: the best run itself,
        as far as the budget reaches, under first-come-first-served or free admission. ``step``:
        ``bounds``, and the regret of every single decision.
    budget_s : float
        Seconds for the oracle, not for simulations, and not for compilation on first use.
    params : SimulationParams, optional
        Everything else about the runs: pool and step time. Bounds cover pooled arrivals without
        KV capacities and worker events.
    predictor : str, optional
        For policies that use one. What trains a predictor before the run is left out of all
        runs, bounds and oracles.
    seed : int
    horizon : int, optional
        Steps of the projection by which ``step`` judges decisions; None is each policy's own, 0
        if it has none.
    progress : callable, optional
        Called with (finished, all) parts.

    Raises
    ------
    BrsolverError
        Any input is bad, or no bound holds for a run.
    """
    from brsolver.compare import check_policies
    from brsolver.oracles.hindsight.warm import warm_up
    from brsolver.simulator.held_out import hold_out, horizon_of

    _check(oracle, budget_s, horizon)
    began = time.perf_counter()
    specs = check_policies(policies)
    tick = _ticker(len(specs) + 2, progress)
    used = _params(params, workers, slots, seed)
    horizons = [*map(horizon_of, specs), horizon or 0]
    held = hold_out(trace, predictor, seed, horizons=horizons)
    trace = held.trace
    runs = tuple(_simulate(held, spec, used, predictor, tick) for spec in specs)
    searched = oracle.startswith("hindsight")
    warm_up(search=searched)
    bounding = time.perf_counter()
    bounds = Bounds.of(trace, used, BOUND_SHARE * budget_s if searched else budget_s)
    tick()
    left_s = max(budget_s - (time.perf_counter() - bounding), (1 - BOUND_SHARE) * budget_s)
    best = _hindsight(trace, used, oracle, left_s, runs, bounds) if searched else None
    tick()
    goal = Goal.of(runs, bounds, best)
    regrets = _regrets(held, runs, oracle, budget_s, horizon)
    return GapReport(
        oracle=oracle,
        status=goal.status,
        lower_bound=goal.lower_bound,
        best_known=goal.best_known,
        valid_for=goal.valid_for,
        origin=goal.origin,
        policies=tuple(
            _row(trace, run, bounds, goal, regret)
            for run, regret in zip(runs, regrets, strict=True)
        ),
        trace_name=trace.name,
        workers=workers,
        slots=slots,
        requests=len(trace),
        wall_s=time.perf_counter() - began,
        curve=best.curve if best else (),
        results=runs,
        notes=_notes(held, best, runs, goal),
    )


def _check(oracle: str, budget_s: float, horizon: int | None) -> None:
    if oracle not in ORACLES:
        raise UnknownNameError.suggest("oracle", oracle, ORACLES)
    if not (math.isfinite(budget_s) and budget_s > 0):
        raise ParameterError(f"budget is {budget_s} s, must be a positive number of seconds")
    if horizon is not None and oracle != "step":
        raise ParameterError(f"horizon is for oracle 'step', {oracle!r} judges no single decisions")
    if horizon is not None and not 0 <= horizon <= MAX_HORIZON:
        raise ParameterError(f"horizon is {horizon}, must be between 0 and {MAX_HORIZON} steps")


def _ticker(total: int, progress: Progress | None) -> Callable[[], None]:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return tick


def _params(
    params: SimulationParams | None, workers: int, slots: int, seed: int
) -> SimulationParams:
    from brsolver.oracles.hindsight.schedule import check_cluster
    from brsolver.simulator.params import SimulationParams

    used = params or SimulationParams()
    check_cluster(workers, slots, used.arrivals.pool)
    return replace(used, workers=workers, slots=slots, seed=seed)


def _simulate(
    held: HeldOut,
    spec: str,
    params: SimulationParams,
    predictor_name: str | None,
    tick: Callable[[], None],
) -> SimulationResult:
    from brsolver.simulator import simulate

    result = simulate(
        held.trace,
        spec,
        params,
        # Predictors learn: every run starts from the same state.
        predictor=copy.deepcopy(held.predictor),
        predictor_name=predictor_name,
    )
    tick()
    return result


def _hindsight(
    trace: Trace,
    params: SimulationParams,
    oracle: str,
    budget_s: float,
    runs: Sequence[SimulationResult],
    bounds: Bounds,
) -> HindsightResult:
    from brsolver.oracles.hindsight import hindsight

    fcfs = oracle == "hindsight-fcfs"
    return hindsight(
        trace,
        workers=params.workers,
        slots=params.slots_each()[0],
        pool=params.arrivals.pool,
        admission="fcfs" if fcfs else "free",
        budget_s=budget_s,
        warm_start=_warm_start(runs, bounds.fcfs) if fcfs else None,
        bound=bounds.fcfs if fcfs else bounds.free,
    )


def _warm_start(runs: Sequence[SimulationResult], bound: BoundResult) -> IntArray | None:
    """Return the workers of the cheapest run with first-come-first-served admission."""
    held = [run for run in runs if not why_invalid(run, bound)]
    return min(held, key=barrier_time).requests.worker if held else None


def _regrets(
    held: HeldOut,
    runs: Sequence[SimulationResult],
    oracle: str,
    budget_s: float,
    horizon: int | None,
) -> list[dict[str, Any]]:
    if oracle != "step":
        return [{} for _ in runs]
    from brsolver.oracles._regret import regrets

    return regrets(held.trace, runs, predictor=held.predictor, budget_s=budget_s, horizon=horizon)


def _row(
    trace: Trace, run: SimulationResult, bounds: Bounds, goal: Goal, regret: dict[str, Any]
) -> PolicyGap:
    cost = barrier_time(run)
    own = _own_bound(trace, run, bounds)
    return PolicyGap(
        policy=run.policy,
        barrier_time=cost,
        gap=_ratio(cost, goal.lower_bound),
        gap_to_best=_ratio(cost, goal.best_known),
        certified=run.policy in goal.certified,
        routing=phase_gaps(run, own),
        regret=regret,
        bound=own,
    )


def _own_bound(trace: Trace, run: SimulationResult, bounds: Bounds) -> BoundResult:
    from brsolver.oracles.bounds import admissions_bound

    if not why_invalid(run, bounds.fcfs):
        return bounds.fcfs
    return admissions_bound(
        trace,
        run.requests.start_step,
        workers=run.params.workers,
        slots=run.params.slots_each()[0],
        effort="fast",
    )


def _ratio(cost: int, base: int | None) -> float | None:
    return cost / base - 1.0 if base else None


def _notes(
    held: HeldOut, best: HindsightResult | None, runs: Sequence[SimulationResult], goal: Goal
) -> tuple[str, ...]:
    notes = [] if held.note is None else [held.note]
    if best is not None and best.message:
        notes.append(f"hindsight: {best.message}")
    notes += [note for run in runs for note in run.notes]
    loose = [run.policy for run in runs if run.policy not in goal.certified]
    if loose:
        notes.append(
            f"the lower bound does not hold for {', '.join(loose)}, which admitted requests in "
            "another order: their gaps compare, and certify nothing"
        )
    return tuple(dict.fromkeys(notes))
