"""What the simulations of [DPR] have in common: workload, cluster, methods, and what time is.

*The EP Barrier Tax* says: G = 8, 5,000 ShareGPT requests, ``max_g a·L_g + b·mean_g L_g``, arrivals
at about 70 % utilisation, every request routed as it comes, throughput over JSQ by count. It does
not say the slots per worker (50 to 200 requests run on each), the lengths beyond their name, nor in
which unit requests arrive.

Three regimes stand for it. *steps*: requests arrive so many per step, at 70 % of the slots; every
policy takes about as many steps, and routing decides how long they last. *seconds*: they arrive in
time, at the rate of a balanced cluster with 70 % of its slots busy; as a step has no constant part,
tokens per second do not grow with what runs, so this is the most a balanced cluster can do, and
one that is not falls behind. *full*: a closed loop of as many clients as slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.reproduce._cells import Asked, measured_tokens_s, tokens_s
from brsolver import SimulationParams
from brsolver.hardware.step_time import StepTime
from brsolver.simulator import Arrivals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from benchmarks.reproduce._cells import Row
    from benchmarks.reproduce._study import Scope
    from brsolver.campaign import Cell

TRACE, REQUESTS, SLOTS = "chat:output_max=1024", 5000, 128
"""Outputs are cut where the article's own benchmark cuts them; 90 requests run per worker."""
UTILIZATION = 0.7
PER_TOKEN_S = 1e-7
"""The coefficient a; only b/a tells."""
STEPS, SECONDS, FULL = "steps", "seconds", "full"
JSQ = "JSQ"
BR0 = "BR-0"
METHODS = {JSQ: "jsq", "JSQ-Load": "jsq-load", BR0: "br-0:guard=false", "Fast-Φ": "fast-phi"}


def cells(
    scope: Scope,
    regime: str,
    methods: Mapping[str, str],
    *,
    workers: int = 8,
    overhead: float = 0.5,
    trace: str = TRACE,
    slots: int = SLOTS,
    **key: Any,
) -> Iterator[Cell]:
    """Yield the simulations of one regime; `overhead` is b/a and tells by seconds only."""
    lasts = StepTime(model="affine", base=1.0, per_token=0.0)
    if regime == SECONDS:
        lasts = StepTime(
            model="max-mean",
            base=0.0,
            per_token=PER_TOKEN_S,
            per_mean_token=overhead * PER_TOKEN_S,
        )
        key["overhead"] = overhead
    busy = scope.slots(slots)
    arrivals = Arrivals(mode="utilization", utilization=UTILIZATION)
    if regime == FULL:
        arrivals = Arrivals(mode="closed", concurrency=workers * busy)
    for seed in range(scope.seeds):
        params = SimulationParams(
            workers=workers, slots=busy, routing="immediate", arrivals=arrivals,
            step_time=lasts, drain="include", seed=seed,
        )  # fmt: skip
        for label, policy in methods.items():
            yield Asked(
                trace=trace, requests=scope.requests(REQUESTS), policy=policy, params=params
            ).cell(regime=regime, trace=trace, G=workers, B=slots, method=label, **key)


def throughput(regime: str, overhead: float) -> Callable[[Row], float]:
    """Return what a row's throughput is: tokens of the whole run over the time of its steps."""
    if regime == SECONDS:
        return measured_tokens_s
    # Filling and draining of a closed loop are left out: nobody publishes them.
    part = "whole" if regime == STEPS else "window"
    return tokens_s(0.0, PER_TOKEN_S, overhead * PER_TOKEN_S, part)


def envelope(row: Row) -> float:
    """Return the mean load of the fullest worker over that of the mean worker."""
    return float(row["whole_max"] / row["whole_mean"])
