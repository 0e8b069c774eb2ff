"""The search for the best run, as a part of a gap."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from brsolver.errors import MissingExtraError, ParameterError
from brsolver.oracles._gap_runs import BOUND_SHARE, failure_of, warm_up_for
from brsolver.oracles._goal import barrier_time
from brsolver.oracles._parts import BROKEN_OFF, BY_CLOCK, BY_ITSELF, Part
from brsolver.oracles.backends import installed
from brsolver.oracles.bounds.phases import why_invalid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from brsolver.campaign.cells import Plain
    from brsolver.oracles._goal import Bounds
    from brsolver.oracles._parts import Parts
    from brsolver.oracles._time_goal import TimeBounds
    from brsolver.oracles._time_hindsight import ShortestRun
    from brsolver.oracles.bounds.fixed import IntArray
    from brsolver.oracles.bounds.result import BoundResult
    from brsolver.oracles.hindsight.result import HindsightResult
    from brsolver.results.comparison import Failure
    from brsolver.results.result import SimulationResult
    from brsolver.simulator.held_out import HeldOut
    from brsolver.simulator.params import SimulationParams

TOO_LARGE = "too large to search"
"""What a search says that did not take place."""


def least_barrier_part(
    params: SimulationParams,
    oracle: str,
    budget_s: float,
    taken_s: float,
    runs: Sequence[SimulationResult],
    bounds: Bounds,
) -> Part:
    """Return the search for the least barrier time.

    Parameters
    ----------
    params : SimulationParams
    oracle : {"hindsight-fcfs", "hindsight-free"}
    budget_s, taken_s : float
        Seconds for the oracle, and what bounds took of them.
    runs : sequence of SimulationResult
        The cheapest with first-come-first-served admission is what to start from.
    bounds : Bounds
    """
    fcfs = oracle == "hindsight-fcfs"
    start = _warm_start(runs, bounds.fcfs) if fcfs else None
    known = bounds.fcfs if fcfs else bounds.free
    digest = "" if start is None else hashlib.sha256(start.tobytes()).hexdigest()[:12]
    return search_part(
        _least_barrier,
        (params, fcfs, left_for_search(budget_s, taken_s), start, known),
        {"bound": known.total, "start": digest},
        oracle,
        budget_s,
    )


def _least_barrier(
    held: HeldOut,
    params: SimulationParams,
    fcfs: bool,
    budget_s: float,
    start: IntArray | None,
    known: BoundResult,
) -> HindsightResult:
    from brsolver.oracles.hindsight import hindsight

    return hindsight(
        held.trace,
        workers=params.workers,
        slots=params.slots_each()[0],
        pool=params.arrivals.pool,
        admission="fcfs" if fcfs else "free",
        budget_s=budget_s,
        warm_start=start,
        bound=known,
        request_tokens=params.request_weight,
    )


def _warm_start(runs: Sequence[SimulationResult], bound: BoundResult) -> IntArray | None:
    """Return the workers of the cheapest run with first-come-first-served admission."""
    valid = [run for run in runs if not why_invalid(run, bound)]
    return min(valid, key=barrier_time).requests.worker if valid else None


def least_time_part(
    params: SimulationParams, oracle: str, budget_s: float, taken_s: float, bounds: TimeBounds
) -> Part:
    """Return the search for the shortest run; parameters are as of `least_barrier_part`."""
    return search_part(
        _least_time,
        (params, oracle, left_for_search(budget_s, taken_s), bounds),
        {"bound_s": bounds.every[0 if oracle == "hindsight-fcfs" else 1].seconds},
        oracle,
        budget_s,
    )


def _least_time(
    held: HeldOut, params: SimulationParams, oracle: str, budget_s: float, bounds: TimeBounds
) -> ShortestRun:
    from brsolver.oracles._time_hindsight import shortest_run

    return shortest_run(held.trace, params, oracle, budget_s, bounds)


def search_part(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    key: Mapping[str, Plain],
    oracle: str,
    budget_s: float,
) -> Part:
    """Return the search for the best run, which has what bounds left of a budget.

    Parameters
    ----------
    function : callable
        Gives something with `message` and `proven`.
    arguments : tuple
    key : mapping of str to plain value
        What the search starts from.
    oracle : str
    budget_s : float
        All of it: what a search that is kept must have had.
    """
    return Part(
        kind="search",
        name=oracle,
        function=function,
        arguments=arguments,
        key={"of": oracle, "solver": installed("ortools"), **key},
        ready=partial(warm_up_for, search=True),
        limit_s=budget_s,
        ended=lambda found, _: _search_ended(found),
        figures=lambda found: {"proven": found.proven},
    )


def _search_ended(found: Any) -> str:
    if "interrupted" in found.message:
        return BROKEN_OFF
    return BY_ITSELF if found.proven or TOO_LARGE in found.message else BY_CLOCK


def left_for_search(budget_s: float, taken_s: float) -> float:
    """Return the seconds that bounds left of a budget."""
    return max(budget_s - taken_s, (1 - BOUND_SHARE) * budget_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What came of the search for the best run, or of there being none.

    Attributes
    ----------
    best : object or None
    failures : tuple of Failure
    notes : tuple of str
    """

    best: Any = None
    failures: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()


def searched(parts: Parts, part: Part) -> Searched:
    """Search for the best run; a search that fails leaves the bounds.

    Raises
    ------
    ParameterError, MissingExtraError
        It cannot be had as it was asked for.
    """
    (done,) = parts.results([part])
    if isinstance(done.value, ParameterError | MissingExtraError):
        raise done.value
    if done.failed:
        failure = failure_of(parts.params, part.name, done.value)
        note = f"{part.name} failed, runs are held against the bounds alone: {failure.reason}"
        return Searched(failures=(failure,), notes=(note,))
    best = done.value
    notes = [f"hindsight: {best.message}"] if best.message else []
    return Searched(best=best, notes=tuple(notes))
