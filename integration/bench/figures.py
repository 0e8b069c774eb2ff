"""From what was seen of a run to its figures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from integration.bench import counters as count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from integration.bench.client import Outcome
    from integration.bench.counters import Counters
    from integration.bench.steps import Steps

FIGURES: Mapping[str, str] = {
    "throughput_tok_s": "tokens generated per second within the window",
    "tpot_p50_ms": "milliseconds per token after the first, median over requests",
    "tpot_p95_ms": "the same, 95th percentile",
    "ttft_p50_ms": "milliseconds from sending to the first token, median over requests",
    "ttft_p95_ms": "the same, 95th percentile",
    "e2e_p50_ms": "milliseconds from sending to the last token, median over requests",
    "e2e_p95_ms": "the same, 95th percentile",
    "kv_imbalance": "max over mean of the ranks' KV tokens, by step log or else by the adapter",
    "kv_imbalance_steps": "the same by the ranks' own step log",
    "kv_imbalance_adapter": "the same by the adapter's books",
    "step_ms": "mean duration of a step",
    "makespan_s": "seconds from the first sending to the last token",
    "routing_p50_us": "microseconds per routed request, median (upper bound of its bucket)",
    "routing_p99_us": "the same, 99th percentile",
    "output_us": "microseconds of the adapter per request of an output batch",
    "fallbacks": "decisions that vLLM's own rule took because the adapter could not",
}
"""Names of a run's figures and what they are."""


def figures_of(
    outcomes: Sequence[Outcome],
    window: tuple[float, float],
    before: Counters,
    after: Counters,
    steps: Steps | None,
) -> dict[str, float]:
    """Compute `FIGURES`; NaN for those without a source.

    Parameters
    ----------
    outcomes : sequence of Outcome
        All requests of the run.
    window : (float, float)
        Monotonic times between which rates and loads count.
    before, after : Counters
        The adapter's metrics at both.
    steps : Steps or None
        Steps within the window.
    """
    tpot = 1e3 * np.array([outcome.tpot_s for outcome in outcomes if outcome.tokens > 1])
    ttft = 1e3 * np.array([outcome.ttft_s for outcome in outcomes])
    e2e = 1e3 * np.array([outcome.last_s - outcome.sent_s for outcome in outcomes])
    by_adapter = count.imbalance(before, after)
    by_steps = steps.imbalance() if steps is not None else math.nan
    return {
        "throughput_tok_s": throughput(outcomes, window),
        "tpot_p50_ms": _percentile(tpot, 50),
        "tpot_p95_ms": _percentile(tpot, 95),
        "ttft_p50_ms": _percentile(ttft, 50),
        "ttft_p95_ms": _percentile(ttft, 95),
        "e2e_p50_ms": _percentile(e2e, 50),
        "e2e_p95_ms": _percentile(e2e, 95),
        "kv_imbalance": by_adapter if math.isnan(by_steps) else by_steps,
        "kv_imbalance_steps": by_steps,
        "kv_imbalance_adapter": by_adapter,
        "step_ms": 1e3 * float(np.nanmean(steps.duration_s)) if steps else math.nan,
        "makespan_s": max(o.last_s for o in outcomes) - min(o.sent_s for o in outcomes),
        "routing_p50_us": count.routing_us(before, after, 50),
        "routing_p99_us": count.routing_us(before, after, 99),
        "output_us": count.output_us(before, after),
        "fallbacks": count.change(before, after, "brsolver_fallbacks_total"),
    }


def throughput(outcomes: Sequence[Outcome], window: tuple[float, float]) -> float:
    """Return tokens per second within the window.

    A request's tokens after the first count as spread evenly from its first to its last, so
    that it does not matter how many of them the server packs into one chunk. A window so short
    that no token falls into it measures nothing: NaN.
    """
    first, end = window
    tokens = 0.0
    for outcome in outcomes:
        tokens += first <= outcome.first_s <= end
        overlap = min(outcome.last_s, end) - max(outcome.first_s, first)
        if overlap > 0 and outcome.tokens > 1:
            tokens += overlap / outcome.tpot_s
    return tokens / (end - first) if tokens > 0 and end > first else math.nan


def _percentile(values: np.ndarray, percent: float) -> float:
    return float(np.percentile(values, percent)) if values.size else math.nan
