"""The router in a real vLLM on CPU: policies interleaved, cost of the barrier, simulator's word.

Runs with the rig's interpreter: ``make bench-vllm``, or with options
``PYTHONPATH=tests/integration:. .vllm-rig/bin/python -m benchmarks.bench_vllm --help``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rig.servers import rig_server

from integration.bench.arms import parse_arms
from integration.bench.session import SessionParams, run_session
from integration.bench.simulated import fit_step_time, predicted_imbalance
from integration.bench.skew import SkewParams, run_skew
from integration.bench.steps import joined, read_steps
from integration.bench.summary import Foretold, as_json, as_text, summarise
from integration.bench.switching import stage_for
from integration.bench.workload import WorkloadParams, workloads

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from integration.bench.arms import Arm
    from integration.bench.server import Server
    from integration.bench.session import Run
    from integration.bench.simulated import StepFit
    from integration.bench.workload import Workload

ARMS = ("default", "jsq-load@immediate", "br-0@pooled", "br-h@pooled")
LEAN = ("--stream-interval", "16", "--no-enable-prefix-caching", "--disable-uvicorn-access-log")
"""Fewer chunks and no reuse: the machine's cores belong to the ranks."""


def main() -> None:
    """Run the session, the skew experiment, or both, and print what they show."""
    options = _options()
    folder = Path(options.out or tempfile.mkdtemp(prefix="brsolver-bench-vllm-"))
    results: dict[str, object] = {}
    if not options.no_skew:
        results["skew"] = _skew(options, folder)
    if not options.no_session:
        results |= _session(options, folder)
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    print(f"wrote {folder / 'results.json'}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", default=";".join(ARMS), help="arms, separated by ;")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--kv-mib", type=int, default=1024, help="KV cache of a rank")
    parser.add_argument("--waiting", type=int, default=8)
    parser.add_argument("--trace", default=WorkloadParams().trace)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--restart", action="store_true", help="a fresh server for every run")
    parser.add_argument("--no-session", action="store_true")
    parser.add_argument("--no-skew", action="store_true")
    parser.add_argument("--out", help="folder for logs, step logs and results.json")
    return parser.parse_args()


def _session(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    arms = parse_arms(options.arms.split(";"))
    load = WorkloadParams(trace=options.trace, requests=options.requests, scale=options.scale)
    params = SessionParams(rounds=options.rounds, waiting=options.waiting)
    rounds = workloads(load, options.rounds)

    def factory(environment: Mapping[str, str], label: str) -> Server:
        return rig_server(
            ranks=options.ranks,
            slots=options.slots,
            kv_mib=options.kv_mib,
            skip_prefill=True,
            arguments=LEAN,
            environment=environment,
            steps=folder / f"{label}-steps",
            log=folder / f"{label}.log",
        )

    with stage_for(arms, factory, rounds[0], restart=options.restart) as stage:
        runs = run_session(arms, rounds, stage, params)
    # Filling, draining and the skewed runs too: within the windows loads hardly differ.
    fit = fit_step_time(joined([read_steps(path) for path in sorted(folder.glob("*-steps"))]))
    foretold = [_foretold(arm, runs, rounds, fit, options) for arm in arms]
    summaries = summarise(runs, params.confidence)
    print(as_text(summaries, fit, foretold))
    return as_json(runs, summaries, fit, foretold)


def _foretold(
    arm: Arm,
    runs: Sequence[Run],
    rounds: Sequence[Workload],
    fit: StepFit,
    options: argparse.Namespace,
) -> Foretold:
    simulated = [
        predicted_imbalance(
            arm, load, fit, ranks=options.ranks, slots=options.slots, waiting=options.waiting
        )
        for load in rounds
    ]
    measured = [run.figures["kv_imbalance"] for run in runs if run.arm == arm.name]
    return Foretold(
        arm=arm.name, simulated=float(np.mean(simulated)), measured=float(np.mean(measured))
    )


def _skew(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    params = SkewParams(rounds=options.rounds)
    server = rig_server(
        slots=options.slots,
        skip_prefill=True,
        arguments=LEAN,
        steps=folder / "skew-steps",
        log=folder / "skew.log",
    )
    with server:
        result = run_skew(server, params, report=lambda line: print(line, file=sys.stderr))
    lost = result.lost
    reach = "" if math.isnan(lost.low) else f" [{lost.low:+.1%}, {lost.high:+.1%}]"
    print(
        f"same work, long requests spread evenly: {result.balanced.mean:.1f} tok/s; all on one "
        f"rank: {result.skewed.mean:.1f} tok/s, {lost.mean:+.1%}{reach}, {lost.verdict()}"
    )
    return asdict(result)


if __name__ == "__main__":
    main()
