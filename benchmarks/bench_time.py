"""What the barrier costs in time, by hardware and where prompts are prefilled: docs/time.md.

Run ``python -m benchmarks.bench_time [FILE ...] [--out FILE.json]``. Every trace is routed at
G = 8, B = 64 on every hardware, with prefill on the decode ranks (``colocated``, by vLLM's
scheduler, `--budget` tokens a step) and elsewhere (``disaggregated``: none). Figures are means over
`--starts` runs, each one request later; gains are over the same start's ``vllm``, ± their standard
error. Requests come from a pool of 4·G, which keeps the slots full, or with ``--utilization`` at
times.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver import SimulationParams, load_trace, simulate
from brsolver.hardware.model import step_time_of
from brsolver.simulator import Arrivals
from brsolver.simulator.prefill import Prefill

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from brsolver import Trace
    from brsolver.hardware.step_time import StepTime

WORKERS, SLOTS = 8, 64
# Without recurring-prompts and bursty, whose lengths are those of proprietary-like and chat.
PRESETS = tuple(
    f"preset:{name}"
    for name in ("uniform", "bfio-normal", "proprietary-like", "azure2024-long-like", "chat")
)
HARDWARE = ("minimax-m2.7-h200-dp4", "glm-5.2-b200-dp8", "bfio")
PLACES = ("colocated", "disaggregated")
FIGURES = (
    "throughput_tok_s",
    "tpot_mean_s",
    "tpot_p95_s",
    "ttft_p50_s",
    "ttft_p99_s",
    "step_mean_s",
    "time_lost_share",
    "time_lost_prefill_share",
    "time_lost_sequences_share",
    "time_lost_kv_share",
    "time_lost_padding_share",
    "slot_utilization",
    "makespan_s",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A row of a table: a policy, the ranks' prefill interval, and what a request weighs."""

    policy: str
    interval: int = 1
    effective: bool = False

    @property
    def label(self) -> str:
        """What tables call it."""
        interval = f", interval {self.interval}" if self.interval > 1 else ""
        return f"`{self.policy}`{interval}{', κ' if self.effective else ''}"


BASE = Rule(policy="vllm")
BALANCING = ("jsq-load", "br-0", "br-h", "bf-io")
ALIGNED = (
    *(Rule(policy="vllm", interval=steps) for steps in (4, 8, 16, 32)),
    *(Rule(policy=policy, interval=16) for policy in ("br-0", "br-h")),
    Rule(policy="br-t"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Where a trace is routed, and when its requests arrive."""

    hardware: str
    place: str
    budget: int
    shared: float | None = None
    utilization: float | None = None
    capacity: int | None = None

    def rules(self) -> list[Rule]:
        """Return the rows of this cell: effective loads only where a sequence has a weight."""
        found = [BASE, *(ALIGNED if self.place == "colocated" else ())]
        weighs = self.step_time().request_tokens > 0
        for policy in BALANCING:
            found.append(Rule(policy=policy))
            found += [Rule(policy=policy, effective=True)] if weighs else []
        return found

    def step_time(self) -> StepTime:
        """Return the hardware's step time, with prefill shared as asked for."""
        found = step_time_of(self.hardware)
        return found if self.shared is None else shared_by(found, self.shared)

    def params(self, rule: Rule) -> SimulationParams:
        """Return the parameters of a run."""
        arrivals = (
            Arrivals()
            if self.utilization is None
            else Arrivals(mode="utilization", utilization=self.utilization)
        )
        return SimulationParams(
            workers=WORKERS,
            slots=SLOTS,
            capacity=self.capacity,
            step_time=self.step_time(),
            arrivals=arrivals,
            request_tokens="auto" if rule.effective else 0,
            prefill=Prefill(mode="colocated", budget=self.budget, interval=rule.interval)
            if self.place == "colocated"
            else Prefill(),
        )


def shared_by(step_time: StepTime, share: float) -> StepTime:
    """Let all ranks bear that share of a prefill token; context stays bound to its rank."""
    whole = step_time.per_prefill_token + step_time.per_mean_prefill_token
    return replace(
        step_time, per_prefill_token=(1 - share) * whole, per_mean_prefill_token=share * whole
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table per trace and cell; arguments None are those of the command line."""
    options = _options(arguments)
    rows: list[dict[str, Any]] = []
    for source in (*options.traces, *_listed(options.presets)):
        trace = load_trace(source).head(options.limit)
        for cell in _cells(options):
            found = list(_rows(trace, cell, options.starts))
            _show(trace, cell, found)
            rows += found
    if options.out:
        Path(options.out).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="*")
    parser.add_argument("--presets", default=",".join(PRESETS), help="or none")
    parser.add_argument("--hardware", default=",".join(HARDWARE))
    parser.add_argument("--places", default=",".join(PLACES))
    parser.add_argument("--shared", default="none", help="shares of prefill that all ranks bear")
    parser.add_argument("--utilization", type=float, help="of slots; without it a pool of 4·G")
    parser.add_argument("--budget", type=int, default=8192, help="tokens of a rank and step")
    parser.add_argument("--capacity", type=int, help="KV tokens of a worker; unlimited without")
    parser.add_argument("--starts", type=int, default=1, help="runs, each one request later")
    parser.add_argument("--limit", type=int, help="requests of a trace")
    parser.add_argument("--out", help="JSON file with a list of all rows")
    return parser.parse_args(arguments)


def _listed(text: str) -> list[str]:
    return [] if text == "none" else text.split(",")


def _cells(options: argparse.Namespace) -> Iterator[Cell]:
    for hardware in _listed(options.hardware):
        for place in _listed(options.places):
            for shared in _listed(options.shared) or [None]:
                yield Cell(
                    hardware=hardware,
                    place=place,
                    budget=options.budget,
                    shared=None if shared is None else float(shared),
                    utilization=options.utilization,
                    capacity=options.capacity,
                )


def _rows(trace: Trace, cell: Cell, starts: int) -> Iterator[dict[str, Any]]:
    """Yield one row per rule, the base's first, against which all others are held."""
    base = np.empty((starts, len(FIGURES)))
    for rule in cell.rules():
        runs = np.array([_figures(trace.after(start), cell, rule) for start in range(starts)])
        if rule == BASE:
            base = runs
        yield _row(trace, cell, rule, runs, runs[:, 0] / base[:, 0] - 1)


def _figures(trace: Trace, cell: Cell, rule: Rule) -> list[float]:
    print(f"{trace.name} {cell} {rule.label}", file=sys.stderr)
    metrics = simulate(trace, rule.policy, cell.params(rule)).metrics
    return [getattr(metrics, name) for name in FIGURES]


def _row(
    trace: Trace, cell: Cell, rule: Rule, runs: np.ndarray, gains: np.ndarray
) -> dict[str, Any]:
    starts = len(runs)
    return {
        "trace": trace.name,
        "requests": len(trace),
        **asdict(cell),
        "rule": rule.label,
        "policy": rule.policy,
        "interval": rule.interval,
        "request_tokens": cell.params(rule).request_weight,
        "starts": starts,
        "gain": float(gains.mean()),
        "gain_error": float(gains.std(ddof=1) / starts**0.5) if starts > 1 else None,
        **dict(zip(FIGURES, map(float, runs.mean(axis=0)), strict=True)),
    }


_HEADINGS = (
    *("rule", "tok/s", "tok/s vs `vllm`", "TPOT ms", "P95", "TTFT P50 s"),
    *("lost %", "prefill", "sequences", "KV", "padding", "slots in use %"),
)


def _show(trace: Trace, cell: Cell, rows: Sequence[dict[str, Any]]) -> None:
    shared = "" if cell.shared is None else f", {cell.shared:.0%} of prefill shared"
    when = "" if cell.utilization is None else f", utilization {cell.utilization:g}"
    title = f"{trace.name} ({len(trace):,}), {cell.hardware}, {cell.place}{shared}{when}"
    print(f"\n**{title}**\n")
    print(f"| {' | '.join(_HEADINGS)} |\n|{'---|' * len(_HEADINGS)}")
    for row in rows:
        print(f"| {' | '.join(_cells_of(row))} |", flush=True)


def _cells_of(row: dict[str, Any]) -> list[str]:
    error = row["gain_error"]
    gain = f"{row['gain']:+.1%}" + ("" if error is None else f" ± {100 * error:.1f}")
    parts = ("", "_prefill", "_sequences", "_kv", "_padding")
    return [
        row["rule"],
        f"{row['throughput_tok_s']:,.0f}",
        "" if row["rule"] == BASE.label else gain.replace("%", " %"),
        f"{1e3 * row['tpot_mean_s']:.0f}",
        f"{1e3 * row['tpot_p95_s']:.0f}",
        f"{row['ttft_p50_s']:.2f}",
        *(f"{100 * row[f'time_lost{part}_share']:.1f}" for part in parts),
        f"{100 * row['slot_utilization']:.1f}",
    ]


if __name__ == "__main__":
    main()
