"""Expected marginal overflow from a few points, Fast-Φ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from baselines._overflow import ExpectedOverflow, Grid, add_queued
from brsolver._jit import kernel
from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from baselines._kernels import FloatArray, IntArray
    from brsolver.cluster.view import ClusterView
    from brsolver.predictors import Predictor


@dataclass(frozen=True, slots=True, kw_only=True)
class FastPhiParams:
    """Parameters of `FastPhi`.

    Attributes
    ----------
    k : int
        Points K at which overflow is evaluated, 2 to 10,000.
    """

    k: int = 5

    def __post_init__(self) -> None:
        if not 2 <= self.k <= 10_000:
            raise ParameterError(f"k is {self.k}, must be from 2 to 10,000")


class FastPhi(ExpectedOverflow):
    """Expected marginal overflow at K quantiles of the output length, by the trapezoid rule.

    See `ExpectedOverflow` for the formula. The points are 0 and the quantiles of the output
    length at levels ``1/(K-1), 2/(K-1), …, 1``, equal ones once. With f the summand, the sum
    over the steps a to b between two points is taken as ``(b - a + 1)·(f(a) + f(b))/2``, the
    shared ends counted once: on adjacent points it is exact. One decision costs O(K·(active +
    G)).

    Parameters
    ----------
    params : FastPhiParams, optional
        The number of points K.
    predictor : Predictor, optional
        One with a survival `table`; by default a fresh ``survival``.
    """

    source = "DP-BalanceRouter, The EP Barrier Tax (2026), Fast-Φ"
    Params = FastPhiParams

    def __init__(
        self, params: FastPhiParams | None = None, *, predictor: Predictor | None = None
    ) -> None:
        super().__init__(predictor)
        self._k = (params or FastPhiParams()).k

    def _make_grid(self, table: FloatArray) -> Grid:
        levels = np.linspace(0.0, 1.0, self._k)
        # The slack absorbs rounding in the table, which would move a quantile one step on.
        reached = np.searchsorted(-table, levels - 1.0 - 1e-12)
        points = np.unique(np.minimum(reached, len(table) - 1)).astype(np.int64)
        weights = np.zeros(len(points))
        weights[:-1] += np.diff(points) / 2
        weights[1:] += np.diff(points) / 2
        weights[0] += 0.5
        weights[-1] += 0.5
        return Grid(points, weights)

    def _project(self, cluster: ClusterView, table: FloatArray, points: IntArray) -> FloatArray:
        active = cluster.active()
        loads = np.zeros((cluster.workers, len(points)))
        _add_active(active.worker, active.load, active.age, table, points, loads)
        add_queued(cluster.table, active.worker, active.load, loads)
        return loads


@kernel
def _add_active(
    worker: IntArray,
    load: IntArray,
    age: IntArray,
    survival: FloatArray,
    points: IntArray,
    loads: FloatArray,
) -> None:
    last = survival.shape[0] - 1
    for i in range(worker.shape[0]):
        now = survival[min(age[i], last)]
        for k in range(points.shape[0]):
            ahead = survival[min(age[i] + points[k], last)]
            stays = ahead / now if now > 0.0 else 1.0
            loads[worker[i], k] += (load[i] + points[k]) * stays
