"""What routers make of conversations whose turns wait for answers: docs/prefix.md.

Run ``python -m benchmarks.bench_turns FILE`` with a trace that has hash_ids and times. A request
whose prompt begins with all full blocks of an earlier one becomes that one's next turn, with a
delay of what lay between them but for `TOKEN_S` per output token of the earlier one. First turns
come at the rate given. The cluster is that of `benchmarks.bench_prefix`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from brsolver import SimulationParams, load_trace, simulate
from brsolver.simulator import Arrivals, Prefill

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver import Trace

WORKERS, SLOTS, CAPACITY, BLOCK = 8, 64, 1_000_000, 512
TOKEN_S = 0.05
ARMS = (
    ("jsq-load", "immediate"),
    ("prefix-affinity", "immediate"),
    ("prefix-within", "immediate"),
    ("trtllm-kv-aware", "immediate"),
    ("llm-d-prefix", "immediate"),
    ("sglang-cache-aware", "immediate"),
    ("jsq-load", "pooled"),
    ("br-t", "pooled"),
)


def with_turns(trace: Trace, block: int) -> Trace:
    """Return the trace with requests as turns of conversations, as their prompts tell."""
    chains, offsets = trace.columns["hash_values"], trace.columns["hash_offsets"]
    session, delay = np.arange(len(trace)), np.full(len(trace), np.nan)
    open_turns: dict[int, int] = {}
    for row in range(len(trace)):
        chain = chains[offsets[row] : offsets[row + 1]].tolist()
        full = chain[: int(trace.prompt_tokens[row]) // block]
        # A hash names a block after all those before it: the last one names a whole prompt.
        before = next((open_turns.pop(b) for b in reversed(chain) if b in open_turns), None)
        if before is not None:
            session[row] = session[before]
            gap = trace.arrival_s[row] - trace.arrival_s[before]
            delay[row] = max(0.0, gap - TOKEN_S * trace.output_tokens[before])
        # What all prompts begin with is no conversation.
        if len(full) > 1:
            open_turns[full[-1]] = row
    arrival = np.where(np.isnan(delay), trace.arrival_s, np.nan)
    columns = {**trace.columns, "session": session, "delay_s": delay}
    return replace(trace, arrival_s=arrival, columns=columns)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row per policy, with turns that wait and with the same requests by the clock."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace")
    parser.add_argument("--rates", type=float, nargs="+", default=(1.4,), help="requests per s")
    parser.add_argument("--limit", type=int, help="requests")
    options = parser.parse_args(arguments)
    clocked = load_trace(options.trace, limit=options.limit)
    turned = with_turns(clocked, BLOCK)
    count = int(turned.follows.sum())
    sessions = np.unique(turned.columns["session"][turned.follows]).size
    print(f"{count:,} of {len(turned):,} requests are later turns, of {sessions:,} conversations")
    for rate in options.rates:
        for label, trace in (("turns wait", turned), ("by the clock", clocked)):
            _print_table(f"{rate:g} requests per s, {label}", trace, rate)


def _print_table(title: str, trace: Trace, rate: float) -> None:
    print(f"\n{title}\n")
    print("| policy | cached | TTFT P50 | P99 | TPOT P50 | E2E P50 | P99 | last end |")
    print("|---|---|---|---|---|---|---|---|")
    for policy, routing in ARMS:
        params = SimulationParams(
            workers=WORKERS,
            slots=SLOTS,
            capacity=CAPACITY,
            routing=routing,
            arrivals=Arrivals(mode="rate", rate=rate),
            prefill=Prefill(mode="colocated", cache=CAPACITY, block=BLOCK),
        )
        result = simulate(trace, policy, params)
        log, m = result.requests, result.metrics
        ttft, whole = log.ttft_s(), log.finish_s - log.arrival_s
        print(
            f"| `{policy}`, {routing} | {m.cached_share:.1%} "
            f"| {np.nanquantile(ttft, 0.5):.2f} s | {np.nanquantile(ttft, 0.99):.1f} s "
            f"| {m.tpot_p50_s * 1e3:.0f} ms | {np.nanquantile(whole, 0.5):.1f} s "
            f"| {np.nanquantile(whole, 0.99):.0f} s | {np.nanmax(log.finish_s):,.0f} s |",
            flush=True,
        )


if __name__ == "__main__":
    main()
