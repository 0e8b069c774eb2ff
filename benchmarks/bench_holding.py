"""BR-T beside the best run in hindsight of a few requests, and the certified bound: docs/br-t.md.

Run ``python -m benchmarks.bench_holding [--instances N]``. Every instance waits as a whole from
the start. Hindsight knows all lengths and may hold anything; the ranks' schedulers are the same.
Figures are ratios of seconds, until the last request ends and of all requests until they end,
summed.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks._holding_optimum import Small, best_run
from brsolver import SimulationParams, Trace, simulate
from brsolver.hardware.step_time import StepTime
from brsolver.oracles.bounds.rank_prefill import RankPrefill
from brsolver.oracles.bounds.time import any_time_bound
from brsolver.simulator import Arrivals
from brsolver.simulator.prefill import Prefill

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks._holding_optimum import Goal
    from brsolver import Policy

BASE_S, BUDGET = 0.02, 64
GOALS: tuple[Goal, ...] = ("run", "delays")
RULES = {"`br-t`": "br-t", "`br-t`, κ = 0": "br-t:kappa=0", "`br-0`": "br-0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What instances have in common.

    Attributes
    ----------
    workers, slots, requests : int
    prefill : float
        What a full budget of prefill on all ranks costs, in steps without any; half of it is
        bound to the rank that computes it.
    """

    workers: int
    slots: int
    requests: int
    prefill: float

    def instance(self, seed: int) -> Small:
        """Return one: prompts of up to two chunks, outputs of 2 to 12 tokens."""
        rng = np.random.default_rng([seed, self.workers, self.slots, self.requests])
        each = 0.5 * BASE_S * self.prefill / BUDGET
        return Small(
            prompts=tuple(rng.integers(8, 2 * BUDGET + 1, self.requests).tolist()),
            outputs=tuple(rng.integers(2, 13, self.requests).tolist()),
            workers=self.workers,
            slots=self.slots,
            budget=BUDGET,
            step_time=StepTime(
                model="loads",
                base=BASE_S,
                per_token=1e-6,
                per_prefill_token=each,
                per_mean_prefill_token=each,
            ),
        )


FAMILIES = tuple(
    Family(workers=workers, slots=slots, requests=requests, prefill=prefill)
    for workers, slots, requests in ((2, 1, 7), (3, 1, 7), (2, 2, 6))
    for prefill in (4.0, 12.0)
)


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of an instance, by goal: hindsight's, and every rule's; and the bound on runs."""

    best: dict[Goal, float]
    own: dict[str, dict[Goal, float]]
    bound_s: float


def measured(small: Small, rules: dict[str, str] = RULES) -> Measured:
    """Search for the best runs, and simulate."""
    prefill = RankPrefill.of(trace_of(small), small.budget)
    bound = any_time_bound(
        trace_of(small),
        workers=small.workers,
        slots=small.slots,
        step_time=small.step_time,
        prefill=prefill,
    )
    return Measured(
        {goal: best_run(small, goal).seconds for goal in GOALS},
        {name: seconds_of(small, policy) for name, policy in rules.items()},
        bound.seconds,
    )


def trace_of(small: Small) -> Trace:
    """Return an instance's requests."""
    return Trace(prompt_tokens=np.array(small.prompts), output_tokens=np.array(small.outputs))


def seconds_of(small: Small, policy: str | Policy) -> dict[Goal, float]:
    """Return what a policy takes, by goal."""
    params = SimulationParams(
        workers=small.workers,
        slots=small.slots,
        step_time=small.step_time,
        arrivals=Arrivals(pool=len(small.prompts)),
        prefill=Prefill(mode="colocated", budget=small.budget),
    )
    result = simulate(trace_of(small), policy, params)
    log = result.requests
    return {
        "run": float(result.steps.duration_s.sum()),
        "delays": float((log.finish_s - log.arrival_s).sum()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table per goal; arguments None are those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=50, help="of each family")
    options = parser.parse_args(arguments)
    found = {
        family: [measured(family.instance(seed)) for seed in range(options.instances)]
        for family in FAMILIES
    }
    _show("Seconds until the last request ends", "run", found)
    _show("Seconds of all requests, summed", "delays", found)
    _show_bound(found)


def _show(title: str, goal: Goal, found: dict[Family, list[Measured]]) -> None:
    print(f"\n### {title}, over hindsight's: median / 90 % / worst\n")
    head = [f"{name}" for name in RULES]
    _line("G", "B", "requests", "prefill", *head, "`br-t` within 1 %", "within 10 %")
    print(f"|{'---|' * (6 + len(head))}")
    for family, cases in found.items():
        ratios = {
            name: np.array([case.own[name][goal] / case.best[goal] for case in cases])
            for name in RULES
        }
        own = ratios["`br-t`"]
        near = (f"{(own <= limit).mean():.0%}" for limit in (1.01, 1.1))
        _line(*_named(family), *(_spread(each) for each in ratios.values()), *near)
    cases = [case for family in found.values() for case in family]
    every = [case.own["`br-t`"][goal] / case.best[goal] for case in cases]
    print(f"\n`br-t`, all {len(every)}: {_spread(np.array(every))}")


def _show_bound(found: dict[Family, list[Measured]]) -> None:
    print("\n### Over the certified bound, until the last request ends: median / 90 % / worst\n")
    _line("G", "B", "requests", "prefill", "hindsight's", "`br-t`")
    print(f"|{'---|' * 6}")
    for family, cases in found.items():
        best = np.array([case.best["run"] / case.bound_s for case in cases])
        own = np.array([case.own["`br-t`"]["run"] / case.bound_s for case in cases])
        _line(*_named(family), _spread(best), _spread(own))


def _named(family: Family) -> list[str]:
    return [
        str(family.workers),
        str(family.slots),
        str(family.requests),
        f"{family.prefill:g} steps",
    ]


def _spread(ratios: np.ndarray) -> str:
    return " / ".join(f"{value:.3f}" for value in np.percentile(ratios, (50, 90, 100)))


def _line(*texts: str) -> None:
    print(f"| {' | '.join(texts)} |", flush=True)


if __name__ == "__main__":
    main()
