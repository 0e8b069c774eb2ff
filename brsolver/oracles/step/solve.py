"""The step oracle: the best assignment at one routing decision, or how good it could be."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import ParameterError
from brsolver.oracles.backends import Isolation, solve
from brsolver.oracles.backends._isolate import ProcessDiedError, working_time
from brsolver.oracles.result import SolverError, SolveResult, Status
from brsolver.oracles.step.evaluate import Objective, objective_value, violation
from brsolver.oracles.step.models import columns_of, counts_of, imbalance_model, score_model
from brsolver.oracles.step.search import local_search, to_assignment, to_counts
from brsolver.oracles.step.sifting import SIFTING, sift, sift_apart

if TYPE_CHECKING:
    from brsolver.oracles.linear_model import LinearModel
    from brsolver.oracles.step.instance import StepInstance

IntArray = NDArray[np.int64]


def solve_step(
    instance: StepInstance,
    objective: Objective = "score",
    *,
    backend: str = "highs",
    relax: bool = False,
    time_limit_s: float | None = None,
    memory_limit_mb: float | None = None,
    threads: int = 1,
    warm: bool = True,
    isolate: bool | Isolation = False,
) -> SolveResult:
    """Solve one routing decision.

    Parameters
    ----------
    instance : StepInstance
    objective : {"score", "imbalance"}
        ``score``: ``max Σ_g F_g(Q_g)``, see "F-score" in ``docs/formulation.md``.
        ``imbalance``: the discounted imbalance over the horizon ([BFIO]), to minimise.
    backend : str
        As in `brsolver.oracles.backends.solve`; ``sifting`` (relaxations only) is HiGHS on few
        columns, adding those whose reduced costs ask for it: the same optimum, sooner.
    relax : bool
        Solve the linear relaxation.
    time_limit_s, memory_limit_mb, threads, isolate
        As in `brsolver.oracles.backends.solve`. The time limit covers building, too.
    warm : bool
        Start from the local search's decision.

    Returns
    -------
    SolveResult
        `solution` is the decision, shape (n,): a worker or -1 per waiting request; of a
        relaxation, ``x_{j,k}``, shape (J, K): how much of length k open worker j is given.
    """
    if objective not in {"score", "imbalance"}:
        raise ParameterError(f"objective is {objective!r}, must be score or imbalance")
    if known := trivial(instance, objective, relax):
        return known
    if backend == SIFTING:
        if not relax:
            raise SolverError("sifting solves relaxations only; for integers use highs or cp-sat")
        return _sift(instance, objective, time_limit_s, memory_limit_mb, isolate)
    began = time.perf_counter()
    model = (score_model if objective == "score" else imbalance_model)(instance)
    start = None if relax or not warm else _start(instance, objective, model)
    built = time.perf_counter() - began
    result = solve(
        model,
        backend,
        time_limit_s=None if time_limit_s is None else max(time_limit_s - built, 1e-3),
        memory_limit_mb=memory_limit_mb,
        threads=threads,
        warm_start=start,
        relax=relax,
        isolate=isolate,
    )
    return _finish(instance, objective, model, replace(result, build_s=built), relax)


def _sift(
    instance: StepInstance,
    objective: Objective,
    time_limit_s: float | None,
    memory_limit_mb: float | None,
    isolate: bool | Isolation,
) -> SolveResult:
    if isolate is False:
        return sift(instance, objective, time_limit_s=time_limit_s, memory_limit_mb=memory_limit_mb)
    if isolate is True:
        with Isolation() as process:
            return _sift(instance, objective, time_limit_s, memory_limit_mb, process)
    try:
        isolate.prepare((sift.__module__, "highspy"))
        began = time.monotonic()
        outcome = isolate.call(
            sift.__module__,
            sift_apart.__name__,
            (instance, objective, working_time(time_limit_s)),
            deadline=math.inf if time_limit_s is None else began + time_limit_s,
            memory_limit_mb=memory_limit_mb,
        )
    except ProcessDiedError as error:
        raise SolverError(f"sifting crashed ({error}); try backend 'highs-ipm'") from error
    if not outcome.reason:
        found: SolveResult = outcome.value
        return found
    latest = outcome.reports[-1] if outcome.reports else SolveResult(status=Status.LIMIT)
    spent = time.monotonic() - began
    return replace(latest, solve_s=spent, origin=SIFTING, message=outcome.reason)


def trivial(instance: StepInstance, objective: Objective, relax: bool) -> SolveResult | None:
    """Answer without a solver where nothing can be decided or nothing fits."""
    rooms = instance.token_room[instance.open_workers]
    limit = int(rooms.max(initial=0))
    fitting = int((instance.prompts - instance.request_tokens <= limit).sum())
    idle = fitting == 0 and not instance.admit
    if idle:
        none = np.full(instance.prompts.size, -1, np.int64)
        value = objective_value(instance, none.tolist(), objective)
        shape = (instance.open_workers.size, instance.sizes.size)
        return SolveResult(
            status=Status.OPTIMAL,
            solution=np.zeros(shape) if relax else none,
            objective=value,
            dual_bound=value,
            origin="trivial",
        )
    if instance.admit is not None and fitting < instance.admit:
        return SolveResult(
            status=Status.INFEASIBLE,
            origin="trivial",
            message=(
                f"{instance.admit} requests must be admitted and {fitting} fit a worker: the "
                f"largest room is {limit} KV tokens"
            ),
        )
    return None


def _start(instance: StepInstance, objective: Objective, model: LinearModel) -> IntArray | None:
    found = local_search(instance, objective)
    if found.solution is None:
        return None
    return columns_of(instance, model, to_counts(instance, found.solution.astype(np.int64)))


def _finish(
    instance: StepInstance,
    objective: Objective,
    model: LinearModel,
    result: SolveResult,
    relax: bool,
) -> SolveResult:
    """Turn columns into a decision; hold it to the objective's definition."""
    if result.solution is None:
        return result
    counts = counts_of(instance, model, result.solution)
    if relax:
        return replace(result, solution=counts.astype(np.float64))
    assignment = to_assignment(instance, counts.astype(np.int64))
    value = objective_value(instance, assignment.tolist(), objective)
    broken = violation(instance, assignment.tolist())
    if broken or value != result.objective:
        raise SolverError(
            f"the model of {objective} is wrong: {broken or f'{result.objective} is {value}'}"
        )
    return replace(result, solution=assignment)
