"""What gaps of every objective begin with: the cluster, the runs, and who is told of progress."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from brsolver._resumed import print_of_held, settings_of
from brsolver.errors import ParameterError
from brsolver.oracles._parts import BY_CLOCK, BY_ITSELF, Kept, Part, Parts, Progress
from brsolver.oracles._watching import SAMPLE
from brsolver.wiring import code_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from brsolver.campaign.cells import Plain
    from brsolver.executors import ExecutorParams
    from brsolver.oracles._parts import Done
    from brsolver.registry import PolicySpec
    from brsolver.results.comparison import Failure
    from brsolver.results.result import SimulationResult
    from brsolver.simulator.held_out import HeldOut
    from brsolver.simulator.params import SimulationParams

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


def params_of(
    params: SimulationParams | None, workers: int, slots: int | tuple[int, ...], seed: int
) -> SimulationParams:
    """Return the parameters of a cluster that bounds cover."""
    from brsolver.oracles.schedule import check_cluster
    from brsolver.simulator.params import SimulationParams

    used = params or SimulationParams()
    check_cluster(workers, slots, used.arrivals.pool)
    return replace(used, workers=workers, slots=slots, seed=seed)


def check_decisions(decisions: int | None, oracle: str) -> None:
    """Raise `ParameterError` unless the oracle judges so many decisions of a run."""
    if decisions is None:
        return
    if oracle != "step":
        raise ParameterError(
            f"decisions is {decisions}, must be left out with oracle {oracle!r}: step alone judges "
            "single decisions"
        )
    if not 1 <= decisions <= SAMPLE:
        raise ParameterError(f"decisions is {decisions}, must be between 1 and {SAMPLE}")


def parts_of(
    held: HeldOut,
    params: SimulationParams,
    *,
    executor: ExecutorParams | None,
    resume: str | Path | None,
    progress: Progress | None,
) -> Parts:
    """Return what carries out parts, and keeps them in the folder `resume` if there is one."""
    kept = None
    if resume is not None:
        kept = Kept(
            folder=resume,
            settings=settings_of(params, held),
            key={"workers": params.workers, "seed": params.seed, "trace": print_of_held(held)},
        )
    return Parts(held, params, executor=executor, kept=kept, progress=progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedOut:
    """What independent parts gave.

    Attributes
    ----------
    runs : tuple of SimulationResult
        Of the policies that did not fail, in their order.
    keys : tuple of mapping
        What tells each of these from other policies' runs.
    failures : tuple of Failure
        Of those that did.
    others : tuple of Done
        What came of the parts besides.
    """

    runs: tuple[SimulationResult, ...]
    keys: tuple[Mapping[str, Plain], ...]
    failures: tuple[Failure, ...]
    others: tuple[Done, ...]

    def notes(self) -> list[str]:
        """Say which policies are left out, and why."""
        return [f"{each.policy} failed and is left out: {each.reason}" for each in self.failures]


def carried_out(parts: Parts, specs: Sequence[PolicySpec], others: Sequence[Part]) -> CarriedOut:
    """Carry out the run of every policy, and other parts that need none of these.

    Parameters
    ----------
    parts : Parts
    specs : sequence of PolicySpec
    others : sequence of Part

    Raises
    ------
    BrsolverError
        The run of every policy failed, or any other part.
    """
    asked = [*(_run_of(spec, parts.params) for spec in specs), *others]
    found: dict[int, Done] = {}
    for done in parts.results(asked):
        found[done.at] = done
        if done.failed:
            _raise_if_nothing_is_left(found, len(specs))
    each = [found[at] for at in range(len(specs))]
    return CarriedOut(
        runs=tuple(done.value for done in each if not done.failed),
        keys=tuple(asked[done.at].key for done in each if not done.failed),
        failures=tuple(
            failure_of(parts.params, specs[done.at].text, done.value)
            for done in each
            if done.failed
        ),
        others=tuple(found[at] for at in range(len(specs), len(asked))),
    )


def failure_of(params: SimulationParams, what: str, error: object) -> Failure:
    """Return what reports say of a policy's run, or of another part, that failed."""
    from brsolver.results.comparison import Failure

    reason = " ".join(str(error).split()).removeprefix(f"{what}: ")
    return Failure(policy=what, workers=params.workers, seed=params.seed, reason=reason)


def _raise_if_nothing_is_left(found: Mapping[int, Done], policies: int) -> None:
    failed = {at: done.value for at, done in found.items() if done.failed}
    needed = [at for at in failed if at >= policies]
    if needed or len(failed) == policies:
        raise failed[min(needed or failed)]


def _run_of(spec: PolicySpec, params: SimulationParams) -> Part:
    return Part(
        kind="run",
        name=spec.text,
        function=simulated,
        arguments=(spec, params),
        key={"policy": spec.text, "code": code_of(spec)},
        figures=lambda run: {
            "barrier_time": int(run.steps.load_max.sum()),
            "seconds": float(run.steps.duration_s.sum()),
        },
    )


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
    """Return the computation of bounds by `of`; a search for the best run follows, or not."""
    share_s = BOUND_SHARE * budget_s if search else budget_s
    return Part(
        kind="bounds",
        name="bounds",
        function=_bounded,
        arguments=(of, params, share_s),
        key={"of": of.__qualname__},
        ready=partial(warm_up_for, search=search),
        limit_s=share_s,
        ended=lambda _, seconds: BY_ITSELF if seconds < share_s else BY_CLOCK,
    )


def _bounded(
    held: HeldOut, of: Callable[..., Any], params: SimulationParams, budget_s: float
) -> Any:
    return of(held.trace, params, budget_s)


def warm_up_for(*, search: bool) -> None:
    """Compile and load, in the process that is to compute."""
    from brsolver.oracles.hindsight.warm import warm_up

    warm_up(search=search)


def loose_note(policies: Iterable[str]) -> list[str]:
    """Say for which runs the lower bound does not hold, if there are any."""
    loose = ", ".join(policies)
    if not loose:
        return []
    return [
        f"the lower bound does not hold for {loose}, which admitted requests in another order: "
        "their gaps compare, and certify nothing"
    ]
