"""What gaps of every objective begin with: the cluster, the runs, and who is told of progress."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from brsolver.errors import BrsolverError, ParameterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from brsolver.executors import ExecutorParams
    from brsolver.registry import PolicySpec
    from brsolver.results.comparison import Failure
    from brsolver.results.result import SimulationResult
    from brsolver.simulator.held_out import HeldOut
    from brsolver.simulator.params import SimulationParams


Progress = Callable[[int, int], None]
Part = tuple[str, Callable[..., Any], tuple[Any, ...]]
"""What it is called in messages, a function of a module's top level, and its arguments."""


MAX_HORIZON = 100_000
BOUND_SHARE = 0.2
"""Part of a hindsight oracle's budget that goes into the bound it starts from."""


def check_budget(budget_s: float) -> None:
    """Raise `ParameterError` unless it is a positive number of seconds."""
    if not (math.isfinite(budget_s) and budget_s > 0):
        raise ParameterError(f"budget_s is {budget_s}, must be a positive number of seconds")


def check_horizon(horizon: int | None, oracle: str) -> None:
    """Raise `ParameterError` unless the oracle judges single decisions by such a horizon."""
    if horizon is not None and oracle != "step":
        raise ParameterError(
            f"horizon is {horizon}, must be left out with oracle {oracle!r}: step alone judges "
            "single decisions"
        )
    if horizon is not None and not 0 <= horizon <= MAX_HORIZON:
        raise ParameterError(f"horizon is {horizon}, must be between 0 and {MAX_HORIZON} steps")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedOut:
    """What independent parts gave.

    Attributes
    ----------
    runs : tuple of SimulationResult
        Of the policies that did not fail, in their order.
    failures : tuple of Failure
        Of those that did.
    others : tuple
        What the parts besides gave.
    """

    runs: tuple[SimulationResult, ...]
    failures: tuple[Failure, ...]
    others: tuple[Any, ...]

    def notes(self) -> list[str]:
        """Say which policies are left out, and why."""
        return [f"{each.policy} failed and is left out: {each.reason}" for each in self.failures]


def carried_out(
    specs: Sequence[PolicySpec],
    params: SimulationParams,
    others: Sequence[Part],
    held: HeldOut,
    tick: Callable[[], None],
    executor: ExecutorParams | None,
) -> CarriedOut:
    """Carry out the run of every policy, and other independent parts.

    Parameters
    ----------
    specs : sequence of PolicySpec
    params : SimulationParams
    others : sequence of tuple
        Their functions are called with `held` and their arguments.
    held : HeldOut
    tick : callable
        Called as each ends.
    executor : ExecutorParams or None
        None: in this process, one after the other.

    Raises
    ------
    BrsolverError
        The run of every policy failed, or any other part.
    """
    from brsolver.results.comparison import Failure

    parts: list[Part] = [*((spec.text, simulated, (spec, params)) for spec in specs), *others]
    found: dict[int, Any] = {}
    for at, result in _each(parts, held, executor):
        found[at] = result
        if isinstance(result, BrsolverError):
            _raise_if_nothing_is_left(found, len(specs))
        tick()
    each = [found[at] for at in range(len(specs))]
    return CarriedOut(
        runs=tuple(run for run in each if not isinstance(run, BrsolverError)),
        failures=tuple(
            Failure(
                policy=spec.text,
                workers=params.workers,
                seed=params.seed,
                reason=" ".join(str(run).split()).removeprefix(f"{spec.text}: "),
            )
            for spec, run in zip(specs, each, strict=True)
            if isinstance(run, BrsolverError)
        ),
        others=tuple(found[at] for at in range(len(specs), len(parts))),
    )


def _raise_if_nothing_is_left(found: Mapping[int, Any], policies: int) -> None:
    failed = {at: each for at, each in found.items() if isinstance(each, BrsolverError)}
    needed = [at for at in failed if at >= policies]
    if needed or len(failed) == policies:
        raise failed[min(needed or failed)]


def _each(
    parts: Sequence[Part], held: HeldOut, executor: ExecutorParams | None
) -> Iterator[tuple[int, Any]]:
    """Yield each part's index and what it gave, or the error by which it failed."""
    shared = {"held": held}
    if executor is None:
        yield from ((at, _part(part, shared)) for at, part in enumerate(parts))
        return
    from brsolver.executors import Lost, carry_out, executor_of

    for at, result in carry_out(executor_of(executor, most=len(parts)), _part, parts, shared):
        lost = isinstance(result, Lost)
        yield at, BrsolverError(f"{parts[at][0]}: {result.reason}") if lost else result


def _part(part: Part, shared: Mapping[str, Any]) -> Any:
    name, function, arguments = part
    try:
        return function(shared["held"], *arguments)
    except BrsolverError as error:
        return error
    except (Exception, SystemExit) as error:  # noqa: BLE001 # a policy may raise anything
        cause = str(error).strip().partition("\n")[0]
        return BrsolverError(f"{name}: {type(error).__name__}: {cause}")


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
