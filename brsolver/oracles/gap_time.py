"""The gap of any policy in seconds: what its run took beside what it had to take."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from brsolver.errors import ParameterError
from brsolver.oracles._gangs import gang_seconds
from brsolver.oracles._gap_runs import (
    bounds_part,
    carried_out,
    check_budget,
    loose_note,
    params_of,
    parts_of,
)
from brsolver.oracles._gap_search import Searched, least_time_part, searched
from brsolver.oracles._parts import Part
from brsolver.oracles._time_goal import TimeBounds, TimeParts, seconds_of, status_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from brsolver.executors import ExecutorParams
    from brsolver.oracles._parts import Progress
    from brsolver.oracles._time_hindsight import ShortestRun
    from brsolver.oracles.bounds.time_result import TimeBound
    from brsolver.oracles.result import Status
    from brsolver.registry import PolicySpec, PredictorSpec
    from brsolver.results.comparison import Failure
    from brsolver.results.result import SimulationResult
    from brsolver.simulator.held_out import HeldOut
    from brsolver.simulator.params import SimulationParams
    from brsolver.traces.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTimeGap:
    """One policy's run beside the least time.

    Attributes
    ----------
    policy : str
    seconds : float
        ``Σ_k Δ(k)``.
    steps : int
    gap : float
        ``seconds / lower_bound_s - 1``.
    gap_to_best : float or None
        ``seconds / best_known_s - 1``.
    certified : bool
        Whether the lower bound holds for this run; otherwise its gap compares, and proves
        nothing.
    beyond : TimeParts
        Where its seconds beyond the bound went.
    own : TimeBound
        Of the same requests admitted, and prefilled, when this run did: what is beyond it is the
        routing's.
    routing_gap : float or None
        ``seconds / own.seconds - 1``.
    """

    policy: str
    seconds: float
    steps: int
    gap: float
    gap_to_best: float | None
    certified: bool
    beyond: TimeParts
    own: TimeBound
    routing_gap: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "policy": self.policy,
            "seconds": self.seconds,
            "steps": self.steps,
            "gap": self.gap,
            "gap_to_best": self.gap_to_best,
            "certified": self.certified,
            "beyond_bound_s": asdict(self.beyond),
            "routing": {
                "kind": self.own.kind,
                "lower_bound_s": self.own.seconds,
                "binding": self.own.binding,
                "gap": self.routing_gap,
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TimeGapReport:
    """Policies beside the least time of a whole run.

    Attributes
    ----------
    oracle : str
        ``"bounds"``, ``"hindsight-fcfs"`` or ``"hindsight-free"``.
    status : Status
        What is known of the shortest run.
    bound : TimeBound
        What the lower bound rests on.
    lower_bound_s : float
        No run of `valid_for` takes less: `bound`, or more if hindsight proves it.
    best_known_s : float or None
        The shortest run known among those that the bound holds for.
    clairvoyant_s : float
        A run by somebody who knows all requests and their lengths from the beginning, see
        `brsolver.oracles._gangs`: how far the bound of *all* runs can be from the truth at most.
    origin : str
        Who vouches for the lower bound.
    bounds : tuple of TimeBound
        All that were found, strongest first; the last one is of all runs.
    policies : tuple of PolicyTimeGap
    trace_name, hardware : str
        What ran, and on what its steps were measured, if that has a name.
    workers, slots, requests : int
    wall_s : float
        Seconds, simulations included.
    results : tuple of SimulationResult
    failures : tuple of Failure
        Policies whose run failed, which are left out of all else, and a search that failed, by
        its oracle's name.
    notes : tuple of str
        What a reader of the figures must know.
    """

    oracle: str
    status: Status
    bound: TimeBound
    lower_bound_s: float
    best_known_s: float | None
    clairvoyant_s: float
    origin: str
    bounds: tuple[TimeBound, ...]
    policies: tuple[PolicyTimeGap, ...]
    trace_name: str
    hardware: str
    workers: int
    slots: int
    requests: int
    wall_s: float
    results: tuple[SimulationResult, ...] = ()
    failures: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def valid_for(self) -> str:
        """Say which runs the lower bound holds for."""
        return self.bound.valid_for

    def to_dict(self) -> dict[str, Any]:
        """Return what ``brsolver gap --objective time --json`` prints."""
        return {
            "objective": "time",
            "oracle": self.oracle,
            "status": self.status.value,
            "lower_bound_s": self.lower_bound_s,
            "best_known_s": self.best_known_s,
            "clairvoyant_s": self.clairvoyant_s,
            "binding": self.bound.binding,
            "valid_for": self.valid_for,
            "origin": self.origin,
            "wall_s": self.wall_s,
            "trace": self.trace_name,
            "hardware": self.hardware,
            "requests": self.requests,
            "workers": self.workers,
            "slots": self.slots,
            "policies": [row.to_dict() for row in self.policies],
            "bounds": [bound.to_dict() for bound in self.bounds],
            "failures": [each.to_dict() for each in self.failures],
            "notes": list(self.notes),
        }


def time_gap(
    trace: Trace,
    policies: str | Sequence[str | PolicySpec],
    *,
    workers: int,
    slots: int | tuple[int, ...],
    oracle: str = "bounds",
    budget_s: float = 60.0,
    params: SimulationParams | None = None,
    predictor: str | PredictorSpec | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    executor: ExecutorParams | None = None,
    resume: str | Path | None = None,
) -> TimeGapReport:
    """Simulate policies and say how many seconds each was from the least possible.

    Parameters
    ----------
    trace : Trace
    policies : str or sequence of str or PolicySpec
        As of `brsolver.compare.compare`.
    workers : int
        G.
    slots : int or tuple of int
        B per worker, the same for each.
    oracle : {"bounds", "hindsight-fcfs", "hindsight-free"}
        As of `brsolver.oracles.gap.gap`; hindsight covers prefill that is done elsewhere.
    budget_s, params, predictor, seed, progress, executor, resume
        As of `brsolver.oracles.gap.gap`.

    Raises
    ------
    BrsolverError
        Any input is bad, no bound holds for a run, or the run of every policy failed.
    """
    from brsolver.oracles.schedule import require_known_order
    from brsolver.simulator.held_out import hold_out
    from brsolver.wiring import read_policies

    check_budget(budget_s)
    began = time.perf_counter()
    specs = read_policies(policies)
    used = params_of(params, workers, slots, seed)
    hindsight = oracle.startswith("hindsight")
    _check_oracle(oracle, used)
    held = hold_out(trace, predictor, seed, horizons=[spec.horizon for spec in specs])
    if hindsight:
        require_known_order(held.trace)
    others = [
        bounds_part(TimeBounds.of, used, budget_s, search=hindsight),
        Part(
            kind="clairvoyant",
            name="clairvoyant gangs",
            function=_clairvoyant,
            arguments=(used,),
            figures=lambda seconds: {"seconds": seconds},
        ),
    ]
    with parts_of(held, used, executor=executor, resume=resume, progress=progress) as parts:
        parts.expect(len(specs) + len(others) + hindsight)
        done = carried_out(parts, specs, others)
        runs, bounds, clairvoyant_s = done.runs, done.others[0].value, done.others[1].value
        found = Searched()
        if hindsight:
            taken_s = done.others[0].seconds
            found = searched(parts, least_time_part(used, oracle, budget_s, taken_s, bounds))
        parts.finish()
    best: ShortestRun | None = found.best
    bound = bounds.common(runs) if best is None else best.bound
    certified = [run for run in runs if not bounds.why_invalid(run, bound)]
    known = [seconds_of(run) for run in certified]
    if best is not None and best.seconds is not None:
        known.append(best.seconds)
    if bound.kind == "any":
        known.append(clairvoyant_s)
    lower_s = bound.seconds if best is None else max(bound.seconds, best.lower_s)
    known_s = min(known, default=None)
    if lower_s <= 0:
        raise ParameterError(
            "the least time proven is 0 s by this step time, must be some for a gap: its steps may "
            "take no time"
        )
    return TimeGapReport(
        oracle=oracle,
        status=status_of(lower_s, known_s),
        bound=bound,
        lower_bound_s=lower_s,
        best_known_s=known_s,
        clairvoyant_s=clairvoyant_s,
        origin=best.origin if best and best.lower_s == lower_s else bound.binding,
        bounds=bounds.every,
        policies=tuple(
            _row(held.trace, run, bounds, bound, lower_s, known_s, certified=run in certified)
            for run in runs
        ),
        trace_name=held.trace.name,
        hardware=used.step_time.hardware,
        workers=workers,
        slots=used.slots_each()[0],
        requests=len(held.trace),
        wall_s=time.perf_counter() - began,
        results=runs,
        failures=(*done.failures, *found.failures),
        notes=(*done.notes(), *_notes(held.note, found.notes, runs, certified)),
    )


def _clairvoyant(held: HeldOut, params: SimulationParams) -> float:
    return gang_seconds(held.trace, params)


def _check_oracle(oracle: str, params: SimulationParams) -> None:
    if oracle not in {"bounds", "hindsight-fcfs", "hindsight-free"}:
        raise ParameterError(
            f"oracle is {oracle!r}, must be bounds, hindsight-fcfs or hindsight-free with "
            "objective time"
        )
    if oracle != "bounds" and params.prefill.mode != "none":
        raise ParameterError(
            f"oracle is {oracle!r} with prefill {params.prefill.mode!r}, must be bounds: hindsight "
            "covers prefill that is done elsewhere"
        )
    if oracle != "bounds" and params.arrivals.mode != "pool":
        raise ParameterError(
            f"oracle is {oracle!r} with arrivals {params.arrivals.mode!r}, must be bounds: "
            "hindsight covers requests from a pool"
        )


def _row(
    trace: Trace,
    run: SimulationResult,
    bounds: TimeBounds,
    bound: TimeBound,
    lower_s: float,
    known_s: float | None,
    *,
    certified: bool,
) -> PolicyTimeGap:
    seconds = seconds_of(run)
    own = bounds.own(trace, run)
    return PolicyTimeGap(
        policy=run.policy,
        seconds=seconds,
        steps=len(run.steps),
        gap=seconds / lower_s - 1.0,
        gap_to_best=None if known_s is None else seconds / known_s - 1.0,
        certified=certified,
        beyond=TimeParts.of(run, bound.total_work_s, lower_s),
        own=own,
        routing_gap=seconds / own.seconds - 1.0 if own.seconds > 0 else None,
    )


def _notes(
    trained: str | None,
    found: Sequence[str],
    runs: Sequence[SimulationResult],
    certified: Sequence[SimulationResult],
) -> tuple[str, ...]:
    notes = [] if trained is None else [trained]
    notes += found
    notes += [note for run in runs for note in run.notes]
    notes += loose_note(run.policy for run in runs if run not in certified)
    return tuple(dict.fromkeys(notes))
