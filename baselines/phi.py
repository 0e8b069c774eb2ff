"""Exact expected marginal overflow, ΔΦ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from baselines._overflow import HORIZON_LIMIT, ExpectedOverflow, Grid, add_queued
from brsolver._jit import kernel
from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from baselines._kernels import FloatArray, IntArray
    from brsolver.cluster.view import ClusterView
    from brsolver.predictors import Predictor


@dataclass(frozen=True, slots=True, kw_only=True)
class PhiParams:
    """Parameters of `Phi`.

    Attributes
    ----------
    horizon : int
        Last step of the sum, 0 to 4096; 0 stands for the last step at which ``P(O > h)`` is
        positive, at most 4096.
    """

    horizon: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.horizon <= HORIZON_LIMIT:
            raise ParameterError(f"horizon is {self.horizon}, must be from 0 to {HORIZON_LIMIT}")


class Phi(ExpectedOverflow):
    """Least expected marginal overflow ΔΦ, summed over every step ahead.

    See `ExpectedOverflow` for the formula. One decision costs O(H·(active + G)).

    Parameters
    ----------
    params : PhiParams, optional
        The horizon H.
    predictor : Predictor, optional
        One with a survival `table`; by default a fresh ``survival``.
    """

    source = "DP-BalanceRouter, The EP Barrier Tax (2026), expected marginal overflow"
    Params = PhiParams

    def __init__(
        self, params: PhiParams | None = None, *, predictor: Predictor | None = None
    ) -> None:
        super().__init__(predictor)
        self._horizon = (params or PhiParams()).horizon or HORIZON_LIMIT

    def _make_grid(self, table: FloatArray) -> Grid:
        last = min(self._horizon, int(np.count_nonzero(table)) - 1)
        return Grid(np.arange(last + 1), np.ones(last + 1))

    def _project(self, cluster: ClusterView, table: FloatArray, points: IntArray) -> FloatArray:
        active = cluster.active()
        longest = int(active.age.max(initial=0)) + len(points)
        tail = np.full(max(0, longest - len(table)), table[-1])
        loads = np.zeros((cluster.workers, len(points)))
        _add_active(active.worker, active.load, active.age, np.append(table, tail), loads)
        add_queued(cluster.table, active.worker, active.load, loads)
        return loads


@kernel
def _add_active(
    worker: IntArray, load: IntArray, age: IntArray, survival: FloatArray, loads: FloatArray
) -> None:
    for i in range(worker.shape[0]):
        row = loads[worker[i]]
        now = survival[age[i]]
        ahead = survival[age[i] : age[i] + row.shape[0]]
        if now > 0.0:
            for h in range(row.shape[0]):
                row[h] += (load[i] + h) * (ahead[h] / now)
        else:
            for h in range(row.shape[0]):
                row[h] += load[i] + h
