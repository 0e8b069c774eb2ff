"""What gaps of every objective begin with: the cluster, the runs, and who is told of progress."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from brsolver.errors import BrsolverError, ParameterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from brsolver.executors import ExecutorParams
    from brsolver.registry import PolicySpec
    from brsolver.results.result import SimulationResult
    from brsolver.simulator.held_out import HeldOut
    from brsolver.simulator.params import SimulationParams


Progress = Callable[[int, int], None]
Part = tuple[str, Callable[..., Any], tuple[Any, ...]]
"""What it is called in messages, a function of a module's top level, and its arguments."""


BOUND_SHARE = 0.2
"""Part of a hindsight oracle's budget that goes into the bound it starts from."""


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


def carried_out(
    parts: Sequence[Part],
    held: HeldOut,
    tick: Callable[[], None],
    executor: ExecutorParams | None,
) -> list[Any]:
    """Carry out independent parts; returns what each gave, in their order.

    Parameters
    ----------
    parts : sequence of tuple
        Their functions are called with `held` and their arguments.
    held : HeldOut
    tick : callable
        Called as each ends.
    executor : ExecutorParams or None
        None: in this process, one after the other.

    Raises
    ------
    BrsolverError
        One of them failed.
    """
    if executor is None:
        return [_ticked(function(held, *arguments), tick) for _, function, arguments in parts]
    from brsolver.executors import Lost, carry_out, executor_of

    where = executor_of(executor, most=len(parts))
    found: dict[int, Any] = {}
    for at, result in carry_out(where, _part, parts, {"held": held}):
        if isinstance(result, Lost):
            raise BrsolverError(f"{parts[at][0]}: {result.reason}")
        found[at] = _ticked(result, tick)
    return [found[at] for at in range(len(parts))]


def _part(part: Part, shared: Mapping[str, Any]) -> Any:
    _, function, arguments = part
    return function(shared["held"], *arguments)


def _ticked(result: Any, tick: Callable[[], None]) -> Any:
    tick()
    return result


def run_parts(specs: Sequence[PolicySpec], params: SimulationParams) -> list[Part]:
    """Return the run of every policy, as parts."""
    return [(spec.text, simulated, (spec, params)) for spec in specs]


def simulated(held: HeldOut, spec: PolicySpec, params: SimulationParams) -> SimulationResult:
    """Run one policy."""
    from brsolver.simulator import simulate

    return simulate(
        held.trace,
        spec,
        params,
        # Predictors learn: every run starts from the same state.
        predictor=copy.deepcopy(held.predictor),
        predictor_name=held.predictor_name,
    )


def bounds_part(
    of: Callable[..., Any], params: SimulationParams, budget_s: float, *, search: bool
) -> Part:
    """Return the computation of bounds by `of`, as a part that gives them and its seconds."""
    share_s = BOUND_SHARE * budget_s if search else budget_s
    return "bounds", bounded, (of, params, share_s, search)


def left_for_search(budget_s: float, taken_s: float, executor: ExecutorParams | None) -> float:
    """Return the seconds that bounds left of a budget, and get this process ready to search."""
    from brsolver.oracles.hindsight.warm import warm_up

    if executor is not None:
        warm_up(search=True)
    return max(budget_s - taken_s, (1 - BOUND_SHARE) * budget_s)


def bounded(
    held: HeldOut, of: Callable[..., Any], params: SimulationParams, budget_s: float, search: bool
) -> tuple[Any, float]:
    """Compute bounds; returns them, and the seconds that it took without compilation.

    Parameters
    ----------
    held : HeldOut
    of : callable
        Takes trace, parameters and budget.
    params : SimulationParams
    budget_s : float
    search : bool
        Whether a search for the best run follows.
    """
    from brsolver.oracles.hindsight.warm import warm_up

    warm_up(search=search)
    began = time.perf_counter()
    return of(held.trace, params, budget_s), time.perf_counter() - began


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
