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

from brsolver.hardware import read_hardware
from integration.bench.arms import parse_arms
from integration.bench.prefilled import (
    Setting,
    fit_of,
    foretell,
    foretold_figures,
    step_time_of,
)
from integration.bench.session import SessionParams, run_session
from integration.bench.simulated import fit_step_time, predicted_imbalance
from integration.bench.skew import SkewParams, run_skew
from integration.bench.steps import joined, read_steps
from integration.bench.summary import Foretold, as_json, as_text, summarise
from integration.bench.switching import settings_of, stage_for
from integration.bench.workload import WorkloadParams, workloads

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from brsolver.hardware.step_time import StepTime
    from integration.bench.arms import Arm
    from integration.bench.server import Server
    from integration.bench.session import Run
    from integration.bench.simulated import StepFit
    from integration.bench.steps import Steps
    from integration.bench.switching import Factory
    from integration.bench.workload import Workload

ARMS = (
    *("default", "jsq-load@immediate", "br-0@pooled", "br-t@pooled"),
    *("interval 4", "interval 8"),
)
FORETOLD = ("throughput_tok_s", "tpot_p50_ms", "ttft_p50_ms", "e2e_p50_ms")
"""Figures that are simulated where prompts are computed."""
SKEW = "skew-steps"
KV_TOKEN_BYTES = 32 * 2**10
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
    parser.add_argument("--waiting", type=int, default=24)
    parser.add_argument("--budget", type=int, default=4096, help="tokens of a step of a rank")
    parser.add_argument(
        "--skip-prefill", action="store_true", help="fill the KV cache, and compute no prompts"
    )
    parser.add_argument("--hardware", help="a file that brsolver vllm calibrate wrote")
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

    settings = settings_of(options.hardware)
    make = _factory(options, folder)
    with stage_for(arms, make, rounds[0], restart=options.restart, settings=settings) as stage:
        runs = run_session(arms, rounds, stage, params)
    # Filling and draining too, and the skewed runs where prompts are skipped as there: within the
    # windows loads hardly differ.
    logs = sorted(folder.glob("*-steps"))
    if not options.skip_prefill:
        logs = [path for path in logs if path.name != SKEW]
    steps = joined([read_steps(path) for path in logs])
    summaries = summarise(runs, params.confidence)
    if options.skip_prefill:
        fit = fit_step_time(steps)
        foretold = [_foretold(arm, runs, rounds, fit, options) for arm in arms]
        print(as_text(summaries, fit, foretold))
        return as_json(runs, summaries, fit, foretold)
    step_time = _step_time(options, steps)
    foretold = [each for arm in arms for each in _timed(arm, runs, rounds, step_time, options)]
    print(as_text(summaries, None, foretold))
    return as_json(runs, summaries, None, foretold) | {"coefficients": asdict(step_time)}


def _factory(options: argparse.Namespace, folder: Path) -> Factory:
    def make(environment: Mapping[str, str], label: str, arguments: tuple[str, ...]) -> Server:
        return rig_server(
            ranks=options.ranks,
            slots=options.slots,
            kv_mib=options.kv_mib,
            skip_prefill=options.skip_prefill,
            arguments=(*LEAN, "--max-num-batched-tokens", str(options.budget), *arguments),
            environment=environment,
            steps=folder / f"{label}-steps",
            log=folder / f"{label}.log",
        )

    return make


def _step_time(options: argparse.Namespace, steps: Steps) -> StepTime:
    """Return what a step costs by the file that is named, else by the session's own steps."""
    if options.hardware:
        return read_hardware(options.hardware).step_time
    return step_time_of(fit_of(steps))


def _timed(
    arm: Arm,
    runs: Sequence[Run],
    rounds: Sequence[Workload],
    step_time: StepTime,
    options: argparse.Namespace,
) -> Iterator[Foretold]:
    """Yield what the simulator says of an arm's figures, beside what was measured."""
    setting = Setting(
        ranks=options.ranks,
        slots=options.slots,
        budget=options.budget,
        capacity=options.kv_mib * 2**20 // KV_TOKEN_BYTES,
        concurrency=options.ranks * options.slots + options.waiting,
    )
    simulated = [
        foretold_figures(foretell(load.trace, arm, step_time, setting), load.trace)
        for load in rounds
    ]
    mine = [run.figures for run in runs if run.arm == arm.name]
    for figure in FORETOLD:
        yield Foretold(
            arm=arm.name,
            simulated=float(np.mean([each[figure] for each in simulated])),
            measured=float(np.mean([each[figure] for each in mine])),
            figure=figure,
        )


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
        steps=folder / SKEW,
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
