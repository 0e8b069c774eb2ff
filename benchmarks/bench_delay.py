"""Prefill held back by each engine's own rule, and engines' own routers: docs/time.md.

Run ``python -m benchmarks.bench_delay FILE [...]``: as `bench_time` runs colocated cells, slots
full, against vLLM's rule, which holds nothing back. Figures are means over `--starts` runs, each
one request later, gains over the same start's first row, ± their standard error.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.bench_time import SLOTS, WORKERS
from brsolver import SimulationParams, load_trace, simulate
from brsolver.hardware.model import step_time_of
from brsolver.simulator.prefill import Prefill

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver import Trace

LATER = {"fill_target": 0.9, "ttft_ticks": 200, "partial_ticks": 100, "stall": 10}
"""ATOM's defaults of today; those of `Prefill` are of its pull request."""
FIGURES = ("throughput_tok_s", "tpot_mean_s", "tpot_p95_s", "ttft_p50_s", "ttft_p99_s")
SHARES = ("time_lost_share", "slot_utilization")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A policy, and the ranks' scheduler with its rule."""

    policy: str = "vllm"
    prefill: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What the table calls it."""
        given = (f"{name}={value}" for name, value in self.prefill.items())
        return ", ".join((f"`{self.policy}`", *given))


RULES: tuple[dict[str, Any], ...] = (
    {"delayer": "sglang"},
    {"delayer": "sglang", "attempts": 0},
    {"delayer": "atom"},
    {"delayer": "atom", **LATER},
    {"delayer": "trtllm"},
    {"delayer": "trtllm", "timeout_iters": 10, "batching_wait_iters": 50},
)
APART = {"scheduler": "sglang"}
ROWS = (
    Row(),
    Row(prefill={"interval": 16}),
    Row(prefill={"interval": 32}),
    *(Row(prefill=rule) for rule in RULES),
    Row(prefill=APART),
    *(Row(prefill=APART | rule) for rule in RULES[:4]),
    Row(policy="tpu-nearest-finish"),
    Row(policy="trtllm-kv-admission"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table per trace; arguments None are those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="+")
    parser.add_argument("--hardware", default="minimax-m2.7-h200-dp4")
    parser.add_argument("--budget", type=int, default=8192, help="tokens of a rank and step")
    parser.add_argument("--starts", type=int, default=1, help="runs, each one request later")
    parser.add_argument("--limit", type=int, help="requests of a trace")
    options = parser.parse_args(arguments)
    for source in options.traces:
        _table(load_trace(source).head(options.limit), options)


def _table(trace: Trace, options: argparse.Namespace) -> None:
    print(f"\n**{trace.name} ({len(trace):,}), {options.hardware}**\n")
    head = ("rule", "tok/s", "vs first %", "TPOT mean, P95 ms", "TTFT P50, P99 s", "lost %")
    head = (*head, "slots in use %", "steps with prefill %")
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    base = np.empty(0)
    for row in ROWS:
        print(f"{trace.name} {row.label}", file=sys.stderr)
        runs = np.array([_run(trace.after(at), row, options) for at in range(options.starts)])
        base = runs[:, 0] if row == ROWS[0] else base
        print(f"| {' | '.join(_cells(row, runs, runs[:, 0] / base - 1))} |", flush=True)


def _run(trace: Trace, row: Row, options: argparse.Namespace) -> list[float]:
    params = SimulationParams(
        workers=WORKERS,
        slots=SLOTS,
        step_time=step_time_of(options.hardware),
        prefill=Prefill(mode="colocated", budget=options.budget, **row.prefill),
    )
    result = simulate(trace, row.policy, params)
    prefills = float((result.steps.prefill_tokens > 0).mean())
    return [*(getattr(result.metrics, name) for name in (*FIGURES, *SHARES)), prefills]


def _cells(row: Row, runs: np.ndarray, gains: np.ndarray) -> list[str]:
    rate, tpot, tpot_95, ttft, ttft_99, *shares = map(float, runs.mean(axis=0))
    error = f" ± {100 * gains.std(ddof=1) / len(gains) ** 0.5:.1f}" if len(gains) > 1 else ""
    return [
        row.label,
        f"{rate:,.0f}",
        "" if row == ROWS[0] else f"{100 * gains.mean():+.1f}{error}",
        f"{1e3 * tpot:.0f}, {1e3 * tpot_95:.0f}",
        f"{ttft:.2f}, {ttft_99:.1f}",
        *(f"{100 * share:.1f}" for share in shares),
    ]


if __name__ == "__main__":
    main()
