"""Forecasts of when active requests end, between predictors and routers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from brsolver.traces.trace import Trace

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
        The request's own limit on generated tokens, which cuts every forecast short.
    arrival_s : ndarray of float64, shape (n,), or None
        When each request arrived, in seconds on the trace's clock.
    keys : mapping of str to ndarray
        Optional columns, each of length n: ``prompt_hash``, ``session``, ``model``, ``tenant``,
        and for prefix-hash chains the ragged pair ``hash_offsets`` (length n + 1) and
        ``hash_values``. What is not looked at is not gathered.
    """

    request: IntArray
    age: IntArray
    prompt_tokens: IntArray
    max_tokens: IntArray | None = None
    arrival_s: FloatArray | None = None
    keys: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.request.shape[0])

    def steps_left(self, horizon: int) -> IntArray:
        """Return the steps of the horizon that each request's own limit leaves it, shape (n,).

        A request at or beyond its limit has 1 step left, like one that outlived a forecast.
        """
        if self.max_tokens is None:
            return np.full(len(self), horizon, np.int64)
        left: IntArray = np.clip(self.max_tokens - self.age, min(1, horizon), horizon)
        return left


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRequests:
    """Requests that have ended, for predictors that learn from them.

    Attributes
    ----------
    request, prompt_tokens, max_tokens, arrival_s, keys
        As in `ForecastQuery`.
    output_tokens : ndarray of int64, shape (n,)
        Tokens that each generated, at least 1.
    censored : ndarray of bool, shape (n,)
        True where the request was cut by its own limit or cancelled: it generated
        `output_tokens` and would have gone on.
    """

    request: IntArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    censored: NDArray[np.bool_]
    max_tokens: IntArray | None = None
    arrival_s: FloatArray | None = None
    keys: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.request.shape[0])


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


def limited(forecast: Forecast, query: ForecastQuery) -> Forecast:
    """Cut a forecast of p and μ alone short at each request's own limit.

    For predictors without a survival curve. A request with ``L ≤ H`` tokens left ends within the
    horizon for certain, so ``p = 1``, and its expected contribution cannot exceed L:
    ``μ = min(ĉ, L)``, an upper estimate of ``E[min(r, L)]``.

    Parameters
    ----------
    forecast : Forecast
        As if there were no limits.
    query : ForecastQuery
        Where the limits are.
    """
    left = query.steps_left(forecast.horizon + 1)
    cut = left <= forecast.horizon
    return Forecast(
        p_finish=np.where(cut, 1.0, forecast.p_finish),
        mu_remaining=np.where(cut, np.minimum(forecast.contribution, left), forecast.mu_remaining),
        horizon=forecast.horizon,
    )


@runtime_checkable
class Predictor(Protocol):
    """Forecasts remaining lengths: all that is asked of a predictor.

    Derive from `BasePredictor` for more: learning, survival curves, trust, notes. A predictor
    honours ``query.max_tokens`` where given: no forecast goes beyond it. It is asked only what the
    router uses: one that projects by survival curves may never call `predict`.
    """

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        """Forecast which of the queried requests end within `horizon` steps, and when."""
        ...


class BasePredictor(ABC):
    """A predictor with all that callers may ask of one, each with a default that does nothing.

    Members that are properties here are overridden in the class, by a property or, where they never
    change, by a value: ``sees_future = True``.

    Attributes
    ----------
    Params : type or None
        Frozen dataclass of its parameters; the first constructor argument is an instance.
    source : str
        The paper or project it comes from; empty says its module.
    positional : str or None
        Parameter that takes the whole text of a specification which does not begin with
        ``PARAMETER=``: ``model:a=b,c.skops`` is a path.
    """

    Params: ClassVar[type | None] = None
    source: ClassVar[str] = ""
    positional: ClassVar[str | None] = None

    @abstractmethod
    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        """Forecast which of the queried requests end within `horizon` steps, and when."""

    @property
    def sees_future(self) -> bool:
        """True for oracles; printed with every result."""
        return False

    @property
    def trust(self) -> float:
        """How far routers should believe the forecasts: 1 throughout the horizon, 0 not at all."""
        return 1.0

    @property
    def learns(self) -> bool:
        """Whether finished requests should be handed to `observe`: whether that does anything."""
        return type(self).observe is not BasePredictor.observe

    @property
    def watches(self) -> bool:
        """Whether running requests should be handed to `set_running`: whether it does anything."""
        return type(self).set_running is not BasePredictor.set_running

    @property
    def has_survival(self) -> bool:
        """Whether `survival` answers."""
        return type(self).survival is not BasePredictor.survival

    @property
    def table(self) -> FloatArray | None:
        """``P(O > a)`` for a = 0, 1, … of a fresh request; None if more than age matters.

        Used instead of `predict` and `survival`. The same array object until it changes.
        """
        return None

    @property
    def lengths(self) -> IntArray | None:
        """Output lengths by request identity, used instead of `predict`; oracles only."""
        return None

    def look_ahead(self, horizon: int) -> None:
        """Take in the horizon, at least 1, of the router that asks; called before anything else.

        Raises
        ------
        ParameterError
            The predictor was made for another one.
        """
        del horizon

    def observe(self, finished: FinishedRequests) -> None:
        """Learn from the requests that ended since the last refresh."""
        del finished

    def set_running(self, query: ForecastQuery) -> None:
        """Take in all running requests, which are censored; at refreshes, after `observe`."""
        del query

    def survival(self, query: ForecastQuery, horizon: int) -> FloatArray:
        """Return the probability that each request still runs h = 0..`horizon` steps from now.

        Asked for some steps beyond the router's horizon, so that curves can age between
        refreshes.

        Returns
        -------
        ndarray of float64, shape (n, horizon + 1)

        Raises
        ------
        ParameterError
            The predictor has none.
        """
        del query, horizon
        raise ParameterError(
            f"{self.label} has no survival curve to project with; use projection=expected"
        )

    def training_rows(self, trace: Trace) -> int:
        """Return how many leading requests of `trace` trained it, which no run may contain."""
        del trace
        return 0

    def notes(self) -> Sequence[str]:
        """Return what results should say about the run."""
        return ()

    @property
    def label(self) -> str:
        """What messages call it."""
        return type(self).__name__
