"""The predictor that knows every output length."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import ParameterError
from brsolver.predictors import Forecast

if TYPE_CHECKING:
    from brsolver.predictors import FloatArray, ForecastQuery, IntArray


class OraclePredictor:
    """True remaining lengths, the best that any predictor can do.

    With ``r = o - a`` the remaining steps of a request of output length o and age a, ``p = 1``
    if ``r ≤ H``, else 0, and ``μ = min(r, H)``: the contribution of [BR] §3 is ``min(r, H)``.

    Parameters
    ----------
    output_tokens : ndarray of int64
        Output length of every request of the trace, by `ForecastQuery.request`.

    Raises
    ------
    ParameterError
        There are no true lengths to be had.
    """

    sees_future = True

    def __init__(self, *, output_tokens: IntArray | None = None) -> None:
        if output_tokens is None:
            raise ParameterError(
                "predictor 'oracle' needs the output lengths of a trace: it works in simulations "
                "only; use survival"
            )
        self._output_tokens = np.asarray(output_tokens, np.int64)

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        """Tell which of the queried requests end within `horizon` steps, and when."""
        remaining = self._output_tokens[query.request] - query.age
        return Forecast(
            p_finish=(remaining <= horizon).astype(np.float64),
            mu_remaining=np.minimum(remaining, horizon).astype(np.float64),
            horizon=horizon,
        )

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
        """True output length of every request, by identity, shape (n,)."""
        return self._output_tokens
