"""The predictor that knows every output length, or nearly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import ParameterError
from brsolver.predictors import Forecast

if TYPE_CHECKING:
    from brsolver.predictors import FloatArray, ForecastQuery, IntArray
    from brsolver.traces.model import Trace

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
            raise ParameterError(f"noise = {self.noise}: must be from 0 to 10")
        if not 0 <= self.dropout <= 1:
            raise ParameterError(f"dropout = {self.dropout}: must be from 0 to 1")


class OraclePredictor:
    """True remaining lengths, the best that any predictor can do.

    With ``r = o - a`` the remaining steps of a request of output length o and age a, ``p = 1``
    if ``r ≤ H``, else 0, and ``μ = min(r, H)``: the contribution of [BR] §3 is ``min(r, H)``.

    To study how good a forecast must be, lengths can be made wrong: ``ô = o·exp(σ·z)`` with z
    standard normal, rounded to at least 1 token and cut at ``max_tokens``; and a share of
    requests can go without a forecast, which leaves them running until their limit, if any. Both
    are drawn once per request. A request that outlives its ``ô`` counts as about to end: 1 step
    remains.

    Parameters
    ----------
    params : OracleParams, optional
        How wrong to be.
    output_tokens : ndarray of int64
        Output length of every request of the trace, by `ForecastQuery.request`.
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
        self._output_tokens = np.asarray(output_tokens, np.int64)
        self._lengths = self._limited(self._forecast(rng), trace)

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        """Tell which of the queried requests end within `horizon` steps, and when."""
        remaining = np.maximum(self._lengths[query.request] - query.age, 1)
        remaining = np.minimum(remaining, query.steps_left(horizon + 1))
        return Forecast(
            p_finish=(remaining <= horizon).astype(np.float64),
            mu_remaining=np.minimum(remaining, horizon).astype(np.float64),
            horizon=horizon,
        )

    def survival(self, query: ForecastQuery, horizon: int) -> FloatArray:
        """Return 1.0 while each request still runs, h = 0..`horizon` steps from now, then 0.0."""
        remaining = self.predict(query, horizon + 1).contribution
        return (np.arange(horizon + 1) < remaining[:, None]).astype(np.float64)

    @cached_property
    def table(self) -> FloatArray:
        """``P(O > a)`` of the whole trace for a = 0, 1, …, the longest length.

        For rules that need the distribution of output lengths rather than each one's end.
        """
        counts = np.bincount(self._output_tokens)
        tail: FloatArray = 1.0 - np.cumsum(counts) / counts.sum()
        return tail

    @property
    def lengths(self) -> IntArray:
        """Forecast output length of every request, by identity, shape (n,)."""
        return self._lengths

    def _forecast(self, rng: np.random.Generator | None) -> IntArray:
        noise, dropout = self.params.noise, self.params.dropout
        if noise == 0 and dropout == 0:
            return self._output_tokens
        if rng is None:
            raise ParameterError(
                f"noise = {noise}, dropout = {dropout}: draws need a generator; pass rng="
            )
        count = len(self._output_tokens)
        # Both are always drawn, so that more of the one leaves the other as it was.
        factor, dropped = np.exp(noise * rng.standard_normal(count)), rng.random(count) < dropout
        wrong = np.clip(np.rint(self._output_tokens * factor), 1, _NEVER).astype(np.int64)
        return np.where(dropped, _NEVER, wrong)

    def _limited(self, lengths: IntArray, trace: Trace | None) -> IntArray:
        limits = None if trace is None else trace.columns.get("max_tokens")
        if limits is None:
            return lengths
        return np.minimum(lengths, np.maximum(limits.astype(np.int64), 1))
