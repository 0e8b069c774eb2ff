"""Time and memory of the hindsight oracles.

Run as ``python -m benchmarks.bench_hindsight [BURSTGPT.json]``; without a path the length pairs
come from a preset.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

from brsolver import load_trace
from brsolver.oracles.hindsight import HindsightResult, hindsight
from brsolver.traces.trace import Trace


def read_pairs(path: str) -> Trace:
    """Read ``data[].input_length`` and ``data[].output_length``."""
    rows = json.loads(Path(path).read_text())["data"]
    return Trace(
        prompt_tokens=np.array([row["input_length"] for row in rows], np.int64),
        output_tokens=np.array([row["output_length"] for row in rows], np.int64),
        name=Path(path).name,
    )


def small_trace(seed: int) -> Trace:
    """Return 12 requests for free admission."""
    rng = np.random.default_rng(seed)
    return Trace(prompt_tokens=rng.integers(5, 50, 12), output_tokens=rng.integers(2, 9, 12))


def show(label: str, target: str, found: HindsightResult, seconds: float) -> None:
    """Print one row."""
    gap = found.gap
    print(
        f"{label:44} {seconds:8.2f} s  target {target:8} {found.status.value:9} "
        f"best {found.best_known}  bound {found.lower_bound}  "
        f"gap {'-' if gap is None else f'{gap:.2%}'}  "
        f"tables {found.memory_bytes / 2**20:.0f} MiB  "
        f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB",
        flush=True,
    )


def measure(label: str, target: str, trace: Trace, **kwargs: object) -> None:
    """Run one case and print its row."""
    began = perf_counter()
    found = hindsight(trace, **kwargs)  # type: ignore[arg-type] # forwarded as written below
    show(label, target, found, perf_counter() - began)


def main() -> None:
    """Print one row per case."""
    trace = (
        read_pairs(sys.argv[1])
        if len(sys.argv) > 1
        else load_trace("preset:uniform:n=8000,s_high=500,o_high=100")
    )
    print(f"{trace.name}, {len(trace)} requests")
    hindsight(trace.head(40), workers=2, slots=2)
    hindsight(trace.head(40), workers=4, slots=2, method="anytime", budget_s=1.0)
    measure("DP G=2 B=8", "<= 3 s", trace, workers=2, slots=8, method="dp")
    measure("DP G=4 B=4 N=96", "<= 15 s", trace.head(96), workers=4, slots=4, method="dp")
    for n in (40, 96):
        measure(f"CP-SAT G=4 B=4 N={n}", "", trace.head(n), workers=4, slots=4, method="cp-sat")
    measure(
        "anytime G=8 B=16 N=400", "<= 11 s", trace.head(400), workers=8, slots=16, budget_s=10.0
    )
    for seed in range(3):
        measure(
            f"free N=12 T=20 G=2 B=2, seed {seed}", "proven", small_trace(seed), workers=2,
            slots=2, admission="free", horizon=20,
        )  # fmt: skip
        measure(
            f"free, slots may stay empty, N=12 T=20, seed {seed}", "proven", small_trace(seed),
            workers=2, slots=2, admission="free", horizon=20, work_conserving=False,
        )  # fmt: skip
    measure("anytime G=16 B=72, whole trace", "", trace, workers=16, slots=72, budget_s=60.0)


if __name__ == "__main__":
    main()
