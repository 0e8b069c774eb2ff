"""Run all benchmarks: ``python -m benchmarks [TRACE]``."""

from __future__ import annotations

import sys

from benchmarks import (
    bench_classifiers,
    bench_discount,
    bench_dispatch,
    bench_drift,
    bench_memory,
    bench_simulation,
    bench_time,
    bench_transit,
)


def main() -> None:
    """Run them one after the other."""
    bench_dispatch.main()
    bench_simulation.main(sys.argv[1] if len(sys.argv) > 1 else None)
    bench_memory.main()
    bench_classifiers.main()
    bench_discount.main(sys.argv[1:2])
    bench_drift.main([])
    bench_transit.main([])
    bench_time.main([*sys.argv[1:2], "--presets", "preset:chat"])


if __name__ == "__main__":
    main()
