"""Forecasts that wait for their outcome."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from brsolver.predictors import FinishedRequests, FloatArray, ForecastQuery, IntArray

_OPEN, _NO, _YES, _UNKNOWN = -1, 0, 1, 2


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Forecasts made at one refresh.

    Attributes
    ----------
    request, age : ndarray of int64, shape (n,)
        Sorted by request.
    told, usual : ndarray of float64, shape (n,)
        Probability of an end within the horizon, by the predictor and by the reference.
    outcome : ndarray of int8, shape (n,)
        Whether it ended; or open, or never to be known.
    """

    request: IntArray
    age: IntArray
    told: FloatArray
    usual: FloatArray
    outcome: NDArray[np.int8]

    def scores(self) -> tuple[FloatArray, FloatArray]:
        """Return squared errors of both, of the forecasts whose outcome is known."""
        known = (self.outcome == _NO) | (self.outcome == _YES)
        happened = self.outcome[known] == _YES
        return (self.told[known] - happened) ** 2, (self.usual[known] - happened) ** 2


class Pending:
    """Batches of forecasts in the order in which they were made.

    Memory is bounded: a batch that is not decided after `patience` later ones is given up on
    with the outcomes it has, which happens only where requests make no progress.
    """

    def __init__(self, patience: int = 64) -> None:
        self._batches: deque[Batch] = deque()
        self._patience = patience

    def keep(self, query: ForecastQuery, told: FloatArray, usual: FloatArray) -> None:
        """Add the forecasts of one refresh."""
        order = np.argsort(query.request, kind="stable")
        self._batches.append(
            Batch(
                request=query.request[order],
                age=query.age[order],
                told=told[order],
                usual=usual[order],
                outcome=np.full(order.shape[0], _OPEN, np.int8),
            )
        )

    def ended(self, finished: FinishedRequests, horizon: int) -> None:
        """Decide forecasts about requests that have ended.

        One that was cancelled within the horizon decides nothing; one that its own limit cut has
        ended, as a forecast that knows the limit says.
        """
        cancelled = finished.censored
        if finished.max_tokens is not None:
            cancelled = cancelled & (finished.output_tokens < finished.max_tokens)
        for batch in self._batches:
            mine, theirs = _match(batch, finished.request)
            lived = finished.output_tokens[theirs] - batch.age[mine]
            within = np.where(cancelled[theirs], _UNKNOWN, _YES)
            batch.outcome[mine] = np.where(lived > horizon, _NO, within)

    def running(self, query: ForecastQuery, horizon: int) -> None:
        """Decide forecasts about requests that have outlived the horizon."""
        for batch in self._batches:
            mine, theirs = _match(batch, query.request)
            outlived = query.age[theirs] - batch.age[mine] >= horizon
            batch.outcome[mine[outlived]] = _NO

    def decided(self) -> Iterator[Batch]:
        """Take out the oldest batches as long as they are decided."""
        while self._batches and self._is_due(self._batches[0]):
            yield self._batches.popleft()

    def _is_due(self, batch: Batch) -> bool:
        return len(self._batches) > self._patience or not np.any(batch.outcome == _OPEN)


def _match(batch: Batch, request: IntArray) -> tuple[IntArray, IntArray]:
    """Return places in the batch, open ones only, and in `request` of the same requests."""
    at = np.searchsorted(batch.request, request)
    inside = np.flatnonzero(at < batch.request.shape[0])
    same = inside[batch.request[at[inside]] == request[inside]]
    still_open = batch.outcome[at[same]] == _OPEN
    return at[same][still_open], same[still_open]
