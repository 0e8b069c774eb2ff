"""What `benchmarks.bench_waves` measures of a cell: a row per rule, as plain values."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks._waves_cells import (
    BR0,
    BRT,
    DELAYED,
    FIXED,
    JSQ,
    RULES,
    VLLM,
    Cell,
    repeated,
    run,
    steady,
)
from brsolver.results.logs import RequestStatus
from brsolver.results.objectives import meets

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from benchmarks._waves_cells import Rule
    from brsolver import Trace
    from brsolver.results.result import SimulationResult

Row = dict[str, Any]
FIGURES = ("ttft_p50_s", "ttft_p99_s", "tpot_p50_s", "tpot_p99_s", "e2e_p50_s", "e2e_p99_s")
SLOS = ((1000.0, 50.0), (2000.0, 100.0), (5000.0, 200.0))
"""Promised time to the first token and per token, in milliseconds."""
AT_ONCE = tuple(replace(rule, routing="immediate") for rule in FIXED)
"""Intervals whose requests wait at the ranks, as vLLM's own front end has it."""
TUNED = (
    *(VLLM, JSQ, BR0, *FIXED, *AT_ONCE, *DELAYED),
    *(replace(rule, routing="pooled") for rule in DELAYED),
)
"""What the best of is chosen in hindsight, cell by cell; none takes notice of promises."""


def throughput(trace: Trace, cell: Cell, generations: int) -> list[Row]:
    """Measure all rules with the pool filled."""
    return [_steady_row(trace, cell, rule, generations) for rule in RULES]


def by_arrivals(
    trace: Trace, cell: Cell, generations: int, shares: Sequence[float]
) -> Iterator[Row]:
    """Measure times of all rules at shares of what vLLM's rule does with the pool filled."""
    capacity = requests_s(trace, cell, generations)
    for share in shares:
        at = replace(cell, rate=share * capacity)
        for rule in (VLLM, BR0, *AT_ONCE, BRT):
            requests = repeated(trace, generations * cell.workers * cell.slots)
            figures = times_of(requests, _simulated(requests, at, rule))
            yield _row("arrivals", trace, at, rule, share=share, **figures)


def goodput(trace: Trace, cell: Cell, generations: int, shares: Sequence[float]) -> Iterator[Row]:
    """Measure which part of the requests meets what is promised, of rules tuned and of BR-T."""
    capacity = requests_s(trace, cell, generations)
    requests = repeated(trace, generations * cell.workers * cell.slots)
    for share in shares:
        at = replace(cell, rate=share * capacity)
        for rule in TUNED:
            result = _simulated(requests, at, rule)
            for promised in SLOS:
                met = met_share(requests, result, *promised)
                yield _good(trace, at, rule, promised, share=share, met=met)
        for promised in SLOS:
            told = replace(at, ttft_ms=promised[0], tpot_ms=promised[1])
            met = met_share(requests, _simulated(requests, told, BRT), *promised)
            yield _good(trace, at, BRT, promised, share=share, met=met)


def met_share(requests: Trace, result: SimulationResult, ttft_ms: float, tpot_ms: float) -> float:
    """Return which share of those that finished met both promises, told or not."""
    promising = replace(result.params, slo_ttft_ms=ttft_ms, slo_tpot_ms=tpot_ms)
    done = result.requests.status == RequestStatus.FINISHED
    return float(meets(promising, result.requests, requests.output_tokens)[done].mean())


def _good(
    trace: Trace, at: Cell, rule: Rule, promised: tuple[float, float], **figures: float
) -> Row:
    cell = replace(at, ttft_ms=promised[0], tpot_ms=promised[1])
    return _row("goodput", trace, cell, rule, **figures) | {"family": rule.family}


def requests_s(trace: Trace, cell: Cell, generations: int) -> float:
    """Return the requests per second of vLLM's rule with the pool filled."""
    row = _steady_row(trace, cell, VLLM, generations)
    return float(row["tokens_s"]) / float(trace.output_tokens.mean())


def tuned(rows: Iterable[Row], figure: str) -> Row:
    """Return the row of an interval with most of a figure."""
    return max((row for row in rows if row["interval"] > 1), key=lambda row: float(row[figure]))


def _steady_row(trace: Trace, cell: Cell, rule: Rule, generations: int) -> Row:
    requests = repeated(trace, generations * cell.workers * cell.slots)
    figures = steady(_simulated(requests, cell, rule), cell)
    return _row("throughput", trace, cell, rule, **asdict(figures))


def _simulated(trace: Trace, cell: Cell, rule: Rule) -> SimulationResult:
    print(f"{trace.name} {cell} {rule.routing} {rule.label}", file=sys.stderr)
    return run(trace, cell, rule)


def times_of(trace: Trace, result: SimulationResult) -> dict[str, float]:
    """Return percentiles of the times of all requests, in seconds, by `FIGURES`."""
    log = result.requests
    tpot = log.tpot_s(trace.output_tokens)
    columns = (log.ttft_s(), tpot[~np.isnan(tpot)], log.finish_s - log.arrival_s)
    found = (float(np.percentile(column, at)) for column in columns for at in (50, 99))
    return dict(zip(FIGURES, found, strict=True))


def _row(part: str, trace: Trace, cell: Cell, rule: Rule, **figures: float) -> Row:
    return {
        "part": part,
        "trace": trace.name,
        **asdict(cell),
        **asdict(rule),
        "rule": rule.label,
        **figures,
    }
