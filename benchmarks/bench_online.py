"""What identifying the step time online costs per step: ``python -m benchmarks.bench_online``."""

from __future__ import annotations

import numpy as np

from benchmarks._table import show, times_us
from brsolver.hardware.online import OnlineStepTime

RANKS = (2, 8, 64)
STEPS = 5000


def observing_us(ranks: int) -> np.ndarray:
    """Time taking in steps whose loads vary."""
    rng = np.random.default_rng(0)
    loads = rng.random((STEPS + 1, ranks, 3)) * [128.0, 256_000.0, 0.0]
    seconds = 0.0256 + (loads @ [63e-6, 41.6e-9, 65e-6]).max(axis=1)
    fit = OnlineStepTime()
    steps = iter(zip(loads, seconds.tolist(), strict=True))
    return times_us(lambda: fit.observe(*next(steps)), STEPS)


def estimating_us() -> np.ndarray:
    """Time reading the coefficients, as metrics do four times a second."""
    fit = OnlineStepTime()
    loads = np.random.default_rng(0).random((200, 8, 3)) * 1000
    for each in loads:
        fit.observe(each, 0.03 + each.max() * 1e-5)
    return times_us(fit.estimate, 500)


def main() -> None:
    """Print the table."""
    rows = [(f"observe, {ranks} ranks", observing_us(ranks)) for ranks in RANKS]
    rows.append(("estimate", estimating_us()))
    show(
        "identification online, µs",
        ("call", "P50", "P99"),
        [(name, *(float(np.percentile(us, q)) for q in (50, 99))) for name, us in rows],
    )


if __name__ == "__main__":
    main()
