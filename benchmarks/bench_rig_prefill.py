"""The simulator against a real vLLM that computes prompts on its decode ranks.

Loads are put on one server of the rig (docs/vllm-rig.md), several rounds of each. The steps of one
load are fitted, the requests of every other are simulated with what came of it, and both are
printed side by side; so it goes with every load as the fitted one, and with what ``brsolver vllm
calibrate`` wrote, if given. Runs with the rig's interpreter:
``PYTHONPATH=tests/integration:. .vllm-rig/bin/python -m benchmarks.bench_rig_prefill --help``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rig.servers import rig_server

from brsolver.hardware import read_hardware
from integration.bench.arms import parse_arm
from integration.bench.client import Outcome, drive_server, warm_up
from integration.bench.prefilled import (
    Setting,
    as_table,
    compare,
    fit_of,
    foretell,
    longer_in_sum,
    measured_figures,
    missed,
    outside_of_steps,
    simulated_figures,
    step_time_of,
)
from integration.bench.steps import joined, read_steps
from integration.bench.workload import WorkloadParams, workloads

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from brsolver.hardware import Fit
    from brsolver.hardware.step_time import StepTime
    from integration.bench.arms import Arm
    from integration.bench.prefilled import Compared
    from integration.bench.server import Server
    from integration.bench.steps import Steps
    from integration.bench.workload import Workload

LEAN = ("--stream-interval", "16", "--no-enable-prefix-caching", "--disable-uvicorn-access-log")
"""Fewer chunks and no reuse: the machine's cores belong to the ranks."""
KV_TOKEN_BYTES = 32 * 2**10
RUNS = "runs.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What clients ask for: requests in flight, and uniform lengths between two bounds each."""

    concurrency: int
    prompt: tuple[int, int]
    output: tuple[int, int]
    requests: int

    def workload(self, share: float) -> Workload:
        """Return the requests, or a share of them, for a dry run."""
        (s_low, s_high), (o_low, o_high) = self.prompt, self.output
        trace = (
            f"preset:uniform:n={self.requests},"
            f"s_low={s_low},s_high={s_high},o_low={o_low},o_high={o_high}"
        )
        count = max(round(self.requests * share), 1)
        return workloads(WorkloadParams(trace=trace, requests=count), 1)[0]


LOADS = {
    "short": Load(concurrency=24, prompt=(32, 768), output=(16, 96), requests=140),
    "full": Load(concurrency=40, prompt=(32, 1536), output=(16, 160), requests=120),
    "light": Load(concurrency=8, prompt=(512, 2048), output=(32, 96), requests=60),
}
"""Some slots free; more requests than slots; few requests of long prompts."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Run:
    """One round of a load as it was measured."""

    load: str
    outcomes: list[Outcome]
    steps: Steps


def main() -> None:
    """Measure unless told to read what was measured, and print every comparison."""
    options = _options()
    folder = Path(options.out or tempfile.mkdtemp(prefix="brsolver-rig-prefill-"))
    folder.mkdir(parents=True, exist_ok=True)
    if not options.read:
        _measure(options, folder)
    runs, settings = _read(*(options.read or [folder]))
    results = list(_compared(runs, settings, options))
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    print(f"wrote {folder / 'results.json'}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arm", default="off", help="who routes, e.g. off or br-0@pooled")
    parser.add_argument("--loads", default=",".join(LOADS), help="of them, separated by commas")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--share", type=float, default=1.0, help="of the requests, for a dry run")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--budget", type=int, default=512, help="tokens of a step of a rank")
    parser.add_argument("--kv-mib", type=int, default=1024, help="KV cache of a rank")
    parser.add_argument("--hardware", help="a file that brsolver vllm calibrate wrote")
    parser.add_argument("--transit", type=int, default=1, help="simulated steps of transit")
    parser.add_argument(
        "--in-sum",
        action="store_true",
        help="let steps last longer than the typical one, as the fitted load's do together",
    )
    parser.add_argument("--out", help="folder for logs and results")
    parser.add_argument(
        "--read", type=Path, nargs="+", help="folders of earlier runs, to compare again"
    )
    return parser.parse_args()


def _measure(options: argparse.Namespace, folder: Path) -> None:
    loads = {name: LOADS[name].workload(options.share) for name in options.loads.split(",")}
    steps = folder / "steps"
    server = rig_server(
        slots=options.slots,
        kv_mib=options.kv_mib,
        arguments=(*LEAN, "--max-num-batched-tokens", str(options.budget)),
        environment=parse_arm(options.arm).environment,
        steps=steps,
        log=folder / "server.log",
    )
    told: dict[str, Any] = {"setting": _setting(options), "share": options.share, "runs": []}
    with server:
        warm_up(server, next(iter(loads.values())))
        for round_, (name, load) in product(range(options.rounds), loads.items()):
            fresh = load.with_new_prompts(len(told["runs"]))
            told["runs"].append(_run(server, name, round_, fresh))
            (folder / RUNS).write_text(json.dumps(told), encoding="utf-8")


def _setting(options: argparse.Namespace) -> dict[str, object]:
    return {
        "ranks": 2,
        "slots": options.slots,
        "budget": options.budget,
        "capacity": options.kv_mib * 2**20 // KV_TOKEN_BYTES,
    }


def _run(server: Server, name: str, round_: int, load: Workload) -> dict[str, object]:
    outcomes = drive_server(server, load, concurrency=LOADS[name].concurrency)
    took = max(o.last_s for o in outcomes) - min(o.sent_s for o in outcomes)
    print(f"round {round_ + 1}, {name}: {len(load)} requests in {took:.1f} s", file=sys.stderr)
    return {"load": name, "outcomes": [asdict(each) for each in outcomes]}


def _read(*folders: Path) -> tuple[list[Run], dict[str, Any]]:
    """Return the runs of all folders, and how the server of the last one was started."""
    runs: list[Run] = []
    told: dict[str, Any] = {}
    for folder in folders:
        told = json.loads((folder / RUNS).read_text(encoding="utf-8"))
        steps = read_steps(folder / "steps")
        for run in told.pop("runs"):
            outcomes = [Outcome(**each) for each in run["outcomes"]]
            sent, last = min(o.sent_s for o in outcomes), max(o.last_s for o in outcomes)
            runs.append(Run(load=run["load"], outcomes=outcomes, steps=steps.between(sent, last)))
    return runs, told


def _compared(
    runs: Sequence[Run], told: Mapping[str, Any], options: argparse.Namespace
) -> Iterator[dict[str, object]]:
    """Yield one comparison for every fit and every load that it has not seen."""
    arm = parse_arm(options.arm)
    names = list(dict.fromkeys(run.load for run in runs))
    for fitted, step_time, outside in _step_times(runs, names, told, arm, options):
        for name in names:
            if name != fitted:
                simulated = _simulated(name, arm, step_time, told, options.transit, outside)
                yield _report(fitted, name, compare(_figures(runs, name), simulated))


def _step_times(
    runs: Sequence[Run],
    names: Sequence[str],
    told: Mapping[str, Any],
    arm: Arm,
    options: argparse.Namespace,
) -> Iterator[tuple[str, StepTime, float]]:
    """Yield what steps cost by each load's own log, and by calibration; and TTFT's constant."""
    for name in names:
        mine = [run for run in runs if run.load == name]
        fit = fit_of(joined([run.steps for run in mine]))
        _print_fit(name, fit)
        step_time = step_time_of(fit, factor=longer_in_sum(fit) if options.in_sum else 1.0)
        result = foretell(
            LOADS[name].workload(told["share"]).trace,
            arm,
            step_time,
            _full(told, name),
            transit_steps=options.transit,
        )
        outside = outside_of_steps([o for run in mine for o in run.outcomes], result)
        print(f"before the first token, outside of steps: {1e3 * outside:.0f} ms")
        yield name, step_time, outside
    if options.hardware:
        yield "calibrate", read_hardware(options.hardware).step_time, 0.0


def _simulated(
    name: str, arm: Arm, step_time: StepTime, told: Mapping[str, Any], transit: int, outside: float
) -> dict[str, float]:
    trace = LOADS[name].workload(told["share"]).trace
    result = foretell(trace, arm, step_time, _full(told, name), transit_steps=transit)
    return simulated_figures(result, trace, before_first_s=outside)


def _full(told: Mapping[str, Any], name: str) -> Setting:
    return Setting(**told["setting"], concurrency=LOADS[name].concurrency)


def _figures(runs: Sequence[Run], name: str) -> list[dict[str, float]]:
    return [measured_figures(run.outcomes, run.steps) for run in runs if run.load == name]


def _print_fit(name: str, fit: Fit) -> None:
    errors = np.abs(np.concatenate([fit.decode_errors, fit.prefill_errors]))
    print(
        f"\n# fitted on {name}: {1e3 * fit.base:.1f} ms + {1e3 * fit.per_sequence:.2f} ms per "
        f"sequence + {1e6 * fit.per_kv_token:.2f} ms per 1,000 KV tokens + "
        f"{1e3 * (fit.per_prefill_token or 0):.3f} ms per prefill token ({fit.shared:.0%} all "
        f"ranks') + {1e6 * (fit.per_prefill_context or 0):.2f} µs per prefill token and context; "
        f"{len(fit.decode)} and {len(fit.prefill)} steps, median error {np.median(errors):.1%}, "
        f"P95 {np.percentile(errors, 95):.1%}, all together {longer_in_sum(fit) - 1:+.1%} longer"
    )


def _report(fitted: str, name: str, compared: Sequence[Compared]) -> dict[str, object]:
    print(f"\n## {name}, by steps of {fitted}\n\n{as_table(compared)}\n")
    print(f"missed: {', '.join(each.name for each in missed(compared)) or 'none'}")
    return {"fitted": fitted, "load": name, "figures": [asdict(each) for each in compared]}


if __name__ == "__main__":
    main()
