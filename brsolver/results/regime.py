"""What bounds the runs of a comparison: the cluster, the arrivals, or neither for all policies."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from brsolver.results.comparison import Comparison
    from brsolver.simulator.params import SimulationParams

GROWS = 0.02
"""Seconds of TTFT per second of arrivals from which on a policy does not keep up."""
GROWN = 1.5
"""And how many times the early TTFT the late one is then, at least."""

_MEANS = frozenset(
    {
        *("step_p50_s", "step_p95_s", "step_p99_s", "steps", "slot_utilization"),
        *("time_lost_prefill_share", "time_lost_sequences_share"),
        *("time_lost_kv_share", "time_lost_padding_share"),
        *("ttft_early_s", "ttft_late_s", "dispatch_us_max", "wall_s"),
    }
)
"""How a run came by its figures, in whatever regime: a long step may save ten others."""
_OF_ARRIVALS = frozenset({"throughput_tok_s", "makespan_s"})
_OF_THE_POOL = frozenset({"queue_mean_s", "rank_queue_mean", "rank_queue_max"})


class Regime(StrEnum):
    """What bounds runs on so many workers."""

    POOLED = "pooled"
    """There is always a queue: the cluster is full, and throughput is its capacity."""
    CLOSED = "closed loop"
    """As many requests in flight as there are clients."""
    ARRIVAL_BOUND = "arrival-bound"
    """By time, and all policies keep up: throughput is that of the arrivals."""
    OVERLOADED = "overloaded"
    """By time, and none keeps up: waits grow without end."""
    MIXED = "overloaded under some policies"
    """By time, and some keep up."""


def regime_of(comparison: Comparison, workers: int) -> Regime:
    """Tell what bounds the runs on that many workers."""
    mode = comparison.params.arrivals.mode
    if mode in {"pool", "closed"}:
        return Regime.POOLED if mode == "pool" else Regime.CLOSED
    late = overloaded(comparison, workers)
    if not late:
        return Regime.ARRIVAL_BOUND
    return Regime.OVERLOADED if len(late) == len(comparison.policies) else Regime.MIXED


def overloaded(comparison: Comparison, workers: int) -> tuple[str, ...]:
    """Return the policies under which the time to first token grows along the run."""
    return tuple(p for p in comparison.policies if _grows(comparison, p, workers))


def _grows(comparison: Comparison, policy: str, workers: int) -> bool:
    early_s, late_s, rate = (
        comparison.estimate(policy, workers, name).mean
        for name in ("ttft_early_s", "ttft_late_s", "ttft_growth")
    )
    return rate >= GROWS and late_s >= GROWN * early_s


def without_direction(regime: Regime) -> frozenset[str]:
    """Return the metrics of which neither more nor less is better in a regime.

    Where arrivals bound a run they make its throughput; where a pool is kept waiting its size
    makes the mean wait.
    """
    if regime is Regime.ARRIVAL_BOUND:
        return _MEANS | _OF_ARRIVALS
    if regime in {Regime.POOLED, Regime.CLOSED}:
        return _MEANS | _OF_THE_POOL
    return _MEANS


def prefill_is_free(params: SimulationParams) -> bool:
    """Tell whether prompts are computed in no time, so that TTFT leaves prefill out."""
    if params.prefill.mode == "none":
        return True
    return params.prefill.colocated and not params.step_costs().prices_prefill
