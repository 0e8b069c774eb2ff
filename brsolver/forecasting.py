"""Keeps the forecasts of a cluster state up to date: in batches, never per token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver._state_kernels import (
    W_QUEUED_TOKENS,
    predict_by_age,
    predict_lengths,
    project_survival,
    still_running,
)
from brsolver.errors import ParameterError
from brsolver.predictors import ForecastQuery, Predictor

if TYPE_CHECKING:
    from brsolver.state import ClusterState

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

BEYOND = 1 << 60


class Forecaster:
    """Asks a predictor about new requests at once and about all of them every ΔT steps.

    Between refreshes forecasts age exactly: the state keeps predicted *ends*, not remainders. A
    request whose expected contribution ``ĉ`` ([BR] §3) reaches the horizon counts as running
    throughout it.

    Parameters
    ----------
    predictor : Predictor
        Where forecasts come from.
    horizon : int
        Steps H of the projection.
    refresh_steps : int
        Decode steps ΔT between refreshes.
    max_tokens : ndarray of int64, shape (n,), optional
        Limits on generated tokens, by request identity.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        horizon: int,
        refresh_steps: int,
        max_tokens: IntArray | None = None,
    ) -> None:
        self.predictor = predictor
        self.horizon = horizon
        self.refresh_steps = refresh_steps
        self._max_tokens = max_tokens
        self._next_refresh = 0
        self._lengths = getattr(predictor, "lengths", None)
        self._by_age = getattr(predictor, "contribution_by_age", None)
        self._table: FloatArray | None = None
        self._observe = getattr(predictor, "observe", None)
        self._set_running = getattr(predictor, "set_running", None)

    @property
    def learns(self) -> bool:
        """Whether finished requests should be handed to `observe`."""
        return self._observe is not None

    def due(self, step: int) -> bool:
        """Tell whether all forecasts are to be refreshed."""
        return step >= self._next_refresh

    def update(self, state: ClusterState, handles: IntArray, step: int) -> None:
        """Forecast the newly admitted `handles`, or everything if a refresh is due.

        Handles of requests that have ended since are passed over.
        """
        if self.due(step):
            self._next_refresh = step + self.refresh_steps
            self._table = None
            handles = state.handles()
            if self._set_running is not None:
                self._set_running(state.describe(handles)[4])
        if self.horizon > 0 and handles.shape[0] > 0:
            self._predict(state, handles)

    def _predict(self, state: ClusterState, handles: IntArray) -> None:
        arrays = (state.workers, state.requests, state.ring)
        if self._lengths is not None:
            predict_lengths(*arrays, handles, self._lengths)
        elif self._by_age is not None and self._max_tokens is None:
            if self._table is None:
                self._table = self._by_age(self.horizon)
            predict_by_age(*arrays, handles, self._table, self.horizon)
        else:
            handles = still_running(state.requests, handles)
            state.predict(handles, self.remaining(state, handles))

    def remaining(self, state: ClusterState, handles: IntArray) -> IntArray:
        """Return predicted remaining steps of running requests, shape (n,)."""
        query = self._query(state.describe(handles))
        expected = self.predictor.predict(query, self.horizon).contribution
        return np.where(expected >= self.horizon, BEYOND, np.ceil(expected)).astype(np.int64)

    def project(self, state: ClusterState, horizon: int, growth: bool, survival: bool) -> IntArray:
        """Project the loads of `state`; see `ClusterView.projection`.

        Raises
        ------
        ParameterError
            A survival projection is asked of a predictor that has no survival curve.
        """
        if not survival or self._lengths is not None:
            return state.projection(horizon, growth=growth)
        table = getattr(self.predictor, "table", None)
        if table is not None:
            return project_survival(state.workers, state.requests, table, horizon, growth)
        return self._project_curves(state, horizon, growth)

    def _project_curves(self, state: ClusterState, horizon: int, growth: bool) -> IntArray:
        curves = getattr(self.predictor, "survival", None)
        if curves is None:
            raise ParameterError(
                f"{type(self.predictor).__name__} has no survival curve to project with; "
                "use projection=expected"
            )
        rows = state.describe(state.handles())
        ahead = np.arange(horizon + 1) if growth else np.zeros(horizon + 1, np.int64)
        weighted = (rows[3][:, None] + ahead) * curves(self._query(rows), horizon)
        out = np.zeros((state.workers.shape[1], horizon + 1))
        np.add.at(out, rows[0], weighted)
        projected: IntArray = (
            np.rint(out).astype(np.int64) + state.workers[W_QUEUED_TOKENS][:, None]
        )
        projected[:, 0] = state.load + state.workers[W_QUEUED_TOKENS]
        return projected

    def _query(self, rows: IntArray) -> ForecastQuery:
        return ForecastQuery(
            request=rows[1],
            prompt_tokens=rows[2],
            age=rows[4],
            max_tokens=None if self._max_tokens is None else self._max_tokens[rows[1]],
        )

    def observe(self, prompt_tokens: IntArray, output_tokens: IntArray) -> None:
        """Hand finished requests to a predictor that learns online."""
        if self._observe is not None and prompt_tokens.shape[0] > 0:
            self._observe(prompt_tokens, output_tokens)
