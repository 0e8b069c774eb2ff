"""Parameters of a simulation: the cluster, and one validated dataclass per component.

What each field says of itself, and which fields a choice uses, stands with it: the command line,
TOML and reports follow from that (`brsolver.options`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from brsolver._limits import (
    MAX_COUNT,
    MAX_FRONT_ENDS,
    MAX_REFRESH_STEPS,
    MAX_REQUEST_TOKENS,
    MAX_SECONDS,
    MAX_SEED,
    MAX_SLOTS,
    MAX_STALE_STEPS,
    MAX_TOTAL_SLOTS,
    MAX_WORKERS,
    finite,
    require,
    require_kind,
    require_number,
    require_one_of,
    require_whole,
)
from brsolver.cluster.costs import Objectives
from brsolver.hardware.model import default_step_time, step_time_of
from brsolver.hardware.step_time import StepTime, as_tuple
from brsolver.options import (
    ARRIVALS,
    CLUSTER,
    FORECASTS,
    KEY,
    RUN,
    SEED,
    Named,
    Search,
    option,
)
from brsolver.simulator.components import Arrivals, Staleness, WorkerEvent
from brsolver.simulator.config import params_from_dict, params_from_toml
from brsolver.simulator.migration import Migration
from brsolver.simulator.prefill import Prefill

if TYPE_CHECKING:
    from pathlib import Path

    from brsolver.cluster.costs import StepCosts


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationParams:
    """Everything a simulation needs besides trace and policy.

    Attributes
    ----------
    workers : int
        Decode workers G at the start.
    slots : int or tuple of int
        Slots B per worker, or one number each.
    capacity : int, tuple of int or None
        KV-token capacity K per worker; None is unlimited.
    request_tokens : int or "auto"
        KV tokens κ that a request weighs besides those it holds: a sequence's seconds over a KV
        token's. Loads are then ``L_g + κ·n_g`` in all that balances, measures or bounds them;
        capacities stay in KV tokens. ``auto`` takes it from `step_time`, 0 where that has no
        seconds per sequence.
    routing : {"pooled", "immediate"}
        A set of requests per step, or a decision per arrival.
    arrivals, prefill, step_time, staleness, migration
        See `Arrivals`, `Prefill`, `StepTime`, `Staleness` and `Migration`.
    events : tuple of WorkerEvent
        Workers that fail or join.
    transit_steps : int
        Decode steps between a decision and the first step in which the request can run, while
        anything runs; it holds its slot meanwhile, and counts as queued at its worker. In a real
        server it is 1: what is sent once a step has ended finds the next one under way.
    refresh_steps : int
        Decode steps ΔT between batched refreshes of all forecasts.
    seed : int
        Seed of all random streams.
    warmup_steps : int
        Steps left out of averages at the start.
    drain : {"exclude", "include"}
        Whether averages cover the steps after the last admission; [BFIO] leaves them out.
    max_steps : int or None
        Stop after this many steps and report what is unfinished.
    clients : int
        Independent front ends, for rules that count them.
    slo_ttft_ms, slo_tpot_ms : float or None
        Longest time to first token, and per output token, of a request that counts as good,
        in milliseconds; None is no objective.
    """

    workers: int = field(
        default=8,
        metadata=option("Workers.", label="workers G", metavar="G", panel=CLUSTER, bounded=True),
    )
    slots: int | tuple[int, ...] = field(
        default=32,
        metadata=option(
            "Slots per worker, or one number each: 8,8,16.",
            label="slots B per worker",
            metavar="B",
            panel=CLUSTER,
            bounded=True,
            search=Search(low=4, high=512, log=True, multiple=4),
        ),
    )
    capacity: int | tuple[int, ...] | None = field(
        default=None,
        metadata=option(
            "KV tokens per worker, or one number each; 400k is 400,000.",
            label="KV capacity K per worker",
            unit="tokens",
            unset="unlimited",
            metavar="K",
            panel=CLUSTER,
        ),
    )
    request_tokens: int | Literal["auto"] = field(
        default=0,
        metadata=option(
            "KV tokens that a request weighs besides those it holds; auto derives them from "
            "the step time.",
            label="weight of a request besides its KV tokens",
            unit="tokens",
            metavar="N|auto",
            panel=CLUSTER,
            bounded=True,
        ),
    )
    routing: Literal["pooled", "immediate"] = field(
        default="pooled",
        metadata=option(
            "Route a pool at every step, or each arrival at once.",
            panel=CLUSTER,
            search=Search(choices=("pooled", "immediate")),
        ),
    )
    arrivals: Arrivals = field(default_factory=Arrivals)
    prefill: Prefill = field(
        default_factory=Prefill,
        metadata=option(
            "Where prompts are computed, before a request is routed or on the decode ranks:",
            metavar="MODE",
            panel=ARRIVALS,
            bounded=True,
        ),
    )
    step_time: StepTime = field(
        default_factory=default_step_time,
        metadata=option(
            "Duration of a step:",
            label="duration of a step",
            metavar="MODEL",
            panel=CLUSTER,
            bounded=True,
            named=Named(
                name="hardware",
                help="Or the step time of hardware by name; see brsolver hardware list.",
                metavar="NAME|FILE.toml",
                read=step_time_of,
            ),
        ),
    )
    staleness: Staleness = field(default_factory=Staleness)
    migration: Migration = field(default_factory=Migration)
    events: tuple[WorkerEvent, ...] = field(
        default=(), metadata=option("Workers that fail or join.", label="workers that fail or join")
    )
    transit_steps: int = field(
        default=0,
        metadata=option(
            "Steps from a decision to the request's first; a real server takes 1.",
            label="transit",
            unit="steps",
            metavar="N",
            panel=ARRIVALS,
            bounded=True,
        ),
    )
    refresh_steps: int = field(
        default=32,
        metadata=option(
            "Steps between refreshes of all forecasts.",
            label="forecasts refreshed every",
            unit="steps",
            metavar="N",
            panel=FORECASTS,
            bounded=True,
        ),
    )
    seed: int = field(default=0, metadata={KEY: SEED})
    warmup_steps: int = field(
        default=0,
        metadata=option(
            "Steps left out of averages.",
            label="warm-up",
            unit="steps",
            metavar="N",
            panel=RUN,
        ),
    )
    drain: Literal["exclude", "include"] = field(
        default="exclude",
        metadata=option(
            "Let averages cover the steps after the last admission.",
            label="steps after the last admission",
            panel=RUN,
            switch=("include", "exclude"),
        ),
    )
    max_steps: int | None = field(
        default=None,
        metadata=option(
            "Stop after N steps.",
            label="stopped after",
            unit="steps",
            unset="no limit",
            metavar="N",
            panel=RUN,
        ),
    )
    clients: int = field(
        default=1,
        metadata=option(
            "Independent front ends, for rules that count them.",
            label="front ends",
            metavar="N",
            panel=CLUSTER,
            bounded=True,
        ),
    )
    slo_ttft_ms: float | None = field(
        default=None,
        metadata=option(
            "Goodput counts requests with at most that time to first token, in milliseconds.",
            label="objective, time to first token",
            unit="ms",
            unset="none",
            alias="slo-ttft",
            metavar="MS",
            panel=RUN,
        ),
    )
    slo_tpot_ms: float | None = field(
        default=None,
        metadata=option(
            "Goodput counts requests with at most that time per output token, in milliseconds.",
            label="objective, time per output token",
            unit="ms",
            unset="none",
            alias="slo-tpot",
            metavar="MS",
            panel=RUN,
        ),
    )

    def __post_init__(self) -> None:
        require_whole("workers", self.workers, 1, MAX_WORKERS)
        self._check_sizes()
        require_one_of("routing", self.routing, "pooled", "immediate")
        self._check_components()
        if self.request_tokens != "auto":
            _check_request_tokens(self.request_tokens)
        require_whole("request_tokens", self.request_weight, 0, MAX_REQUEST_TOKENS)
        require_whole("transit_steps", self.transit_steps, 0, MAX_STALE_STEPS)
        require_whole("refresh_steps", self.refresh_steps, 1, MAX_REFRESH_STEPS)
        require_whole("seed", self.seed, 0, MAX_SEED)
        require_whole("warmup_steps", self.warmup_steps, 0, MAX_COUNT)
        require_one_of("drain", self.drain, "exclude", "include")
        if self.max_steps is not None:
            require_whole("max_steps", self.max_steps, 1, MAX_COUNT)
        require_whole("clients", self.clients, 1, MAX_FRONT_ENDS)
        self._check_objectives()
        require(
            not self.arrivals.by_events or self.prefill.mode in {"none", "colocated"},
            f"prefill is {self.prefill.mode!r}, must be none or colocated where arrivals come from "
            "a pool of requests whose prefill is done, or as others end: prefill before them "
            "needs arrivals by time (timestamps, rate or utilization)",
        )
        joining = (event.slots or 1 for event in self.events)
        self.prefill.check_slots(max((*self.slots_each(), *joining)))
        self.prefill.check_capacity(self.capacity is None)

    def _check_sizes(self) -> None:
        for name, high in (("slots", MAX_SLOTS), ("capacity", MAX_COUNT)):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
            if value is None and name == "capacity":
                continue
            for each in value if isinstance(value, list | tuple) else (value,):
                require_whole(name, each, 1, high)
        total = sum(self.slots_each())
        require(
            total <= MAX_TOTAL_SLOTS,
            f"slots of all workers add up to {total:,}, must be at most {MAX_TOTAL_SLOTS:,}",
        )
        self.capacity_each()

    def _check_objectives(self) -> None:
        for name in ("slo_ttft_ms", "slo_tpot_ms"):
            value = getattr(self, name)
            if value is not None:
                number = finite(name, value)
                require(number > 0, f"{name} is {number:g}, must be positive")
                require_number(name, number, 0, MAX_SECONDS * 1e3, " ms")

    def _check_components(self) -> None:
        require_kind("arrivals", self.arrivals, Arrivals)
        require_kind("prefill", self.prefill, Prefill)
        require_kind("step_time", self.step_time, StepTime)
        require_kind("staleness", self.staleness, Staleness)
        require_kind("migration", self.migration, Migration)
        self.migration.check_prefill(self.prefill)
        object.__setattr__(self, "events", as_tuple("events", self.events))
        for event in self.events:
            require_kind("event", event, WorkerEvent)

    @property
    def request_weight(self) -> int:
        """KV tokens that a request weighs besides those it holds; `auto` resolved."""
        if self.request_tokens == "auto":
            return self.step_time.request_tokens
        return self.request_tokens

    def step_costs(self) -> StepCosts:
        """Return what routers are told of the step time."""
        from brsolver.hardware.costs import step_costs

        budget = self.prefill.budget if self.prefill.colocated else 0
        return step_costs(self.step_time, budget=budget)

    def objectives(self) -> Objectives:
        """Return what is promised to requests, as routers are told."""
        ttft_ms, tpot_ms = self.slo_ttft_ms, self.slo_tpot_ms
        return Objectives(
            ttft_s=None if ttft_ms is None else ttft_ms / 1000,
            tpot_s=None if tpot_ms is None else tpot_ms / 1000,
        )

    def slots_each(self) -> tuple[int, ...]:
        """Slots of each worker, length G."""
        return _each("slots", self.slots, self.workers)

    def capacity_each(self) -> tuple[int | None, ...]:
        """KV-token capacity of each worker, length G."""
        if self.capacity is None:
            return (None,) * self.workers
        return _each("capacity", self.capacity, self.workers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dictionaries, as they stand in reports and TOML."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SimulationParams:
        """Build from nested dictionaries; see `brsolver.simulator.config.params_from_dict`."""
        return params_from_dict(cls, values)

    @classmethod
    def from_toml(cls, path: str | Path) -> SimulationParams:
        """Load from a TOML file with one table per component."""
        return params_from_toml(cls, path)


def _check_request_tokens(value: object) -> None:
    require(
        not isinstance(value, str),
        f"request_tokens is {value!r}, must be a whole number of KV tokens or auto",
    )


def _each(name: str, value: int | tuple[int, ...], workers: int) -> tuple[int, ...]:
    if not isinstance(value, tuple):
        return (int(value),) * workers
    require(
        len(value) == workers,
        f"{name} has {len(value)} entries for {workers} workers, must have one each",
    )
    return value
