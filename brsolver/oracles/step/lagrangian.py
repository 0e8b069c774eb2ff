"""Lagrangian bounds on one routing decision, in microseconds to milliseconds.

The coupling of token sums ``S_g`` to what each worker is given is relaxed. What remains splits
into one concave function per worker and a matching of requests to slots by product prices, which
sorting solves exactly (rearrangement inequality). Any multipliers give a valid bound; it is
evaluated on integers, so it is exact.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import ParameterError
from brsolver.oracles.result import SolveResult, Status
from brsolver.oracles.step import _bound_kernels as k
from brsolver.oracles.step._matching import applies, imbalance_matched, score_matched
from brsolver.oracles.step.evaluate import Objective, objective_value
from brsolver.oracles.step.models import merged_steps, standing_imbalance
from brsolver.oracles.step.search import heuristic, to_counts

if TYPE_CHECKING:
    from brsolver.oracles.step.instance import StepInstance

IntArray = NDArray[np.int64]

TURNS = 200
"""Steps of the subgradient method unless said otherwise."""

MATCHINGS = 20
"""Most steps that match requests to slots exactly, which each take as long as dozens."""


def lagrangian_bound(
    instance: StepInstance,
    objective: Objective = "score",
    *,
    incumbent: IntArray | None = None,
    turns: int = TURNS,
) -> SolveResult:
    """Bound what the best decision can reach.

    Parameters
    ----------
    instance : StepInstance
    objective : {"score", "imbalance"}
    incumbent : ndarray of int64, shape (n,), optional
        A good decision, a worker or -1 per request, that the method steers by; None is the
        heuristic's. It affects the bound's quality, not its validity.
    turns : int
        Steps of the subgradient method.

    Returns
    -------
    SolveResult
        `Status.BOUND` with `dual_bound`: at least every decision's score, or at most every
        decision's imbalance.
    """
    if turns < 1:
        raise ParameterError(f"turns is {turns}, must be at least 1")
    began = time.perf_counter()
    bound = bound_and_prices(instance, objective, incumbent, turns)[0]
    return SolveResult(
        status=Status.BOUND,
        dual_bound=bound,
        solve_s=time.perf_counter() - began,
        iterations=turns,
        origin="lagrangian",
    )


def bound_and_prices(
    instance: StepInstance, objective: Objective, incumbent: IntArray | None, turns: int
) -> tuple[int, IntArray]:
    """Return the bound and the price of a token on each open worker that goes with it."""
    if not instance.open_workers.size or not instance.prompts.size:
        none = np.full(instance.prompts.size, -1).tolist()
        return objective_value(instance, none, objective), np.zeros(0, np.int64)
    known = heuristic(instance) if incumbent is None else np.asarray(incumbent, np.int64)
    solve = _score if objective == "score" else _imbalance
    return solve(instance, known, turns)


def _score(instance: StepInstance, known: IntArray, turns: int) -> tuple[int, IntArray]:
    margins, weights, steps = merged_steps(instance)
    low, high = instance.reach
    alpha_d = instance.alpha * instance.weight_sum
    given = to_counts(instance, known)
    load = (given @ instance.sizes)[:, None] + given.sum(axis=1)[:, None] * steps * instance.growth
    slope = alpha_d - instance.beta * ((load > margins) @ weights)
    best, price = k.score_bound(
        instance.most,
        instance.least,
        low,
        np.maximum(low, high),
        np.sort(instance.prompts),
        k.HOLD if instance.admit is None else instance.admit,
        alpha_d,
        instance.alpha * instance.ramp_sum,
        instance.beta,
        np.ascontiguousarray(margins),
        weights,
        steps * instance.growth,
        slope.astype(np.float64) * k.SCALE,
        objective_value(instance, known.tolist(), "score"),
        turns,
    )
    if applies(instance):
        target = objective_value(instance, known.tolist(), "score")
        best = score_matched(instance, price, int(best), target, _matchings(turns))
    return int(best) // k.SCALE, price


def _matchings(turns: int) -> int:
    return max(1, min(turns // 8, MATCHINGS))


def _imbalance(instance: StepInstance, known: IntArray, turns: int) -> tuple[int, IntArray]:
    margins, weights, steps = merged_steps(instance)
    standing = standing_imbalance(instance)
    given = to_counts(instance, known)
    load = (given @ instance.sizes)[:, None] + given.sum(axis=1)[:, None] * steps * instance.growth
    over = load - margins
    leads = (over == over.max(axis=0)) & (over > 0)
    start = leads * (k.SCALE * instance.workers * weights / np.maximum(leads.sum(axis=0), 1))
    target = standing - objective_value(instance, known.tolist(), "imbalance")
    best, price, mu = k.imbalance_bound(
        instance.most,
        np.sort(instance.prompts),
        k.HOLD if instance.admit is None else instance.admit,
        instance.workers,
        instance.weight_sum,
        instance.ramp_sum,
        np.ascontiguousarray(margins),
        weights,
        steps * instance.growth,
        start.astype(np.float64),
        target,
        turns,
    )
    if applies(instance):
        best = imbalance_matched(instance, mu, int(best), target, _matchings(turns))
    # Rounding the gain's bound down is valid: gains are integers.
    return standing - int(best) // k.SCALE, price
