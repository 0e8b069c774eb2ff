"""The predictor that knows every output length, or nearly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import log_ndtr

from brsolver.errors import ParameterError
from brsolver.predictors import BasePredictor, Forecast

if TYPE_CHECKING:
    from brsolver.predictors import FloatArray, ForecastQuery, IntArray
    from brsolver.traces.trace import Trace

# Longer than any horizon, short enough for sums with it to stay within 64 bits.
_NEVER = 1 << 60


@dataclass(frozen=True, slots=True, kw_only=True)
class OracleParams:
    """Parameters of `OraclePredictor`.

    Attributes
    ----------
    noise : float
        Standard deviation σ of the logarithm of forecast over true output length, from 0 to 10.
    dropout : float
        Share of requests, drawn at random, that get no forecast, from 0 to 1.
    """

    noise: float = 0.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 10:
            raise ParameterError(f"noise is {self.noise}, must be from 0 to 10")
        if not 0 <= self.dropout <= 1:
            raise ParameterError(f"dropout is {self.dropout}, must be from 0 to 1")


class OraclePredictor(BasePredictor):
    """True remaining lengths, the best that any predictor can do.

    With ``r = o - a`` the remaining steps of a request of output length o and age a, ``p = 1``
    if ``r ≤ H``, else 0, and ``μ = min(r, H)``: the contribution of [BR] §3 is ``min(r, H)``.

    To study how good a forecast must be, it can be told less: a length ``ô = o·exp(σ·z)`` with z
    standard normal, drawn once per request, of which it forecasts what follows for one who knows
    ``ô`` and σ but had no other expectation, ``P(O > t | ô) = Φ((ln ô - ln t)/σ)``, given the
    age. And a share of requests can go without a forecast, which leaves them running until
    their limit, if any.

    Parameters
    ----------
    params : OracleParams, optional
        How wrong to be.
    output_tokens : ndarray of int64
        Output length of every request of the trace, by `ForecastQuery.request`. It is copied:
        whoever is given the predictor cannot change the trace through it.
    rng : numpy.random.Generator, optional
        Where noise and dropout are drawn from.
    trace : Trace, optional
        Where the requests' limits are.

    Raises
    ------
    ParameterError
        There are no true lengths to be had, or errors are asked for without a generator.
    """

    Params = OracleParams
    sees_future = True

    def __init__(
        self,
        params: OracleParams | None = None,
        *,
        output_tokens: IntArray | None = None,
        rng: np.random.Generator | None = None,
        trace: Trace | None = None,
    ) -> None:
        if output_tokens is None:
            raise ParameterError(
                "predictor 'oracle' needs the output lengths of a trace: it works in simulations "
                "only; use survival"
            )
        self.params = params or OracleParams()
        self._output_tokens = np.array(output_tokens, np.int64)
        self._told = self._limited(self._draw(rng), trace)

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        """Tell which of the queried requests end within `horizon` steps, and when."""
        stays = self.survival(query, horizon)
        ends = 1.0 - stays[:, -1]
        steps = stays[:, :-1].sum(axis=1)
        some = ends > 0
        mean = np.divide(steps - (1 - ends) * horizon, ends, out=np.zeros_like(ends), where=some)
        return Forecast(
            p_finish=ends,
            mu_remaining=np.where(some, np.clip(mean, 0.0, horizon), float(horizon)),
            horizon=horizon,
        )

    def survival(self, query: ForecastQuery, horizon: int) -> FloatArray:
        """Return the probability that each request still runs h = 0..`horizon` steps from now.

        Shape (n, H + 1); 1 and then 0 where lengths are known for certain.
        """
        stays = self._stays(query, np.arange(horizon + 1))
        left = query.steps_left(horizon + 1)
        stays[np.arange(horizon + 1) >= left[:, None]] = 0.0
        return stays

    @cached_property
    def table(self) -> FloatArray | None:
        """``P(O > a)`` of the whole trace for a = 0, 1, …, the longest length.

        For rules that need the distribution of output lengths rather than each one's end; None
        where forecasts are uncertain, and each request has a curve of its own.
        """
        if self.params.noise > 0:
            return None
        counts = np.bincount(self._output_tokens)
        tail: FloatArray = 1.0 - np.cumsum(counts) / counts.sum()
        return tail

    @property
    def told(self) -> IntArray:
        """Length that the oracle is told of every request, by identity, shape (n,)."""
        return self._told

    @property
    def lengths(self) -> IntArray | None:
        """The lengths told, for callers who take them for certain; None if they are not."""
        return None if self.params.noise > 0 else self._told

    def _stays(self, query: ForecastQuery, ahead: IntArray) -> FloatArray:
        told = self._told[query.request]
        if self.params.noise == 0:
            remaining = np.maximum(told - query.age, 1)
            certain: FloatArray = (ahead < remaining[:, None]).astype(np.float64)
            return certain
        # A request runs at step h if it is longer than the tokens it has by then; half a token
        # more stands for the rounding of lengths.
        reached = np.log(query.age[:, None] + ahead + 0.5)
        score = (np.log(told)[:, None] - reached) / self.params.noise
        chance = log_ndtr(score)
        stays: FloatArray = np.exp(chance - chance[:, :1])
        stays[told >= _NEVER] = 1.0
        return stays

    def _draw(self, rng: np.random.Generator | None) -> IntArray:
        noise, dropout = self.params.noise, self.params.dropout
        if noise == 0 and dropout == 0:
            return self._output_tokens
        if rng is None:
            raise ParameterError(
                f"noise is {noise} and dropout is {dropout}: draws need a generator; pass rng="
            )
        count = len(self._output_tokens)
        # Both are always drawn, so that more of the one leaves the other as it was.
        factor, dropped = np.exp(noise * rng.standard_normal(count)), rng.random(count) < dropout
        wrong = np.clip(np.rint(self._output_tokens * factor), 1, _NEVER).astype(np.int64)
        return np.where(dropped, _NEVER, wrong)

    def _limited(self, lengths: IntArray, trace: Trace | None) -> IntArray:
        limits = None if trace is None else trace.columns.get("max_tokens")
        # What is uncertain is cut where it is forecast: a limit is no evidence of the length.
        if limits is None or self.params.noise > 0:
            return lengths
        return np.minimum(lengths, np.maximum(limits.astype(np.int64), 1))
