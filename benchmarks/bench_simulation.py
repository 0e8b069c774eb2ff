"""Simulated request-steps per second, and twelve policies over a full trace."""

from __future__ import annotations

import sys
from statistics import median
from time import perf_counter

import numpy as np

from benchmarks._table import show
from brsolver import SimulationParams, Trace, load_trace, make_policy, simulate
from brsolver.cluster.view import NO_LIMIT
from brsolver.hardware.model import step_time_of
from brsolver.simulator import Prefill, StepTime
from brsolver.simulator.reference import ReferenceSimulator, Request, Worker

TWELVE = (
    "random", "round-robin", "p2c", "jsq", "jsq-load", "vllm", "sglang-total-tokens", "lpt",
    "bf-io", "fast-phi", "br-0", "br-h",
)  # fmt: skip

PREFILLS = {
    "none": Prefill(),
    "v1": Prefill(mode="colocated"),
    "v1, interval 16": Prefill(mode="colocated", interval=16),
    "sglang": Prefill(mode="colocated", scheduler="sglang"),
}
MEASURED = StepTime(
    model="loads",
    base=0.0256,
    per_sequence=63e-6,
    per_token=41.6e-9,
    per_prefill_token=65e-6,
)
"""As measured of MiniMax-M2.7 on H200, DP 4."""


def long_outputs(count: int) -> Trace:
    """Return requests with outputs near 1,200 tokens."""
    rng = np.random.default_rng(1)
    prompt = np.maximum(rng.normal(3200, 2600, count), 1).astype(np.int64)
    output = np.maximum(rng.normal(1200, 300, count), 1).astype(np.int64)
    return Trace(prompt_tokens=prompt, output_tokens=output)


def main(path: str | None = None) -> None:
    """Print speeds; `path` names a trace to compare twelve policies on."""
    trace = long_outputs(20_000)
    params = SimulationParams(workers=16, slots=72, step_time=step_time_of("bfio"))
    work = int(trace.output_tokens.sum())
    plain = _plain_speed(trace.head(40))
    rows = []
    for policy, predictor in (
        ("jsq-load", None), ("br-0", None), ("br-h", "oracle"), ("br-h:r_max=4", "oracle"),
        ("br-h", "survival"),
    ):  # fmt: skip
        simulate(trace.head(2000), policy, params, predictor=predictor)
        runs = [simulate(trace, policy, params, predictor=predictor).metrics for _ in range(5)]
        speed = work / median(m.wall_s for m in runs)
        rows.append((policy, predictor or "-", speed / 1e6, speed / plain, runs[0].dispatch_us_p50))
    show(
        "Simulation, G = 16, B = 72, outputs near 1,200 tokens, 20,000 requests, median of 5",
        ("policy", "predictor", "M request-steps/s", "x plain reference", "dispatch P50 us"),
        rows,
    )
    _colocated(trace)
    _twelve(path or "preset:chat:n=19366")


def _colocated(trace: Trace) -> None:
    work = int(trace.output_tokens.sum())
    rows = []
    for name, prefill in PREFILLS.items():
        params = SimulationParams(workers=16, slots=72, step_time=MEASURED, prefill=prefill)
        simulate(trace.head(2000), "jsq-load", params)
        runs = [simulate(trace, "jsq-load", params).metrics for _ in range(5)]
        rows.append((name, work / median(m.wall_s for m in runs) / 1e6, runs[0].steps))
    show(
        "The same with JSQ-Load, prefill on the decode ranks",
        ("prefill", "M request-steps/s", "steps"),
        rows,
    )


def _plain_speed(trace: Trace) -> float:
    requests = [
        Request(i, int(s), int(o), None)
        for i, (s, o) in enumerate(zip(trace.prompt_tokens, trace.output_tokens, strict=True))
    ]
    workers = [Worker(72, NO_LIMIT) for _ in range(16)]
    simulator = ReferenceSimulator(
        requests, workers, make_policy("jsq-load"), pool=64, immediate=False
    )
    began = perf_counter()
    simulator.run()
    return float(trace.output_tokens.sum()) / (perf_counter() - began)


def _twelve(source: str) -> None:
    trace = load_trace(source)
    params = SimulationParams(workers=8, slots=64, step_time=step_time_of("bfio"))
    for policy in TWELVE:
        simulate(trace.head(500), policy, params)
    began = perf_counter()
    for policy in TWELVE:
        simulate(trace, policy, params)
    total = perf_counter() - began
    show(
        f"Twelve policies over {trace.name}, G = 8, B = 64, one process",
        ("requests", "seconds"),
        [(len(trace), total)],
    )


if __name__ == "__main__":
    main(*sys.argv[1:2])
