"""Metrics of Prometheus that adapter and front door both have: one name for each."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A metric's name and what it is."""

    name: str
    text: str


DECISION_BUCKETS = tuple(
    us / 1e6
    for us in (5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1e3, 2e3, 5e3, 1e4, 1e5)
)
"""Seconds: routing takes microseconds where all is well."""

ROUTED = Metric("brsolver_routed_requests", "Requests placed")
ROUTING = Metric(
    "brsolver_routing_seconds", "Time that routing one request took, waiting for room left out"
)
DECISION_SECONDS = Metric("brsolver_decision_seconds", "Time spent on decisions")
FALLBACKS = Metric("brsolver_fallbacks", "Left to a plain rule")
STEPS = Metric("brsolver_steps", "Decode steps seen")
MAX_TOKENS = Metric("brsolver_kv_max_tokens", "KV tokens of the fullest rank, summed over steps")
MEAN_TOKENS = Metric("brsolver_kv_mean_tokens", "Mean KV tokens per rank, summed over steps")
KV_TOKENS = Metric("brsolver_kv_tokens", "KV tokens of what runs")
RUNNING = Metric("brsolver_running_requests", "Requests that run")
BACKLOG = Metric("brsolver_backlog_tokens", "Prompt tokens that are still to be computed")
HELD = Metric("brsolver_held_requests", "Requests held back")
IMBALANCE = Metric("brsolver_imbalance", "KV tokens of the fullest rank over the mean")
