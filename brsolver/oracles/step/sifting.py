"""Relaxations by sifting: few columns at first, then those that reduced costs ask for.

A decision of 32 slots uses a few dozen of the 16,000 pairs of worker and length; the pairs are
priced as arrays, without forming their columns. The bound is certified over all pairs: the
restricted model's own safe bound plus whatever the left-out pairs could add.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.cluster.view import NO_LIMIT
from brsolver.oracles.backends import solve
from brsolver.oracles.result import SolveResult, Status
from brsolver.oracles.step.models import (
    counts_of,
    envelope_steps,
    imbalance_model,
    merged_steps,
    planes,
    possible,
    score_model,
    single_scores,
)
from brsolver.oracles.step.search import improved, to_counts

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.oracles.linear_model import LinearModel
    from brsolver.oracles.step.evaluate import Objective
    from brsolver.oracles.step.instance import StepInstance

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Mask = NDArray[np.bool_]

SIFTING = "sifting"

FIRST, MORE = 6, 8
"""Pairs per worker in the first model, and added per round."""

TOLERANCE = 1e-7


def sift(
    instance: StepInstance,
    objective: Objective,
    *,
    time_limit_s: float | None = None,
    memory_limit_mb: float | None = None,
    lengths: IntArray | None = None,
    report: Callable[[SolveResult], None] | None = None,
) -> SolveResult:
    """Solve the relaxation of a routing decision; see `brsolver.oracles.step.solve_step`.

    `lengths` are those that a good decision is expected to use, so that none need be searched
    for: of a decision before, for instance. They affect the time it takes, not the result.
    `report` is given what each round proves.
    """
    began = time.perf_counter()
    form = score_model if objective == "score" else imbalance_model
    everything = possible(instance)
    keep = _first(instance, objective, lengths) & everything
    iterations = 0
    while True:
        model = form(instance, keep)
        spent = time.perf_counter() - began
        left = None if time_limit_s is None else max(time_limit_s - spent, 1e-3)
        result = solve(
            model, "highs", relax=True, time_limit_s=left, memory_limit_mb=memory_limit_mb
        )
        iterations += result.iterations
        if result.status is Status.INFEASIBLE and not (keep == everything).all():
            keep = everything
            continue
        if result.duals is None or result.dual_bound is None or result.objective is None:
            break
        appeal = _appeal(instance, objective, model, result.duals)
        appeal[~everything | keep] = 0.0
        result = replace(result, dual_bound=_widened(instance, objective, result, appeal))
        closed = (result.gap or 0.0) <= TOLERANCE or not (appeal > 0.0).any()
        if closed or result.message or (left is not None and left <= 1e-3):
            break
        if report is not None:
            spent = time.perf_counter() - began
            report(_report(instance, model, keep, result, iterations, spent))
        keep = keep | _largest(appeal, MORE)
    return _report(instance, model, keep, result, iterations, time.perf_counter() - began)


def sift_apart(
    instance: StepInstance,
    objective: Objective,
    time_limit_s: float | None,
    *,
    report: Callable[[SolveResult], None],
) -> SolveResult:
    """Sift in a process of its own, whose memory is watched from without."""
    return sift(instance, objective, time_limit_s=time_limit_s, report=report)


def _first(instance: StepInstance, objective: Objective, lengths: IntArray | None) -> Mask:
    """Choose pairs: lengths that a good decision uses, on every worker, and each one's best."""
    keep = _largest(single_scores(instance).astype(np.float64), FIRST, everywhere=True)
    keep[:, :1] = keep[:, -1:] = True
    if lengths is None:
        keep |= to_counts(instance, improved(instance, objective)).sum(axis=0) > 0
    else:
        # What was used is mostly gone: the next length below and above stand in for it.
        at = np.searchsorted(instance.sizes, lengths)
        keep[:, np.minimum(at, instance.sizes.size - 1)] = True
        keep[:, np.maximum(at - 1, 0)] = True
    return keep


def _largest(values: FloatArray, count: int, *, everywhere: bool = False) -> Mask:
    """Mark the largest values of each row, only positive ones unless `everywhere`."""
    count = min(count, values.shape[1])
    at = np.argpartition(-values, count - 1, axis=1)[:, :count]
    keep = np.zeros(values.shape, np.bool_)
    np.put_along_axis(keep, at, values=True, axis=1)
    return keep if everywhere else keep & (values > 0.0)


def _appeal(
    instance: StepInstance, objective: Objective, model: LinearModel, duals: FloatArray
) -> FloatArray:
    """Return by how much a request would improve the relaxed objective per pair, (J, K)."""
    common = duals[model.row("slots")][:, None] + duals[model.row("lengths")][None, :]
    if any(block.name == "admit" for block in model.rows):
        common = common + duals[model.row("admit")[0]]
    limits = instance.token_limit
    bounded = (limits < NO_LIMIT) & (instance.most > 1)
    common[bounded] += duals[model.row("tokens")][:, None] * instance.kv_sizes
    if objective == "score":
        return _score_worth(instance, model, duals) - common
    return common - _imbalance_worth(instance, model, duals)


def _score_worth(instance: StepInstance, model: LinearModel, duals: FloatArray) -> FloatArray:
    worth = single_scores(instance).astype(np.float64)
    at = 0
    for j in np.flatnonzero(instance.most != 1):
        face = planes(instance, int(j))
        y = duals[model.row("hypograph")[at : at + face.shape[0]]]
        at += face.shape[0]
        worth[j] = (y @ face[:, 0]) * instance.sizes + y @ face[:, 1]
    return worth


def _imbalance_worth(instance: StepInstance, model: LinearModel, duals: FloatArray) -> FloatArray:
    margins, _, steps = merged_steps(instance)
    growth = steps * instance.growth
    sizes = instance.sizes
    worth = np.empty((instance.open_workers.size, sizes.size))
    worth[:] = -(sizes * float(instance.weight_sum) + instance.ramp_sum)
    for j, h in envelope_steps(instance):
        y = duals[model.row(f"E{j}")]
        active = np.flatnonzero(y)
        load = sizes[:, None] + growth[h[active]]
        if instance.most[j] == 1:
            load = np.maximum(load - margins[j, h[active]], 0)
        worth[j] += load @ y[active]
    return worth


def _widened(
    instance: StepInstance, objective: Objective, result: SolveResult, appeal: FloatArray
) -> float:
    """Widen the restricted bound by what the left-out pairs could add to it."""
    extra = float(instance.most @ np.maximum(appeal.max(axis=1, initial=0.0), 0.0))
    bound = float(result.dual_bound or 0.0)
    return bound + extra if objective == "score" else bound - extra


def _report(
    instance: StepInstance,
    model: LinearModel,
    keep: Mask,
    result: SolveResult,
    iterations: int,
    spent: float,
) -> SolveResult:
    solution = result.solution
    if solution is not None:
        solution = counts_of(instance, model, solution, keep).astype(np.float64)
    status = result.status
    if status is Status.OPTIMAL and (result.gap is None or result.gap > 10 * TOLERANCE):
        status = Status.FEASIBLE
    return replace(
        result,
        status=status,
        solution=solution,
        duals=None,
        build_s=0.0,
        solve_s=spent,
        iterations=iterations,
        origin=f"sifting over {result.origin}",
    )
