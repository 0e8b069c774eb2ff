"""What the barrier costs: the same work placed evenly, and placed as unevenly as can be.

Half of the requests are long, half short. Evenly, every rank has as many of both; unevenly, the
long ones share the first ranks and the short ones the others. Each rank runs the same number of
requests and all of them the same number of tokens, so that without a barrier, and with a step
time proportional to a rank's own load, both placements would generate as many tokens per second
on average. Requests are pinned to ranks through vLLM's own header, no router takes part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import ParameterError
from brsolver.traces.trace import Trace
from integration.bench.client import drive_server, warm_up
from integration.bench.figures import throughput
from integration.bench.statistics import Interval, interval, relative_difference
from integration.bench.workload import Workload, random_prompts

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.bench.client import Outcome
    from integration.bench.server import Server


@dataclass(frozen=True, slots=True, kw_only=True)
class SkewParams:
    """The experiment's size.

    Attributes
    ----------
    long_tokens, short_tokens : int
        Prompt lengths.
    output_tokens : int
        Tokens that each request generates.
    rounds : int
        Pairs of runs, even first and uneven first in turn.
    seed : int
        Seed of the prompts.
    """

    long_tokens: int = 1600
    short_tokens: int = 32
    output_tokens: int = 96
    rounds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("long_tokens", "short_tokens", "output_tokens", "rounds"):
            if getattr(self, name) < 1:
                raise ParameterError(f"{name} is {getattr(self, name)}, must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class SkewResult:
    """Tokens per second under both placements.

    Attributes
    ----------
    balanced_tok_s, skewed_tok_s : tuple of float
        One value per round.
    balanced, skewed : Interval
        Their means.
    lost : Interval
        ``skewed/balanced - 1``, paired by round: the throughput that the barrier takes.
    """

    balanced_tok_s: tuple[float, ...]
    skewed_tok_s: tuple[float, ...]
    balanced: Interval
    skewed: Interval
    lost: Interval


def run_skew(
    server: Server, params: SkewParams, report: Callable[[str], None] = lambda _: None
) -> SkewResult:
    """Run both placements in turn on one server.

    Parameters
    ----------
    server : Server
        Running, with at least two ranks and an even number of slots.
    params : SkewParams
    report : callable
        Takes lines about progress.
    """
    ranks, slots = server.params.ranks, server.params.slots
    if ranks < 2 or slots % 2:
        raise ParameterError(f"{ranks} ranks of {slots} slots: needs 2 ranks and an even number")
    rates: dict[str, list[float]] = {"balanced": [], "skewed": []}
    warm_up(server, _workload(params, ranks * slots, 0))
    for round_ in range(params.rounds):
        names = ["balanced", "skewed"] if round_ % 2 == 0 else ["skewed", "balanced"]
        for name in names:
            workload = _workload(params, ranks * slots, len(rates["skewed"] + rates["balanced"]))
            rates[name].append(_rate(server, workload, placements(ranks, slots)[name]))
            report(f"round {round_ + 1}, {name}: {rates[name][-1]:.1f} tok/s")
    return SkewResult(
        balanced_tok_s=tuple(rates["balanced"]),
        skewed_tok_s=tuple(rates["skewed"]),
        balanced=interval(rates["balanced"]),
        skewed=interval(rates["skewed"]),
        lost=relative_difference(rates["skewed"], rates["balanced"]),
    )


def placements(ranks: int, slots: int) -> dict[str, list[int]]:
    """Ranks of ``ranks·slots`` requests of which every other one is long, starting with one."""
    requests = ranks * slots
    pairs = np.arange(requests) // 2
    by_length = np.argsort(np.arange(requests) % 2, kind="stable")
    skewed = np.empty(requests, np.int64)
    skewed[by_length] = np.arange(requests) // slots
    return {"balanced": (pairs % ranks).tolist(), "skewed": skewed.tolist()}


def _workload(params: SkewParams, requests: int, round_: int) -> Workload:
    rng = np.random.default_rng((params.seed, round_))
    lengths = np.where(np.arange(requests) % 2 == 0, params.long_tokens, params.short_tokens)
    output = np.full(requests, params.output_tokens)
    return Workload(
        prompts=random_prompts(rng, lengths),
        output_tokens=output,
        trace=Trace(prompt_tokens=lengths, output_tokens=output, name="skew"),
    )


def _rate(server: Server, workload: Workload, ranks: list[int]) -> float:
    outcomes = drive_server(server, workload, concurrency=len(workload), ranks=ranks)
    return throughput(outcomes, _together(outcomes))


def _together(outcomes: list[Outcome]) -> tuple[float, float]:
    """While all requests run: prompts are done, and none has ended."""
    return max(o.first_s for o in outcomes), min(o.last_s for o in outcomes)
