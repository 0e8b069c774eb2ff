"""The one entry to all back ends: choose, run, check, report."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import BrsolverError, ParameterError, UnknownNameError
from brsolver.oracles import verify
from brsolver.oracles.backends import cp_sat, glop, highs, pdlp
from brsolver.oracles.backends._base import Answer, Backend, Job
from brsolver.oracles.backends._isolate import (
    CallOutcome,
    Isolation,
    ProcessDiedError,
    working_time,
)
from brsolver.oracles.backends._load import load
from brsolver.oracles.linear_model import IntArray, LinearModel, Sense
from brsolver.oracles.result import Number, Solution, SolverError, SolveResult, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

BACKENDS: dict[str, Backend] = {
    **{name: partial(highs.solve, backend=name) for name in highs.METHODS},
    "cp-sat": cp_sat.solve,
    "glop": glop.solve,
    "pdlp": pdlp.solve,
}
"""Back ends by name."""

MODULES = {
    **dict.fromkeys(highs.METHODS, "highspy"),
    "cp-sat": "ortools.sat.python.cp_model",
    "glop": "ortools.linear_solver.python.model_builder_helper",
    "pdlp": "ortools.linear_solver.python.model_builder_helper",
}
"""What each back end imports on first use."""

CHECK_S = 1e-7
"""Seconds per entry of the model that checking a solution takes."""


def solve(
    model: LinearModel,
    backend: str = "highs",
    *,
    time_limit_s: float | None = None,
    memory_limit_mb: float | None = None,
    threads: int = 1,
    warm_start: ArrayLike | None = None,
    relax: bool = False,
    isolate: bool | Isolation = False,
) -> SolveResult:
    """Solve a model; check whatever comes back.

    Parameters
    ----------
    model : LinearModel
    backend : str
        One of `BACKENDS`. ``highs`` and ``cp-sat`` solve integer models; all but ``cp-sat``
        solve relaxations.
    time_limit_s : float, optional
        Seconds of wall-clock time, handing the model to the solver included. Some solvers look
        at it seconds late unless `isolate` is set.
    memory_limit_mb : float, optional
        Resident memory of the process that solves, in MiB, at which the solver is stopped.
    threads : int
    warm_start : array_like of int, shape (n,), optional
        A solution to start from; it must be feasible. It is what is returned if nothing better
        is found.
    relax : bool
        Solve the linear relaxation.
    isolate : bool or Isolation
        Solve in a process of its own, which is ended at a limit; the best it had found by then
        is returned, and if it crashes it does so alone. Costs a second for starting it, once
        per `Isolation`; limits do not cover that.

    Returns
    -------
    SolveResult
        An interrupt (Ctrl-C) while the solver runs ends it and returns the best so far.

    Raises
    ------
    MissingExtraError
        The back end's package is not installed.
    SolverError
        The solver cannot be loaded, cannot solve such a model, crashed or found the model
        unbounded.
    ParameterError
        A limit makes no sense, or the warm start is not feasible.
    """
    if backend not in BACKENDS:
        raise UnknownNameError.suggest("back end", backend, BACKENDS)
    job = Job(
        time_limit_s=time_limit_s,
        memory_limit_mb=memory_limit_mb,
        threads=threads,
        warm_start=None if warm_start is None else np.asarray(warm_start, np.int64),
        relax=relax,
    )
    _check_job(model, job)
    if isolate is not False:
        return _solve_apart(model, backend, job, isolate)
    job = _after(job, lambda: load(MODULES[backend]))
    answer = _run(BACKENDS[backend], backend, model, job)
    return _believe(model, job, answer, time.monotonic() - job.began)


def _after(job: Job, prepare: Callable[[], object]) -> Job:
    """Return the job with its clock set back by what loading took: no limit covers that."""
    before = time.monotonic()
    prepare()
    return replace(job, began=job.began + time.monotonic() - before)


def _check_job(model: LinearModel, job: Job) -> None:
    for name, value in (
        ("time_limit_s", job.time_limit_s),
        ("memory_limit_mb", job.memory_limit_mb),
    ):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ParameterError(f"{name} is {value}, must be a positive number")
    if job.threads < 1:
        raise ParameterError(f"threads is {job.threads}, must be at least 1")
    if job.warm_start is not None and not job.relax:
        if job.warm_start.shape != (model.num_columns,):
            raise ParameterError(
                f"warm_start has shape {job.warm_start.shape}, must be ({model.num_columns},): one "
                "value per column"
            )
        if broken := verify.violation(model, job.warm_start):
            raise ParameterError(f"warm_start is no solution, must be feasible: {broken}")


def _run(run: Backend, name: str, model: LinearModel, job: Job) -> Answer:
    try:
        return run(model, job)
    except BrsolverError:
        raise
    except Exception as error:
        raise crash(name, error, relax=job.relax) from error


def crash(name: str, error: Exception, *, relax: bool) -> SolverError:
    """Return what to raise when a back end crashed: one line with the back end to try."""
    other = "cp-sat" if name.startswith("highs") and not relax else "highs-ipm"
    other = "highs" if not name.startswith("highs") else other
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return SolverError(f"{name} crashed ({line}); try backend {other!r}")


def apart(backend: str, model: LinearModel, job: Job, report: Callable[[Answer], None]) -> Answer:
    """Solve, reporting what is found; called in a process of its own."""
    load(MODULES[backend])
    return _run(BACKENDS[backend], backend, model, replace(job, report=report))


def _solve_apart(
    model: LinearModel, backend: str, job: Job, isolate: bool | Isolation
) -> SolveResult:
    if isinstance(isolate, bool):
        with Isolation() as process:
            return _solve_apart(model, backend, job, process)
    try:
        job = _after(job, lambda: isolate.prepare((__name__, MODULES[backend])))
        # Clocks of processes agree, and sending the model is part of solving.
        told = replace(job, time_limit_s=working_time(job.time_limit_s))
        outcome = isolate.call(
            __name__,
            apart.__name__,
            (backend, model, told),
            deadline=_deadline(model, job),
            memory_limit_mb=job.memory_limit_mb,
        )
    except ProcessDiedError as error:
        raise crash(backend, error, relax=job.relax) from error
    answer = _latest(outcome, backend) if outcome.reason else outcome.value
    return _believe(model, job, answer, time.monotonic() - job.began)


def _deadline(model: LinearModel, job: Job) -> float:
    """Return when to end the process: early enough to check what it found."""
    if job.time_limit_s is None:
        return math.inf
    checking = min(CHECK_S * model.row_value.size, 0.1 * job.time_limit_s)
    return job.began + job.time_limit_s - checking


def _latest(outcome: CallOutcome, backend: str) -> Answer:
    """Put together what a solver had reported before it was ended."""
    best, bound = Answer(status=Status.LIMIT, origin=backend), None
    for report in outcome.reports:
        best = report if report.solution is not None else best
        bound = report if report.bound is not None else bound
    return replace(
        best,
        bound=None if bound is None else bound.bound,
        exact=best.exact or (bound is not None and bound.exact),
        origin=best.origin if bound is None else bound.origin,
        message=outcome.reason,
    )


@dataclass(slots=True)
class _Checked:
    solution: Solution | None = None
    objective: Number | None = None
    bound: Number | None = None
    message: str = ""


def _believe(model: LinearModel, job: Job, answer: Answer, solved_s: float) -> SolveResult:
    if answer.status is Status.UNBOUNDED:
        raise SolverError(f"{answer.origin}: the model is unbounded; give its columns bounds")
    check: Callable[[LinearModel, Job, Answer], _Checked] = (
        _check_integer if model.is_integral and not job.relax else _check_float
    )
    checked = check(model, job, answer)
    return SolveResult(
        status=_status(model, job, answer, checked),
        solution=checked.solution,
        objective=checked.objective,
        dual_bound=checked.bound,
        duals=answer.duals,
        solve_s=solved_s,
        nodes=answer.nodes,
        iterations=answer.iterations,
        origin=answer.origin,
        message=checked.message or answer.message,
    )


def _check_integer(model: LinearModel, job: Job, answer: Answer) -> _Checked:
    checked = _Checked()
    if answer.solution is not None:
        settled = verify.settle(model, answer.solution)
        if broken := verify.violation(model, settled):
            checked.message = f"{answer.origin} returned a solution that is none: {broken}"
        else:
            checked.solution = settled
            checked.objective = verify.objective(model, settled)
    if job.warm_start is not None and answer.status is not Status.INFEASIBLE:
        _keep_better(model, checked, job.warm_start)
    bound = answer.bound
    if bound is None and answer.duals is not None:
        bound = verify.safe_dual_bound(model, answer.duals)
    if bound is not None:
        checked.bound = _whole_bound(model, bound, exact=answer.exact)
    _reconcile(model, checked, answer)
    return checked


def _keep_better(model: LinearModel, checked: _Checked, start: IntArray) -> None:
    value = verify.objective(model, start)
    if checked.objective is None or _better(model, value, checked.objective):
        checked.solution, checked.objective = start, value


def _whole_bound(model: LinearModel, bound: float, *, exact: bool) -> int:
    """Round a dual bound to the integer it implies, less what the solver may be wrong by."""
    # CP-SAT reports its integer bounds as floating-point numbers.
    slack = 1e-3 if exact else verify.TOLERANCE * max(1.0, abs(bound) * 1e-3)
    if model.sense is Sense.MAX:
        return math.floor(bound + slack)
    return math.ceil(bound - slack)


def _reconcile(model: LinearModel, checked: _Checked, answer: Answer) -> None:
    """Compare bound and objective: they must not cross by more than rounding."""
    if checked.objective is None or checked.bound is None:
        return
    excess = abs(checked.objective - checked.bound)
    proven = answer.status is Status.OPTIMAL and not answer.exact
    if proven and excess <= max(1.0, verify.TOLERANCE * 1e-3 * abs(checked.objective)):
        checked.bound = checked.objective
    elif not _better(model, checked.objective, checked.bound):
        return
    elif answer.exact or excess > verify.TOLERANCE * max(1.0, abs(checked.objective)):
        checked.message = (
            f"{answer.origin} claims the bound {checked.bound}, which the solution refutes"
        )
        checked.bound = None
    else:
        checked.bound = checked.objective


def _check_float(model: LinearModel, job: Job, answer: Answer) -> _Checked:
    del job
    checked = _Checked()
    if answer.solution is not None:
        solution = np.asarray(answer.solution, np.float64)
        if broken := verify.float_violation(model, solution):
            checked.message = f"{answer.origin} returned a solution that is none: {broken}"
        else:
            checked.solution = solution
            checked.objective = verify.float_objective(model, solution)
    if answer.duals is not None:
        checked.bound = verify.safe_dual_bound(model, answer.duals)
    elif answer.bound is not None:
        checked.bound = answer.bound
    return checked


def _status(model: LinearModel, job: Job, answer: Answer, checked: _Checked) -> Status:
    """Derive the status from what survived the checks, not from what the solver says."""
    if answer.status in {Status.INFEASIBLE, Status.ERROR}:
        return answer.status
    if checked.objective is None:
        return Status.LIMIT if checked.bound is None else Status.BOUND
    if checked.bound is None:
        return Status.FEASIBLE
    gap = abs(checked.bound - checked.objective)
    whole = model.is_integral and not job.relax
    tolerance = 0.0 if whole else verify.TOLERANCE * max(1.0, abs(checked.objective))
    return Status.OPTIMAL if gap <= tolerance else Status.FEASIBLE


def _better(model: LinearModel, value: Number, than: Number) -> bool:
    return value > than if model.sense is Sense.MAX else value < than
