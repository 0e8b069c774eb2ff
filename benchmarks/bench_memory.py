"""Peak memory of one million requests, and how fast the command answers."""

from __future__ import annotations

import subprocess
import sys
from statistics import median
from time import perf_counter

from benchmarks._table import show

MILLION = """
import resource
import numpy as np
from brsolver import SimulationParams, Trace, simulate
rng = np.random.default_rng(0)
trace = Trace(
    prompt_tokens=rng.integers(50, 3000, 1_000_000), output_tokens=rng.integers(1, 400, 1_000_000)
)
result = simulate(trace, {policy!r}, SimulationParams(workers=16, slots=72))
assert result.metrics.finished == 1_000_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, result.metrics.wall_s)
"""


def main() -> None:
    """Print peak memory and start-up time."""
    rows = []
    for policy in ("jsq-load", "br-h"):
        run = subprocess.run(
            [sys.executable, "-c", MILLION.format(policy=policy)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        peak, seconds = map(float, run.stdout.split())
        rows.append((policy, peak, seconds))
    show("One million requests, G = 16, B = 72", ("policy", "peak MiB", "seconds"), rows)
    command = [sys.executable, "-m", "brsolver", "--help"]
    bare = [sys.executable, "-c", "pass"]
    show(
        "brsolver --help, median of 9",
        ("seconds", "x bare interpreter"),
        [(help_s := _median_s(command), help_s / _median_s(bare))],
    )


def _median_s(command: list[str]) -> float:
    seconds = []
    for _ in range(9):
        began = perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        seconds.append(perf_counter() - began)
    return median(seconds)


if __name__ == "__main__":
    main()
