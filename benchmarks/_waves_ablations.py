"""BR-T with one thing changed at a time, for `benchmarks.bench_waves`."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from benchmarks._waves_cells import BRT as RULE
from benchmarks._waves_cells import repeated, steady
from benchmarks._waves_measures import requests_s, times_of
from brsolver import simulate
from brsolver.cluster.view import BACKLOG, LOAD
from brsolver.routers import BRT
from brsolver.routers._holding import Holding
from brsolver.routers.balance import overdue
from brsolver.routers.reference_waves import Planner
from brsolver.routers.wave_params import BRTParams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks._waves_cells import Cell
    from benchmarks._waves_measures import Row
    from brsolver import Trace
    from brsolver.cluster.costs import StepCosts
    from brsolver.cluster.view import ClusterView, Waiting
    from brsolver.routers._wave_kernels import Plan


class NoFill(BRT):
    """Everything is held, what would cost nothing too."""

    __slots__ = ()

    def _plan(self, cluster: ClusterView, waiting: Waiting, costs: StepCosts) -> Plan:
        plan = super()._plan(cluster, waiting, costs)
        placed = self._pairs[: plan.placements, 0]
        mean = float(waiting.prompt_tokens[placed].sum()) / cluster.workers
        rise = plan.longest - int(cluster.table[BACKLOG].max())
        return plan._replace(fills=0, lost=rise - mean)


class Maximum(BRT):
    """A wave costs what it raises the largest backlog by, the mean's rise not taken off."""

    __slots__ = ()

    def _plan(self, cluster: ClusterView, waiting: Waiting, costs: StepCosts) -> Plan:
        plan = super()._plan(cluster, waiting, costs)
        return plan._replace(lost=float(plan.longest - int(cluster.table[BACKLOG].max())))


class LoadsAside(BRT):
    """KV tokens do not count."""

    __slots__ = ()

    def _plan(self, cluster: ClusterView, waiting: Waiting, costs: StepCosts) -> Plan:
        return super()._plan(cluster, waiting, replace(costs, per_kv_token_s=0.0))


class _InOrder(Planner):
    def _window(self) -> list[int]:
        return sorted(super()._window())


class FirstComeFirst(BRT):
    """Requests are placed as they came, not longest first."""

    __slots__ = ()

    def _plan(self, cluster: ClusterView, waiting: Waiting, costs: StepCosts) -> Plan:
        plan = super()._plan(cluster, waiting, costs)
        found = _InOrder(
            cluster.table,
            cluster.table[LOAD].reshape(-1, 1),
            waiting.prompt_tokens.tolist(),
            (),
            cluster.request_tokens,
            0,
            waiting.since.tolist(),
            overdue(cluster, self.params.patience),
            self._seconds.tolist(),
        ).plan()
        for at, pair in enumerate((*found.fills, *found.rest)):
            self._pairs[at] = pair
        count = len(found.fills) + len(found.rest)
        return plan._replace(
            fills=len(found.fills), placements=count, lost=found.lost, longest=found.longest
        )


class _HoldsOn(Holding):
    __slots__ = ()

    def stalled(self, count: int, running: int, stall_s: float) -> bool:
        del count, running, stall_s
        return False


class HoldsOn(BRT):
    """Holds on where nobody else comes."""

    __slots__ = ()

    def __init__(self, params: BRTParams | None = None) -> None:
        super().__init__(params)
        self._holding = _HoldsOn()


class SumOfDelays(BRT):
    """Where slots are free, too, a second of waiting weighs a second of running."""

    __slots__ = ()

    def _weighs_s(self, plan: Plan, costs_s: float, *, alone: bool) -> float:
        del alone
        return super()._weighs_s(plan, costs_s, alone=False)


VARIANTS: dict[str, Callable[[], BRT]] = {
    "br-t": BRT,
    "no fill": NoFill,
    "κ = 0: nothing held": lambda: BRT(BRTParams(kappa=0.0)),
    "κ = 0.25": lambda: BRT(BRTParams(kappa=0.25)),
    "κ = 0.5": lambda: BRT(BRTParams(kappa=0.5)),
    "κ = 2": lambda: BRT(BRTParams(kappa=2.0)),
    "largest backlog for lost time": Maximum,
    "first come first": FirstComeFirst,
    "KV aside": LoadsAside,
    "KV by survival": lambda: BRT(BRTParams(growth="survival")),
    "KV by survival, 20 steps": lambda: BRT(BRTParams(growth="survival", horizon=20)),
    "holds on where nobody comes": HoldsOn,
    "sum of delays where slots are free": SumOfDelays,
}


def ablations(trace: Trace, cell: Cell, generations: int, shares: Sequence[float]) -> Iterator[Row]:
    """Measure every variant with the pool filled, and at shares of what vLLM's rule does so."""
    requests = repeated(trace, generations * cell.workers * cell.slots)
    capacity = requests_s(trace, cell, generations)
    for name, made in VARIANTS.items():
        print(f"{trace.name} {cell} {name}", file=sys.stderr)
        result = simulate(requests, made(), cell.params(RULE))
        row = {"part": "ablations", "trace": trace.name, **asdict(cell), "variant": name}
        yield {**row, "share": None, **asdict(steady(result, cell))}
        for share in shares:
            at = replace(cell, rate=share * capacity)
            result = simulate(requests, made(), at.params(RULE))
            yield {**row, "share": share, **times_of(requests, result)}
