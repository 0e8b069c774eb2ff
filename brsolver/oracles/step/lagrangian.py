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
from brsolver.oracles.step.models import standing_imbalance
from brsolver.oracles.step.search import heuristic, reach_of, terms_of, to_counts

if TYPE_CHECKING:
    from brsolver.oracles.step._shapes import Terms
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
    bound = _bound(instance, objective, incumbent, turns)
    return SolveResult(
        status=Status.BOUND,
        dual_bound=bound,
        solve_s=time.perf_counter() - began,
        iterations=turns,
        origin="lagrangian",
    )


def _bound(
    instance: StepInstance, objective: Objective, incumbent: IntArray | None, turns: int
) -> int:
    if not instance.open_workers.size or not instance.prompts.size:
        none = np.full(instance.prompts.size, -1).tolist()
        return objective_value(instance, none, objective)
    known = heuristic(instance) if incumbent is None else np.asarray(incumbent, np.int64)
    solve = _score if objective == "score" else _imbalance
    return solve(instance, known, turns)


def _overflow(instance: StepInstance, terms: Terms, known: IntArray) -> IntArray:
    """Return by how much a decision exceeds the margins, negative where it does not; (J, P)."""
    given = to_counts(instance, known)
    tokens, requests = given @ instance.sizes, given.sum(axis=1)
    over: IntArray = tokens[:, None] + requests[:, None] * terms.steps - terms.margins
    return over


def _score(instance: StepInstance, known: IntArray, turns: int) -> int:
    reach, terms = reach_of(instance), terms_of(instance, "score")
    over = _overflow(instance, terms, known)
    slope = terms.alpha_d - terms.beta * ((over > 0) @ terms.weights)
    start = slope.astype(np.float64) * k.SCALE
    achieved = objective_value(instance, known.tolist(), "score")
    best, price = k.score_bound(reach, terms, start, achieved, turns)
    if applies(instance):
        best = score_matched(instance, price, int(best), achieved, _matchings(turns))
    return int(best) // k.SCALE


def _matchings(turns: int) -> int:
    return max(1, min(turns // 8, MATCHINGS))


def _imbalance(instance: StepInstance, known: IntArray, turns: int) -> int:
    reach, terms = reach_of(instance), terms_of(instance, "imbalance")
    over = _overflow(instance, terms, known)
    leads = (over == over.max(axis=0)) & (over > 0)
    limits = k.SCALE * terms.workers * terms.weights
    start = (leads * (limits / np.maximum(leads.sum(axis=0), 1))).astype(np.float64)
    standing = standing_imbalance(instance)
    achieved = standing - objective_value(instance, known.tolist(), "imbalance")
    best, mu = k.imbalance_bound(reach, terms, start, achieved, turns)
    if applies(instance):
        best = imbalance_matched(instance, mu, int(best), achieved, _matchings(turns))
    # Rounding the gain's bound down is valid: gains are integers.
    return standing - int(best) // k.SCALE
