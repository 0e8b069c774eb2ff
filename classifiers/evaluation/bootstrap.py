"""Confidence intervals for scores of forecasts that hang together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FloatArray = NDArray[np.float64]

MIN_BLOCK = 10
LEVEL = 0.95


class Interval(NamedTuple):
    """A confidence interval at the level `LEVEL`."""

    low: float
    high: float


def block_length(requests: int) -> int:
    """Return the requests per block, ``√n`` and at least 10, at most all."""
    return min(requests, max(MIN_BLOCK, math.ceil(math.sqrt(requests))))


def block_weights(
    requests: int, replicates: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Draw how often each request counts in every replicate.

    Moving blocks of consecutive requests, wrapping round the end, are drawn with replacement
    until they hold as many requests as the trace (Politis and Romano 1992). Requests are
    resampled, never single samples: those of one request are anything but independent, and
    requests close in time share sessions and load.

    Parameters
    ----------
    requests : int
        Length of the trace.
    replicates : int
    rng : numpy.random.Generator

    Yields
    ------
    ndarray of int64, shape (requests,)
    """
    block = block_length(requests)
    blocks = math.ceil(requests / block)
    for _ in range(replicates):
        first = rng.integers(requests, size=blocks)
        # Differences of a running sum: one mark where a block starts, one where it ends.
        marks = np.bincount(first, minlength=2 * requests + 1)
        marks -= np.bincount(first + block, minlength=2 * requests + 1)
        covered = np.cumsum(marks)[: 2 * requests]
        yield covered[:requests] + covered[requests:]


def percentile_interval(values: Sequence[float]) -> Interval | None:
    """Return the percentile interval of replicates; None if one of them is undefined."""
    drawn = np.asarray(values, np.float64)
    if drawn.size == 0 or not np.isfinite(drawn).all():
        return None
    tail = 100.0 * (1.0 - LEVEL) / 2.0
    low, high = np.percentile(drawn, (tail, 100.0 - tail))
    return Interval(float(low), float(high))
