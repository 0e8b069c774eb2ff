"""What each figure of a run is called, its unit, and which direction is better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricInfo:
    """How one field of `Metrics` is shown.

    Attributes
    ----------
    name : str
        Field of `brsolver.results.metrics.Metrics`.
    label : str
        What readers see.
    unit : str
        Unit after scaling, empty for pure numbers.
    scale : float
        Factor from the field's unit to `unit`.
    better : {"higher", "lower", ""}
        Direction of improvement; empty if there is none.
    measured : bool
        True for figures of this machine's clock, which differ between equal runs.
    """

    name: str
    label: str
    unit: str = ""
    scale: float = 1.0
    better: Literal["higher", "lower", ""] = "lower"
    measured: bool = False


METRICS: tuple[MetricInfo, ...] = (
    MetricInfo(name="step_mean_s", label="Step mean", unit="ms", scale=1e3),
    MetricInfo(name="step_p50_s", label="Step P50", unit="ms", scale=1e3),
    MetricInfo(name="step_p95_s", label="Step P95", unit="ms", scale=1e3),
    MetricInfo(name="step_p99_s", label="Step P99", unit="ms", scale=1e3),
    MetricInfo(name="time_lost_share", label="Time lost at the barrier", unit="%", scale=100.0),
    MetricInfo(name="time_lost_prefill_share", label="Time lost to prefill", unit="%", scale=100.0),
    MetricInfo(
        name="time_lost_sequences_share", label="Time lost to sequences", unit="%", scale=100.0
    ),
    MetricInfo(name="time_lost_kv_share", label="Time lost to KV tokens", unit="%", scale=100.0),
    MetricInfo(name="time_lost_padding_share", label="Time lost to padding", unit="%", scale=100.0),
    MetricInfo(name="tpot_mean_s", label="TPOT mean", unit="ms", scale=1e3),
    MetricInfo(name="tpot_p50_s", label="TPOT P50", unit="ms", scale=1e3),
    MetricInfo(name="tpot_p95_s", label="TPOT P95", unit="ms", scale=1e3),
    MetricInfo(name="tpot_p99_s", label="TPOT P99", unit="ms", scale=1e3),
    MetricInfo(name="ttft_mean_s", label="TTFT mean", unit="s"),
    MetricInfo(name="ttft_p50_s", label="TTFT P50", unit="s"),
    MetricInfo(name="ttft_p90_s", label="TTFT P90", unit="s"),
    MetricInfo(name="ttft_p95_s", label="TTFT P95", unit="s"),
    MetricInfo(name="ttft_p99_s", label="TTFT P99", unit="s"),
    MetricInfo(name="ttft_early_s", label="TTFT, second quarter of requests", unit="s"),
    MetricInfo(name="ttft_late_s", label="TTFT, last quarter of requests", unit="s"),
    MetricInfo(
        name="ttft_growth",
        label="TTFT growth, of the time passed",
        unit="%",
        scale=100.0,
        better="",
    ),
    MetricInfo(name="e2e_mean_s", label="End-to-end mean", unit="s"),
    MetricInfo(name="e2e_p50_s", label="End-to-end P50", unit="s"),
    MetricInfo(name="e2e_p90_s", label="End-to-end P90", unit="s"),
    MetricInfo(name="e2e_p95_s", label="End-to-end P95", unit="s"),
    MetricInfo(name="e2e_p99_s", label="End-to-end P99", unit="s"),
    MetricInfo(name="throughput_tok_s", label="Throughput", unit="tok/s", better="higher"),
    MetricInfo(name="goodput_tok_s", label="Goodput", unit="tok/s", better="higher"),
    MetricInfo(name="goodput_req_s", label="Goodput, requests", unit="req/s", better="higher"),
    MetricInfo(
        name="slo_met_share",
        label="Requests that met the objectives",
        unit="%",
        scale=100.0,
        better="higher",
    ),
    MetricInfo(name="makespan_s", label="Makespan", unit="s"),
    MetricInfo(
        name="barrier_time", label="Heaviest load, summed over steps", unit="Mtokens", scale=1e-6
    ),
    MetricInfo(name="avg_imbalance_sum", label="Imbalance, sum form", unit="tokens"),
    MetricInfo(name="avg_imbalance_range", label="Imbalance, range form", unit="tokens"),
    MetricInfo(name="idle_rate", label="Idle rate", unit="%", scale=100.0),
    MetricInfo(name="energy_j", label="Energy", unit="kJ", scale=1e-3),
    MetricInfo(
        name="avg_imbalance_sum_post", label="Imbalance, sum, after departures", unit="tokens"
    ),
    MetricInfo(
        name="avg_imbalance_range_post", label="Imbalance, range, after departures", unit="tokens"
    ),
    MetricInfo(name="idle_rate_post", label="Idle rate, after departures", unit="%", scale=100.0),
    MetricInfo(name="energy_j_post", label="Energy, after departures", unit="kJ", scale=1e-3),
    MetricInfo(name="queue_mean_s", label="Wait for a slot, mean", unit="s"),
    MetricInfo(name="queue_p95_s", label="Wait for a slot, P95", unit="s"),
    MetricInfo(name="queue_p99_s", label="Wait for a slot, P99", unit="s"),
    MetricInfo(name="max_wait_s", label="Longest wait", unit="s"),
    MetricInfo(name="rank_queue_mean", label="Waiting per worker", unit="requests"),
    MetricInfo(name="rank_queue_max", label="Waiting for the worst worker", unit="requests"),
    MetricInfo(name="jain_workers", label="Fairness over workers (Jain)", better="higher"),
    MetricInfo(
        name="slot_utilization", label="Slots in use", unit="%", scale=100.0, better="higher"
    ),
    MetricInfo(name="held_mean", label="Waiting beside free slots", unit="requests", better=""),
    MetricInfo(name="steps", label="Steps", unit="steps"),
    MetricInfo(name="finished", label="Requests finished", unit="requests", better="higher"),
    MetricInfo(name="unfinished", label="Requests unfinished", unit="requests"),
    MetricInfo(name="prefill_tokens", label="Prefill tokens computed", unit="tokens", better=""),
    MetricInfo(name="cached_tokens", label="Prompt tokens cached", unit="tokens", better=""),
    MetricInfo(
        name="cached_share",
        label="Share of prompt tokens cached",
        unit="%",
        scale=100.0,
        better="higher",
    ),
    MetricInfo(name="preemptions", label="Preemptions", unit="requests"),
    MetricInfo(name="migrations", label="Running requests moved", unit="moves", better=""),
    MetricInfo(name="migrated_tokens", label="KV tokens moved", unit="tokens", better=""),
    MetricInfo(name="decisions", label="Routing decisions", unit="calls", better=""),
    MetricInfo(name="dispatch_us_p50", label="Dispatch latency P50", unit="µs", measured=True),
    MetricInfo(name="dispatch_us_p99", label="Dispatch latency P99", unit="µs", measured=True),
    MetricInfo(name="dispatch_us_max", label="Dispatch latency max", unit="µs", measured=True),
    MetricInfo(name="wall_s", label="Time to simulate", unit="s", measured=True),
)


def format_number(value: float) -> str:
    """Write a number with four significant digits and thousands separators; – for NaN."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else str(value)
    if value == 0:
        return "0"
    digits = 3 - math.floor(math.log10(abs(value)))
    if digits <= 0 or float(value).is_integer():
        return f"{value:,.0f}"
    if digits > 8:
        return f"{value:.2e}"
    return f"{value:,.{digits}f}"


def format_half_width(half: float, mean: float) -> str:
    """Write an interval's half width with two significant digits, or as many as its mean has."""
    if not math.isfinite(half):
        return "–"
    if half == 0:
        return "0"
    digits = max(0, 1 - math.floor(math.log10(abs(half))))
    if mean != 0 and math.isfinite(mean):
        digits = min(digits, max(0, 4 - math.floor(math.log10(abs(mean)))))
    text = f"{half:,.{digits}f}"
    return text if text.strip("0.,") else f"{half:.1e}"
