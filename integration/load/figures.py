"""From what became of requests to the figures of a load."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from integration.load.driving import Watch
    from integration.load.kinds import Kind
    from integration.load.params import Objectives
    from integration.load.replies import Reply

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How durations are spread, in seconds; NaN where there are none.

    Attributes
    ----------
    count : int
    mean, std, p50, p90, p95, p99, most : float
        Percentiles are linear between values.
    """

    count: int
    mean: float
    std: float
    p50: float
    p90: float
    p95: float
    p99: float
    most: float

    @classmethod
    def of(cls, values: NDArray[np.float64] | Sequence[float]) -> Spread:
        """Return that of values in seconds."""
        array = np.asarray(values, np.float64)
        if not array.size:
            nothing = dict.fromkeys(("mean", "std", "p50", "p90", "p95", "p99", "most"), math.nan)
            return cls(count=0, **nothing)
        p50, p90, p95, p99 = (float(each) for each in np.percentile(array, PERCENTILES))
        return cls(
            count=array.size,
            mean=float(array.mean()),
            std=float(array.std()),
            p50=p50,
            p90=p90,
            p95=p95,
            p99=p99,
            most=float(array.max()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What came of a load.

    Attributes
    ----------
    requests, complete, interrupted, unsent : int
        Of the trace; those that were answered to the end; those under way and those not yet sent
        when the load was interrupted.
    failed : mapping of Kind to int
        How many failed, by kind.
    reasons : mapping of Kind to str
        What the first one of each kind was told.
    short : int
        Complete ones with fewer tokens than were asked for.
    counted : int
        Complete ones whose tokens are counted from chunks, since the server told no usage.
    duration_s : float
        From when the first request was due to the end of the last one that ended.
    prompt_tokens, output_tokens : int
        Of complete requests.
    ttft, tpot, itl, e2e : Spread
        Of complete requests, from when they were due: to the first token; per token after the
        first, of those with two or more; between chunks; to the last token.
    late : Spread
        By how much requests were sent later than due.
    peak : int
        Most requests in flight at once.
    good : int or None
        Complete ones that kept all objectives; None if there are none.
    lag : Spread
        By how much the client's event loop was late.
    busy : float
        Share of a processor that the client used.
    """

    requests: int
    complete: int
    interrupted: int
    unsent: int
    failed: Mapping[Kind, int]
    reasons: Mapping[Kind, str]
    short: int
    counted: int
    duration_s: float
    prompt_tokens: int
    output_tokens: int
    ttft: Spread
    tpot: Spread
    itl: Spread
    e2e: Spread
    late: Spread
    peak: int
    good: int | None
    lag: Spread
    busy: float

    @property
    def failures(self) -> int:
        """Requests that failed."""
        return sum(self.failed.values())

    @property
    def requests_per_s(self) -> float:
        """Complete requests per second."""
        return self._per_s(self.complete)

    @property
    def output_tok_s(self) -> float:
        """Generated tokens per second."""
        return self._per_s(self.output_tokens)

    @property
    def total_tok_s(self) -> float:
        """Prompt and generated tokens per second."""
        return self._per_s(self.prompt_tokens + self.output_tokens)

    @property
    def goodput_per_s(self) -> float:
        """Good requests per second; NaN without objectives."""
        return math.nan if self.good is None else self._per_s(self.good)

    def _per_s(self, count: int) -> float:
        return count / self.duration_s if self.duration_s > 0 else math.nan


def figures_of(
    replies: Sequence[Reply],
    *,
    requests: int,
    objectives: Objectives,
    watch: Watch | None = None,
) -> Figures:
    """Compute the figures of a load.

    Parameters
    ----------
    replies : sequence of Reply
    requests : int
        Of the trace.
    objectives : Objectives
    watch : Watch, optional
        What was seen of the client.
    """
    complete = [reply for reply in replies if reply.complete]
    failed = [reply for reply in replies if reply.kind.failure]
    ended = [*complete, *failed]
    return Figures(
        requests=requests,
        complete=len(complete),
        interrupted=len(replies) - len(ended),
        unsent=requests - len(replies),
        failed=Counter(reply.kind for reply in failed),
        reasons={reply.kind: reply.why for reply in reversed(failed)},
        short=sum(reply.tokens < reply.wanted for reply in complete),
        counted=sum(not reply.told for reply in complete),
        duration_s=_duration(replies, ended),
        prompt_tokens=sum(reply.prompt_tokens for reply in complete),
        output_tokens=sum(reply.tokens for reply in complete),
        ttft=Spread.of([reply.ttft_s for reply in complete]),
        tpot=Spread.of([reply.tpot_s for reply in complete if reply.tokens > 1]),
        itl=Spread.of(gaps(complete)),
        e2e=Spread.of([reply.e2e_s for reply in complete]),
        late=Spread.of([reply.late_s for reply in replies if reply.sent_s]),
        peak=peak(replies),
        good=_good(complete, objectives) if objectives.any else None,
        lag=Spread.of(watch.lags_s if watch else ()),
        busy=watch.busy if watch else math.nan,
    )


def gaps(replies: Sequence[Reply]) -> NDArray[np.float64]:
    """Return the seconds between chunks, of all replies one after another."""
    parts = [np.diff(np.frombuffer(reply.chunk_s)) for reply in replies if reply.chunk_s]
    return np.concatenate(parts) if parts else np.zeros(0)


def peak(replies: Sequence[Reply]) -> int:
    """Return how many requests were in flight at most."""
    sent = [(reply.sent_s, 1) for reply in replies if reply.sent_s]
    ends = [(reply.end_s, -1) for reply in replies if reply.sent_s]
    steps = np.array([step for _, step in sorted(sent + ends)])
    return int(np.cumsum(steps).max()) if steps.size else 0


def _duration(begun: Sequence[Reply], ended: Sequence[Reply]) -> float:
    if not ended:
        return 0.0
    return max(max(r.last_s, r.end_s) for r in ended) - min(r.due_s for r in begun)


def _good(complete: Sequence[Reply], objectives: Objectives) -> int:
    """Count replies that keep the objectives; one token has no time per token to keep."""
    ttft, tpot = objectives.ttft_s, objectives.tpot_s
    return sum(
        (ttft is None or reply.ttft_s <= ttft) and not (tpot is not None and reply.tpot_s > tpot)
        for reply in complete
    )


def as_data(figures: Figures) -> dict[str, Any]:
    """Return figures as plain data with units in their names: durations in milliseconds."""
    plain: dict[str, Any] = {
        "requests": figures.requests,
        "complete": figures.complete,
        "failed": {str(kind): count for kind, count in figures.failed.items()},
        "reasons": {str(kind): why for kind, why in figures.reasons.items()},
        "interrupted": figures.interrupted,
        "unsent": figures.unsent,
        "short": figures.short,
        "tokens_counted_from_chunks": figures.counted,
        "duration_s": figures.duration_s,
        "requests_per_s": figures.requests_per_s,
        "prompt_tokens": figures.prompt_tokens,
        "output_tokens": figures.output_tokens,
        "output_tok_s": figures.output_tok_s,
        "total_tok_s": figures.total_tok_s,
        "good": figures.good,
        "goodput_per_s": figures.goodput_per_s,
        "peak_in_flight": figures.peak,
        "client_busy": figures.busy,
    }
    for name in ("ttft", "tpot", "itl", "e2e", "late", "lag"):
        plain[f"{name}_ms"] = _in_ms(getattr(figures, name))
    return plain


def _in_ms(spread: Spread) -> dict[str, float]:
    names = ("mean", "std", "p50", "p90", "p95", "p99", "most")
    return {"count": spread.count, **{name: 1e3 * getattr(spread, name) for name in names}}
