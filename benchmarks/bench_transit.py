"""What it costs pooled routing that a freed slot stays empty for a step: docs/results.md.

Run ``python -m benchmarks.bench_transit [FILE ...]``. Every trace is routed at G = 8, B = 64, with
64 requests waiting, without transit and with a step of it, as on a real server.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from benchmarks._table import show
from brsolver import SimulationParams, load_trace, simulate
from brsolver.hardware.model import step_time_of
from brsolver.simulator import Arrivals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver import Trace

PRESETS = ("preset:chat:n=5000", "preset:proprietary-like:n=5000")
LIMIT = 6000
RULES = (
    ("vllm", "immediate"),
    ("jsq-load", "immediate"),
    ("br-0", "pooled"),
    ("br-h", "pooled"),
)


def main(traces: Sequence[str] | None = None) -> None:
    """Print a table per trace; traces None are those of the command line."""
    for source in (*(sys.argv[1:] if traces is None else traces), *PRESETS):
        trace = load_trace(source).head(LIMIT)
        rows = [_row(trace, policy, routing) for policy, routing in RULES]
        show(
            f"{trace.name}, mean output {trace.output_tokens.mean():.0f} tokens",
            ("policy", "routing", *_labels(0), *_labels(1), "tok/s with transit, %"),
            rows,
        )


def _labels(transit: int) -> tuple[str, ...]:
    return tuple(f"{name}, transit {transit}" for name in ("tok/s", "slots used %", "idle %"))


def _row(trace: Trace, policy: str, routing: str) -> tuple[object, ...]:
    without, with_ = (_figures(trace, policy, routing, transit) for transit in (0, 1))
    return policy, routing, *without, *with_, 100 * (with_[0] / without[0] - 1)


def _figures(trace: Trace, policy: str, routing: str, transit: int) -> tuple[float, float, float]:
    params = SimulationParams(
        workers=8,
        slots=64,
        routing="pooled" if routing == "pooled" else "immediate",
        arrivals=Arrivals(pool=64),
        transit_steps=transit,
        step_time=step_time_of("bfio"),
    )
    metrics = simulate(trace, policy, params).metrics
    return metrics.throughput_tok_s, 100 * metrics.slot_utilization, 100 * metrics.idle_rate


if __name__ == "__main__":
    main()
