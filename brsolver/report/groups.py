"""Which figures a table begins with, under which headings the others fold, and what is marked."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from brsolver.report.labels import METRICS, MetricInfo
from brsolver.results.deciding import DECIDING, NOTICEABLE, Figure, level_with_best
from brsolver.results.regime import regime_of, without_direction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brsolver.results.comparison import Comparison

FIRST = tuple(figure.name for figure in DECIDING)
"""The figures that decide, in the order in which tables begin."""

_GROUPS = (
    ("Throughput and objectives", ("throughput_", "goodput_", "slo_met_share")),
    ("Time to first token", ("ttft_",)),
    ("Time per output token", ("tpot_",)),
    ("End-to-end latency", ("e2e_",)),
    ("Waiting and queues", ("queue_", "max_wait_s", "rank_queue_", "held_mean", "preemptions")),
    ("Steps and the barrier", ("step_", "time_lost_", "barrier_time", "steps", "makespan_s")),
    ("Load and balance", ("avg_", "idle_rate", "jain_workers", "slot_utilization")),
    ("Energy", ("energy_",)),
    ("Prompts", ("prefill_tokens", "cached_")),
    ("Routing calls, on this machine", ("decisions", "dispatch_", "wall_s")),
)
_REST = "Requests and other counts"

Group = tuple[str, tuple[MetricInfo, ...]]


def deciding() -> tuple[MetricInfo, ...]:
    """Return the figures that tables begin with."""
    by_name = {info.name: info for info in METRICS}
    return tuple(by_name[name] for name in FIRST)


def groups() -> Iterator[Group]:
    """Yield all figures under their headings; what no heading names comes last.

    Those that decide are among them: percentiles are read side by side.
    """
    left = list(METRICS)
    for heading, prefixes in _GROUPS:
        members = tuple(info for info in left if info.name.startswith(prefixes))
        left = [info for info in left if info not in members]
        yield heading, members
    if left:
        yield _REST, tuple(left)


def measured(comparison: Comparison, workers: int, info: MetricInfo) -> bool:
    """Tell whether any policy has a value of a figure."""
    estimates = (comparison.estimate(p, workers, info.name) for p in comparison.policies)
    return any(not math.isnan(estimate.mean) for estimate in estimates)


def directed(comparison: Comparison, workers: int, info: MetricInfo) -> MetricInfo:
    """Return a figure without its direction where that means nothing for these runs."""
    if info.name in without_direction(regime_of(comparison, workers)):
        return replace(info, better="")
    return info


def best(comparison: Comparison, workers: int, info: MetricInfo) -> tuple[str, ...]:
    """Return the policy with the best value, and those that have as good as the same.

    None where the figure has no direction, or where no policy is worse than the best beyond noise.
    """
    figure = Figure(name=info.name, words=info.label, unit=info.unit, better=info.better)
    if not info.better or len(comparison.policies) < 2:
        return ()
    level = level_with_best(comparison, workers, figure, comparison.policies)
    if len(level) == len(comparison.policies):
        return ()
    means = {p: comparison.estimate(p, workers, info.name).mean for p in level}
    first = (max if info.better == "higher" else min)(means.values())
    return tuple(p for p, mean in means.items() if abs(mean - first) <= NOTICEABLE * abs(first))
