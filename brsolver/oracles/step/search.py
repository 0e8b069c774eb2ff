"""Decisions of good quality within milliseconds: the heuristic, and a local search from it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.cluster.view import ROOM, TOKEN_ROOM, VIEW_ROWS
from brsolver.errors import ParameterError
from brsolver.oracles.result import SolverError, SolveResult, Status
from brsolver.oracles.step._search_kernels import search
from brsolver.oracles.step._shapes import NONE, Offer, Reach, Terms
from brsolver.oracles.step.evaluate import Objective, objective_value, violation
from brsolver.oracles.step.models import merged_steps
from brsolver.routers._br_kernels import route_pooled
from brsolver.routers._subset_kernels import BY_SCORE

if TYPE_CHECKING:
    from brsolver.oracles.step.instance import StepInstance

IntArray = NDArray[np.int64]

START_WINDOW = 6
"""Requests among which the heuristic chooses subsets when the local search starts from it."""

KICKS = 10
"""Kicks of the local search unless said otherwise: some 10 ms at 16 workers, 32 free slots."""


def heuristic(instance: StepInstance, *, s_greedy: int = 7, r_max: int = 32) -> IntArray:
    """Return the decision of the two stages of [BR], shape (n,): a worker or -1 per request.

    It may admit fewer than `instance.admit` where KV tokens are limited, and ignores `admit`
    otherwise only when it is neither ``min(n, free slots)`` nor None.
    """
    out = np.full(instance.prompts.size, -1, np.int64)
    if not instance.prompts.size or not instance.open_workers.size:
        return out
    table = np.zeros((VIEW_ROWS, instance.workers), np.int64)
    table[ROOM], table[TOKEN_ROOM] = instance.room, instance.token_room
    total = float(instance.alpha * instance.weight_sum)
    ramp = float(instance.alpha * (instance.weights @ np.arange(instance.weights.size)))
    pairs = route_pooled(
        table,
        instance.projected.copy(),
        instance.prompts - instance.request_tokens,
        instance.weights.astype(np.float64),
        total,
        ramp,
        float(instance.beta),
        s_greedy,
        r_max,
        instance.growth,
        BY_SCORE,
        np.zeros_like(instance.prompts),
        -1,
        instance.request_tokens,
    )
    pairs = pairs if instance.admit is None else pairs[: instance.admit]
    out[pairs[:, 0]] = pairs[:, 1]
    return out


def local_search(
    instance: StepInstance,
    objective: Objective = "score",
    *,
    start: IntArray | None = None,
    kicks: int = KICKS,
    seed: int = 1,
) -> SolveResult:
    """Improve a decision by replacements, of single requests and of pairs, exchanges and kicks.

    Deterministic: the same arguments give the same decision on any machine.

    Parameters
    ----------
    instance : StepInstance
    objective : {"score", "imbalance"}
    start : ndarray of int64, shape (n,), optional
        A decision to start from; None is the heuristic's.
    kicks : int
        Random perturbations, each followed by a descent and undone unless it helped.
    seed : int

    Returns
    -------
    SolveResult
        `Status.FEASIBLE` with the decision (a worker or -1 per request) and no bound;
        `Status.LIMIT` if no decision that admits `instance.admit` was found.
    """
    if kicks < 0:
        raise ParameterError(f"kicks is {kicks}, must be at least 0")
    began = time.perf_counter()
    assignment = improved(instance, objective, start, kicks, seed)
    spent = time.perf_counter() - began
    origin = "local-search"
    if broken := violation(instance, assignment.tolist()):
        if instance.admit is not None and (assignment >= 0).sum() < instance.admit:
            return SolveResult(
                status=Status.LIMIT, solve_s=spent, origin=origin, message=f"no decision: {broken}"
            )
        raise SolverError(f"local search returned a decision that is none: {broken}")
    return SolveResult(
        status=Status.FEASIBLE,
        solution=assignment,
        objective=objective_value(instance, assignment.tolist(), objective),
        solve_s=spent,
        iterations=kicks,
        origin=origin,
    )


def improved(
    instance: StepInstance,
    objective: Objective,
    start: IntArray | None = None,
    kicks: int = 0,
    seed: int = 1,
) -> IntArray:
    """Return the decision of `local_search` as it comes, neither checked nor evaluated."""
    if start is None:
        # Narrow windows: the descent makes up for them, wide ones would cost most of the time.
        start = heuristic(instance, r_max=START_WINDOW)
    assignment = np.asarray(start, np.int64)
    if not instance.open_workers.size or not instance.prompts.size:
        return assignment
    if objective == "imbalance":
        # An envelope that several workers hold up falls only if all of them fall, which no
        # single move brings about; the score charges every worker for its own overflow.
        assignment = _better(instance, assignment, _search(instance, "score", assignment, 0, 1))
    return _search(instance, objective, assignment, kicks, seed)


def to_assignment(instance: StepInstance, counts: IntArray) -> IntArray:
    """Turn counts ``x_{j,k}``, shape (J, K), into a worker or -1 per request, oldest first."""
    out = np.full(instance.prompts.size, -1, np.int64)
    order = np.argsort(instance.kind, kind="stable")
    start = np.concatenate(([0], np.cumsum(instance.counts)))
    for kind in np.flatnonzero(counts.sum(axis=0)):
        workers = np.repeat(instance.open_workers, counts[:, kind])
        out[order[start[kind] : start[kind] + workers.size]] = workers
    return out


def to_counts(instance: StepInstance, assignment: IntArray) -> IntArray:
    """Turn a decision into counts ``x_{j,k}``, shape (J, K)."""
    counts = np.zeros((instance.open_workers.size, instance.sizes.size), np.int64)
    given = np.flatnonzero(assignment >= 0)
    workers = np.searchsorted(instance.open_workers, assignment[given])
    np.add.at(counts, (workers, instance.kind[given]), 1)
    return counts


def _better(instance: StepInstance, first: IntArray, second: IntArray) -> IntArray:
    """Return the decision of the smaller imbalance, of those that admit most."""

    def rank(assignment: IntArray) -> tuple[int, int]:
        admitted = 0 if instance.admit is None else int((assignment >= 0).sum())
        return -admitted, _imbalance_of(instance, assignment)

    return min(first, second, key=rank)


def _imbalance_of(instance: StepInstance, assignment: IntArray) -> int:
    given = assignment >= 0
    loads = instance.projected.copy()
    np.add.at(loads, assignment[given], instance.prompts[given][:, None])
    if instance.growth:
        count = np.bincount(assignment[given], minlength=instance.workers)
        loads += count[:, None] * np.arange(instance.weights.size)
    idle = instance.workers * loads.max(axis=0) - loads.sum(axis=0)
    return int(idle @ instance.weights)


def _search(
    instance: StepInstance, objective: Objective, assignment: IntArray, kicks: int, seed: int
) -> IntArray:
    most = instance.most
    terms = terms_of(instance, objective)
    offer = Offer(
        sizes=instance.sizes,
        counts=instance.counts,
        slot_worker=np.repeat(np.arange(most.size), most),
        limit=instance.token_limit,
        request_tokens=instance.request_tokens,
        admit=NONE if instance.admit is None else instance.admit,
    )
    start = _slots(instance, assignment, offer.slot_worker)
    bends = bend_tables(terms.margins, terms.weights)
    slots = search(offer, terms, bends, start, kicks, seed)
    counts = np.zeros((most.size, instance.sizes.size), np.int64)
    taken = slots >= 0
    np.add.at(counts, (offer.slot_worker[taken], slots[taken]), 1)
    return to_assignment(instance, counts)


def _slots(instance: StepInstance, assignment: IntArray, slot_worker: IntArray) -> IntArray:
    slots = np.full(slot_worker.size, -1, np.int64)
    at = np.searchsorted(slot_worker, np.arange(instance.open_workers.size))
    for request in np.flatnonzero(assignment >= 0):
        j = np.searchsorted(instance.open_workers, assignment[request])
        slots[at[j]] = instance.kind[request]
        at[j] += 1
    return slots


def terms_of(instance: StepInstance, objective: Objective) -> Terms:
    """Return the terms of the objectives, as kernels take them."""
    margins, weights, steps = merged_steps(instance)
    return Terms(
        margins=np.ascontiguousarray(margins),
        weights=weights,
        steps=steps * instance.growth,
        alpha_d=instance.alpha * instance.weight_sum,
        alpha_r=instance.alpha * instance.ramp_sum,
        beta=instance.beta,
        sum_d=instance.weight_sum,
        sum_r=instance.ramp_sum,
        workers=instance.workers,
        by_score=objective == "score",
        grows=instance.growth == 1,
    )


def reach_of(instance: StepInstance) -> Reach:
    """Return what open workers can be given, as kernels take it."""
    low, high = instance.reach
    return Reach(
        most=instance.most,
        least=instance.least,
        low=low,
        high=np.maximum(low, high),
        ordered=np.sort(instance.prompts),
        admit=NONE if instance.admit is None else instance.admit,
    )


def bend_tables(margins: IntArray, weights: IntArray) -> IntArray:
    """Return ascending margins and sums up to each of weights and weighted margins.

    Parameters
    ----------
    margins : ndarray of int64, shape (J, P)
    weights : ndarray of int64, shape (P,)

    Returns
    -------
    ndarray of int64, shape (J, 3, P + 1)
        The margins padded at the end; both sums with 0 at the start.
    """
    count, steps = margins.shape
    order = np.argsort(margins, axis=1, kind="stable")
    out = np.zeros((count, 3, steps + 1), np.int64)
    sorted_margins = np.take_along_axis(margins, order, axis=1)
    out[:, 0, :steps] = sorted_margins
    out[:, 0, steps] = np.iinfo(np.int64).max
    out[:, 1, 1:] = np.cumsum(weights[order], axis=1)
    out[:, 2, 1:] = np.cumsum(weights[order] * sorted_margins, axis=1)
    return out
