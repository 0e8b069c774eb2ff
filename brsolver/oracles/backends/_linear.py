"""OR-Tools' linear solvers by their shared model builder: GLOP and PDLP."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from brsolver.oracles.backends._base import Answer, Job, guarded
from brsolver.oracles.backends._load import load
from brsolver.oracles.linear_model import FloatModel, Kind, LinearModel, Sense
from brsolver.oracles.result import SolverError, Status


def solve(model: LinearModel, job: Job, name: str) -> Answer:
    """Solve a relaxation with the OR-Tools solver `name`."""
    if not job.relax and bool((model.kind == Kind.INTEGER).any()):
        raise SolverError(f"{name} solves relaxations only; for integers use highs or cp-sat")
    helper = load("ortools.linear_solver.python.model_builder_helper")
    built = _build(helper, model)
    solver = helper.ModelSolverHelper(name)
    if not solver.solver_is_supported():
        raise SolverError(f"this ortools was built without {name}; try backend 'highs'")
    left = job.left()
    if left is not None:
        solver.set_time_limit_in_seconds(left)
    _, reason = guarded(lambda: solver.solve(built), solver.interrupt_solve, job)
    return _answer(helper, solver, model, name, reason)


def _build(helper: Any, model: LinearModel) -> Any:
    scaled = FloatModel.of(model)
    matrix = sparse.csr_matrix(
        (scaled.value, model.row_column, model.row_start),
        shape=(model.num_rows, model.num_columns),
    )
    built = helper.ModelBuilderHelper()
    built.fill_model_from_sparse_data(
        scaled.lower, scaled.upper, scaled.costs, scaled.row_lower, scaled.row_upper, matrix
    )
    built.set_objective_offset(scaled.offset)
    built.set_maximize(model.sense is Sense.MAX)
    return built


def _answer(helper: Any, solver: Any, model: LinearModel, name: str, reason: str) -> Answer:
    ended = solver.status()
    kinds = helper.SolveStatus
    status = {
        kinds.OPTIMAL: Status.OPTIMAL,
        kinds.FEASIBLE: Status.FEASIBLE,
        kinds.INFEASIBLE: Status.INFEASIBLE,
        kinds.UNBOUNDED: Status.UNBOUNDED,
        kinds.NOT_SOLVED: Status.LIMIT,
        kinds.CANCELLED_BY_USER: Status.LIMIT,
    }.get(ended, Status.LIMIT if reason else Status.ERROR)
    found = status in {Status.OPTIMAL, Status.FEASIBLE} and solver.has_solution()
    text = "" if status is Status.OPTIMAL else (solver.status_string() or ended.name)
    return Answer(
        status=status,
        solution=np.asarray(solver.variable_values()) * model.column_unit if found else None,
        duals=(
            np.asarray(solver.dual_values()) * (model.objective_unit / model.row_unit)
            if found
            else None
        ),
        origin=f"{name} {load('ortools').__version__}",
        message=reason or text,
    )
