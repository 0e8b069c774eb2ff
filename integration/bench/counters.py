"""Counters that the adapter publishes, and what they say of an interval."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from brsolver.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PREFIX = "brsolver_"
ROUTING = "brsolver_routing_seconds_bucket"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """The adapter's metrics at one time.

    Attributes
    ----------
    totals : mapping of str to float
        Samples by name, summed over their labels.
    buckets : mapping of float to float
        Cumulative counts of the routing histogram by upper bound in seconds.
    """

    totals: Mapping[str, float] = field(default_factory=dict)
    buckets: Mapping[float, float] = field(default_factory=dict)


def parse_counters(text: str) -> Counters:
    """Take the adapter's metrics out of a Prometheus exposition.

    Raises
    ------
    MissingExtraError
        If prometheus_client, which comes with vLLM, is not installed.
    """
    totals: dict[str, float] = {}
    buckets: dict[float, float] = {}
    for sample in _samples(text):
        totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
        if sample.name == ROUTING:
            bound = float(sample.labels["le"])
            buckets[bound] = buckets.get(bound, 0.0) + sample.value
    return Counters(totals=totals, buckets=buckets)


def change(before: Counters, after: Counters, name: str) -> float:
    """Return by how much a counter grew; 0 if it is not published."""
    return after.totals.get(name, 0.0) - before.totals.get(name, 0.0)


def imbalance(before: Counters, after: Counters) -> float:
    """Return max/mean KV over an interval by the adapter's books; NaN without steps."""
    envelope, mean = (
        change(before, after, f"brsolver_kv_{x}_tokens_total") for x in ("max", "mean")
    )
    return envelope / mean if mean > 0 else float("nan")


def routing_us(before: Counters, after: Counters, percent: float) -> float:
    """Return the upper bound of the bucket of a percentile of the routed requests, in µs."""
    bounds = sorted(after.buckets)
    counts = [after.buckets[bound] - before.buckets.get(bound, 0.0) for bound in bounds]
    return 1e6 * _bound(bounds, counts, percent)


def output_us(before: Counters, after: Counters) -> float:
    """Return the adapter's mean microseconds per request of an output batch; NaN if unknown."""
    handled = change(before, after, "brsolver_output_requests_total")
    seconds = change(before, after, "brsolver_output_seconds_total")
    return 1e6 * seconds / handled if handled > 0 else float("nan")


def _bound(bounds: Sequence[float], counts: Sequence[float], percent: float) -> float:
    if not counts or counts[-1] <= 0:
        return float("nan")
    rank = counts[-1] * percent / 100
    return next(bound for bound, count in zip(bounds, counts, strict=True) if count >= rank)


def _samples(text: str) -> list[Any]:
    try:
        parse = import_module("prometheus_client.parser").text_string_to_metric_families
    except ImportError as error:
        raise MissingExtraError.for_extra("prometheus_client", "vllm") from error
    ours = "\n".join(line for line in text.splitlines() if PREFIX in line) + "\n"
    return [sample for family in parse(ours) for sample in family.samples]
