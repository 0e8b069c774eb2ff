"""The same traffic under two policies, and what the simulator says that should come out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from brsolver.errors import BrsolverError
from brsolver.hardware.model import step_time_of
from brsolver.simulator import Arrivals, Prefill, SimulationParams, simulate
from integration.bench.client import Outcome
from integration.bench.counters import Counters
from integration.bench.figures import figures_of
from integration.bench.prefilled import foretold_figures
from integration.load.params import LoadParams, Pace, TargetParams
from integration.load.running import run_load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from brsolver.traces.trace import Trace
    from integration.load.driving import Drive
    from integration.load.replies import Reply

SHOWN: Mapping[str, str] = {
    "throughput_tok_s": "tok/s",
    "ttft_p50_ms": "TTFT P50, ms",
    "tpot_p95_ms": "TPOT P95, ms",
    "e2e_p95_ms": "E2E P95, ms",
}
"""Figures of a table, and their headings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Engines, and how many requests are in flight.

    Attributes
    ----------
    ranks, slots, budget, concurrency : int
        As of the simulator: workers, slots of each, prefill tokens of a step, clients.
    hardware : str
        What a step costs.
    """

    ranks: int = 8
    slots: int = 16
    budget: int = 2048
    concurrency: int = 160
    hardware: str = "minimax-m2.7-h200-dp4"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A policy, and whether it sees the pool or one request at a time."""

    name: str
    policy: str
    mode: str


VLLM = Arm(name="vllm's rule", policy="vllm", mode="immediate")
POOLED = Arm(name="br-t, pooled", policy="br-t", mode="pooled")


def loaded(
    url: str, trace: Trace, concurrency: int, *, progress: Callable[[Drive], None] | None = None
) -> dict[str, float]:
    """Load a front door in a closed loop, as ``brsolver load`` does; return its figures.

    Parameters
    ----------
    url : str
    trace : Trace
    concurrency : int
        Requests in flight.
    progress : callable, optional
        Called with what there is about twice a second.

    Raises
    ------
    BrsolverError
        An answer was not complete.
    KeyboardInterrupt
        It was interrupted.
    """
    params = LoadParams(target=TargetParams(url=url), pace=Pace(concurrency=concurrency), warm_up=0)
    found = run_load(replace(trace, arrival_s=None), params, progress=progress)
    if found.interrupted:
        raise KeyboardInterrupt
    bad = [reply for reply in found.replies if not reply.complete]
    if bad:
        raise BrsolverError(
            f"{len(bad)} of {len(found.replies)} answers were not complete; the first was "
            f"{bad[0].kind}: {bad[0].why}"
        )
    return measured(found.replies)


def measured(replies: Sequence[Reply]) -> dict[str, float]:
    """Return the figures of answers, all of which are complete."""
    outcomes = [
        Outcome(sent_s=r.sent_s, first_s=r.first_s, last_s=r.last_s, tokens=r.tokens)
        for r in replies
    ]
    # From the first end to the last sending the loop is closed: all clients are busy.
    window = min(o.last_s for o in outcomes), max(o.sent_s for o in outcomes)
    return figures_of(outcomes, window, Counters(), Counters(), None)


def foretold(trace: Trace, arm: Arm, cluster: Cluster) -> dict[str, float]:
    """Return the same figures of a simulated run of the same requests."""
    params = SimulationParams(
        workers=cluster.ranks,
        slots=cluster.slots,
        routing="pooled" if arm.mode == "pooled" else "immediate",
        arrivals=Arrivals(mode="closed", concurrency=cluster.concurrency),
        prefill=Prefill(mode="colocated", budget=cluster.budget),
        step_time=step_time_of(cluster.hardware),
        transit_steps=1,
    )
    plain = replace(trace, arrival_s=None)
    return foretold_figures(simulate(plain, arm.policy, params), plain)


def as_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return figures as lines of text, a row each."""
    width = max(len(name) for name in rows)
    lines = [f"{'':{width}}" + "".join(f"  {heading:>14}" for heading in SHOWN.values())]
    for name, figures in rows.items():
        cells = "".join(f"  {figures[figure]:>14,.0f}" for figure in SHOWN)
        lines.append(f"{name:{width}}{cells}")
    return "\n".join(lines)


def gains_line(better: Mapping[str, float], worse: Mapping[str, float]) -> str:
    """Return how much more or less there is of each figure, in one line."""
    return ", ".join(_change(name, better[name] / worse[name] - 1) for name in SHOWN)


def _change(name: str, ratio: float) -> str:
    return f"{abs(ratio):.0%} {'less' if ratio < 0 else 'more'} {SHOWN[name].removesuffix(', ms')}"
