"""Rollout batches under Ray Serve's, verl's and this project's rules: docs/ray-serve.md, verl.md.

``python -m benchmarks.bench_fronts`` prints what the simulator says, in virtual time, for servers
behind one barrier and for servers without. ``--serve`` runs Ray Serve itself with fake replicas on
a barrier clock instead (`benchmarks.bench_fronts_serve`).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from benchmarks._rollouts import (
    Batch,
    Farm,
    LeastInFlight,
    Outcome,
    Rollout,
    Session,
    TwoChoices,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks._rollouts import Rule

RULES: dict[str, Callable[[Rollout, np.random.Generator], Rule]] = {
    "Ray Serve, no limit": lambda r, rng: TwoChoices(r, rng, limit=10**9),
    "Ray Serve, limit = slots": lambda r, rng: TwoChoices(r, rng, limit=r.farm.slots),
    "verl": LeastInFlight,
    "`jsq-load`, pooled": lambda r, _: Session(r, policy="jsq-load"),
    "`br-0`, pooled": lambda r, _: Session(r, policy="br-0"),
    "`br-t`, pooled": lambda r, _: Session(r, policy="br-t"),
    "`br-t`, immediate": lambda r, _: Session(r, policy="br-t", mode="immediate"),
    "`prefix-within`, pooled": lambda r, _: Session(r, policy="prefix-within"),
}


def outcomes(farm: Farm, rule: str, *, seeds: int, groups: int, each: int) -> list[Outcome]:
    """Run some batches under a rule; the same ones under every rule."""
    found = []
    for seed in range(seeds):
        batch = Batch.drawn(np.random.default_rng([15, seed]), groups=groups, each=each)
        rollout = Rollout(farm, batch)
        found.append(rollout.run(RULES[rule](rollout, np.random.default_rng([16, seed]))))
    return found


def show(title: str, farm: Farm, options: argparse.Namespace) -> None:
    """Print a table: means over batches, and the gain over verl's rule batch by batch."""
    idle = "time lost at the barrier" if farm.barrier else "servers idle"
    print(f"\n{title}\n")
    print(f"| rule | last response | 90 % of them | {idle} | prompts cached | against verl's |")
    print("|---|---|---|---|---|---|", flush=True)
    rules = options.rules or list(RULES)
    base_runs = _run(farm, "verl", options)
    base = [one.makespan_s for one in base_runs]
    for rule in rules:
        runs = base_runs if rule == "verl" else _run(farm, rule, options)
        spans = np.array([one.makespan_s for one in runs])
        gain = np.array(base) / spans - 1.0
        spread = f" ± {gain.std(ddof=1):.1%}" if len(gain) > 1 else ""
        print(
            f"| {rule} | {spans.mean():.1f} s | {_mean(runs, 'most_s'):.1f} s "
            f"| {_mean(runs, 'lost_share'):.1%} | {_mean(runs, 'cached_share'):.0%} "
            f"| {gain.mean():+.1%}{spread} |",
            flush=True,
        )


def _run(farm: Farm, rule: str, options: argparse.Namespace) -> list[Outcome]:
    each = options.each
    return outcomes(farm, rule, seeds=options.seeds, groups=options.requests // each, each=each)


def _mean(runs: Sequence[Outcome], name: str) -> float:
    return float(np.mean([getattr(one, name) for one in runs]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1024)
    parser.add_argument("--each", type=int, default=8, help="responses to every prompt")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--servers", type=int, default=8)
    parser.add_argument("--slots", type=int, nargs="+", default=(32, 128))
    parser.add_argument("--capacity", type=int, help="KV tokens of each")
    parser.add_argument("--slower", type=float, default=1.0, help="steps, than the settings say")
    parser.add_argument("--rules", nargs="+", choices=list(RULES))
    options = parser.parse_args(arguments)
    for barrier in (True, False):
        for slots in options.slots:
            farm = Farm(
                servers=options.servers,
                slots=slots,
                capacity=options.capacity,
                barrier=barrier,
                slower=options.slower,
            )
            where = "ranks behind one barrier" if barrier else "servers by themselves"
            show(f"{options.servers} {where}, {slots} slots each", farm, options)


if __name__ == "__main__":
    main()
