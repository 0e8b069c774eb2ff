"""Lagrangian bounds tightened by matching requests to slots exactly.

Sorting solves the inner problem only while a request is worth the price of its tokens. A worker
with one free slot need not be priced: what a request is worth there is known, overflow included,
as in the lifted rows of the integer models. Then the inner problem is an assignment problem,
some hundred microseconds each, and the bound can rise to that of the linear relaxation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from brsolver.oracles.step import _bound_kernels as k
from brsolver.oracles.step.models import merged_steps, single_scores
from brsolver.oracles.step.search import reach_of, terms_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.oracles.step._shapes import Reach
    from brsolver.oracles.step.instance import StepInstance

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

LARGEST = 100_000
"""Pairs of slot and request up to which matching is worth its time."""

EXACT = 1 << 51
"""Magnitude up to which the matching's floating-point sums of integers are exact."""

FIRST_PACE, STALE = 1.0, 3


def applies(instance: StepInstance) -> bool:
    """Whether these bounds cover a decision: no growth, and as many admitted as can be, or any."""
    slots, waiting = int(instance.most.sum()), instance.prompts.size
    all_that_fit = instance.admit is None or instance.admit == min(slots, waiting)
    return not instance.growth and all_that_fit and slots * waiting <= LARGEST


class Matching:
    """Matches requests to slots; remembers what is the same for all prices."""

    def __init__(self, instance: StepInstance) -> None:
        self._instance = instance
        self._worker = np.repeat(np.arange(instance.most.size), instance.most)

    def best(self, worth: IntArray) -> tuple[int, IntArray] | None:
        """Return the greatest total worth and the tokens each worker gets by it.

        None if sums of `worth`, shape (J, K), might not be exact.
        """
        if 8.0 * float(np.abs(worth).max(initial=0)) >= EXACT:
            return None
        values = worth[self._worker][:, self._instance.kind]
        if self._instance.admit is None:
            values = np.maximum(values, 0)
        slots, requests = linear_sum_assignment(values, maximize=True)
        taken = values[slots, requests]
        tokens = np.zeros(worth.shape[0], np.int64)
        used = slice(None) if self._instance.admit is not None else taken > 0
        at = self._worker[slots[used]]
        np.add.at(tokens, at, self._instance.prompts[requests[used]])
        return int(taken.sum()), tokens


def score_matched(
    instance: StepInstance, price: IntArray, best: int, achieved: int, turns: int
) -> int:
    """Return a bound on the score in units of 1/`SCALE`, at most `best`.

    Workers with several slots keep a price per token, ``max_S (F_j(S) - θ_j·S)``; subgradient
    steps on it towards `achieved`, the value of some decision.
    """
    several = np.flatnonzero(instance.most != 1)
    matching, respond = Matching(instance), _responder(instance, several)
    worth = single_scores(instance) * k.SCALE

    def evaluate(theta: FloatArray) -> tuple[int, FloatArray] | None:
        prices = np.rint(theta).astype(np.int64)
        worth[several] = prices[:, None] * instance.sizes
        found = matching.best(worth)
        if found is None:
            return None
        apart, wanted = respond(prices)
        return found[0] + apart, (found[1][several] - wanted).astype(np.float64)

    def step(theta: FloatArray, length: float, slope: FloatArray) -> FloatArray:
        return theta - length * slope

    return _descend(evaluate, step, price[several].astype(np.float64), best, achieved, turns)


def _responder(
    instance: StepInstance, several: IntArray
) -> Callable[[IntArray], tuple[int, IntArray]]:
    whole = terms_of(instance, "score")
    terms = whole._replace(margins=np.ascontiguousarray(whole.margins[several]))
    reach = _part(reach_of(instance), several)
    orders, wanted = np.argsort(terms.margins, axis=1), np.zeros(several.size, np.int64)

    def respond(price: IntArray) -> tuple[int, IntArray]:
        if not several.size:
            return 0, wanted
        return int(k.respond(price, orders, reach, terms, wanted)), wanted

    return respond


def _part(reach: Reach, workers: IntArray) -> Reach:
    return reach._replace(
        most=reach.most[workers],
        least=reach.least[workers],
        low=reach.low[workers],
        high=reach.high[workers],
    )


def imbalance_matched(
    instance: StepInstance, mu: FloatArray, best: int, achieved: int, turns: int
) -> int:
    """Return a bound on the imbalance's gain in units of 1/`SCALE`, at most `best`.

    ``μ_{j,h}`` as in `imbalance_bound`; a worker with one free slot has ``(s - m_{j,h})_+``
    instead of ``s - m_{j,h}``.
    """
    margins, weights, _ = merged_steps(instance)
    single = instance.most == 1
    over = np.where(
        single[:, None, None],
        np.maximum(instance.sizes[:, None] - margins[:, None, :], 0),
        instance.sizes[:, None],
    )
    limits = (k.SCALE * instance.workers * weights).astype(np.float64)
    matching, base = Matching(instance), k.SCALE * instance.weight_sum * instance.sizes

    def evaluate(point: FloatArray) -> tuple[int, FloatArray] | None:
        # Rounded down, which keeps each step's sum within its limit.
        whole = np.floor(point).astype(np.int64)
        worth = base - np.einsum("jkh,jh->jk", over, whole)
        found = matching.best(worth)
        if found is None:
            return None
        apart = int((whole[~single] * margins[~single]).sum())
        excess = found[1][:, None] - margins
        excess[single] = np.maximum(excess[single], 0)
        return found[0] + apart, -excess.astype(np.float64)

    def step(point: FloatArray, length: float, slope: FloatArray) -> FloatArray:
        moved = point - length * np.where((slope < 0) | (point > 0), slope, 0.0)
        k.project_columns(moved, limits)
        return moved

    return _descend(evaluate, step, mu, best, achieved, turns)


def _descend(
    evaluate: Callable[[FloatArray], tuple[int, FloatArray] | None],
    step: Callable[[FloatArray, float, FloatArray], FloatArray],
    point: FloatArray,
    best: int,
    achieved: int,
    turns: int,
) -> int:
    """Return the least bound found by Polyak's steps towards `achieved`, from the best point."""
    pace, stale, kept = FIRST_PACE, 0, point
    for _ in range(turns):
        found = evaluate(point)
        if found is None:
            break
        value, slope = found
        if value < best:
            best, stale, kept = value, 0, point
        else:
            stale += 1
            if stale >= STALE:
                pace, stale, point = 0.5 * pace, 0, kept
        norm, excess = float((slope**2).sum()), float(value - k.SCALE * achieved)
        if norm == 0.0 or excess <= 0.0:
            break
        point = step(point, pace * excess / norm, slope)
    return best
