"""Finished and running requests for the predictors' tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brsolver.predictors import FinishedRequests, ForecastQuery

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


def finished(
    lengths: Sequence[int],
    censored: Sequence[bool] | None = None,
    *,
    keys: Mapping[str, NDArray[np.generic]] | None = None,
    request: Sequence[int] | None = None,
    max_tokens: Sequence[int] | None = None,
) -> FinishedRequests:
    """Return requests that ended with these lengths; none of them is censored unless said."""
    count = len(lengths)
    return FinishedRequests(
        request=np.arange(count) if request is None else np.array(request, np.int64),
        prompt_tokens=np.ones(count, np.int64),
        output_tokens=np.array(lengths, np.int64),
        censored=np.array(censored or [False] * count, np.bool_),
        max_tokens=None if max_tokens is None else np.array(max_tokens, np.int64),
        keys=keys or {},
    )


def running(
    ages: Sequence[int],
    max_tokens: Sequence[int] | None = None,
    *,
    keys: Mapping[str, NDArray[np.generic]] | None = None,
    request: Sequence[int] | None = None,
) -> ForecastQuery:
    """Return a query about requests of these ages."""
    count = len(ages)
    return ForecastQuery(
        request=np.arange(count) if request is None else np.array(request, np.int64),
        age=np.array(ages, np.int64),
        prompt_tokens=np.ones(count, np.int64),
        max_tokens=None if max_tokens is None else np.array(max_tokens, np.int64),
        keys=keys or {},
    )
