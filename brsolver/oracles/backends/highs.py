"""HiGHS, by highspy: branch and bound, dual simplex, interior point and PDLP."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.oracles.backends._base import Answer, Job, guarded
from brsolver.oracles.backends._load import load
from brsolver.oracles.linear_model import FloatArray, FloatModel, Kind, LinearModel, Sense
from brsolver.oracles.result import SolverError, Status

if TYPE_CHECKING:
    from collections.abc import Callable

METHODS = {
    "highs": "choose",
    "highs-ds": "simplex",
    "highs-ipm": "ipm",
    "highs-pdlp": "pdlp",
}

CALLBACK_ENTRIES = 200_000
"""Entries from which a relaxation is worth interrupting: a callback per iteration costs."""

REPORT_S = 0.05
"""Seconds between two reports of a bound."""

WIDEST = 1 << 30
"""Largest bound that HiGHS's branch and bound is given; see `_bounds`."""


def solve(model: LinearModel, job: Job, backend: str = "highs") -> Answer:
    """Solve with HiGHS; see `brsolver.oracles.backends.solve`."""
    highspy = load("highspy")
    mip = not job.relax and bool((model.kind == Kind.INTEGER).any())
    if mip and backend != "highs":
        raise SolverError(f"{backend} solves relaxations only; for integers use highs or cp-sat")
    solver = highspy.Highs()
    _set_options(solver, model, job, METHODS[backend])
    if mip:
        # HiGHS 1.13 and 1.14 call suboptimal solutions optimal where a MIP start meets presolve,
        # and 1.14.0 also without one (ERGO-Code/HiGHS#2961); a restart would presolve again.
        solver.setOptionValue("presolve", "off")
        solver.setOptionValue("mip_allow_restart", False)
    _pass_model(highspy, solver, model, mip)
    if mip and job.warm_start is not None:
        columns = np.arange(model.num_columns, dtype=np.int32)
        start = job.warm_start / model.column_unit
        solver.setSolution(model.num_columns, columns, start)
    kind = "mip" if mip else METHODS[backend].replace("choose", "lp")
    origin = f"highs-{kind} {solver.version()}"
    left = job.left()
    if left is not None:
        solver.setOptionValue("time_limit", left)
    if mip and job.report is not None:
        _stream(solver, model, job.report, origin)
    reason = _run(solver, job, interruptible=mip or model.row_value.size >= CALLBACK_ENTRIES)
    return _answer(highspy, solver, model, mip, origin, reason)


def _set_options(solver: Any, model: LinearModel, job: Job, method: str) -> None:
    options = {
        "output_flag": False,
        "threads": job.threads,
        "solver": method,
        "mip_rel_gap": 0.0,
        # Objectives are integers in the model's unit, so less than one of them is no gap.
        "mip_abs_gap": 0.999 / model.objective_unit if model.is_integral else 0.0,
        "mip_feasibility_tolerance": 1e-9,
    }
    for name, value in options.items():
        solver.setOptionValue(name, value)


def _pass_model(highspy: Any, solver: Any, model: LinearModel, mip: bool) -> None:
    scaled = FloatModel.of(model)
    integer = (model.kind == Kind.INTEGER) if mip else np.zeros(model.num_columns, np.bool_)
    lower, upper = (
        _bounds(scaled, maximise=model.sense is Sense.MAX) if mip else (scaled.lower, scaled.upper)
    )
    status = solver.passModel(
        model.num_columns,
        model.num_rows,
        model.row_value.size,
        int(highspy.MatrixFormat.kRowwise),
        -1 if model.sense is Sense.MAX else 1,
        scaled.offset,
        scaled.costs,
        lower,
        upper,
        scaled.row_lower,
        scaled.row_upper,
        model.row_start,
        model.row_column,
        scaled.value,
        integer.astype(np.int32),
    )
    if status == highspy.HighsStatus.kError:
        raise SolverError("HiGHS refused the model; try backend 'cp-sat' or 'glop'")


def _bounds(scaled: FloatModel, *, maximise: bool) -> tuple[FloatArray, FloatArray]:
    """Return bounds of columns without those beyond 32 bits that the costs do not push against.

    Root reduced-cost fixing walks the values of a column it found implied integer in 32-bit
    steps; a finite bound beyond them makes it walk for ever, past every limit and interrupt
    (HiGHS 1.14, `HighsRedcostFixing::addRootRedcost`). What comes back is checked against the
    model's own bounds, and the dual bound of fewer bounds holds for more.
    """
    costs = -scaled.costs if maximise else scaled.costs
    lower = np.where((scaled.lower < -WIDEST) & (costs <= 0.0), -np.inf, scaled.lower)
    upper = np.where((scaled.upper > WIDEST) & (costs >= 0.0), np.inf, scaled.upper)
    return lower, upper


def _stream(solver: Any, model: LinearModel, report: Callable[[Answer], None], origin: str) -> None:
    """Report every better solution, and now and then the bound."""
    last = 0.0

    def bound_of(event: Any) -> float | None:
        return _finite(event.data_out.mip_dual_bound * model.objective_unit)

    def improved(event: Any) -> None:
        values = np.array(event.data_out.mip_solution) * model.column_unit
        report(Answer(status=Status.FEASIBLE, solution=values, origin=origin))

    def passing(event: Any) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= REPORT_S:
            last = now
            report(Answer(status=Status.BOUND, bound=bound_of(event), origin=origin))

    solver.cbMipImprovingSolution.subscribe(improved)
    solver.cbMipInterrupt.subscribe(passing)


def _run(solver: Any, job: Job, *, interruptible: bool) -> str:
    if not interruptible:
        solver.run()
        return ""
    stopped = threading.Event()

    def look(event: Any) -> None:
        if stopped.is_set():
            event.interrupt()

    callbacks = (solver.cbMipInterrupt, solver.cbSimplexInterrupt, solver.cbIpmInterrupt)
    for callback in callbacks:
        callback.subscribe(look)
    try:
        return guarded(solver.run, stopped.set, job)[1]
    finally:
        for callback in (*callbacks, solver.cbMipImprovingSolution):
            callback.clear()


def _answer(
    highspy: Any, solver: Any, model: LinearModel, mip: bool, origin: str, reason: str
) -> Answer:
    info = solver.getInfo()
    ended = solver.getModelStatus()
    status = _status(highspy, ended)
    found = int(info.primal_solution_status) == 2
    values = solver.getSolution()
    solution = np.asarray(values.col_value) * model.column_unit if found else None
    if status is Status.LIMIT and found:
        status = Status.FEASIBLE
    duals = None
    bound = None
    if mip:
        bound = _finite(info.mip_dual_bound * model.objective_unit)
    elif values.dual_valid:
        duals = np.asarray(values.row_dual) * (model.objective_unit / model.row_unit)
    return Answer(
        status=status,
        solution=solution,
        duals=duals,
        bound=bound,
        nodes=max(int(info.mip_node_count), 0),
        iterations=_iterations(info),
        origin=origin,
        message=reason or ("" if status is Status.OPTIMAL else solver.modelStatusToString(ended)),
    )


def _iterations(info: Any) -> int:
    counts = (info.simplex_iteration_count, info.ipm_iteration_count, info.pdlp_iteration_count)
    return sum(max(int(count), 0) for count in counts)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) and abs(value) < 1e300 else None


def _status(highspy: Any, ended: Any) -> Status:
    kinds = highspy.HighsModelStatus
    known = {
        kinds.kOptimal: Status.OPTIMAL,
        kinds.kModelEmpty: Status.OPTIMAL,
        kinds.kInfeasible: Status.INFEASIBLE,
        # Every model here has a bounded objective wherever its builder gave bounds.
        kinds.kUnboundedOrInfeasible: Status.INFEASIBLE,
        kinds.kUnbounded: Status.UNBOUNDED,
        kinds.kTimeLimit: Status.LIMIT,
        kinds.kIterationLimit: Status.LIMIT,
        kinds.kInterrupt: Status.LIMIT,
        kinds.kHighsInterrupt: Status.LIMIT,
        kinds.kMemoryLimit: Status.LIMIT,
        kinds.kSolutionLimit: Status.LIMIT,
        kinds.kUnknown: Status.LIMIT,
    }
    return known.get(ended, Status.ERROR)
