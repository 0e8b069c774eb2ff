"""Cells of `benchmarks.bench_waves`: where a trace runs, and by which rule prompts go."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver import SimulationParams, simulate
from brsolver.hardware.model import step_time_of
from brsolver.simulator import Arrivals
from brsolver.simulator.prefill import Prefill

if TYPE_CHECKING:
    from brsolver import Trace
    from brsolver.hardware.step_time import StepTime
    from brsolver.results.result import SimulationResult

HARDWARE = {"H200": "minimax-m2.7-h200-dp4", "B200": "glm-5.2-b200-dp8"}
INTERVALS = (4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Whose turn it is: a policy, how it routes, and when the ranks prefill.

    Attributes
    ----------
    policy, routing : str
    interval : int
        Of `Prefill`.
    engine : dict
        Further fields of `Prefill`: an engine's delayer with its constants, or its scheduler.
    """

    policy: str
    routing: str = "immediate"
    interval: int = 1
    engine: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What tables call it."""
        if self.engine:
            return ", ".join(f"{name}={value}" for name, value in self.engine.items())
        return f"interval {self.interval}" if self.interval > 1 else self.policy

    @property
    def family(self) -> str:
        """What it is, its constants aside."""
        if self.engine.get("scheduler"):
            return "sglang's scheduler"
        if self.engine:
            return str(self.engine["delayer"])
        return "interval" if self.interval > 1 else self.policy


VLLM = Rule(policy="vllm")
JSQ = Rule(policy="jsq-load")
BR0 = Rule(policy="br-0", routing="pooled")
BRT = Rule(policy="br-t", routing="pooled")
FIXED = tuple(Rule(policy="vllm", routing="pooled", interval=steps) for steps in INTERVALS)
RULES = (VLLM, JSQ, BR0, *FIXED, BRT)


def _atom(target: float, ticks: tuple[int, int, int]) -> dict[str, Any]:
    names = ("ttft_ticks", "partial_ticks", "stall")
    return {"delayer": "atom", "fill_target": target, **dict(zip(names, ticks, strict=True))}


_ATOMS_TICKS = ((10, 4, 2), (30, 8, 3), (200, 100, 10))
"""The last two are ATOM's own, of its pull request and of today."""
_SGLANGS = tuple(
    {"delayer": "sglang", "max_delay_passes": passes, "attempts": attempts}
    for passes, attempts in itertools.product((10, 30, 60, 120), (0, 16))
)
_ENGINES: tuple[dict[str, Any], ...] = (
    *_SGLANGS,
    *itertools.starmap(_atom, itertools.product((0.3, 0.5, 0.7, 0.9), _ATOMS_TICKS)),
    *(
        {"delayer": "trtllm", "timeout_iters": timeout, "batching_wait_iters": wait}
        for timeout, wait in itertools.product((10, 50, 200), (0, 10, 30, 60))
    ),
    {"scheduler": "sglang"},
    *({"scheduler": "sglang", **rule} for rule in _SGLANGS),
)
DELAYED = tuple(Rule(policy="vllm", engine=engine) for engine in _ENGINES)
"""The engines' delayers, each over a grid of its constants around what its engine has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cluster, and when its requests come.

    Attributes
    ----------
    hardware : str
        Of `HARDWARE`.
    workers, slots, budget : int
        G, B, tokens that a rank computes in a step.
    bound : float
        Share φ of what prefill costs, context included, that is bound to its rank.
    pool : int or None
        Requests kept waiting; None for as many as there are slots.
    rate : float or None
        Requests per second instead.
    ttft_ms, tpot_ms : float or None
        What is promised.
    context : {"shared", "bound"}
        Whether φ holds for the attention over what comes before a prompt's token as well, or all
        of that is bound to its rank, as in the preset.
    """

    hardware: str = "H200"
    workers: int = 8
    slots: int = 64
    budget: int = 8192
    bound: float = 0.5
    pool: int | None = None
    rate: float | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    context: str = "shared"

    @property
    def waiting(self) -> int:
        """Requests kept waiting."""
        return self.workers * self.slots if self.pool is None else self.pool

    def params(self, rule: Rule) -> SimulationParams:
        """Return the parameters of a run."""
        return SimulationParams(
            workers=self.workers,
            slots=self.slots,
            step_time=bound_by(step_time_of(HARDWARE[self.hardware]), self.bound, self.context),
            routing="pooled" if rule.routing == "pooled" else "immediate",
            arrivals=Arrivals(pool=self.waiting)
            if self.rate is None
            else Arrivals(mode="rate", rate=self.rate),
            prefill=Prefill(
                mode="colocated", budget=self.budget, interval=rule.interval, **rule.engine
            ),
            slo_ttft_ms=self.ttft_ms,
            slo_tpot_ms=self.tpot_ms,
        )


def bound_by(step_time: StepTime, share: float, context: str = "shared") -> StepTime:
    """Bind that share of what prefill costs to its rank; all ranks bear the rest."""
    tokens = step_time.per_prefill_token + step_time.per_mean_prefill_token
    attention = step_time.per_prefill_context + step_time.per_mean_prefill_context
    its_own = share if context == "shared" else 1.0
    return replace(
        step_time,
        per_prefill_token=share * tokens,
        per_mean_prefill_token=(1 - share) * tokens,
        per_prefill_context=its_own * attention,
        per_mean_prefill_context=(1 - its_own) * attention,
    )


def repeated(trace: Trace, requests: int) -> Trace:
    """Return the first so many requests, from the beginning again where the trace is too short.

    The trace's times go on after a mean gap.
    """
    count = len(trace)
    if requests <= count:
        return trace.head(requests)
    rows = np.arange(requests) % count
    lengths = replace(trace, arrival_s=None).take(rows)
    if trace.arrival_s is None:
        return lengths
    lasts = float(trace.arrival_s[-1]) * (1 + 1 / max(count - 1, 1))
    return replace(
        lengths, arrival_s=trace.arrival_s[rows] + lasts * (np.arange(requests) // count)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """Figures of a run between filling and draining.

    From the step by which as many requests have ended as there are slots, to that in which the
    trace's last one comes. The least time for what these steps did, ``(O, S, W)`` tokens, is
    proved as in docs/bounds.md ("total work"): all ranks at the mean load in every step, and no
    more steps than ``O/(G·B)``. What a run takes beyond are steps that were not full, and what
    its loads lost at the barrier, to the last second.

    Attributes
    ----------
    tokens_s : float
        Output tokens per second.
    step_ms : float
    in_use : float
        Share of slots that decode.
    waves : float
        Share of steps with prefill on any rank.
    gap : float
        Seconds beyond that least time, over it.
    gap_steps, gap_prefill, gap_kv : float
        Parts of it: steps that were not full, prefill at the barrier, KV tokens and sequences.
    """

    tokens_s: float
    step_ms: float
    in_use: float
    waves: float
    gap: float
    gap_steps: float
    gap_prefill: float
    gap_kv: float


def steady(result: SimulationResult, cell: Cell) -> Steady:
    """Measure a run of at least two generations of requests."""
    slots = cell.workers * cell.slots
    window = steady_window(result, slots)
    steps, count = result.steps, window.stop - window.start
    seconds = float(steps.duration_s[window].sum())
    decoded = float(steps.active[window].sum())
    prefill = float(steps.lost_prefill_s[window].sum())
    others = float(steps.lost_s()[window].sum()) - prefill
    more = result.params.step_time.base * (count - decoded / slots)
    least = seconds - prefill - others - more
    return Steady(
        tokens_s=decoded / seconds,
        step_ms=1e3 * seconds / count,
        in_use=decoded / (slots * count),
        waves=float((steps.prefill_tokens[window] > 0).mean()),
        gap=seconds / least - 1,
        gap_steps=more / least,
        gap_prefill=prefill / least,
        gap_kv=others / least,
    )


def steady_window(result: SimulationResult, slots: int) -> slice:
    """Return the steps from a first generation's end to the last arrival."""
    ended = np.sort(result.requests.finish_step)
    first = int(ended[min(slots, ended.size - 1)])
    end = int(np.searchsorted(result.steps.start_s, result.requests.arrival_s.max()))
    return slice(first, end) if first < end else slice(0, len(result.steps))


def run(trace: Trace, cell: Cell, rule: Rule) -> SimulationResult:
    """Simulate one."""
    return simulate(trace, rule.policy, cell.params(rule))
