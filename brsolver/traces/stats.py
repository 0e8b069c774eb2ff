"""Length and arrival statistics of a trace."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from brsolver.traces.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthStats:
    """Distribution of a length column, in tokens; percentiles interpolate linearly."""

    mean: float
    std: float
    min: int
    p50: float
    p95: float
    p99: float
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStats:
    """Statistics of a trace.

    Attributes
    ----------
    name, source_format, surrogate, skipped_rows
        As in `Trace`.
    n : int
        Requests.
    prompt, output : LengthStats
        Lengths in tokens.
    correlation : float or None
        Pearson's, of prompt and output length; None if either is constant.
    duration_s : float or None
        Seconds from the first to the last arrival; None without times. Here and in the next two
        turns that follow others do not count: when they arrive a run decides.
    rate : float or None
        Mean arrivals per second; None without times or if all arrive at once.
    burstiness : float or None
        Standard deviation of the gaps between arrivals over their mean; 1 for Poisson arrivals.
    repeated_prefix : float or None
        Share of prefix blocks that continue, from the first block on, a prefix of an earlier
        request; None without prefix hashes.
    following : int
        Turns that come after a delay when another has ended.
    sessions_following : int
        Sessions with such turns.
    delay_mean_s : float or None
        Mean of these delays in seconds; None if there are none.
    """

    name: str
    source_format: str
    surrogate: bool
    skipped_rows: int
    n: int
    prompt: LengthStats
    output: LengthStats
    correlation: float | None
    duration_s: float | None
    rate: float | None
    burstiness: float | None
    repeated_prefix: float | None
    following: int = 0
    sessions_following: int = 0
    delay_mean_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics as nested dictionaries of plain values."""
        return asdict(self)


def trace_stats(trace: Trace) -> TraceStats:
    """Compute the statistics of a trace."""
    duration, rate, burstiness = _arrival_stats(trace.arrival_s)
    return TraceStats(
        name=trace.name,
        source_format=trace.source_format,
        surrogate=trace.surrogate,
        skipped_rows=trace.skipped_rows,
        n=len(trace),
        prompt=_length_stats(trace.prompt_tokens),
        output=_length_stats(trace.output_tokens),
        correlation=_correlation(trace.prompt_tokens, trace.output_tokens),
        duration_s=duration,
        rate=rate,
        burstiness=burstiness,
        repeated_prefix=_repeated_prefix(trace),
        **_turn_stats(trace),
    )


def _turn_stats(trace: Trace) -> dict[str, Any]:
    if trace.delay_s is None:
        return {}
    follows = ~np.isnan(trace.delay_s)
    return {
        "following": int(follows.sum()),
        "sessions_following": int(np.unique(trace.columns["session"][follows]).size),
        "delay_mean_s": float(trace.delay_s[follows].mean()),
    }


def _length_stats(lengths: NDArray[np.int64]) -> LengthStats:
    p50, p95, p99 = (float(value) for value in np.percentile(lengths, (50, 95, 99)))
    return LengthStats(
        mean=float(lengths.mean()),
        std=float(lengths.std()),
        min=int(lengths.min()),
        p50=p50,
        p95=p95,
        p99=p99,
        max=int(lengths.max()),
    )


def _correlation(first: NDArray[np.int64], second: NDArray[np.int64]) -> float | None:
    if first.min() == first.max() or second.min() == second.max():
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _arrival_stats(
    arrival: NDArray[np.float64] | None,
) -> tuple[float | None, float | None, float | None]:
    if arrival is None:
        return None, None, None
    arrival = arrival[~np.isnan(arrival)]
    duration = float(arrival[-1] - arrival[0])
    if duration <= 0:
        return duration, None, None
    gaps = np.diff(arrival)
    return duration, gaps.size / duration, float(gaps.std() / gaps.mean())


def _repeated_prefix(trace: Trace) -> float | None:
    offsets = trace.columns.get("hash_offsets")
    blocks = trace.columns.get("hash_values")
    if offsets is None or blocks is None or not blocks.size:
        return None
    bounds = offsets.astype(np.int64)
    lengths = bounds[1:] - bounds[:-1]
    request = np.repeat(np.arange(lengths.size), lengths)
    _, first, inverse = np.unique(blocks, return_index=True, return_inverse=True)
    fresh = request[first][inverse] == request
    place = np.arange(blocks.size) - np.repeat(bounds[:-1], lengths)
    # A prefix ends at the first block that no earlier request had.
    repeated = lengths.copy()
    np.minimum.at(repeated, request[fresh], place[fresh])
    return float(repeated.sum() / blocks.size)
