"""What gaps of every objective begin with: the cluster, the runs, and who is told of progress."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from brsolver.registry import PolicySpec
    from brsolver.results.result import SimulationResult
    from brsolver.simulator.held_out import HeldOut
    from brsolver.simulator.params import SimulationParams

    Progress = Callable[[int, int], None]


def check_budget(budget_s: float) -> None:
    """Raise `ParameterError` unless it is a positive number of seconds."""
    if not (math.isfinite(budget_s) and budget_s > 0):
        raise ParameterError(f"budget_s is {budget_s}, must be a positive number of seconds")


def ticker(total: int, progress: Progress | None) -> Callable[[], None]:
    """Return what reports one more part as finished at every call."""
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return tick


def params_of(
    params: SimulationParams | None, workers: int, slots: int | tuple[int, ...], seed: int
) -> SimulationParams:
    """Return the parameters of a cluster that bounds cover."""
    from brsolver.oracles.schedule import check_cluster
    from brsolver.simulator.params import SimulationParams

    used = params or SimulationParams()
    check_cluster(workers, slots, used.arrivals.pool)
    return replace(used, workers=workers, slots=slots, seed=seed)


def simulated(
    held: HeldOut, spec: PolicySpec, params: SimulationParams, tick: Callable[[], None]
) -> SimulationResult:
    """Run one policy."""
    from brsolver.simulator import simulate

    result = simulate(
        held.trace,
        spec,
        params,
        # Predictors learn: every run starts from the same state.
        predictor=copy.deepcopy(held.predictor),
        predictor_name=held.predictor_name,
    )
    tick()
    return result


def regrets_of(
    held: HeldOut, runs: Sequence[SimulationResult], budget_s: float, horizon: int | None
) -> list[dict[str, Any]]:
    """Judge the decisions of every run."""
    from brsolver.oracles._regret import regrets

    return regrets(held.trace, runs, predictor=held.predictor, budget_s=budget_s, horizon=horizon)


def loose_note(policies: Iterable[str]) -> list[str]:
    """Say for which runs the lower bound does not hold, if there are any."""
    loose = ", ".join(policies)
    if not loose:
        return []
    return [
        f"the lower bound does not hold for {loose}, which admitted requests in another order: "
        "their gaps compare, and certify nothing"
    ]
