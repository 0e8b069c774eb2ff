"""What pooling buys beside `vllm-router`: fake engines with a barrier, which compute their prompts.

Eight ranks of `minimax-m2.7-h200-dp4`, the workload of ``make demo-serve``; each arm serves the
same requests, one after the other:

    python -m benchmarks.bench_gain --requests 900

`vllm-router` is looked for as by `benchmarks.bench_serve`. What was promised and does not hold ends
it with status 1: pooled `br-t` is better than each of the others by tokens/s, TPOT P95 and E2E P95,
and what it gains over each is what the simulator says, within a fifth of that gain.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.serve.arms import running, vllm_router
from brsolver.errors import BrsolverError
from integration.bench.workload import WorkloadParams, workloads
from integration.serve.comparison import (
    POOLED,
    VLLM,
    Arm,
    as_table,
    foretold,
    gains_line,
    loaded,
)
from integration.serve.demo import CLUSTER, TRACE, Engines, FrontDoor, settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from integration.bench.workload import Workload

ROUTERS = {
    "vllm-router, round robin": ("round_robin", "round-robin"),
    "vllm-router, power of two": ("power_of_two", "p2c"),
}
"""What `vllm-router` calls its policies, and what the simulator does."""
PROMISED = ("throughput_tok_s", "tpot_p95_ms", "e2e_p95_ms")
WITHIN = 0.2
"""Of a gain: by how much the simulator's may differ."""


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
        for name, (policy, _) in ROUTERS.items():
            with running(name, vllm_router(policy), Path(folder) / policy, ports) as router:
                rows[name] = served(name, f"http://127.0.0.1:{router.ports[0]}", workload)
        for arm in (VLLM, POOLED):
            config = Path(folder) / f"{arm.mode}.toml"
            config.write_text(settings(engines.addresses, arm, CLUSTER), encoding="utf-8")
            with FrontDoor(config) as door:
                rows[arm.name] = served(arm.name, door.url, workload)
    others = [Arm(name=name, policy=ours, mode="immediate") for name, (_, ours) in ROUTERS.items()]
    said = {arm.name: foretold(workload.trace, arm, CLUSTER) for arm in (*others, VLLM, POOLED)}
    print(as_table(rows | {f"{name} (simulated)": row for name, row in said.items()}))
    for name in (*ROUTERS, VLLM.name):
        print(f"{POOLED.name}, has beside {name}: {gains_line(rows[POOLED.name], rows[name])}")
    if broken := list(broken_promises(rows, said)):
        sys.exit("\n".join(["bench_gain: does not hold:", *broken]))


def gain(better: Mapping[str, float], worse: Mapping[str, float], figure: str) -> float:
    """Return by how much a figure is better; of times, how many more there would be in one."""
    ratio = better[figure] / worse[figure]
    return (ratio if figure == "throughput_tok_s" else 1 / ratio) - 1


def broken_promises(
    rows: Mapping[str, Mapping[str, float]], said: Mapping[str, Mapping[str, float]]
) -> Iterator[str]:
    """Yield a line for each gain that is none, or not as the simulator says."""
    for name in rows:
        for figure in PROMISED if name != POOLED.name else ():
            real = gain(rows[POOLED.name], rows[name], figure)
            expected = gain(said[POOLED.name], said[name], figure)
            if real <= 0 or abs(real - expected) > WITHIN * abs(expected):
                yield f"{figure} over {name}: gained {real:.1%}, simulated {expected:.1%}"


def served(name: str, url: str, workload: Workload) -> dict[str, float]:
    """Send the workload; return its figures."""
    sys.stderr.write(f"{name}: {len(workload)} requests\n")
    try:
        return loaded(url, workload.trace, CLUSTER.concurrency)
    except BrsolverError as error:
        sys.exit(f"bench_gain: {name}: {error}")


if __name__ == "__main__":
    main()
