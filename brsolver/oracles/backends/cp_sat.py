"""OR-Tools CP-SAT: integers throughout, so its bounds are exact."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.oracles.backends._base import Answer, Job, guarded
from brsolver.oracles.backends._load import load
from brsolver.oracles.linear_model import INFINITE, IntArray, LinearModel, Sense
from brsolver.oracles.result import SolverError, Status

if TYPE_CHECKING:
    from collections.abc import Callable

DOMAIN = 1 << 50
"""Bound given to columns that have none: CP-SAT's sums must fit 64 bits."""


def solve(model: LinearModel, job: Job) -> Answer:
    """Solve with CP-SAT; see `brsolver.oracles.backends.solve`."""
    if job.relax:
        raise SolverError("cp-sat solves integer models only; for a relaxation use highs or glop")
    if not model.is_integral:
        raise SolverError("cp-sat needs integer columns; use highs for continuous ones")
    cp_model = load("ortools.sat.python.cp_model")
    cp, variables = _build(cp_model, model)
    if job.warm_start is not None:
        for variable, value in zip(variables, job.warm_start.tolist(), strict=True):
            cp.add_hint(variable, value)
    solver = cp_model.CpSolver()
    _set_parameters(solver, job)
    stopper, stopped = _stopper(cp_model, variables, job.report)
    ended, reason = guarded(lambda: solver.solve(cp, stopper), stopped.set_now(solver), job)
    return _answer(cp_model, solver, ended, variables, reason)


def _set_parameters(solver: Any, job: Job) -> None:
    solver.parameters.num_workers = job.threads
    # The calling thread sees the interrupt; CP-SAT's own handler would take it away for good.
    solver.parameters.catch_sigint_signal = False
    left = job.left()
    if left is not None:
        solver.parameters.max_time_in_seconds = left
    if job.memory_limit_mb is not None:
        solver.parameters.max_memory_in_mb = int(job.memory_limit_mb)


class _Stop:
    """Tells a solver to stop, also if it has not started yet."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set_now(self, solver: Any) -> Any:
        def stop() -> None:
            self._event.set()
            solver.stop_search()

        return stop

    def __bool__(self) -> bool:
        return self._event.is_set()


def _stopper(
    cp_model: Any, variables: list[Any], report: Callable[[Answer], None] | None
) -> tuple[Any, _Stop]:
    stopped = _Stop()

    class Stopper(cp_model.CpSolverSolutionCallback):  # type: ignore[misc] # its base is untyped
        def on_solution_callback(self) -> None:
            if report is not None:
                report(self._answer())
            if stopped:
                self.stop_search()

        def _answer(self) -> Answer:
            return Answer(
                status=Status.FEASIBLE,
                solution=np.array([self.value(v) for v in variables], np.int64),
                bound=float(self.best_objective_bound),
                exact=True,
                origin=f"cp-sat {load('ortools').__version__}",
            )

    return Stopper(), stopped


def _build(cp_model: Any, model: LinearModel) -> tuple[Any, list[Any]]:
    cp = cp_model.CpModel()
    lower = np.maximum(model.lower, -DOMAIN).tolist()
    upper = np.minimum(model.upper, DOMAIN).tolist()
    variables = [cp.new_int_var(a, b, "") for a, b in zip(lower, upper, strict=True)]
    columns, values = model.row_column.tolist(), model.row_value.tolist()
    starts = model.row_start.tolist()
    for r, (low, high) in enumerate(
        zip(model.row_lower.tolist(), model.row_upper.tolist(), strict=True)
    ):
        span = slice(starts[r], starts[r + 1])
        terms = [variables[c] for c in columns[span]]
        expression = cp_model.LinearExpr.weighted_sum(terms, values[span])
        cp.add_linear_expression_in_domain(expression, cp_model.Domain(*_ends(low, high)))
    priced = np.flatnonzero(model.costs).tolist()
    costs = model.costs[priced].tolist()
    cost = cp_model.LinearExpr.weighted_sum([variables[j] for j in priced], costs) + model.offset
    (cp.maximize if model.sense is Sense.MAX else cp.minimize)(cost)
    return cp, variables


def _ends(low: int, high: int) -> tuple[int, int]:
    largest = (1 << 63) - 1
    return (-largest if low <= -INFINITE else low, largest if high >= INFINITE else high)


def _answer(cp_model: Any, solver: Any, ended: Any, variables: list[Any], reason: str) -> Answer:
    if ended == cp_model.MODEL_INVALID:
        raise SolverError("CP-SAT refused the model (sums beyond 64 bits?); try backend 'highs'")
    status = {
        cp_model.OPTIMAL: Status.OPTIMAL,
        cp_model.FEASIBLE: Status.FEASIBLE,
        cp_model.INFEASIBLE: Status.INFEASIBLE,
    }.get(ended, Status.LIMIT)
    found = status in {Status.OPTIMAL, Status.FEASIBLE}
    solution: IntArray | None = None
    if found:
        solution = np.array([solver.value(v) for v in variables], np.int64)
    return Answer(
        status=status,
        solution=solution,
        bound=_bound(solver, status),
        exact=True,
        nodes=int(solver.num_branches),
        iterations=int(solver.num_conflicts),
        origin=f"cp-sat {load('ortools').__version__}",
        message=reason or ("" if status is Status.OPTIMAL else solver.status_name(ended)),
    )


def _bound(solver: Any, status: Status) -> float | None:
    """Return the bound, unless it is the trivial one of a search that never started."""
    if status in {Status.OPTIMAL, Status.FEASIBLE}:
        return float(solver.best_objective_bound)
    if status is Status.LIMIT and solver.best_objective_bound != 0.0 and solver.wall_time > 0:
        bound = float(solver.best_objective_bound)
        return bound if abs(bound) < DOMAIN else None
    return None
