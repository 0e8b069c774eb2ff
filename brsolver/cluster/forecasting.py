"""Keeps the forecasts of a cluster state up to date: in batches, never per token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brsolver.cluster._curve_kernels import project_curves, project_survival
from brsolver.cluster._state_kernels import (
    predict_by_age,
    predict_lengths,
    still_running,
)
from brsolver.predictors import FinishedRequests, ForecastQuery
from brsolver.stand_ins import as_predictor
from brsolver.traces.trace import take_chains

if TYPE_CHECKING:
    from brsolver.cluster.state import ClusterState
    from brsolver.predictors import Predictor

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

BEYOND = 1 << 60
_NO_LIMITS: IntArray = np.zeros(0, np.int64)


class RequestColumns:
    """What is known of requests besides their lengths, by identity.

    Parameters
    ----------
    max_tokens : ndarray of int64, shape (n,), optional
        Limits on generated tokens.
    arrival_s : ndarray of float64, shape (n,), optional
        Arrival times in seconds.
    keys : mapping of str to ndarray, optional
        Columns as in `ForecastQuery.keys`, by identity.
    """

    def __init__(
        self,
        *,
        max_tokens: IntArray | None = None,
        arrival_s: FloatArray | None = None,
        keys: Mapping[str, NDArray[np.generic]] | None = None,
    ) -> None:
        self.max_tokens = max_tokens
        self.arrival_s = arrival_s
        self.keys: Mapping[str, NDArray[np.generic]] = {} if keys is None else keys

    def of(self, request: IntArray) -> dict[str, Any]:
        """Return the columns of some requests, as `ForecastQuery` takes them."""
        return {
            "max_tokens": None if self.max_tokens is None else self.max_tokens[request],
            "arrival_s": None if self.arrival_s is None else self.arrival_s[request],
            "keys": _Gathered(self.keys, request),
        }


class _Gathered(Mapping[str, NDArray[np.generic]]):
    """Key columns of some requests, gathered when looked at."""

    def __init__(self, columns: Mapping[str, NDArray[np.generic]], request: IntArray) -> None:
        self._columns = columns
        self._request = request
        self._chains: dict[str, NDArray[np.generic]] = {}

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        column = self._columns[name]
        if name in ("hash_offsets", "hash_values"):
            self._chains = self._chains or take_chains(self._columns, self._request)
            return self._chains[name]
        gathered: NDArray[np.generic] = column[self._request]
        return gathered

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


class _KeptLoads:
    """Loads weighted by survival, per worker, and the count of changes that they are as of."""

    def __init__(self) -> None:
        self._workers: IntArray | None = None
        self._curves: FloatArray | None = None
        self._loads: IntArray = np.zeros((0, 0), np.int64)
        self._as_of: IntArray = np.zeros(0, np.int64)
        self._growth = False

    def of(
        self, workers: IntArray, curves: FloatArray, horizon: int, growth: bool
    ) -> tuple[IntArray, IntArray]:
        """Return what is kept of a cluster, nothing where it is of other curves or steps."""
        shape = workers.shape[1], horizon + 1
        if (
            workers is not self._workers
            or curves is not self._curves
            or self._loads.shape != shape
            or growth != self._growth
        ):
            # Interrupted in between, old keys go with loads that are as of nothing.
            self._as_of = np.full(shape[0], -1, np.int64)
            self._loads = np.zeros(shape, np.int64)
            self._workers, self._curves, self._growth = workers, curves, growth
        return self._loads, self._as_of

    def outdate(self, workers: IntArray, which: IntArray) -> None:
        """Drop what is kept of some workers, all of them if it is of another cluster."""
        if workers is self._workers:
            self._as_of[which] = -1
        else:
            self._workers = None


class Forecaster:
    """Asks a predictor about new requests at once and about all of them every ΔT steps.

    Between refreshes forecasts age exactly: the state keeps predicted *ends*, not remainders. A
    request whose expected contribution ``ĉ`` ([BR] §3) reaches the horizon counts as running
    throughout it.

    Ends and survival curves are two questions to most predictors, and a router uses the answer to
    one. If `project` is asked for curves alone from one refresh to the next, no more ends are
    forecast until it is asked for them again.

    Parameters
    ----------
    predictor : Predictor
        Where forecasts come from.
    horizon : int
        Steps H of the projection.
    refresh_steps : int
        Decode steps ΔT between refreshes.
    columns : RequestColumns, optional
        What is known of requests besides their lengths.

    Attributes
    ----------
    learns : bool
        Whether finished requests should be handed to `observe`.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        horizon: int,
        refresh_steps: int,
        columns: RequestColumns | None = None,
    ) -> None:
        self.predictor = predictor = as_predictor(predictor)
        self.horizon = horizon
        self.refresh_steps = refresh_steps
        self.learns = predictor.learns
        self.columns = columns or RequestColumns()
        self._next_refresh = 0
        self._lengths = predictor.lengths
        self._table: FloatArray | None = None
        self._integral: FloatArray = np.zeros(1)
        self._longer: tuple[FloatArray | None, FloatArray] = None, np.zeros(0)
        self._asked_for_ends = False
        self._asked_for_curves = False
        self._curves_only = False
        self._wants_curves = False
        self._curves: FloatArray = np.ones((1, horizon + refresh_steps + 1))
        self._since: IntArray = np.zeros(1, np.int64)
        self._owner: IntArray = np.full(1, -1, np.int64)
        self._kept = _KeptLoads()
        # A policy that asks the predictor by itself has no horizon here.
        if horizon > 0:
            predictor.look_ahead(horizon)

    @property
    def trust(self) -> float:
        """How far routers should believe the forecasts, from 0 to 1."""
        return self.predictor.trust

    def due(self, step: int) -> bool:
        """Tell whether all forecasts are to be refreshed."""
        return step >= self._next_refresh

    def update(self, state: ClusterState, handles: IntArray, step: int) -> None:
        """Forecast the newly admitted `handles`, or everything if a refresh is due.

        Handles of requests that have ended since are passed over.
        """
        if self.due(step):
            self._next_refresh = step + self.refresh_steps
            self._go_by_what_was_asked_for()
            handles = state.handles()
            if self.predictor.watches:
                self.predictor.set_running(self._query(state.describe(handles)))
            self._tabulate()
        if self.horizon > 0 and handles.shape[0] > 0:
            if not self._curves_only:
                self._predict(state, handles)
            if self._wants_curves:
                self._draw(state, handles)

    def _go_by_what_was_asked_for(self) -> None:
        # Nothing asked for, as while nothing waits, says nothing.
        if self._asked_for_ends or self._asked_for_curves:
            self._curves_only = not self._asked_for_ends
        self._asked_for_ends = self._asked_for_curves = False

    def _predict(self, state: ClusterState, handles: IntArray) -> None:
        arrays = (state.workers, state.requests, state.ring)
        if self._lengths is not None:
            predict_lengths(*arrays, handles, self._lengths)
        elif self._table is not None:
            limits = self.columns.max_tokens
            limits = _NO_LIMITS if limits is None else limits
            predict_by_age(*arrays, handles, self._table, self._integral, limits, self.horizon)
        else:
            handles = still_running(state.requests, handles)
            state.predict(handles, self.remaining(state, handles))

    def _tabulate(self) -> None:
        table = self.predictor.table
        if table is not self._table:
            self._table = table
            if table is not None:
                self._integral = np.concatenate(([0.0], np.cumsum(table)))

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
            self._want_ends(state)
            return state.projection(horizon, growth=growth)
        self._asked_for_curves = True
        return self._project_survival(state, horizon, growth)

    def prepare(self, state: ClusterState, horizon: int, growth: bool, survival: bool) -> None:
        """Do now what `project`, asked the same before anything else happens, need not do then.

        The predictor is not asked anything: its table is taken to be the last one.
        """
        if not survival or self._lengths is not None:
            return
        table, _ = self._longer
        if table is not None:
            self._project_table(state, table, horizon, growth)
        elif self._wants_curves:
            self._project_curves(state, horizon, growth)

    def _project_survival(self, state: ClusterState, horizon: int, growth: bool) -> IntArray:
        table = self.predictor.table
        if table is None:
            self._longer = None, self._longer[1]
            return self._project_curves(state, horizon, growth)
        return self._project_table(state, table, horizon, growth)

    def _project_table(
        self, state: ClusterState, table: FloatArray, horizon: int, growth: bool
    ) -> IntArray:
        longer, last = self._padded(table, horizon), table.shape[0] - 1
        limits = self.columns.max_tokens
        limits = _NO_LIMITS if limits is None else limits
        kept = self._kept.of(state.workers, table, horizon, growth)
        return project_survival(state.workers, state.requests, longer, last, limits, growth, *kept)

    def _want_ends(self, state: ClusterState) -> None:
        self._asked_for_ends = True
        if self._curves_only:
            self._curves_only = False
            self._predict(state, state.handles())

    def _padded(self, table: FloatArray, horizon: int) -> FloatArray:
        known, longer = self._longer
        if known is not table or longer.shape[0] < table.shape[0] + horizon:
            longer = np.concatenate((table, np.full(horizon, table[-1])))
            self._longer = table, longer
        return longer

    def _project_curves(self, state: ClusterState, horizon: int, growth: bool) -> IntArray:
        if not self._wants_curves:
            self._wants_curves = True
            self._draw(state, state.handles())
        # A request admitted since the last update has no curve yet: it stays.
        self._make_room(state.requests.shape[1])
        arrays = (state.workers, state.requests, self._curves, self._since, self._owner)
        kept = self._kept.of(state.workers, self._curves, horizon, growth)
        return project_curves(*arrays, growth, *kept)

    def _draw(self, state: ClusterState, handles: IntArray) -> None:
        """Ask for the curves of some requests, long enough to age until the next refresh."""
        reach = self.horizon + self.refresh_steps
        self._make_room(state.requests.shape[1])
        handles = still_running(state.requests, handles)
        if handles.shape[0]:
            rows = state.describe(handles)
            self._kept.outdate(state.workers, rows[0])
            self._curves[handles] = self.predictor.survival(self._query(rows), reach)
            self._since[handles] = rows[4]
            self._owner[handles] = rows[1]

    def _make_room(self, handles: int) -> None:
        known, width = self._curves.shape[0] - 1, self._curves.shape[1]
        if known < handles:
            curves, since = np.ones((handles + 1, width)), np.zeros(handles + 1, np.int64)
            owner = np.full(handles + 1, -1, np.int64)
            curves[:known], since[:known] = self._curves[:known], self._since[:known]
            owner[:known] = self._owner[:known]
            self._curves, self._since, self._owner = curves, since, owner

    def _query(self, rows: IntArray) -> ForecastQuery:
        return ForecastQuery(
            request=rows[1], prompt_tokens=rows[2], age=rows[4], **self.columns.of(rows[1])
        )

    def observe(
        self,
        prompt_tokens: IntArray,
        output_tokens: IntArray,
        *,
        request: IntArray,
        cancelled: NDArray[np.bool_] | None = None,
    ) -> None:
        """Hand requests that have ended to a predictor that learns online.

        Parameters
        ----------
        prompt_tokens, output_tokens : ndarray of int64, shape (n,)
            Their lengths.
        request : ndarray of int64, shape (n,)
            Their identities.
        cancelled : ndarray of bool, shape (n,), optional
            Which of them did not end by themselves, besides those that reached their limit.
        """
        if not self.learns or prompt_tokens.shape[0] == 0:
            return
        known = self.columns.of(request)
        censored = np.zeros(request.shape[0], np.bool_) if cancelled is None else cancelled
        if known["max_tokens"] is not None:
            censored = censored | (output_tokens >= known["max_tokens"])
        self.predictor.observe(
            FinishedRequests(
                request=request,
                prompt_tokens=prompt_tokens,
                output_tokens=output_tokens,
                censored=censored,
                **known,
            )
        )
