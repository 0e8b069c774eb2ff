"""Forecasts of when active requests end, between predictors and routers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastQuery:
    """The active requests that a forecast is asked for.

    Attributes
    ----------
    request : ndarray of int64, shape (n,)
        Identity of each request: in simulations its row in the trace.
    age : ndarray of int64, shape (n,)
        Tokens generated so far.
    prompt_tokens : ndarray of int64, shape (n,)
        Prompt length in tokens.
    max_tokens : ndarray of int64, shape (n,), or None
        The request's own limit on generated tokens.
    keys : mapping of str to ndarray
        Optional columns (prompt hash, session, model, tenant), each of length n.
    """

    request: IntArray
    age: IntArray
    prompt_tokens: IntArray
    max_tokens: IntArray | None = None
    keys: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """When requests end, as the two stages of [BR] §3 say it.

    Attributes
    ----------
    p_finish : ndarray of float64, shape (n,)
        Probability that the request ends within `horizon` steps.
    mu_remaining : ndarray of float64, shape (n,)
        Mean remaining steps if it does, at most `horizon`.
    horizon : int
        Steps H that both refer to.
    """

    p_finish: FloatArray
    mu_remaining: FloatArray
    horizon: int

    @property
    def contribution(self) -> FloatArray:
        """Expected steps within the horizon, ``ĉ = (1 - p)·H + p·μ`` ([BR] §3), shape (n,)."""
        expected: FloatArray = (
            1.0 - self.p_finish
        ) * self.horizon + self.p_finish * self.mu_remaining
        return expected


@runtime_checkable
class Predictor(Protocol):
    """Forecasts remaining lengths.

    Optional members that callers honour:

    ``observe(prompt_tokens, output_tokens)``
        Called with the requests that finished since the last call.
    ``survival(query, horizon) -> ndarray of float64, shape (n, H + 1)``
        Probability that each request is still running h steps from now.
    ``table -> ndarray of float64``
        ``P(O > a)`` for a = 0, 1, …, of a fresh request, for predictors that only use age.
    ``lengths -> ndarray of int64``
        True output lengths by request identity, used instead of `predict`; oracles only.
    ``contribution_by_age(horizon) -> ndarray of float64``
        Expected contribution by age, used instead of `predict` where it depends on nothing
        else and requests have no limits of their own.
    ``set_running(ages)``
        Called at refreshes with the ages of all running requests, which are censored.
    ``sees_future : bool``
        True for oracles; printed with every result.
    """

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        """Forecast which of the queried requests end within `horizon` steps, and when."""
        ...
