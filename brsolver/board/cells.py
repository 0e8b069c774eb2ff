"""What is computed of a board: the references of every place, and a run per policy.

A *place* is a trace, where its prompts are computed, hardware and a seed. Its bound, and what the
baseline gets through in it, are found once and shared by all policies.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from brsolver._version import __version__
from brsolver.errors import BrsolverError
from brsolver.simulator.components import Arrivals
from brsolver.simulator.params import SimulationParams
from brsolver.traces.prints import print_of
from brsolver.wiring import code_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from brsolver.board.definition import BoardDefinition, Regime
    from brsolver.board.policies import BoardPolicy, Routing
    from brsolver.board.sources import LoadedTrace
    from brsolver.campaign import Cell
    from brsolver.campaign.cells import Plain
    from brsolver.registry import PolicySpec
    from brsolver.traces.trace import Trace

PREFIXES, BASELINE_CODE, CODE = "prefixes", "baseline_code", "policy_code"
"""Columns that are there where names do not say all: digests of a file's prefixes if it is not the
published one, and of code, or files named by parameters, that are not ours."""
CLOCKED = frozenset({"dispatch_us_p50", "dispatch_us_p99"})
"""Figures of this machine's clock: all others are the same everywhere."""
FIGURES = (
    *("requests", "finished", "preemptions", "steps", "throughput_tok_s", "makespan_s"),
    *("tpot_mean_s", "tpot_p50_s", "tpot_p95_s", "tpot_p99_s"),
    *("ttft_mean_s", "ttft_p50_s", "ttft_p95_s", "ttft_p99_s", "ttft_growth"),
    *("e2e_mean_s", "e2e_p50_s", "e2e_p95_s", "e2e_p99_s", "queue_p99_s", "max_wait_s"),
    *("time_lost_share", "time_lost_prefill_share", "time_lost_sequences_share"),
    *("time_lost_kv_share", "time_lost_padding_share"),
    *("avg_imbalance_sum", "avg_imbalance_range", "idle_rate", "slot_utilization"),
    *("cached_share", "held_mean", "decisions", *sorted(CLOCKED)),
)
"""Of `brsolver.results.metrics.Metrics`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where policies run.

    Attributes
    ----------
    trace : str
        Which of the shared traces.
    params : SimulationParams
        Its cluster, with slots that never run empty.
    baseline : PolicySpec
    routing : {"pooled", "immediate"}
        The baseline's.
    """

    trace: str
    params: SimulationParams
    baseline: PolicySpec
    routing: Routing


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRun:
    """One policy in one place and regime.

    Attributes
    ----------
    place : Place
    spec : PolicySpec
    routing : {"pooled", "immediate"}
    regime : Regime
    reference : mapping of str to float
        The place's row of `reference_figures`; empty if there is none.
    missing : str
        Why there is none.
    """

    place: Place
    spec: PolicySpec
    routing: Routing
    regime: Regime
    reference: Mapping[str, Any]
    missing: str


def shared_name(trace: str, seed: int) -> str:
    """Return the name by which tasks find the trace of a seed."""
    return f"{trace}/{seed}"


def places(
    definition: BoardDefinition, traces: tuple[LoadedTrace, ...], baseline: BoardPolicy
) -> Iterator[Cell]:
    """Yield a cell per place, in the order of the definition.

    Ranks have prefix caches only where the trace says which prompts begin alike.
    """
    from brsolver.campaign import Cell

    for loaded in traces:
        for prefill_name, prefill in definition.prefill.items():
            if prefill.cache and not loaded.has_prefixes:
                continue
            for hardware, step_time in definition.hardware.items():
                for seed, trace in loaded.by_seed.items():
                    key: dict[str, Plain] = {
                        "trace": loaded.name,
                        "origin": loaded.origin,
                        "fingerprint": trace.fingerprint(),
                        "prefill": prefill_name,
                        "hardware": hardware,
                        "seed": seed,
                        **_not_ours(BASELINE_CODE, baseline.spec),
                    }
                    if prefill.cache and loaded.origin == "other file":
                        key[PREFIXES] = print_of(trace)
                    params = SimulationParams(
                        workers=definition.workers,
                        slots=definition.slots,
                        step_time=step_time,
                        prefill=prefill,
                        seed=seed,
                    )
                    task = Place(
                        trace=shared_name(loaded.name, seed),
                        params=params,
                        baseline=baseline.spec,
                        routing=baseline.routing,
                    )
                    yield Cell(key=key, task=task)


def runs(
    definition: BoardDefinition,
    found: Mapping[str, tuple[Cell, Mapping[str, Any]]],
    policies: tuple[BoardPolicy, ...],
) -> Iterator[Cell]:
    """Yield a cell per place, regime and policy; `found` has places with their rows."""
    from brsolver.campaign import FAILED, Cell

    for cell, row in found.values():
        place: Any = cell.task
        for regime_name, regime in definition.regimes.items():
            for policy in policies:
                if policy.cached_only and not place.params.prefill.cache:
                    continue
                key = {
                    **cell.key,
                    "regime": regime_name,
                    "policy": policy.spec.text,
                    "routing": policy.routing,
                    **_not_ours(CODE, policy.spec),
                }
                task = PolicyRun(
                    place=place,
                    spec=policy.spec,
                    routing=policy.routing,
                    regime=regime,
                    reference=row,
                    missing=row.get(FAILED) or "",
                )
                yield Cell(key=key, task=task)


def _not_ours(column: str, spec: PolicySpec) -> dict[str, Plain]:
    found = code_of(spec)
    return {column: found} if found else {}


def reference_figures(task: Place, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Find the bound of a place, and what the baseline gets through in it."""
    from brsolver.oracles.least_time import LeastTime
    from brsolver.simulator import simulate

    trace: Trace = shared[task.trace]
    run = simulate(trace, task.baseline, replace(task.params, routing=task.routing))
    least = LeastTime.of(trace, task.params)
    return {
        "bound_s": least.bound.seconds,
        "bound_by": least.bound.binding,
        "clairvoyant_s": least.clairvoyant_s,
        "capacity_req_s": run.metrics.throughput_tok_s / float(trace.output_tokens.mean()),
    }


def run_figures(task: PolicyRun, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Run a policy, and hold it against its place's bound."""
    from brsolver.oracles.least_time import judge
    from brsolver.simulator import simulate

    if task.missing:
        raise BrsolverError(f"nothing to hold it against: {task.missing}")
    trace: Trace = shared[task.place.trace]
    params = replace(task.place.params, routing=task.routing, arrivals=_arrivals(task))
    result = simulate(trace, task.spec, params)
    judged = judge(trace, result, task.reference["bound_s"])
    return {
        **{name: getattr(result.metrics, name) for name in FIGURES},
        "rate_req_s": params.arrivals.rate,
        "seconds": judged.seconds,
        "bound_s": task.reference["bound_s"],
        "clairvoyant_s": task.reference.get("clairvoyant_s"),
        "gap": judged.gap,
        "certified": not judged.uncertified,
        "uncertified": judged.uncertified,
        "routing_gap": judged.routing_gap,
        "predictor": result.predictor,
        "notes": "; ".join(result.notes),
        "version": __version__,
        "policy_params": _json(dict(result.policy_params)),
        "params": _json(params.to_dict()),
    }


def _arrivals(task: PolicyRun) -> Arrivals:
    if task.regime.load is None:
        return Arrivals(pool=task.regime.pool)
    return Arrivals(mode="rate", rate=task.regime.load * task.reference["capacity_req_s"])


def _json(values: Mapping[str, object]) -> str:
    from brsolver.results.plain import finite_only

    return json.dumps(finite_only(dict(values)), sort_keys=True, default=str)
