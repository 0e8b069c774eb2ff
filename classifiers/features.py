"""Features of a request at an age, of what is known by then and nothing later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import ParameterError
from brsolver.traces.turns import nominal_arrivals
from classifiers.key_history import KeyHistory

if TYPE_CHECKING:
    from brsolver.predictors import FloatArray, ForecastQuery
    from brsolver.traces.trace import Trace
    from classifiers.person_period import PersonPeriods

FEATURES = (
    "age",
    "prompt_tokens",
    "max_tokens",
    "key_count",
    "key_mean",
    "recent_mean",
    "hour",
)
"""Columns of a feature matrix. What is missing is NaN; age and prompt tokens never are.

``key_count`` and ``key_mean`` are number and mean output length of the finished requests of the
same key (see `classifiers.key_history.KEY_COLUMNS`), ``recent_mean`` the mean output length of
the requests that finished of late, ``hour`` the hour of the day.
"""

REQUIRED = ("age", "prompt_tokens")
"""Features that may not be missing."""

TOKEN_S = 0.05
"""Seconds per token where nothing better is known: a decode step of an ordinary cluster."""

LAG_ROWS = 512
"""Rows that pass while a request of mean length runs, where there are no arrival times."""

_DAY_S = 86_400.0


def build(
    trace: Trace,
    periods: PersonPeriods,
    *,
    token_s: float = TOKEN_S,
    lag_rows: float = LAG_ROWS,
    history: KeyHistory | None = None,
) -> FloatArray:
    """Return the features of samples of a trace, in causal order.

    A request counts as finished from ``arrival + output · token_s`` on, and a sample of age a
    is asked about at ``arrival + a · token_s``. A turn that follows another arrives its delay after
    that has finished so. A trace without arrival times has a clock of rows instead, on which a
    request of mean length takes `lag_rows`. The hour is left missing in traces shorter than a day,
    where it is just another name for the row.

    Parameters
    ----------
    trace : Trace
        Where the samples come from.
    periods : PersonPeriods
        The samples.
    token_s : float
        Seconds per output token, above 0.
    lag_rows : float
        See above, above 0.
    history : KeyHistory, optional
        What finished before the trace; it is brought up to date as a side effect. A new one
        without.

    Returns
    -------
    ndarray of float64, shape (n, len(FEATURES))

    Raises
    ------
    ParameterError
        If a parameter is out of range.
    """
    arrival_s, per_token = _clock(trace, token_s, lag_rows)
    known = (history or KeyHistory()).replay(
        trace.columns,
        trace.output_tokens,
        arrival_s + per_token * trace.output_tokens,
        arrival_s[periods.row] + per_token * periods.age,
        periods.row,
    )
    out = np.full((len(periods), len(FEATURES)), np.nan)
    out[:, 0] = periods.age
    out[:, 1] = trace.prompt_tokens[periods.row]
    if "max_tokens" in trace.columns:
        out[:, 2] = trace.columns["max_tokens"][periods.row]
    out[:, 3:6] = known
    if trace.arrival_s is not None and spans_a_day(trace):
        out[:, 6] = hour_of(arrival_s[periods.row] + trace.origin_s)
    return out


def of_query(query: ForecastQuery, history: KeyHistory) -> FloatArray:
    """Return the features of the requests that a router asks about, as `build` would.

    Parameters
    ----------
    query : ForecastQuery
        The requests.
    history : KeyHistory
        What has finished so far.
    """
    out = np.full((len(query), len(FEATURES)), np.nan)
    out[:, 0] = query.age
    out[:, 1] = query.prompt_tokens
    if query.max_tokens is not None:
        out[:, 2] = query.max_tokens
    out[:, 3:6] = history.look_up(query.keys, len(query))
    if query.arrival_s is not None:
        out[:, 6] = hour_of(query.arrival_s)
    return out


def hour_of(time_s: FloatArray) -> FloatArray:
    """Return hours of the day, from 0 to below 24, of times on the source's clock."""
    hours: FloatArray = time_s % _DAY_S / 3600.0
    return hours


def spans_a_day(trace: Trace) -> bool:
    """Tell whether the trace's arrivals go once around the clock."""
    return trace.span_s is not None and trace.span_s >= _DAY_S


def _clock(trace: Trace, token_s: float, lag_rows: float) -> tuple[FloatArray, float]:
    for name, value in (("token_s", token_s), ("lag_rows", lag_rows)):
        if not 0 < value < np.inf:
            raise ParameterError(f"{name} is {value}, must be above 0 and finite")
    if trace.arrival_s is not None:
        lasts = token_s * trace.output_tokens.astype(np.float64)
        return nominal_arrivals(trace.columns, trace.arrival_s, lasts), token_s
    mean = float(trace.output_tokens.mean())
    return np.arange(len(trace), dtype=np.float64), lag_rows / mean
