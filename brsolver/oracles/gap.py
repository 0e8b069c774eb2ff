"""The gap of any policy: what its run cost beside what it had to cost."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

from brsolver.errors import UnknownNameError
from brsolver.oracles._gap_runs import (
    bounds_part,
    carried_out,
    check_budget,
    check_decisions,
    check_horizon,
    loose_note,
    params_of,
    parts_of,
)
from brsolver.oracles._gap_search import Searched, least_barrier_part, searched
from brsolver.oracles._gap_steps import Judged, judged_steps
from brsolver.oracles._goal import Bounds, Goal, barrier_time
from brsolver.oracles.bounds.phases import PhaseGaps, phase_gaps, why_invalid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from brsolver.executors import ExecutorParams
    from brsolver.oracles._parts import Progress
    from brsolver.oracles.bounds.result import BoundResult
    from brsolver.oracles.gap_time import TimeGapReport
    from brsolver.oracles.hindsight.result import CurvePoint
    from brsolver.oracles.result import Status
    from brsolver.registry import PolicySpec, PredictorSpec
    from brsolver.results.comparison import Failure
    from brsolver.results.result import SimulationResult
    from brsolver.simulator.held_out import HeldOut
    from brsolver.simulator.params import SimulationParams
    from brsolver.traces.trace import Trace

Oracle = Literal["bounds", "hindsight-fcfs", "hindsight-free", "step"]
Objective = Literal["barrier", "time"]

ORACLES: tuple[str, ...] = get_args(Oracle)
"""Where lower bounds and best known runs may come from."""

OBJECTIVES: tuple[str, ...] = get_args(Objective)
"""What runs are judged by: KV-token steps at the barrier, or seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyGap:
    """One policy's run beside the oracle.

    Attributes
    ----------
    policy : str
    barrier_time : int
        ``Σ_k M(k)``, in steps of the report's `unit`.
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
    valid_for, origin : str
        Which runs the bound holds for, and who vouches for it.
    policies : tuple of PolicyGap
    trace_name : str
    workers, slots, requests, request_tokens : int
        The cluster, the requests that were run, and what each weighs besides its KV tokens.
    wall_s : float
        Seconds, simulations included.
    curve : tuple of CurvePoint
        What hindsight knew when; empty for other oracles.
    results : tuple of SimulationResult
        The runs, in the order of `policies`.
    failures : tuple of Failure
        Policies whose run failed, which are left out of all else, and what else failed by its
        name: a search, decisions that could not be judged.
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
    request_tokens: int = 0
    wall_s: float
    curve: tuple[CurvePoint, ...] = ()
    results: tuple[SimulationResult, ...] = ()
    failures: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """What loads are in: KV tokens, or effective tokens where requests weigh."""
        return "effective tokens" if self.request_tokens else "KV tokens"

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
            "unit": self.unit,
            "request_tokens": self.request_tokens,
            "policies": [row.to_dict() for row in self.policies],
            "curve": [asdict(point) for point in self.curve],
            "failures": [each.to_dict() for each in self.failures],
            "notes": list(self.notes),
        }


@overload
def gap(
    trace: Trace,
    policies: str | Sequence[str | PolicySpec],
    *,
    workers: int,
    slots: int | tuple[int, ...],
    oracle: Oracle = ...,
    objective: Literal["barrier"] = ...,
    budget_s: float = ...,
    params: SimulationParams | None = ...,
    predictor: str | PredictorSpec | None = ...,
    seed: int = ...,
    horizon: int | None = ...,
    decisions: int | None = ...,
    progress: Progress | None = ...,
    executor: ExecutorParams | None = ...,
    resume: str | Path | None = ...,
) -> GapReport: ...
@overload
def gap(
    trace: Trace,
    policies: str | Sequence[str | PolicySpec],
    *,
    workers: int,
    slots: int | tuple[int, ...],
    oracle: Oracle = ...,
    objective: Literal["time"],
    budget_s: float = ...,
    params: SimulationParams | None = ...,
    predictor: str | PredictorSpec | None = ...,
    seed: int = ...,
    horizon: int | None = ...,
    decisions: int | None = ...,
    progress: Progress | None = ...,
    executor: ExecutorParams | None = ...,
    resume: str | Path | None = ...,
) -> TimeGapReport: ...
def gap(
    trace: Trace,
    policies: str | Sequence[str | PolicySpec],
    *,
    workers: int,
    slots: int | tuple[int, ...],
    oracle: Oracle = "bounds",
    objective: Objective = "barrier",
    budget_s: float = 60.0,
    params: SimulationParams | None = None,
    predictor: str | PredictorSpec | None = None,
    seed: int = 0,
    horizon: int | None = None,
    decisions: int | None = None,
    progress: Progress | None = None,
    executor: ExecutorParams | None = None,
    resume: str | Path | None = None,
) -> GapReport | TimeGapReport:
    """Simulate policies and say how far each was from the best possible.

    Parameters
    ----------
    trace : Trace
    policies : str or sequence
        As of `brsolver.compare.compare`.
    workers, slots : int
        G, and B per worker, as a tuple the same for each.
    oracle : {"bounds", "hindsight-fcfs", "hindsight-free", "step"}
        ``bounds``: certified lower bounds at trace scale. ``hindsight-*``: the best run itself,
        as far as the budget reaches, under first-come-first-served or free admission. ``step``:
        ``bounds``, and the regret of every single decision.
    objective : {"barrier", "time"}
        KV-token steps ``Σ_k M(k)``, or seconds by the step time, see `TimeGapReport`.
    budget_s : float
        Seconds for the oracle, those of all processes together; not for simulations, and not for
        compilation on first use.
    params : SimulationParams, optional
        Everything else about the runs. Bounds cover pooled arrivals without KV capacities and
        worker events.
    predictor : str or PredictorSpec, optional
        For policies that use one. What trains a predictor before the run is left out of all
        runs, bounds and oracles.
    seed : int
    horizon : int, optional
        Steps of the projection by which ``step`` judges decisions; None is each policy's own, 0
        if it has none.
    decisions : int, optional
        How many decisions of each run ``step`` judges, whatever the budget, for at most a second
        each; None is as many as the budget allows.
    progress : callable, optional
        Called with (finished, all) parts.
    executor : ExecutorParams, optional
        Where runs, bounds, the search and judgements are computed side by side; None is this
        process, one by one.
    resume : str or Path, optional
        Folder where every part is kept as it ends. What it has is not computed again, unless the
        clock ended it and it may take longer now.

    Raises
    ------
    BrsolverError
        Any input is bad, no bound holds for a run, or the run of every policy failed.
    """
    from brsolver.oracles.schedule import require_known_order
    from brsolver.simulator.held_out import hold_out
    from brsolver.wiring import read_policies

    _check(oracle, objective, budget_s)
    check_horizon(horizon, oracle)
    check_decisions(decisions, oracle)
    if objective == "time":
        from brsolver.oracles.gap_time import time_gap

        return time_gap(
            trace, policies, workers=workers, slots=slots, oracle=oracle, budget_s=budget_s,
            params=params, predictor=predictor, seed=seed, progress=progress, executor=executor,
            resume=resume,
        )  # fmt: skip
    began = time.perf_counter()
    specs = read_policies(policies)
    used = params_of(params, workers, slots, seed)
    horizons = [*(spec.horizon for spec in specs), horizon or 0]
    held = hold_out(trace, predictor, seed, horizons=horizons)
    trace = held.trace
    require_known_order(trace)
    hindsight = oracle.startswith("hindsight")
    with parts_of(held, used, executor=executor, resume=resume, progress=progress) as parts:
        parts.expect(len(specs) + 1 + hindsight)
        others = [bounds_part(Bounds.of, used, budget_s, search=hindsight)]
        done = carried_out(parts, specs, others)
        runs, bounds, taken_s = done.runs, done.others[0].value, done.others[0].seconds
        found = Searched()
        if hindsight:
            part = least_barrier_part(used, oracle, budget_s, taken_s, runs, bounds)
            found = searched(parts, part)
        judged = Judged(regrets=[{}] * len(runs))
        if oracle == "step":
            judged = judged_steps(parts, done, budget_s, horizon, decisions)
        parts.finish()
    best = found.best
    goal = Goal.of(runs, bounds, best)
    return GapReport(
        oracle=oracle,
        status=goal.status,
        lower_bound=goal.lower_bound,
        best_known=goal.best_known,
        valid_for=goal.valid_for,
        origin=goal.origin,
        policies=tuple(
            _row(trace, run, bounds, goal, regret)
            for run, regret in zip(runs, judged.regrets, strict=True)
        ),
        trace_name=trace.name,
        workers=workers,
        slots=used.slots_each()[0],
        requests=len(trace),
        request_tokens=used.request_weight,
        wall_s=time.perf_counter() - began,
        curve=best.curve if best else (),
        results=runs,
        failures=(*done.failures, *found.failures, *judged.failures),
        notes=(*done.notes(), *_notes(held, (*found.notes, *judged.notes), runs, goal)),
    )


def _check(oracle: str, objective: str, budget_s: float) -> None:
    for label, value, known in (("oracle", oracle, ORACLES), ("objective", objective, OBJECTIVES)):
        if value not in known:
            raise UnknownNameError.suggest(label, value, known)
    check_budget(budget_s)


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
        request_tokens=run.params.request_weight,
    )


def _ratio(cost: int, base: int | None) -> float | None:
    return cost / base - 1.0 if base else None


def _notes(
    held: HeldOut, found: Sequence[str], runs: Sequence[SimulationResult], goal: Goal
) -> tuple[str, ...]:
    notes = [] if held.note is None else [held.note]
    notes += found
    notes += [note for run in runs for note in run.notes]
    notes += loose_note(run.policy for run in runs if run.policy not in goal.certified)
    return tuple(dict.fromkeys(notes))
