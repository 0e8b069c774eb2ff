"""Hindsight in seconds: the search for the best run, over effective loads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brsolver.errors import ParameterError
from brsolver.hardware.step_time import StepTime
from brsolver.oracles.bounds.time import heavier
from brsolver.oracles.bounds.time_case import decoding_case

if TYPE_CHECKING:
    from brsolver.oracles._time_goal import TimeBounds
    from brsolver.oracles.bounds.seconds import Case
    from brsolver.oracles.bounds.time_result import TimeBound
    from brsolver.oracles.hindsight.result import HindsightResult
    from brsolver.oracles.hindsight.weights import FreeWeights
    from brsolver.simulator.params import SimulationParams
    from brsolver.traces.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortestRun:
    """What hindsight knows of the shortest run.

    Attributes
    ----------
    bound : TimeBound
        Of the runs among which it was sought.
    lower_s : float
        What hindsight proves by itself; 0 if nothing.
    seconds : float or None
        The best plan, as it runs.
    origin, message : str
    proven : bool
        As of `HindsightResult`.
    """

    bound: TimeBound
    lower_s: float
    seconds: float | None
    origin: str
    message: str
    proven: bool = False


def shortest_run(
    trace: Trace, params: SimulationParams, oracle: str, budget_s: float, bounds: TimeBounds
) -> ShortestRun:
    """Search for the shortest run under the admission that an oracle is about.

    Where every sequence weighs κ tokens, the sum of what the slowest ranks take is barrier time
    of prompts longer by κ, rounded down; a plan is then run with the steps as they are.

    Raises
    ------
    ParameterError
        Steps do not depend on KV tokens.
    """
    from brsolver.oracles.hindsight import hindsight
    from brsolver.oracles.hindsight.weights import FreeWeights

    fcfs = oracle == "hindsight-fcfs"
    bound = bounds.every[0 if fcfs else 1]
    case = decoding_case(trace, bound.steps, bound.workers, bound.slots, params.step_time)
    if not case.loads.per_token:
        raise ParameterError(
            f"oracle is {oracle!r} with per_token 0, must be bounds: hindsight is about KV tokens"
        )
    affine = StepTime(base=case.loads.base, per_token=case.loads.per_token)
    found = hindsight(
        heavier(trace, case.weight[0]),
        workers=bound.workers,
        slots=bound.slots,
        pool=bound.pool,
        admission="fcfs" if fcfs else "free",
        objective="barrier" if fcfs else "makespan",
        step_time=affine,
        budget_s=budget_s,
    )
    seconds = _runs_for(trace, params, found)
    weights = FreeWeights() if fcfs else FreeWeights.of_makespan(affine)
    return ShortestRun(
        bound=bound,
        lower_s=_lower_s(case, found, weights, seconds),
        seconds=seconds,
        origin=found.origin,
        message=found.message,
        proven=found.proven,
    )


def _runs_for(trace: Trace, params: SimulationParams, found: HindsightResult) -> float | None:
    """Return how long the plan takes, as the simulator has it."""
    from brsolver.oracles.hindsight.follow import FollowAssignment
    from brsolver.simulator import simulate

    if found.worker is None:
        return None
    run = simulate(trace, FollowAssignment(found.worker, found.start), params)
    return float(run.steps.duration_s.sum())


def _lower_s(
    case: Case, found: HindsightResult, weights: FreeWeights, known_s: float | None
) -> float:
    m, part = case.loads, case.weight[1]
    # The slowest rank has a sequence, so what was rounded off of κ counts once a step.
    beside = case.shared_s + case.experts_s + m.per_token * part * case.steps
    if found.barrier_bound is not None:
        return case.base_s + m.per_token * found.barrier_bound + beside
    if found.lower_bound is None or known_s is None:
        return 0.0
    # Its weights are whole numbers: what they make of the base may be more than that.
    over = m.per_token * weights.per_step / weights.per_token - m.base
    slack = max(over, 0.0) * known_s / m.base if m.base else 0.0
    return found.lower_bound - slack + beside
