"""What prefix caches and routing by them are worth: docs/prefix.md.

Run ``python -m benchmarks.bench_prefix FILE [--out FILE.json]`` with a trace that has hash_ids.
Every policy routes it at G = 8, B = 64 on the default hardware, prompts computed on the decode
ranks, once as requests arrive and once from a pool; each rank has so many KV tokens for running
requests and its cache together. Figures are means over `--starts` runs, each one request later;
times are also given over the same start's ``jsq-load``. ``--speed`` measures steps instead.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver import SimulationParams, load_trace, make_policy, simulate
from brsolver.simulator import Prefill
from brsolver.simulator.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from brsolver import Trace
    from brsolver.results.metrics import Metrics

WORKERS, SLOTS = 8, 64
CACHES = (500_000, 1_000_000, 2_000_000)
BASE = "jsq-load"
POLICIES = (
    BASE,
    "round-robin",
    "br-0",
    "br-h",
    "prefix-affinity",
    "prefix-within",
    "trtllm-kv-aware",
    "llm-d-prefix",
    "sglang-cache-aware",
)
REPEATS = 5


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table per routing and cache."""
    options = _options(arguments)
    trace = load_trace(options.trace, limit=options.limit)
    if options.speed:
        _print_speed(trace)
        return
    cells = list(_cells(trace, options))
    if options.out:
        Path(options.out).write_text(json.dumps(cells), encoding="utf-8")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace")
    parser.add_argument("--caches", type=int, nargs="+", default=CACHES, help="KV tokens of a rank")
    parser.add_argument("--policies", nargs="+", default=POLICIES)
    parser.add_argument("--routing", nargs="+", default=("immediate", "pooled"))
    parser.add_argument("--block", type=int, default=512, help="tokens of a block")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--limit", type=int, help="requests")
    parser.add_argument("--out", help="JSON file")
    parser.add_argument("--speed", action="store_true")
    return parser.parse_args(arguments)


def _params(cache: int, routing: str, block: int, *, keep: bool = True) -> SimulationParams:
    prefill = Prefill(mode="colocated", cache=cache if keep else 0, block=block)
    return SimulationParams(
        workers=WORKERS, slots=SLOTS, capacity=cache, routing=routing, prefill=prefill
    )


def _cells(trace: Trace, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for routing in options.routing:
        for cache in options.caches:
            print(f"\n{routing}, {cache:,} KV tokens a rank\n")
            print("| policy | total time | over jsq-load | cached | lost | TTFT P50 | TPOT P50 |")
            print("|---|---|---|---|---|---|---|")
            base = _runs(trace, BASE, _params(cache, routing, options.block), options.starts)
            bare = _params(cache, routing, options.block, keep=False)
            yield _row(f"{BASE}, no cache", _runs(trace, BASE, bare, options.starts), base)
            for policy in options.policies:
                params = _params(cache, routing, options.block)
                runs = base if policy == BASE else _runs(trace, policy, params, options.starts)
                yield _row(policy, runs, base) | {"routing": routing, "cache": cache}


def _runs(trace: Trace, policy: str, params: SimulationParams, starts: int) -> list[Metrics]:
    return [simulate(trace.after(start), policy, params).metrics for start in range(starts)]


def _row(label: str, runs: list[Metrics], base: list[Metrics]) -> dict[str, Any]:
    """Print what the runs of a policy came to, and return it."""
    seconds = np.array([run.makespan_s for run in runs])
    ratios = seconds / np.array([run.makespan_s for run in base])
    error = ratios.std(ddof=1) / np.sqrt(ratios.size) if ratios.size > 1 else 0.0
    names = ("cached_share", "time_lost_share", "ttft_p50_s", "tpot_p50_s", "unfinished")
    means = {name: float(np.mean([getattr(run, name) for run in runs])) for name in names}
    print(
        f"| `{label}` | {seconds.mean():,.0f} s | ×{ratios.mean():.3f} ± {error:.3f} "
        f"| {means['cached_share']:.1%} | {means['time_lost_share']:.1%} "
        f"| {means['ttft_p50_s']:.1f} s | {means['tpot_p50_s'] * 1e3:.0f} ms |",
        flush=True,
    )
    if means["unfinished"]:
        print(f"({means['unfinished']:g} requests of it did not finish)")
    return {
        "policy": label,
        "seconds": float(seconds.mean()),
        "ratio": float(ratios.mean()),
        **means,
    }


def _print_speed(trace: Trace) -> None:
    """Print the time of a step at G = 16, B = 72 with and without caches."""
    for policy in (BASE, "prefix-within"):
        for cache in (0, *CACHES):
            print(f"{policy}, cache {cache:,}: {_step_us(trace, policy, cache):.2f} µs a step")


def _step_us(trace: Trace, policy: str, cache: int) -> float:
    params = SimulationParams(workers=16, slots=72, prefill=Prefill(mode="colocated", cache=cache))
    best = np.inf
    for _ in range(REPEATS + 1):
        engine = Engine(trace, make_policy(policy), params)
        began = time.process_time()
        engine.run()
        best = min(best, (time.process_time() - began) / engine.step)
    return float(best * 1e6)


if __name__ == "__main__":
    main()
