"""What pooling buys beside `vllm-router`: fake engines with a barrier, which compute their prompts.

Eight ranks of `minimax-m2.7-h200-dp4`, the workload of ``make demo-serve``; each arm serves the
same requests, one after the other:

    python -m benchmarks.bench_gain --requests 900

`vllm-router` is looked for as by `benchmarks.bench_serve`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.serve.arms import running, vllm_router
from integration.bench.workload import WorkloadParams, workloads
from integration.serve.comparison import POOLED, VLLM, as_table, foretold, gains_line, measured
from integration.serve.demo import CLUSTER, TRACE, Engines, FrontDoor, settings
from integration.serve.traffic import Fate, TrafficParams, drive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from integration.bench.workload import Workload

ROUTERS = {"vllm-router, round robin": "round_robin", "vllm-router, power of two": "power_of_two"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all arms and print their table."""
    parser = argparse.ArgumentParser(prog="bench_gain", description=__doc__)
    parser.add_argument("--requests", type=int, default=900)
    options = parser.parse_args(arguments)
    if options.requests < CLUSTER.concurrency:
        parser.error(f"--requests is {options.requests}, must be at least {CLUSTER.concurrency}")
    params = WorkloadParams(trace=TRACE, requests=options.requests, max_tokens=8192)
    workload = workloads(params, 1)[0]
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, Engines(CLUSTER) as engines:
        ports = [int(address.rpartition(":")[2]) for address in engines.addresses]
        for name, policy in ROUTERS.items():
            with running(name, vllm_router(policy), Path(folder) / policy, ports) as router:
                rows[name] = served(name, f"http://127.0.0.1:{router.ports[0]}", workload)
        for arm in (VLLM, POOLED):
            config = Path(folder) / f"{arm.mode}.toml"
            config.write_text(settings(engines.addresses, arm, CLUSTER), encoding="utf-8")
            with FrontDoor(config) as door:
                rows[arm.name] = served(arm.name, door.url, workload)
    for arm in (VLLM, POOLED):
        rows[f"{arm.name} (simulated)"] = foretold(workload.trace, arm, CLUSTER)
    print(as_table(rows))
    for name in (*ROUTERS, VLLM.name):
        print(f"{POOLED.name}, has beside {name}: {gains_line(rows[POOLED.name], rows[name])}")


def served(name: str, url: str, workload: Workload) -> dict[str, float]:
    """Send the workload; return its figures."""
    sys.stderr.write(f"{name}: {len(workload)} requests\n")
    replies = drive(TrafficParams(url=url, concurrency=CLUSTER.concurrency), workload)
    bad = [reply for reply in replies if reply.fate is not Fate.COMPLETE]
    if bad:
        sys.exit(f"bench_gain: {len(bad)} answers of {name} were not complete: {bad[0].why}")
    return measured(replies)


if __name__ == "__main__":
    main()
