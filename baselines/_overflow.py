"""Expected marginal overflow [DPR], shared by Φ and Fast-Φ.

Overflow is evaluated on a grid of steps ``h_0 = 0 < h_1 < …`` with weights v_k; all steps of the
horizon with weight 1 give the sum itself, a few give an estimate of it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from baselines._kernels import FloatArray, IntArray, assignable, charge, fits
from brsolver._jit import kernel
from brsolver.cluster.view import LOAD
from brsolver.errors import ParameterError
from brsolver.policy import BasePolicy
from brsolver.registry import make_predictor
from brsolver.stand_ins import as_predictor

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Decision, Waiting
    from brsolver.predictors import Predictor

HORIZON_LIMIT = 4096


class Grid(NamedTuple):
    """Steps of the horizon at which overflow is evaluated.

    Attributes
    ----------
    points : ndarray of int64, shape (n,)
        Steps h_k, rising, the first 0.
    weights : ndarray of float64, shape (n,)
        Weight v_k of each in the sum over steps.
    """

    points: IntArray
    weights: FloatArray


class ExpectedOverflow(BasePolicy):
    """Route to the worker whose expected overflow a request raises least.

    ``ΔΦ_g(s) = Σ_{h≥0} P(O > h)·(s + h - m_g(h))_+`` with ``m_g(h) = max_g' L_g'(h) - L_g(h)``
    and projected loads ``L_g(h) = q_g + Σ_i (w_i + h)·P(O > a_i + h)/P(O > a_i)`` over the
    running requests i of worker g, w_i their loads and a_i their ages; q_g, the loads of requests
    queued there, stay constant. A request placed joins the projections with ``(s + h)·P(O > h)``,
    s its prompt and what a request weighs besides. Ties go to the lowest load, then to the lowest
    index.

    ``P(O > a)`` is the predictor's survival table. Past its end its last value holds, and a
    request older than any that has ended is taken to stay.

    Parameters
    ----------
    predictor : Predictor or None
        One with a survival `table`; None is a fresh ``survival``.

    Attributes
    ----------
    predictor : BasePredictor
        Callers tell it which requests finish, through `observe`.

    Raises
    ------
    ParameterError
        The predictor has no such table.
    """

    def __init__(self, predictor: Predictor | None) -> None:
        given = make_predictor("survival") if predictor is None else predictor
        self.predictor = as_predictor(given)
        self._survival_table()
        self._table: FloatArray | None = None
        self._grid = Grid(np.zeros(1, np.int64), np.ones(1))

    @abstractmethod
    def _make_grid(self, table: FloatArray) -> Grid:
        """Choose the steps to look at, for output lengths distributed as `table` says."""

    @abstractmethod
    def _project(self, cluster: ClusterView, table: FloatArray, points: IntArray) -> FloatArray:
        """Return the loads ``L_g(h_k)``, shape (G, n), in C order."""

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place waiting requests, first come first served."""
        table = self._survival_table()
        if table is not self._table:
            self._table, self._grid = table, self._make_grid(table)
        points, weights = self._grid
        loads = self._project(cluster, table, points)
        prompts, each = waiting.prompt_tokens, cluster.request_tokens
        return place(cluster.table, prompts, each, loads, points, weights, table[points])

    def _survival_table(self) -> FloatArray:
        table = self.predictor.table
        if table is None:
            raise ParameterError(
                f"predictor is {self.predictor.label}, must be one with a survival table, such as "
                "survival: expected marginal overflow is computed from it"
            )
        return table


@kernel
def add_queued(table: IntArray, worker: IntArray, load: IntArray, loads: FloatArray) -> None:
    """Add to all projections what each worker holds besides its running requests."""
    queued = table[LOAD].copy()
    for i in range(worker.shape[0]):
        queued[worker[i]] -= load[i]
    for g in range(queued.shape[0]):
        loads[g] += queued[g]


@kernel
def envelope_of(loads: FloatArray) -> FloatArray:
    """Return ``max_g L_g(h_k)`` for every point k."""
    envelope: FloatArray = loads[0].copy()
    for g in range(1, loads.shape[0]):
        envelope = np.maximum(envelope, loads[g])
    return envelope


@kernel
def overflow(
    load: FloatArray, envelope: FloatArray, tokens: int, points: IntArray, weights: FloatArray
) -> float:
    """Evaluate ``Σ_k weights[k]·(tokens + h_k - (envelope[k] - load[k]))_+`` for one worker."""
    total = 0.0
    for k in range(points.shape[0]):
        total += weights[k] * max(0.0, tokens + points[k] + load[k] - envelope[k])
    return total


@kernel
def best_worker(
    table: IntArray,
    loads: FloatArray,
    tokens: int,
    request_tokens: int,
    points: IntArray,
    weights: FloatArray,
) -> int:
    """Return the open worker of least expected marginal overflow, or -1."""
    envelope = envelope_of(loads)
    best, least = -1, np.inf
    for g in range(table.shape[1]):
        if not fits(table, g, tokens):
            continue
        raised = overflow(loads[g], envelope, tokens + request_tokens, points, weights)
        if best < 0 or raised < least or (raised == least and table[LOAD, g] < table[LOAD, best]):
            best, least = g, raised
    return best


@kernel
def place(
    table: IntArray,
    tokens: IntArray,
    request_tokens: int,
    loads: FloatArray,
    points: IntArray,
    weights: FloatArray,
    survival: FloatArray,
) -> IntArray:
    """Place requests in order, each on the worker of least ``ΔΦ``; `loads` is used up."""
    table = table.copy()
    marginal = weights * survival
    pairs = np.empty((assignable(table, tokens.shape[0]), 2), np.int64)
    for i in range(pairs.shape[0]):
        g = best_worker(table, loads, tokens[i], request_tokens, points, marginal)
        if g < 0:
            return pairs[:i]
        charge(table, g, tokens[i], 1, request_tokens)
        loads[g] += (tokens[i] + request_tokens + points) * survival
        pairs[i, 0] = i
        pairs[i, 1] = g
    return pairs
